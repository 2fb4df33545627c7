#include "http-failure.h"

#include <strings.h>

#define HOST_MAX 200

static void set_timeout(Failure *ret, const char *native, const char *host, const char *why) {
        if (strncmp(why, "Resolving", strlen("Resolving")) == 0)
                (void) failure_set(ret, FAILURE_DNS, native,
                                   "The name of '%s' can't be resolved: no name server answers", host);
        else
                (void) failure_set(ret, FAILURE_TIMEOUT, native, "'%s' did not answer in time: %s", host,
                                   why);
}

static void set_tls_failure(Failure *ret, const HttpOutcome *o, const char *native, const char *host) {
        uint64_t now = now_usec(CLOCK_REALTIME) / USEC_PER_SEC;
        bool early = strcasestr(o->error, "not yet valid") || strcasestr(o->error, "not activated");
        bool late = strcasestr(o->error, "expired");

        if (o->code == CURLE_SSL_CACERT_BADFILE && o->ca_file) {
                (void) failure_set(ret, FAILURE_CONFIG, native,
                                   "CAFile=%.200s can't be used: it can't be read, or has no certificate in "
                                   "PEM form",
                                   o->ca_file);
                return;
        }
        /* The clock is the likelier cause when the certificate is not valid yet, or when it has expired by a
         * clock that is before the build of this program or implausibly late. */
        if (early || (late && (now < o->build_time || (o->latest_time > 0 && now > o->latest_time))))
                (void) failure_set(
                        ret, FAILURE_TLS_CLOCK, native,
                        "The certificate of '%s' is %s at the local time, and the clock looks wrong", host,
                        early ? "not yet valid" : "expired");
        else
                (void) failure_set(ret, FAILURE_TLS_TRUST, native,
                                   "The certificate of '%s' is not trusted: %s", host, o->error);
}

/* curl does not say which of the two it could not connect to, but whose name it tried. */
static bool is_proxys(const HttpOutcome *o, const char *host) {
        const char *tried = strstr(o->error, "Failed to connect to "), *colon = strrchr(host, ':');
        char expected[HOST_MAX + 32];

        if (strncmp(o->url, "http:", 5) == 0) /* identityd, through its Unix socket */
                return false;
        if (strcasestr(o->error, "proxy"))
                return true;
        if (!tried)
                return false;
        if (host[0] == '[') /* curl names it without the brackets */
                return false;
        (void) snprintf(expected, sizeof(expected), "Failed to connect to %.*s port %s ",
                        (int) (colon ? colon - host : (long) strlen(host)), host, colon ? colon + 1 : "443");
        return strncasecmp(tried, expected, strlen(expected)) != 0;
}

void http_set_failure(Failure *ret, const HttpOutcome *o) {
        const char *start = strstr(o->url, "://"),
                   *why = o->error[0] ? o->error : curl_easy_strerror(o->code);
        char native[32], host[HOST_MAX];

        start = start ? start + 3 : o->url;
        (void) snprintf(host, sizeof(host), "%.*s", (int) strcspn(start, "/"), start);
        (void) snprintf(native, sizeof(native), "curl %d", (int) o->code);

        if (o->too_large) {
                (void) failure_set(ret, FAILURE_PROTOCOL, native,
                                   "The reply of '%s' is larger than %zu bytes", host, o->body_max);
                return;
        }
        if (o->proxy_status >= 300) {
                (void) snprintf(native, sizeof(native), "HTTP %ld", o->proxy_status);
                (void) failure_set(ret, FAILURE_PROXY, native, "The proxy refuses the connection to '%s'",
                                   host);
                return;
        }
        switch (o->code) {
        case CURLE_COULDNT_RESOLVE_HOST:
                (void) failure_set(ret, FAILURE_DNS, native, "The name of '%s' can't be resolved", host);
                break;
        case CURLE_COULDNT_RESOLVE_PROXY:
        case CURLE_PROXY:
                (void) failure_set(ret, FAILURE_PROXY, native, "The proxy can't be used for '%s': %s", host,
                                   why);
                break;
        case CURLE_OPERATION_TIMEDOUT:
                set_timeout(ret, native, host, why);
                break;
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_ISSUER_ERROR:
                set_tls_failure(ret, o, native, host);
                break;
        case CURLE_WEIRD_SERVER_REPLY:
        case CURLE_UNSUPPORTED_PROTOCOL:
        case CURLE_BAD_CONTENT_ENCODING:
                (void) failure_set(ret, FAILURE_PROTOCOL, native,
                                   "The reply of '%s' is not HTTP as it should be: %s", host, why);
                break;
        case CURLE_COULDNT_CONNECT:
        case CURLE_RECV_ERROR:
                if (is_proxys(o, host)) {
                        (void) failure_set(ret, FAILURE_PROXY, native,
                                           "The proxy can't be used for '%s': %s", host, why);
                        break;
                }
                (void) failure_set(ret, FAILURE_CONNECT, native, "The connection to '%s' failed: %s", host,
                                   why);
                break;
        default:
                (void) failure_set(ret, FAILURE_CONNECT, native, "The connection to '%s' failed: %s", host,
                                   why);
        }
}
