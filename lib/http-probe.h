/* A handshake that verifies nothing, to see whose certificate was refused. Internal to http. */
#pragma once

#include <curl/curl.h>

typedef struct HttpProbe {
        const char *url;             /* that failed */
        const char *configured;      /* proxy or NULL: the environment's */
        const char *refused_proxy;   /* the certificate is this proxy's; or NULL */
        const char *ca_file;         /* for a proxy that is not refused; or NULL */
        curl_write_callback on_head; /* gets the headers of a reply to HEAD; NULL: nothing is asked */
        void *userdata;
} HttpProbe;

int http_probe_new(CURL **ret, const HttpProbe *probe); /* not added to a multi handle yet */

/* Who issued the peer's certificate, where CURLOPT_CERTINFO is set. Borrowed from curl; NULL: not known. */
const char *http_issuer_of(CURL *easy);
