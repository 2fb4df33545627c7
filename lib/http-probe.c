#include "http-probe.h"

#include <errno.h>

#include "proxy.h"

#define TIMEOUT_MS 15000L

/* A proxy is asked like a server: only then is the chain its own. */
static int probe_url(char **ret, const HttpProbe *p) {
        const char *authority = p->refused_proxy ? proxy_authority(p->refused_proxy) : NULL;

        if (!authority)
                return string_replace(ret, p->url);
        return asprintf(ret, "https://%.*s/", (int) strcspn(authority, "/"), authority) < 0 ? -ENOMEM : 0;
}

static CURLcode setup(CURL *e, const HttpProbe *p, const char *url) {
        CURLcode c = CURLE_OK;

        c = c ?: curl_easy_setopt(e, CURLOPT_URL, url);
        c = c ?: curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https");
        if (p->on_head) { /* HEAD, for the Date */
                c = c ?: curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
                c = c ?: curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
                c = c ?: curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, p->on_head);
                c = c ?: curl_easy_setopt(e, CURLOPT_HEADERDATA, p->userdata);
        } else
                c = c ?: curl_easy_setopt(e, CURLOPT_CONNECT_ONLY, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_CERTINFO, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 0L);
        c = c ?: curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 0L);
        c = c ?: curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
        if (p->refused_proxy)
                return c ?: curl_easy_setopt(e, CURLOPT_PROXY, "");
        if (p->ca_file)
                c = c ?: curl_easy_setopt(e, CURLOPT_PROXY_CAINFO, p->ca_file);
        if (p->configured)
                c = c ?: curl_easy_setopt(e, CURLOPT_PROXY, p->configured);
        return c;
}

int http_probe_new(CURL **ret, const HttpProbe *probe) {
        CLEANUP(freep) char *url = NULL;
        CURL *easy;

        if (probe_url(&url, probe) < 0) {
                url = NULL;
                return -ENOMEM;
        }
        easy = curl_easy_init();
        if (!easy)
                return -ENOMEM;
        if (setup(easy, probe, url) != CURLE_OK) {
                curl_easy_cleanup(easy);
                return -EIO;
        }
        *ret = easy;
        return 0;
}

const char *http_issuer_of(CURL *easy) {
        struct curl_certinfo *chain = NULL;

        if (curl_easy_getinfo(easy, CURLINFO_CERTINFO, &chain) != CURLE_OK || !chain ||
            chain->num_of_certs < 1)
                return NULL;
        for (const struct curl_slist *line = chain->certinfo[0]; line; line = line->next)
                if (strncmp(line->data, "Issuer:", 7) == 0)
                        return line->data + 7;
        return NULL;
}
