#include "identityd.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>

#include "device-info.h"
#include "paths.h"

#define ANSWER_MAX       ((size_t) 64 * 1024)
#define REPROVISION_USEC (120 * USEC_PER_SEC)
#define BASE             "http://identityd.sock/identities/"
#define VERSION          "?api-version=2020-09-01"

struct Identityd {
        sd_event *event;
        char *socket;
        Http *http;
        usec_t deadline; /* 0: none */
        IdentitydDone done;
        void *userdata;
};

static const HttpRequest requests[] = {
        [IDENTITYD_DEVICE] = { .method = "POST",
                               .url = BASE "device" VERSION,
                               .body = "{\"type\":\"aziot\"}" },
        [IDENTITYD_SETTLED] = { .method = "POST",
                                .url = BASE "device" VERSION,
                                .body = "{\"type\":\"aziot\"}" },
        [IDENTITYD_PROVISIONING] = { .method = "GET", .url = BASE "provisioning?api-version=2021-12-01" },
        [IDENTITYD_EDGE_AGENT] = { .method = "GET",
                                   .url = BASE "modules/%24edgeAgent" VERSION "&type=aziot" },
        [IDENTITYD_REPROVISION] = { .method = "POST",
                                    .url = BASE "device/reprovision" VERSION,
                                    .body = "{\"type\":\"aziot\"}" },
};

int identityd_new(Identityd **ret, sd_event *event, const char *root) {
        Identityd *i = calloc(1, sizeof(*i));

        if (!i || path_under(&i->socket, root, PATH_SOCKET) < 0) {
                free(i);
                return -ENOMEM;
        }
        i->event = sd_event_ref(event);
        *ret = i;
        return 0;
}

Identityd *identityd_free(Identityd *i) {
        if (!i)
                return NULL;
        i->http = http_free(i->http);
        (void) sd_event_unref(i->event);
        free(i->socket);
        free(i);
        return NULL;
}

static void copy_member(char *ret, size_t size, json_object *json, const char *key) {
        json_object *value;

        ret[0] = '\0';
        if (json_object_object_get_ex(json, key, &value) && json_object_is_type(value, json_type_string) &&
            (size_t) json_object_get_string_len(value) < size)
                (void) snprintf(ret, size, "%s", json_object_get_string(value));
}

static void read_answer(IdentitydAnswer *answer, const HttpReply *reply) {
        json_object *json = json_tokener_parse(reply->body), *spec;

        answer->status = reply->status;
        if (json_object_is_type(json, json_type_object)) {
                copy_member(answer->message, sizeof(answer->message), json, "message");
                copy_member(answer->endpoint, sizeof(answer->endpoint), json, "endpoint");
                copy_member(answer->id_scope, sizeof(answer->id_scope), json, "scope_id");
                copy_member(answer->registration_id, sizeof(answer->registration_id), json,
                            "registration_id");
                if (json_object_object_get_ex(json, "spec", &spec) &&
                    json_object_is_type(spec, json_type_object)) {
                        copy_member(answer->hub, sizeof(answer->hub), spec, "hubName");
                        copy_member(answer->device_id, sizeof(answer->device_id), spec, "deviceId");
                        if (!hub_name_valid(answer->hub))
                                answer->hub[0] = '\0';
                        if (!device_id_valid(answer->device_id))
                                answer->device_id[0] = '\0';
                }
        }
        (void) json_object_put(json);
}

static void on_reply(void *userdata, const HttpReply *reply, const Failure *failure) {
        Identityd *i = userdata;
        IdentitydAnswer answer = {};
        IdentitydDone done = TAKE(i->done);

        if (reply)
                read_answer(&answer, reply);
        else
                (void) snprintf(answer.message, sizeof(answer.message), "%.255s", failure->sentence);
        i->http = http_free(i->http);
        done(i->userdata, &answer);
}

void identityd_set_deadline(Identityd *i, usec_t deadline) {
        i->deadline = deadline;
}

static usec_t patience(const Identityd *i, IdentitydQuestion question) {
        bool registers = question == IDENTITYD_REPROVISION || question == IDENTITYD_SETTLED;
        usec_t least = IDENTITYD_LEAST_USEC, now = now_usec(CLOCK_MONOTONIC);

        if (!registers)
                return least;
        if (i->deadline == 0 || now + REPROVISION_USEC <= i->deadline)
                return REPROVISION_USEC;
        return i->deadline > now + least ? i->deadline - now : least;
}

int identityd_ask(Identityd *i, IdentitydQuestion question, IdentitydDone done, void *userdata) {
        usec_t timeout = patience(i, question);
        int r;

        if (i->http)
                return -EBUSY;
        r = http_new(&i->http, i->event,
                     &(HttpSettings){ .unix_socket = i->socket,
                                      .connect_timeout_usec = timeout,
                                      .request_timeout_usec = timeout,
                                      .body_max = ANSWER_MAX });
        if (r < 0)
                return r;
        i->done = done;
        i->userdata = userdata;
        r = http_start(i->http, &requests[question], on_reply, i);
        if (r < 0)
                i->http = http_free(i->http);
        return r;
}
