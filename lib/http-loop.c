#include "http-loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "util.h"

/* curl tells which descriptors to watch; each has its event source. */
typedef struct HttpSocket {
        HttpLoop *loop;
        sd_event_source *source;
        struct HttpSocket *next;
} HttpSocket;

static void socket_free(HttpLoop *loop, HttpSocket *s) {
        for (HttpSocket **p = &loop->sockets; *p; p = &(*p)->next)
                if (*p == s) {
                        *p = s->next;
                        break;
                }
        (void) sd_event_source_disable_unref(s->source);
        free(s);
}

static int on_socket(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        HttpSocket *s = userdata;
        HttpLoop *loop = s->loop;
        int running, mask = 0;

        if (revents & (EPOLLIN | EPOLLHUP))
                mask |= CURL_CSELECT_IN;
        if (revents & EPOLLOUT)
                mask |= CURL_CSELECT_OUT;
        if (revents & EPOLLERR)
                mask |= CURL_CSELECT_ERR;
        (void) curl_multi_socket_action(loop->multi, fd, mask, &running); /* may free s */
        loop->progress(loop->userdata);                                   /* may free loop */
        return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        HttpLoop *loop = userdata;
        int running;

        (void) curl_multi_socket_action(loop->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        loop->progress(loop->userdata);
        return 0;
}

static uint32_t events_of(int what) {
        return (what != CURL_POLL_OUT ? EPOLLIN : 0u) | (what != CURL_POLL_IN ? EPOLLOUT : 0u);
}

static int socket_new(HttpLoop *loop, curl_socket_t fd, int what) {
        HttpSocket *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (HttpSocket){ .loop = loop, .next = loop->sockets };
        loop->sockets = s;
        r = sd_event_add_io(loop->event, &s->source, fd, events_of(what), on_socket, s);
        if (r < 0) {
                socket_free(loop, s);
                return r;
        }
        (void) sd_event_source_set_description(s->source, "http-socket");
        (void) curl_multi_assign(loop->multi, fd, s);
        return 0;
}

/* CURLMOPT_SOCKETFUNCTION */
static int curl_wants_socket(CURL *easy, curl_socket_t fd, int what, void *userdata, void *socket) {
        HttpLoop *loop = userdata;
        HttpSocket *s = socket;

        if (what == CURL_POLL_REMOVE) {
                if (s)
                        socket_free(loop, s);
                return 0;
        }
        if (!s)
                return socket_new(loop, fd, what) < 0 ? -1 : 0;
        return sd_event_source_set_io_events(s->source, events_of(what)) < 0 ? -1 : 0;
}

/* CURLMOPT_TIMERFUNCTION */
static int curl_wants_timer(CURLM *multi, long timeout_ms, void *userdata) {
        HttpLoop *loop = userdata;

        if (timeout_ms < 0)
                return sd_event_source_set_enabled(loop->timer, SD_EVENT_OFF) < 0 ? -1 : 0;
        if (sd_event_source_set_time_relative(loop->timer, (uint64_t) timeout_ms * USEC_PER_MSEC) < 0)
                return -1;
        return sd_event_source_set_enabled(loop->timer, SD_EVENT_ONESHOT) < 0 ? -1 : 0;
}

int http_loop_init(HttpLoop *loop, sd_event *event, void (*progress)(void *userdata), void *userdata) {
        int r;

        *loop = (HttpLoop){ .multi = curl_multi_init(), .progress = progress, .userdata = userdata };
        if (!loop->multi)
                return -ENOMEM;
        loop->event = sd_event_ref(event);
        r = sd_event_add_time_relative(event, &loop->timer, CLOCK_MONOTONIC, 0, 1, on_timer, loop);
        if (r >= 0)
                r = sd_event_source_set_enabled(loop->timer, SD_EVENT_OFF);
        if (r < 0) {
                http_loop_deinit(loop);
                return r;
        }
        (void) sd_event_source_set_description(loop->timer, "http-timer");
        (void) curl_multi_setopt(loop->multi, CURLMOPT_SOCKETFUNCTION, curl_wants_socket);
        (void) curl_multi_setopt(loop->multi, CURLMOPT_SOCKETDATA, loop);
        (void) curl_multi_setopt(loop->multi, CURLMOPT_TIMERFUNCTION, curl_wants_timer);
        (void) curl_multi_setopt(loop->multi, CURLMOPT_TIMERDATA, loop);
        return 0;
}

void http_loop_deinit(HttpLoop *loop) {
        if (loop->multi)
                (void) curl_multi_cleanup(loop->multi);
        while (loop->sockets)
                socket_free(loop, loop->sockets);
        (void) sd_event_source_disable_unref(loop->timer);
        (void) sd_event_unref(loop->event);
        *loop = (HttpLoop){};
}
