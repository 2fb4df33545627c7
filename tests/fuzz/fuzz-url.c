/* Two URLs or paths, separated by a newline, as they stand in IoT Edge's configuration. */
#include <string.h>

#include "fuzz.h"
#include "url.h"

static void check_endpoint(const char *text) {
        CLEANUP(freep) char *canonical = NULL, *again = NULL;

        if (url_canonical_endpoint(&canonical, text) < 0) {
                PROMISE(!canonical);
                return;
        }
        PROMISE(strncmp(canonical, "https://", 8) == 0 && canonical[8] && !strchr(canonical + 8, '/'));
        PROMISE(url_canonical_endpoint(&again, canonical) >= 0 && streq(canonical, again));
        PROMISE(url_same_endpoint(text, canonical));
}

/* Returns the URL of a valid path, or NULL. */
static char *check_path(const char *path) {
        char *url = NULL;

        if (!url_path_valid(path) || url_from_path(&url, path) < 0)
                return NULL;
        for (const char *p = url; *p; p++)
                PROMISE(*p > ' ' && *p < 0x7f);
        return url;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(freep) char *first = strndup(size > 0 ? (const char *) data : "", size);
        CLEANUP(freep) char *first_url = NULL, *second_url = NULL;
        char *second = first ? strchr(first, '\n') : NULL;

        if (!second)
                return 0;
        *second++ = '\0';
        check_endpoint(first);
        check_endpoint(second);
        PROMISE(url_same_endpoint(first, second) == url_same_endpoint(second, first));
        PROMISE(url_same_file(first, second) == url_same_file(second, first));
        first_url = check_path(first);
        second_url = check_path(second);
        if (first_url && second_url)
                PROMISE(url_same_file(first_url, second_url) == streq(first, second));
        return 0;
}
