#include "proxy.h"

#include <stdlib.h>
#include <strings.h>

static const char *environment(const char *lower, const char *upper) {
        const char *value = getenv(lower);

        if (!value || !value[0])
                value = getenv(upper);
        return value && value[0] ? value : NULL;
}

const char *proxy_of_environment(void) {
        const char *proxy = environment("https_proxy", "HTTPS_PROXY");

        return proxy ? proxy : environment("all_proxy", "ALL_PROXY");
}

bool proxy_list_exempts(const char *list, const char *host) {
        size_t length = strcspn(host, ":");

        if (host[0] == '[') {
                host++;
                length = strcspn(host, "]");
        }
        for (const char *p = list; *p; p += strcspn(p, ", "), p += strspn(p, ", ")) {
                size_t n = strcspn(p, ", ");

                if (n == 1 && *p == '*')
                        return true;
                if (*p == '.') {
                        p++;
                        n--;
                }
                if (n > 0 && n <= length && strncasecmp(host + length - n, p, n) == 0 &&
                    (n == length || host[length - n - 1] == '.'))
                        return true;
        }
        return false;
}

bool proxy_exempts(const char *host) {
        const char *list = environment("no_proxy", "NO_PROXY");

        return list && proxy_list_exempts(list, host);
}

const char *proxy_for(const char *configured, const char *host) {
        const char *proxy = configured ? configured : proxy_of_environment();

        return proxy && !proxy_exempts(host) ? proxy : NULL;
}

const char *proxy_authority(const char *proxy) {
        const char *rest = strstr(proxy, "://"), *at;

        rest = rest ? rest + 3 : proxy;
        at = strrchr(rest, '@');
        return at ? at + 1 : rest;
}
