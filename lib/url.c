#include "url.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#define HTTPS       "https:"
#define HTTPS_PORT  443
#define FILE_SCHEME "file:"
#define IPV6_GROUPS 8

/* In the URLs of https and file a backslash is a slash (URL Standard, "special" schemes). */
static bool is_slash(char c) {
        return c == '/' || c == '\\';
}

/* The standard's parser removes these first: tabs and newlines, and blanks and controls at both ends. */
static char *strip(const char *text) {
        size_t length = strlen(text), n = 0;
        char *copy = strdup(text);

        if (!copy)
                return NULL;
        while (length > 0 && (unsigned char) text[length - 1] <= ' ')
                length--;
        for (size_t i = 0; i < length; i++)
                if (!strchr("\t\n\r", text[i]) && (n > 0 || (unsigned char) text[i] > ' '))
                        copy[n++] = text[i];
        copy[n] = '\0';
        return copy;
}

/* --- https --- */

/* The longest run of at least two zero groups is written as "::". */
static void print_ipv6(FILE *f, const uint8_t address[static sizeof(struct in6_addr)]) {
        size_t best = 0, best_length = 1, length = 0;
        unsigned group[IPV6_GROUPS];

        for (size_t i = 0; i < IPV6_GROUPS; i++) {
                group[i] = (unsigned) address[2 * i] << 8 | address[2 * i + 1];
                length = group[i] == 0 ? length + 1 : 0;
                if (length > best_length) {
                        best_length = length;
                        best = i + 1 - length;
                }
        }
        (void) fputc('[', f);
        for (size_t i = 0; i < IPV6_GROUPS; i++) {
                if (best_length > 1 && i == best) {
                        (void) fputs("::", f);
                        i += best_length - 1;
                        continue;
                }
                (void) fprintf(f, "%s%x", i > 0 && !(best_length > 1 && i == best + best_length) ? ":" : "",
                               group[i]);
        }
        (void) fputc(']', f);
}

/* A host whose last label is a number is an IPv4 address, whatever its spelling, or not valid. */
static bool ends_in_number(const char *host) {
        const char *label = strrchr(host, '.');

        label = label ? label + 1 : host;
        return label[0] && (label[strspn(label, "0123456789")] == '\0' ||
                            (strncasecmp(label, "0x", 2) == 0 &&
                             label[2 + strspn(label + 2, "0123456789abcdefABCDEF")] == '\0'));
}

static int print_host(FILE *f, char *host) {
        size_t length = strlen(host);
        struct in6_addr ipv6;
        struct in_addr ipv4;

        if (length == 0)
                return -EINVAL;
        if (host[0] == '[') {
                if (host[length - 1] != ']')
                        return -EINVAL;
                host[length - 1] = '\0';
                if (inet_pton(AF_INET6, host + 1, &ipv6) != 1)
                        return -EINVAL;
                print_ipv6(f, ipv6.s6_addr);
                return 0;
        }
        if (host[length - 1] == '.' && length > 1) {
                host[length - 1] = '\0';
                if (!ends_in_number(host))
                        host[length - 1] = '.';
        }
        if (ends_in_number(host)) {
                if (inet_aton(host, &ipv4) == 0)
                        return -EINVAL;
                (void) fputs(inet_ntoa(ipv4), f);
                return 0;
        }
        for (; *host; host++) {
                /* The standard's forbidden domain code points; beyond ASCII the host needs IDNA. */
                if (*host <= ' ' || *host >= 0x7f || strchr("#%/:<>?@[\\]^|", *host))
                        return -EINVAL;
                (void) fputc(tolower((unsigned char) *host), f);
        }
        return 0;
}

/* text: "host[:port]"; it is modified. */
static int print_authority(FILE *f, char *text) {
        char *end = text[0] == '[' ? strchr(text, ']') : text, *colon = end ? strchr(end, ':') : NULL;
        uint64_t port = HTTPS_PORT;
        int r;

        if (!end || strpbrk(text, "@?#"))
                return -EINVAL;
        if (colon) {
                *colon = '\0';
                if (colon[1] && (colon[1 + strspn(colon + 1, "0123456789")] != '\0' ||
                                 parse_uint(colon + 1, UINT16_MAX, &port) < 0))
                        return -EINVAL;
        }
        r = print_host(f, text);
        if (r >= 0 && port != HTTPS_PORT)
                (void) fprintf(f, ":%u", (unsigned) port);
        return r;
}

int url_canonical_endpoint(char **ret, const char *text) {
        CLEANUP(freep) char *copy = strip(text), *canonical = NULL;
        size_t length, size = 0;
        char *authority;
        FILE *f;
        int r;

        if (!copy)
                return -ENOMEM;
        if (strncasecmp(copy, HTTPS, strlen(HTTPS)) != 0)
                return -EINVAL;
        authority = copy + strlen(HTTPS);
        while (is_slash(*authority))
                authority++;
        length = strlen(authority);
        if (length > 0 && is_slash(authority[length - 1]))
                authority[--length] = '\0';
        if (strpbrk(authority, "/\\"))
                return -EINVAL;
        f = open_memstream(&canonical, &size);
        if (!f)
                return -ENOMEM;
        (void) fputs("https://", f);
        r = print_authority(f, authority);
        if (fclose(f) != 0)
                r = -ENOMEM;
        if (r < 0)
                return r;
        *ret = TAKE(canonical);
        return 0;
}

bool url_same_endpoint(const char *a, const char *b) {
        CLEANUP(freep) char *first = NULL, *second = NULL;

        if (streq(a, b))
                return true;
        return url_canonical_endpoint(&first, a) >= 0 && url_canonical_endpoint(&second, b) >= 0 &&
               streq(first, second);
}

/* --- files --- */

bool url_path_valid(const char *path) {
        if (path[0] != '/')
                return false;
        while (*path) {
                size_t length = strcspn(++path, "/");

                if (length == 0 || (length <= 2 && strspn(path, ".") >= length))
                        return false;
                path += length;
        }
        return true;
}

int url_from_path(char **ret, const char *path) {
        char *url = malloc(strlen("file://") + 3 * strlen(path) + 1), *out = url;

        if (!url)
                return -ENOMEM;
        out = stpcpy(out, "file://");
        for (; *path; path++) {
                unsigned char c = (unsigned char) *path;

                if (c <= ' ' || c >= 0x7f || strchr("\"#%<>?\\^`{}", c))
                        out += sprintf(out, "%%%02X", c);
                else
                        *out++ = (char) c;
        }
        *out = '\0';
        *ret = url;
        return 0;
}

/* The length of a dot at the beginning of the text: 1 for ".", 3 for "%2e", 0 for anything else. */
static size_t dot_length(const char *text, size_t length) {
        if (length >= 1 && text[0] == '.')
                return 1;
        return length >= 3 && strncasecmp(text, "%2e", 3) == 0 ? 3 : 0;
}

/* 1 for ".", 2 for "..", 0 for anything else. */
static int count_dots(const char *segment, size_t length) {
        size_t first = dot_length(segment, length), second = dot_length(segment + first, length - first);

        if (first == 0 || (second == 0 ? first != length : first + second != length))
                return 0;
        return second == 0 ? 1 : 2;
}

/* Resolves the dot segments; both paths begin with a slash unless they are empty. In place. */
static void resolve_dots(char *path) {
        char *out = path, *in = path;

        while (*in) {
                size_t length = 0;
                char *segment = in + 1;
                int dots;

                while (segment[length] && !is_slash(segment[length]))
                        length++;
                in = segment + length;
                dots = count_dots(segment, length);
                if (dots == 2)
                        while (out > path && *--out != '/')
                                ;
                if (dots == 0 || !*in) /* a dot segment at the end leaves an empty one */
                        *out++ = '/';
                if (dots == 0) {
                        memmove(out, segment, length);
                        out += length;
                }
        }
        *out = '\0';
}

/* In place. -EINVAL: the result would contain a NUL, which no path has. */
static int percent_decode(char *text) {
        char *out = text;

        for (; *text; text++) {
                if (text[0] == '%' && isxdigit((unsigned char) text[1]) &&
                    isxdigit((unsigned char) text[2])) {
                        const char digits[] = { text[1], text[2], '\0' };

                        *out = (char) strtoul(digits, NULL, 16);
                        if (!*out++)
                                return -EINVAL;
                        text += 2;
                } else
                        *out++ = *text;
        }
        *out = '\0';
        return 0;
}

/* The path of a file URL, as Url::to_file_path gives it: on this host, without query and fragment. */
static int to_path(char **ret, const char *text) {
        CLEANUP(freep) char *copy = strip(text), *path = NULL;
        char *rest;
        int r;

        if (!copy)
                return -ENOMEM;
        if (strncasecmp(copy, FILE_SCHEME, strlen(FILE_SCHEME)) != 0)
                return -EINVAL;
        rest = copy + strlen(FILE_SCHEME);
        rest[strcspn(rest, "?#")] = '\0';
        if (is_slash(rest[0]) && is_slash(rest[1])) {
                size_t length = strcspn(rest + 2, "/\\");

                if (length > 0 &&
                    (length != strlen("localhost") || strncasecmp(rest + 2, "localhost", length) != 0))
                        return -EINVAL;
                rest += 2 + length;
        }
        if (asprintf(&path, "/%s", rest + (is_slash(rest[0]) ? 1 : 0)) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        resolve_dots(path);
        r = percent_decode(path);
        if (r < 0)
                return r;
        *ret = TAKE(path);
        return 0;
}

bool url_same_file(const char *a, const char *b) {
        CLEANUP(freep) char *first = NULL, *second = NULL;

        if (streq(a, b))
                return true;
        return to_path(&first, a) >= 0 && to_path(&second, b) >= 0 && streq(first, second);
}
