/*
 * Exchange: one request and what is answered to it, apart from any HTTP library, so that the service and the
 * hub can be tested without one; and the small things that both put into their replies.
 *
 * A Request borrows its strings from the caller; only the decoded path segments and the body are its own.
 */
#pragma once

#include <json-c/json.h>

#include "util.h"

#define REQUEST_BODY_MAX ((size_t) 64 * 1024)

typedef enum RequestKind {
        REQUEST_REGISTER, /* PUT …/register without a token: a challenge is due */
        REQUEST_CONFIRM,  /* PUT …/register with a token */
        REQUEST_POLL,     /* GET …/operations/{id} */
        REQUEST_LOOKUP,   /* POST …/registrations/{id} */
        REQUEST_HUB,      /* /devices/… */
        REQUEST_OTHER,
        _REQUEST_KIND_MAX,
        _REQUEST_KIND_INVALID = -22,
} RequestKind;

const char *request_kind_to_string(RequestKind kind);
RequestKind request_kind_from_string(const char *name);

typedef struct Request {
        RequestKind kind;
        const char *method, *path; /* as sent, without the query */
        char *segments[5];         /* of the path, percent-decoded; "/a/b" has two */
        size_t n_segments;
        const char *api_version, *host, *authorization, *if_match, *user_agent; /* may be NULL */
        bool has_body, too_large; /* more than REQUEST_BODY_MAX */
        json_object *body;        /* NULL: none, or not JSON */
} Request;

/* All but segments, kind and body is set by the caller; fills segments and kind. -EBADMSG when the path
 * makes no sense (it is then REQUEST_OTHER). */
int request_classify(Request *request);
/* Parses the body, at most REQUEST_BODY_MAX bytes. -EBADMSG when it isn't JSON. */
int request_set_body(Request *request, const char *text, size_t size);
void request_deinit(Request *request);

typedef struct Response {
        unsigned status;
        json_object *body; /* NULL: none */
        char *retry_after, *location;
        char request_id[37];
        /* for the log */
        bool authorized;
        char *registration_id, *hub, *device_id, *error;
        json_object *payload; /* what the device sent along */
} Response;

void response_init(Response *response); /* a new request_id */
void response_deinit(Response *response);

/* Each of these replaces whatever the response said before. */
void response_json(Response *response, unsigned status, json_object *body); /* takes the body */
void response_dps_error(Response *response, unsigned status, int error_code, time_t now, const char *format,
                        ...) PRINTF_LIKE(5, 6);
void response_hub_error(Response *response, unsigned status, const char *error_code, const char *format, ...)
        PRINTF_LIKE(4, 5);

/* text: seconds, "+N" for an HTTP date N seconds from now, anything else as it is; NULL or "" for none. */
void response_set_retry_after(Response *response, const char *text, time_t now);

/* JSON from outside: the string member of that name, or NULL when it is absent, no string, longer than max
 * bytes, or has a NUL in it. */
const char *json_string(json_object *object, const char *name, size_t max);
/* Takes value (a NULL is an allocation that failed, or JSON's null: the member is null then). */
void json_add(json_object *object, const char *name, json_object *value);
void json_add_string(json_object *object, const char *name, const char *value);

#define TIMESTAMP_SIZE 36
void timestamp(char ret[static TIMESTAMP_SIZE], time_t when); /* as the service writes it: 7 decimals, Z */
void http_date(char ret[static TIMESTAMP_SIZE], time_t when);
void guid(char ret[static 37]);

/* Percent-decodes size bytes; NULL when malformed, or a NUL is among them, or out of memory. */
char *percent_decode(const char *text, size_t size);

/* Host names with optional ports: case-insensitive; a port counts only when both have one. */
bool host_equal(const char *a, const char *b);
