/* What happens outside: files under /etc, addresses and routes, the clock. */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdalign.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "daemon.h"

#define DIRECTORIES_MAX 8
#define DEBOUNCE_USEC   (100 * USEC_PER_MSEC) /* an editor makes several events of one change */
#define DEBOUNCE_MAX    (2 * USEC_PER_SEC)    /* where something happens all the time, /run for instance */
#define AGAIN_USEC      (5 * USEC_PER_SEC)    /* the kernel has a limit of inotify instances for each user */
#define WATCHED                                                                                             \
        (IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM | IN_CLOSE_WRITE | IN_ATTRIB |                 \
         IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct Watch {
        Daemon *daemon;
        sd_event_source *directories[DIRECTORIES_MAX];
        sd_event_source *debounce, *network, *clock;
        usec_t changed; /* since when something has not been read, CLOCK_MONOTONIC; or 0 */
        bool blind;     /* a directory can't be watched: it is read again and again instead */
        int netlink_fd, clock_fd;
};

static int on_debounced(sd_event_source *source, uint64_t usec, void *userdata) {
        Watch *w = userdata;

        w->changed = 0;
        daemon_reload(w->daemon, false);
        return 0;
}

static void reload_after(Watch *w, usec_t delay_usec) {
        (void) sd_event_source_set_time_relative(w->debounce, delay_usec);
        (void) sd_event_source_set_enabled(w->debounce, SD_EVENT_ONESHOT);
}

static int on_inotify(sd_event_source *source, const struct inotify_event *event, void *userdata) {
        Watch *w = userdata;
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (w->changed == 0)
                w->changed = now;
        if (now - w->changed < DEBOUNCE_MAX)
                reload_after(w, DEBOUNCE_USEC);
        return 0;
}

/* A directory that does not exist yet is awaited in the nearest one above it that does. */
static int watch_directory(Watch *w, sd_event_source **ret, char *path) {
        for (;;) {
                int r = sd_event_add_inotify(w->daemon->event, ret, path, WATCHED, on_inotify, w);
                char *slash = strrchr(path, '/');

                if (r != -ENOENT && r != -ENOTDIR)
                        return r;
                if (!slash || slash == path)
                        return 0;
                *slash = '\0';
        }
}

void watch_update(Watch *w) {
        char **list = NULL;
        int r, error = 0;

        for (size_t i = 0; i < DIRECTORIES_MAX; i++)
                w->directories[i] = sd_event_source_disable_unref(w->directories[i]);
        if (config_watch_directories(&list, &w->daemon->options->config) < 0)
                return;
        for (size_t i = 0; list[i]; i++) {
                if (i < DIRECTORIES_MAX) {
                        r = watch_directory(w, &w->directories[i], list[i]);
                        if (r < 0)
                                error = r;
                }
                free(list[i]);
        }
        free(list);
        if (error < 0 && !w->blind)
                log_warning("The configuration can't be watched for changes and is read every %u s: %s",
                            (unsigned) (AGAIN_USEC / USEC_PER_SEC), strerror(-error));
        w->blind = error < 0;
        if (w->blind)
                reload_after(w, AGAIN_USEC);
}

/* A new address or default route makes the service reachable; one that goes, or a route to a neighbour, does
 * not. */
static bool is_good_news(const struct nlmsghdr *message) {
        const struct rtmsg *route = NLMSG_DATA(message);

        if (message->nlmsg_type == RTM_NEWADDR)
                return true;
        return message->nlmsg_type == RTM_NEWROUTE && NLMSG_PAYLOAD(message, 0) >= sizeof(*route) &&
               route->rtm_dst_len == 0 && route->rtm_type == RTN_UNICAST;
}

static int on_netlink(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Watch *w = userdata;
        alignas(struct nlmsghdr) uint8_t buffer[8192];
        bool good = false;
        ssize_t n;

        while ((n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0 || (n < 0 && errno == ENOBUFS)) {
                unsigned left = n > 0 ? (unsigned) n : 0;

                if (n < 0) /* there were so many that some are lost */
                        good = true;
                for (const struct nlmsghdr *m = (const void *) buffer; NLMSG_OK(m, left);
                     m = NLMSG_NEXT(m, left))
                        good = good || is_good_news(m);
        }
        if (good)
                daemon_shorten_wait(w->daemon, RETRY_EVENT_NETWORK);
        return 0;
}

static int watch_network(Watch *w) {
        const struct sockaddr_nl address = { .nl_family = AF_NETLINK,
                                             .nl_groups = RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE |
                                                          RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR };

        w->netlink_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
        if (w->netlink_fd < 0 ||
            bind(w->netlink_fd, (const struct sockaddr *) &address, sizeof(address)) < 0)
                return -errno;
        return sd_event_add_io(w->daemon->event, &w->network, w->netlink_fd, EPOLLIN, on_netlink, w);
}

/* A timer far in the future that the kernel cancels when the clock is set: as far as the kernel's
 * nanoseconds reach, or time_t where it has 32 bits. One in the past would fire again and again. */
static int arm_clock(int fd) {
        const struct itimerspec far = { .it_value.tv_sec = sizeof(time_t) > 4
                                                                   ? (time_t) (INT64_MAX / 2000000000)
                                                                   : INT32_MAX };

        return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL) < 0 ? -errno : 0;
}

static int on_clock(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Watch *w = userdata;
        uint64_t expirations;

        (void) !read(fd, &expirations, sizeof(expirations)); /* ECANCELED */
        (void) arm_clock(fd);
        daemon_clock_set(w->daemon);
        return 0;
}

static int watch_clock(Watch *w) {
        int r;

        w->clock_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
        if (w->clock_fd < 0)
                return -errno;
        r = arm_clock(w->clock_fd);
        return r < 0 ? r : sd_event_add_io(w->daemon->event, &w->clock, w->clock_fd, EPOLLIN, on_clock, w);
}

int watch_new(Watch **ret, Daemon *daemon) {
        Watch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        *w = (Watch){ .daemon = daemon, .netlink_fd = -1, .clock_fd = -1 };
        r = sd_event_add_time_relative(daemon->event, &w->debounce, CLOCK_MONOTONIC, 0, 1000, on_debounced,
                                       w);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->debounce, SD_EVENT_OFF);
        if (r < 0) {
                watch_free(w);
                return r;
        }
        watch_update(w);
        reload_after(w, DEBOUNCE_USEC); /* it may have changed since it was read */
        r = watch_network(w);
        if (r < 0)
                log_warning("The network can't be watched: %s", strerror(-r));
        r = watch_clock(w);
        if (r < 0)
                log_warning("The clock can't be watched: %s", strerror(-r));
        *ret = w;
        return 0;
}

Watch *watch_free(Watch *w) {
        if (!w)
                return NULL;
        for (size_t i = 0; i < DIRECTORIES_MAX; i++)
                (void) sd_event_source_disable_unref(w->directories[i]);
        (void) sd_event_source_disable_unref(w->debounce);
        (void) sd_event_source_disable_unref(w->network);
        (void) sd_event_source_disable_unref(w->clock);
        closep(&w->netlink_fd);
        closep(&w->clock_fd);
        free(w);
        return NULL;
}
