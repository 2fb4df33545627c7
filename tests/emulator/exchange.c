#include "exchange.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>

#include "dps-json.h"
#include "tpm-crypto.h"

static const char *const kind_names[] = {
        [REQUEST_REGISTER] = "register", [REQUEST_CONFIRM] = "confirm", [REQUEST_POLL] = "poll",
        [REQUEST_LOOKUP] = "lookup",     [REQUEST_HUB] = "hub",         [REQUEST_OTHER] = "other",
};
static_assert(ARRAY_SIZE(kind_names) == _REQUEST_KIND_MAX, "every kind has a name");

const char *request_kind_to_string(RequestKind kind) {
        assert(kind >= 0 && kind < _REQUEST_KIND_MAX);
        return kind_names[kind];
}

RequestKind request_kind_from_string(const char *name) {
        for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++)
                if (streq(name, kind_names[i]))
                        return (RequestKind) i;
        return _REQUEST_KIND_INVALID;
}

static int hex_value(char c) {
        const char *digits = "0123456789abcdef0123456789ABCDEF", *at = c ? strchr(digits, c) : NULL;

        return at ? (int) ((at - digits) % 16) : -1;
}

char *percent_decode(const char *text, size_t size) {
        char *decoded = malloc(size + 1), *at = decoded;

        if (!decoded)
                return NULL;
        for (size_t i = 0; i < size; i++) {
                int value = (unsigned char) text[i];

                if (value == '%') {
                        int high = i + 2 < size ? hex_value(text[i + 1]) : -1;
                        int low = i + 2 < size ? hex_value(text[i + 2]) : -1;

                        if (high < 0 || low < 0) {
                                free(decoded);
                                return NULL;
                        }
                        value = high << 4 | low;
                        i += 2;
                }
                if (value == 0) {
                        free(decoded);
                        return NULL;
                }
                *at++ = (char) value;
        }
        *at = '\0';
        return decoded;
}

static int split_path(Request *request) {
        const char *at = request->path;

        while (*at == '/') {
                size_t size = strcspn(at + 1, "/");

                if (size == 0 || request->n_segments == ARRAY_SIZE(request->segments))
                        return -EBADMSG;
                request->segments[request->n_segments] = percent_decode(at + 1, size);
                if (!request->segments[request->n_segments])
                        return -EBADMSG;
                request->n_segments++;
                at += 1 + size;
        }
        return *at == '\0' ? 0 : -EBADMSG;
}

int request_classify(Request *request) {
        char **s = request->segments;
        size_t n;
        int r;

        request->kind = REQUEST_OTHER;
        r = split_path(request);
        if (r < 0)
                return r;

        n = request->n_segments;
        if (n >= 3 && streq(s[1], "registrations")) {
                if (n == 4 && streq(s[3], "register") && streq(request->method, "PUT"))
                        request->kind = request->authorization ? REQUEST_CONFIRM : REQUEST_REGISTER;
                else if (n == 5 && streq(s[3], "operations") && streq(request->method, "GET"))
                        request->kind = REQUEST_POLL;
                else if (n == 3 && streq(request->method, "POST"))
                        request->kind = REQUEST_LOOKUP;
        } else if (n >= 2 && streq(s[0], "devices"))
                request->kind = REQUEST_HUB;
        return 0;
}

int request_set_body(Request *request, const char *text, size_t size) {
        json_object *body = NULL;

        if (size > REQUEST_BODY_MAX || dps_json_parse(&body, text, size) < 0 || !body)
                return -EBADMSG;
        json_object_put(request->body);
        request->body = body;
        return 0;
}

void request_deinit(Request *request) {
        for (size_t i = 0; i < request->n_segments; i++)
                free(request->segments[i]);
        json_object_put(request->body);
        *request = (Request){};
}

void response_init(Response *response) {
        *response = (Response){};
        guid(response->request_id);
}

void response_deinit(Response *response) {
        json_object_put(response->body);
        json_object_put(response->payload);
        free(response->retry_after);
        free(response->location);
        free(response->registration_id);
        free(response->hub);
        free(response->device_id);
        free(response->error);
        *response = (Response){};
}

void response_json(Response *response, unsigned status, json_object *body) {
        json_object_put(response->body);
        response->body = body;
        response->status = status;
        free(TAKE(response->retry_after));
        free(TAKE(response->location));
        free(TAKE(response->error));
}

PRINTF_LIKE(1, 0)
static char *format_text(const char *format, va_list ap) {
        char *text = NULL;

        return vasprintf(&text, format, ap) < 0 ? NULL : text;
}

void response_dps_error(Response *response, unsigned status, int error_code, time_t now, const char *format,
                        ...) {
        json_object *body = json_object_new_object();
        char when[TIMESTAMP_SIZE];
        va_list ap;
        char *text;

        va_start(ap, format);
        text = format_text(format, ap);
        va_end(ap);

        timestamp(when, now);
        json_add(body, "errorCode", json_object_new_int(error_code));
        json_add_string(body, "trackingId", response->request_id);
        json_add_string(body, "message", text ? text : "");
        json_add_string(body, "timestampUtc", when);
        response_json(response, status, body);
        response->error = text;
}

void response_hub_error(Response *response, unsigned status, const char *error_code, const char *format,
                        ...) {
        CLEANUP(freep) char *message = NULL, *exception = NULL;
        json_object *body = json_object_new_object();
        va_list ap;
        char *text;

        va_start(ap, format);
        text = format_text(format, ap);
        va_end(ap);

        if (asprintf(&message, "ErrorCode:%s;%s", error_code, text ? text : "") < 0)
                message = NULL;
        if (asprintf(&exception, "Tracking ID:%s", response->request_id) < 0)
                exception = NULL;
        json_add_string(body, "Message", message ? message : "");
        json_add_string(body, "ExceptionMessage", exception ? exception : "");
        response_json(response, status, body);
        response->error = text;
}

void response_set_retry_after(Response *response, const char *text, time_t now) {
        char date[TIMESTAMP_SIZE];
        uint64_t seconds;

        if (text && text[0] == '+' && parse_uint(text + 1, INT32_MAX, &seconds) == 0) {
                http_date(date, now + (time_t) seconds);
                text = date;
        }
        (void) string_replace(&response->retry_after, text && text[0] != '\0' ? text : NULL);
}

const char *json_string(json_object *object, const char *name, size_t max) {
        json_object *value;
        const char *text;

        if (!json_object_is_type(object, json_type_object) ||
            !json_object_object_get_ex(object, name, &value) ||
            !json_object_is_type(value, json_type_string))
                return NULL;
        text = json_object_get_string(value);
        if ((size_t) json_object_get_string_len(value) != strlen(text) || strlen(text) > max)
                return NULL;
        return text;
}

void json_add(json_object *object, const char *name, json_object *value) {
        if (!object || json_object_object_add(object, name, value) < 0)
                json_object_put(value);
}

void json_add_string(json_object *object, const char *name, const char *value) {
        json_add(object, name, value ? json_object_new_string(value) : NULL);
}

void timestamp(char ret[static TIMESTAMP_SIZE], time_t when) {
        struct tm tm = {};

        (void) gmtime_r(&when, &tm);
        if (strftime(ret, TIMESTAMP_SIZE, "%Y-%m-%dT%H:%M:%S.0000000Z", &tm) == 0)
                ret[0] = '\0';
}

void http_date(char ret[static TIMESTAMP_SIZE], time_t when) {
        struct tm tm = {};

        /* the C locale's names: the program never calls setlocale() */
        (void) gmtime_r(&when, &tm);
        if (strftime(ret, TIMESTAMP_SIZE, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 0)
                ret[0] = '\0';
}

void guid(char ret[static 37]) {
        uint8_t b[16] = {};

        (void) tpm_crypto_random(b, sizeof(b));
        (void) snprintf(ret, 37, "%02x%02x%02x%02x-%02x%02x-4%01x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                        b[0], b[1], b[2], b[3], b[4], b[5], b[6] & 0xf, b[7], (b[8] & 0x3f) | 0x80, b[9],
                        b[10], b[11], b[12], b[13], b[14], b[15]);
}

bool host_equal(const char *a, const char *b) {
        size_t a_size = strcspn(a, ":"), b_size = strcspn(b, ":");

        if (a_size != b_size || strncasecmp(a, b, a_size) != 0)
                return false;
        return a[a_size] == '\0' || b[b_size] == '\0' || streq(a + a_size, b + b_size);
}
