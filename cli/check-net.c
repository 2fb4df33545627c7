#include "check-net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHOWN_MAX 3

static void addresses_freep(struct addrinfo **list) {
        if (*list)
                freeaddrinfo(*list);
}

/* curl, and so the daemon, knows localhost without asking. */
static bool is_local(const char *name) {
        size_t n = strlen(name), m = strlen(".localhost");

        return strcasecmp(name, "localhost") == 0 || (n > m && strcasecmp(name + n - m, ".localhost") == 0);
}

static int resolve(const char *host, unsigned port, int type, struct addrinfo **ret, const char **ret_why) {
        const struct addrinfo hints = { .ai_socktype = type };
        CLEANUP(freep) char *name = strndup(host, strcspn(host, "/"));
        char service[16], *start = name, *colon, *end;
        int r;

        if (!name)
                return -ENOMEM;
        (void) snprintf(service, sizeof(service), "%u", port);
        if (name[0] == '[' && (end = strchr(name, ']'))) {
                *end = '\0';
                start++;
                colon = end[1] == ':' ? end + 1 : NULL;
        } else
                colon = strchr(name, ':');
        if (colon) {
                *colon = '\0';
                (void) snprintf(service, sizeof(service), "%.15s", colon + 1);
        }
        r = getaddrinfo(start, service, &hints, ret);
        if (r != 0 && is_local(start))
                r = getaddrinfo("127.0.0.1", service, &hints, ret);
        if (r == 0)
                return 0;
        if (ret_why)
                *ret_why = r == EAI_AGAIN ? "no name server answers" : gai_strerror(r);
        return -EHOSTUNREACH;
}

static void format_address(const struct sockaddr *address, socklen_t size, char *ret, size_t ret_size) {
        if (getnameinfo(address, size, ret, (socklen_t) ret_size, NULL, 0, NI_NUMERICHOST) != 0)
                (void) snprintf(ret, ret_size, "?");
}

int net_resolve(const char *host, unsigned port, char text[static NET_TEXT_MAX], const char **ret_why) {
        CLEANUP(addresses_freep) struct addrinfo *list = NULL;
        char address[INET6_ADDRSTRLEN];
        size_t used, n = 0;
        int r;

        r = resolve(host, port, SOCK_STREAM, &list, ret_why);
        if (r < 0)
                return r;
        used = (size_t) snprintf(text, NET_TEXT_MAX, "'%.60s' is", host);
        for (const struct addrinfo *a = list; a && n < SHOWN_MAX && used < NET_TEXT_MAX;
             a = a->ai_next, n++) {
                format_address(a->ai_addr, a->ai_addrlen, address, sizeof(address));
                used += (size_t) snprintf(text + used, NET_TEXT_MAX - used, "%s %.45s", n > 0 ? "," : "",
                                          address);
        }
        return 0;
}

int net_route(const char *host, unsigned port, char text[static NET_TEXT_MAX]) {
        CLEANUP(addresses_freep) struct addrinfo *list = NULL;
        const char *why = "?";
        int error = EHOSTUNREACH;

        if (resolve(host, port, SOCK_DGRAM, &list, &why) < 0) {
                (void) snprintf(text, NET_TEXT_MAX, "%s", why);
                return -EHOSTUNREACH;
        }
        for (const struct addrinfo *a = list; a; a = a->ai_next) {
                CLEANUP(closep) int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
                struct sockaddr_storage self;
                socklen_t size = sizeof(self);
                char address[INET6_ADDRSTRLEN];

                if (fd < 0 || connect(fd, a->ai_addr, a->ai_addrlen) < 0 ||
                    getsockname(fd, (struct sockaddr *) &self, &size) < 0) {
                        error = errno;
                        continue;
                }
                format_address((const struct sockaddr *) &self, size, address, sizeof(address));
                (void) snprintf(text, NET_TEXT_MAX, "From %s", address);
                return 0;
        }
        (void) snprintf(text, NET_TEXT_MAX, "%s", strerror(error));
        return -error;
}

static int connect_one(const struct addrinfo *a, usec_t timeout_usec) {
        CLEANUP(closep) int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        struct pollfd p = { .fd = fd, .events = POLLOUT };
        socklen_t size = sizeof(int);
        int error = 0, r;

        if (fd < 0)
                return -errno;
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
                return 0;
        if (errno != EINPROGRESS)
                return -errno;
        r = poll(&p, 1, (int) (timeout_usec / USEC_PER_MSEC));
        if (r <= 0)
                return r < 0 ? -errno : -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                return -errno;
        return -error;
}

int net_connect(const char *host, unsigned port, usec_t timeout_usec, char text[static NET_TEXT_MAX]) {
        CLEANUP(addresses_freep) struct addrinfo *list = NULL;
        const char *why = "?";
        int r = -EHOSTUNREACH;

        if (resolve(host, port, SOCK_STREAM, &list, &why) < 0) {
                (void) snprintf(text, NET_TEXT_MAX, "%s", why);
                return -EHOSTUNREACH;
        }
        for (const struct addrinfo *a = list; a && r < 0; a = a->ai_next) {
                char address[INET6_ADDRSTRLEN];

                r = connect_one(a, timeout_usec);
                format_address(a->ai_addr, a->ai_addrlen, address, sizeof(address));
                (void) snprintf(text, NET_TEXT_MAX, "%s: %s", address, r < 0 ? strerror(-r) : "connected");
        }
        return r;
}
