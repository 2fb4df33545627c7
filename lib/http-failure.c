#include "http-failure.h"

#include <errno.h>
#include <strings.h>

#include "http.h"
#include "proxy.h"

#define HOST_MAX 200

/* Whom a failure is about. */
typedef struct Peer {
        bool blamed;              /* the proxy failed */
        char host[HOST_MAX];      /* of the URL */
        char name[HOST_MAX + 32]; /* "'HOST'" or "the proxy 'HOST'" */
        char native[32];
} Peer;

/* What a certificate was refused for. */
typedef enum Refusal {
        REFUSAL_ISSUER,
        REFUSAL_EARLY,
        REFUSAL_LATE,
        REFUSAL_NAME,
} Refusal;

static const char *const hints[][2] = {
        /* of DPS, of a proxy that is spoken to with TLS */
        [REFUSAL_ISSUER] = { NULL, /* the table's */
                             "Put the root certificate of the proxy and those of the system "
                             "(/etc/ssl/certs/ca-certificates.crt) into one file and name it with "
                             "CAFile=. Without CAFile= the system's trusted certificates count: add the "
                             "proxy's to them (update-ca-certificates)." },
        [REFUSAL_EARLY] = { "Set the clock: let NTP (UDP port 123) out or provide a local time server. "
                            "If the clock is right (timedatectl), the certificate was made for a later "
                            "time: ask its issuer for another one.",
                            "Set the clock: let NTP (UDP port 123) out or provide a local time server. "
                            "If the clock is right (timedatectl), the proxy's certificate was made for a "
                            "later time: replace it on the proxy." },
        [REFUSAL_LATE] = { "Compare the clock with the time (timedatectl), and set it if it is ahead. "
                           "If it is right and the issuer is a proxy of the site that opens TLS, renew "
                           "the proxy's certificate. Else update the package ca-certificates, or the "
                           "root certificates in CAFile=.",
                           "Compare the clock with the time (timedatectl), and set it if it is ahead. "
                           "If it is right, renew the proxy's certificate on the proxy." },
        [REFUSAL_NAME] = { "Compare GlobalEndpoint= with the name of the DPS instance, and check to "
                           "which address the name leads ('resolvectl query NAME'): a name server or a "
                           "captive portal of the site may lead it to another server. Without "
                           "GlobalEndpoint= the daemon asks global.azure-devices-provisioning.net.",
                           "Name the proxy in Proxy= by a host name that its certificate has, or give "
                           "the proxy a certificate with the name in Proxy=." },
};

#define HINT_CONNECT_TIMEOUT                                                                                \
        "Check that the site's firewall lets TCP port 443 out to DPS; a slow link may need a larger "       \
        "ConnectTimeoutSec=."
#define HINT_PROXY_CONNECT_TIMEOUT                                                                          \
        "Check that the proxy of Proxy= works and lets this gateway in; a slow link may need a larger "     \
        "ConnectTimeoutSec=."
#define HINT_PROXY_REQUEST_TIMEOUT                                                                          \
        "Check that the proxy of Proxy= works and lets this gateway in; a slow link may need a larger "     \
        "RequestTimeoutSec=."
#define HINT_PROXY_PASSWORD                                                                                 \
        "Provide the URL of the proxy with the right user name and password "                               \
        "(http://USER:PASSWORD@HOST:PORT) as the systemd credential dps.proxy of "                          \
        "dps-provisiond.service; the proxy has to accept Basic authentication."
#define HINT_PROXY_RULES                                                                                    \
        "Check what the proxy allows: it has to let this gateway CONNECT to the named host and port."
#define HINT_PROXY_UPSTREAM                                                                                 \
        "Check on the proxy why it can't reach the named host: its name server, its route and the "         \
        "firewall behind it."
#define HINT_PROXY_SCHEME                                                                                   \
        "Write http:// instead of https:// in Proxy= unless the proxy is spoken to with TLS."

bool http_blames_proxy(const HttpOutcome *o) {
        if (!o->proxy || o->ready)
                return false;
        if (o->code == CURLE_COULDNT_RESOLVE_PROXY || o->code == CURLE_PROXY)
                return true;
        if (strncasecmp(o->proxy, "socks", strlen("socks")) == 0)
                return !o->connected && o->code != CURLE_COULDNT_RESOLVE_HOST;
        return o->proxy_status < 200 || o->proxy_status >= 300;
}

bool http_certificate_refused(const HttpOutcome *o) {
        return o->code == CURLE_PEER_FAILED_VERIFICATION || o->code == CURLE_SSL_ISSUER_ERROR;
}

bool http_certificate_doubted(const HttpOutcome *o) {
        return o->code == CURLE_SSL_CONNECT_ERROR && o->proxy && !http_blames_proxy(o) &&
               strncasecmp(o->proxy, "https:", strlen("https:")) == 0;
}

static void set_peer(Peer *ret, const HttpOutcome *o) {
        const char *start = strstr(o->url, "://"), *proxy = o->proxy ? proxy_authority(o->proxy) : NULL;

        start = start ? start + 3 : o->url;
        *ret = (Peer){ .blamed = proxy && http_blames_proxy(o) };
        (void) snprintf(ret->host, sizeof(ret->host), "%.*s", (int) strcspn(start, "/"), start);
        if (proxy && ret->blamed)
                (void) snprintf(ret->name, sizeof(ret->name), "the proxy '%.*s'", (int) strcspn(proxy, "/"),
                                proxy);
        else
                (void) snprintf(ret->name, sizeof(ret->name), "'%s'", ret->host);
        (void) snprintf(ret->native, sizeof(ret->native), "curl %d", (int) o->code);
}

/* Only a message about the host name quotes one. */
static Refusal refusal_of(const char *error) {
        if (strcasestr(error, "subject name") || strcasestr(error, "common name"))
                return REFUSAL_NAME;
        if (strcasestr(error, "not yet valid") || strcasestr(error, "not activated"))
                return REFUSAL_EARLY;
        if (strcasestr(error, "has expired") || strcasestr(error, "expiration date has passed"))
                return REFUSAL_LATE;
        return REFUSAL_ISSUER;
}

static void set_certificate_failure(Failure *ret, const HttpOutcome *o, const Peer *p) {
        uint64_t now = now_usec(CLOCK_REALTIME) / USEC_PER_SEC;
        Refusal refusal = refusal_of(o->error);

        /* The clock is the likelier cause when the certificate is not valid yet, or when it has expired by a
         * clock that is before the build of this program or implausibly late. */
        if (refusal == REFUSAL_LATE && (now < o->build_time || (o->latest_time > 0 && now > o->latest_time)))
                (void) failure_set(
                        ret, FAILURE_TLS_CLOCK, p->native,
                        "The certificate of %s is expired at the local time, and the clock looks wrong",
                        p->name);
        else if (refusal == REFUSAL_EARLY)
                (void) failure_set(ret, FAILURE_TLS_CLOCK, p->native,
                                   "The certificate of %s is not yet valid at the local time, and the clock "
                                   "looks wrong",
                                   p->name);
        else
                (void) failure_set(ret, p->blamed ? FAILURE_PROXY : FAILURE_TLS_TRUST, p->native,
                                   "The certificate of %s is not trusted: %s", p->name, o->error);
        if (ret->kind != FAILURE_TLS_CLOCK || refusal == REFUSAL_EARLY)
                ret->remedy = hints[refusal][p->blamed];
}

/* connect_timeout_usec covers all that comes before the request, TLS included. */
static void set_timeout(Failure *ret, const HttpOutcome *o, const Peer *p) {
        bool connecting = !o->ready && o->connect_timeout_usec < o->request_timeout_usec;
        usec_t limit = connecting ? o->connect_timeout_usec : o->request_timeout_usec;
        const char *what = o->ready       ? "reply from"
                           : p->blamed    ? "tunnel through"
                           : o->connected ? "TLS handshake with"
                                          : "connection to";

        (void) failure_set(ret, FAILURE_TIMEOUT, p->native, "No %s %s within %llu s", what, p->name,
                           (unsigned long long) ((limit + USEC_PER_SEC - 1) / USEC_PER_SEC));
        if (p->blamed)
                ret->remedy = connecting ? HINT_PROXY_CONNECT_TIMEOUT : HINT_PROXY_REQUEST_TIMEOUT;
        else if (connecting)
                ret->remedy = HINT_CONNECT_TIMEOUT;
}

static void set_proxy_refusal(Failure *ret, const HttpOutcome *o, const Peer *p) {
        char native[32];

        (void) snprintf(native, sizeof(native), "HTTP %ld", o->proxy_status);
        (void) failure_set(ret, FAILURE_PROXY, native, "No tunnel to '%s': %s refuses it", p->host, p->name);
        ret->remedy = o->proxy_status == 407   ? HINT_PROXY_PASSWORD
                      : o->proxy_status >= 500 ? HINT_PROXY_UPSTREAM
                                               : HINT_PROXY_RULES;
}

static void set_proxy_failure(Failure *ret, const HttpOutcome *o, const Peer *p, const char *why) {
        if (o->code == CURLE_COULDNT_RESOLVE_PROXY)
                (void) failure_set(ret, FAILURE_PROXY, p->native, "The name of %s can't be resolved",
                                   p->name);
        else
                (void) failure_set(ret, FAILURE_PROXY, p->native, "No tunnel through %s to '%s': %s",
                                   p->name, p->host, why);
        if (o->code == CURLE_SSL_CONNECT_ERROR && strcasestr(why, "wrong version number"))
                ret->remedy = HINT_PROXY_SCHEME;
}

static void set_connect_failure(Failure *ret, const HttpOutcome *o, const Peer *p, const char *why) {
        (void) failure_set(ret, FAILURE_CONNECT, p->native, "The connection to %s failed: %s", p->name, why);
        if (o->os_error == ENETUNREACH)
                ret->remedy = HTTP_HINT_NO_ROUTE;
}

void http_set_failure(Failure *ret, const HttpOutcome *o) {
        /* curl's text may contain the URL of the proxy, with its password */
        const char *why = o->error[0] && !strchr(o->error, '@') ? o->error : curl_easy_strerror(o->code);
        Peer p;

        set_peer(&p, o);
        if (o->too_large)
                (void) failure_set(ret, FAILURE_PROTOCOL, p.native,
                                   "The reply of %s is larger than %zu bytes", p.name, o->body_max);
        else if (o->proxy_status >= 300 && p.blamed)
                set_proxy_refusal(ret, o, &p);
        else if (o->code == CURLE_SSL_CACERT_BADFILE && o->ca_file)
                (void) failure_set(ret, FAILURE_CONFIG, p.native,
                                   "CAFile=%.200s can't be used: it can't be read, or has no certificate in "
                                   "PEM form",
                                   o->ca_file);
        else if (http_certificate_refused(o) || o->code == CURLE_SSL_CACERT_BADFILE)
                set_certificate_failure(ret, o, &p);
        else if (o->code == CURLE_OPERATION_TIMEDOUT && strncmp(why, "Resolving", strlen("Resolving")) == 0)
                (void) failure_set(ret, p.blamed ? FAILURE_PROXY : FAILURE_DNS, p.native,
                                   "The name of %s can't be resolved: no name server answers", p.name);
        else if (o->code == CURLE_OPERATION_TIMEDOUT)
                set_timeout(ret, o, &p);
        else if (p.blamed)
                set_proxy_failure(ret, o, &p, why);
        else if (o->code == CURLE_COULDNT_RESOLVE_HOST)
                (void) failure_set(ret, FAILURE_DNS, p.native, "The name of %s can't be resolved", p.name);
        else if (o->code == CURLE_WEIRD_SERVER_REPLY || o->code == CURLE_UNSUPPORTED_PROTOCOL ||
                 o->code == CURLE_BAD_CONTENT_ENCODING)
                (void) failure_set(ret, FAILURE_PROTOCOL, p.native,
                                   "The reply of %s is not HTTP as it should be: %s", p.name, why);
        else
                set_connect_failure(ret, o, &p, why);
}
