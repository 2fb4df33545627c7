/* What curl's result means, and whose fault it is: DPS', or that of the proxy before it. Internal to http.
 */
#pragma once

#include <curl/curl.h>

#include "failure.h"

typedef struct HttpOutcome {
        CURLcode code;
        const char *error; /* CURLOPT_ERRORBUFFER */
        const char *url;
        const char *proxy;   /* URL of the proxy that is used; NULL: none */
        const char *ca_file; /* or NULL */
        long proxy_status;   /* of the reply to CONNECT, 0: none */
        long os_error;       /* of connect(), 0: none */
        bool connected;      /* over TCP, to the proxy or to the host */
        bool ready;          /* for the request: TLS is up */
        bool too_large;
        size_t body_max;
        usec_t connect_timeout_usec, request_timeout_usec;
        uint64_t build_time, latest_time;
} HttpOutcome;

void http_set_failure(Failure *ret, const HttpOutcome *outcome);

/* The proxy failed, not what is behind it. */
bool http_blames_proxy(const HttpOutcome *outcome);

/* The peer showed a certificate, and it was refused. */
bool http_certificate_refused(const HttpOutcome *outcome);

/* The same may be true, and curl does not say so: curl 7.88 loses the reason for the end of a handshake
 * inside that with a proxy. It is true when a handshake that verifies nothing succeeds. */
bool http_certificate_doubted(const HttpOutcome *outcome);
