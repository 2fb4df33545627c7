/*
 * Http: one request at a time to one service, over one kept connection, on the event loop. The only user of
 * curl.
 *
 * https only (but for a unix socket), TLS 1.2 or later, peer and host verified, no redirects, replies
 * bounded. done() is called from the loop, never from within http_start(). The request is borrowed until
 * http_start() returns; the reply is the Http's and valid during done() only. In done() a new request may be
 * started or the Http freed.
 */
#pragma once

#include <systemd/sd-event.h>

#include "failure.h"

#define HTTP_HINT_NO_ROUTE "Give the device an address and a default route ('ip route' shows them)."

typedef struct Http Http;

typedef struct HttpSettings {
        const char *proxy;   /* URL or NULL: the environment's */
        const char *ca_file; /* PEM or NULL: the system's trust store */
        const char
                *unix_socket; /* path or NULL: plain HTTP to a service of this machine, and nothing else */
        usec_t connect_timeout_usec;
        usec_t request_timeout_usec; /* in total, connecting included */
        size_t body_max;
        bool examine; /* for a doctor: the reply names the certificate's issuer; see http_unverified_date()
                       */
        /* Seconds since the epoch. When a certificate has expired and the local clock is outside them, the
         * clock is the likelier cause (tls-clock). latest_time 0: unknown. */
        uint64_t build_time, latest_time;
} HttpSettings;

typedef struct HttpRequest {
        const char *method; /* "GET", "PUT", "POST" */
        const char *url;
        const char *authorization; /* or NULL; wiped from Http's own memory after use */
        const char *body;          /* JSON text or NULL */
} HttpRequest;

typedef struct HttpReply {
        unsigned status;
        const char *body; /* NUL-terminated */
        size_t size;
        const char *request_id;  /* x-ms-request-id, or NULL */
        const char *retry_after; /* the header's text, or NULL */
        uint64_t date; /* Date header, seconds since the epoch; 0: none, unreadable or not of this century */
        const char *issuer; /* of the peer's certificate, when examined; or NULL */
} HttpReply;

/* Exactly one of reply and failure is not NULL. */
typedef void (*HttpDone)(void *userdata, const HttpReply *reply, const Failure *failure);

int http_new(Http **ret, sd_event *event, const HttpSettings *settings); /* settings are copied */
Http *http_free(Http *http); /* cancels what is under way; done() is not called */
void http_freep(Http **http);
int http_start(Http *http, const HttpRequest *request, HttpDone done,
               void *userdata); /* -EBUSY: one is under way */

/* True when the last request, or a part of it, may have reached the peer. */
bool http_was_sent(const Http *http);

/* After a failure: the proxy is its cause, not what is behind it. */
bool http_failed_at_proxy(const Http *http);

/* After a failure to trust the peer, when examined: the Date that the peer gave when it was asked again for
 * nothing but that, by nobody's word but its own; 0: none. Tells a wrong clock from a wrong certificate. */
uint64_t http_unverified_date(const Http *http);
