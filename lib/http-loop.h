/* HttpLoop: curl's multi handle on an sd-event loop. Internal to http. */
#pragma once

#include <curl/curl.h>
#include <systemd/sd-event.h>

typedef struct HttpLoop {
        CURLM *multi;
        sd_event *event;
        sd_event_source *timer; /* curl's own timeouts; also what starts a transfer */
        struct HttpSocket *sockets;
        void (*progress)(void *userdata);
        void *userdata;
} HttpLoop;

/* progress() is called when a transfer may have ended; it may deinit the loop. The loop must not move. */
int http_loop_init(HttpLoop *loop, sd_event *event, void (*progress)(void *userdata), void *userdata);
void http_loop_deinit(HttpLoop *loop); /* after the easy handles; takes one that is all zero, too */
