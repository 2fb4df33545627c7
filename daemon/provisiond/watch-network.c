/* The default routes. */
#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "routes.h"
#include "watch.h"

#define BUFFER_SIZE 32768u /* a part of a dump; the kernel sends smaller ones to smaller buffers */
#define SETTLE_USEC USEC_PER_SEC

struct NetworkWatch {
        Daemon *daemon;
        int fd;
        sd_event_source *messages, *settled;
        Routes known;
        RouteChanges changes;
};

static int request_dump(int fd) {
        const struct {
                struct nlmsghdr header;
                struct rtmsg route;
        } request = { .header = { .nlmsg_len = sizeof(request),
                                  .nlmsg_type = RTM_GETROUTE,
                                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
                      .route.rtm_family = AF_UNSPEC };

        return send(fd, &request, sizeof(request), 0) < 0 ? -errno : 0;
}

/* The kernel answers at once, so this does not block. The time limit is for a kernel without memory. */
static int dump_routes(Routes *ret) {
        const struct timeval limit = { .tv_sec = 1 };
        CLEANUP(freep) void *buffer = malloc(BUFFER_SIZE);
        CLEANUP(closep) int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        int r;

        if (!buffer)
                return -ENOMEM;
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
                return -errno;
        *ret = (Routes){};
        r = request_dump(fd);
        while (r == 0) {
                ssize_t n = recv(fd, buffer, BUFFER_SIZE, 0);

                r = n < 0 ? -errno : routes_read_dump(ret, buffer, (size_t) n);
        }
        return r < 0 ? r : 0;
}

static void look(NetworkWatch *w) {
        const RouteChanges changes = w->changes;
        Routes now;
        int r;

        w->changes = (RouteChanges){};
        r = dump_routes(&now);
        if (r < 0) {
                log_warning("Failed to list the routes: %s", strerror(-r));
                daemon_shorten_wait(w->daemon, RETRY_EVENT_NETWORK); /* perhaps a new default route */
                return;
        }
        log_debug("The network has changed; default routes that are up: %zu", routes_count_up(&now));
        if (routes_are_news(&w->known, &changes, &now))
                daemon_shorten_wait(w->daemon, RETRY_EVENT_NETWORK);
        else if (changes.address && routes_count_up(&now) == 0)
                daemon_shorten_wait(w->daemon, RETRY_EVENT_ADDRESS);
        w->known = now;
}

static int on_settled(sd_event_source *source, uint64_t usec, void *userdata) {
        look(userdata);
        return 0;
}

static int on_messages(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        NetworkWatch *w = userdata;
        alignas(struct nlmsghdr) uint8_t buffer[8192];
        const bool waiting = w->changes.routes || w->changes.address;
        ssize_t n;

        while ((n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0 || (n < 0 && errno == ENOBUFS)) {
                if (n < 0) /* there were so many that some are lost */
                        w->changes.routes = w->changes.address = true;
                else
                        routes_read_changes(&w->changes, &w->known, buffer, (size_t) n);
        }
        if (!waiting && (w->changes.routes || w->changes.address)) {
                (void) sd_event_source_set_time_relative(w->settled, SETTLE_USEC);
                (void) sd_event_source_set_enabled(w->settled, SD_EVENT_ONESHOT);
        }
        return 0;
}

static int subscribe(NetworkWatch *w) {
        const struct sockaddr_nl address = { .nl_family = AF_NETLINK,
                                             .nl_groups = RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE |
                                                          RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR |
                                                          RTMGRP_LINK };

        w->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
        if (w->fd < 0 || bind(w->fd, (const struct sockaddr *) &address, sizeof(address)) < 0)
                return -errno;
        return sd_event_add_io(w->daemon->event, &w->messages, w->fd, EPOLLIN, on_messages, w);
}

int network_watch_new(NetworkWatch **ret, Daemon *daemon) {
        NetworkWatch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        *w = (NetworkWatch){ .daemon = daemon, .fd = -1 };
        r = sd_event_add_time_relative(daemon->event, &w->settled, CLOCK_MONOTONIC, 0, 0, on_settled, w);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->settled, SD_EVENT_OFF);
        if (r >= 0)
                r = subscribe(w); /* first: what changes during the dump is seen */
        if (r >= 0)
                r = dump_routes(&w->known);
        if (r < 0) {
                network_watch_free(w);
                return r;
        }
        (void) sd_event_source_set_description(w->messages, "network");
        (void) sd_event_source_set_description(w->settled, "network-settled");
        *ret = w;
        return 0;
}

NetworkWatch *network_watch_free(NetworkWatch *w) {
        if (!w)
                return NULL;
        (void) sd_event_source_disable_unref(w->messages);
        (void) sd_event_source_disable_unref(w->settled);
        closep(&w->fd);
        free(w);
        return NULL;
}
