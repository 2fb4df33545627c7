/* Drives lib/http from the outside: each line "METHOD URL [AUTHORIZATION]" on standard input is one request
 * over the same Http, the next one started from within done(); each outcome is one line of JSON on standard
 * output. Options come as NAME=VALUE arguments. */
#include <stdlib.h>

#include <json-c/json.h>

#include "http.h"

typedef struct Client {
        sd_event *event;
        Http *http;
        bool inside_start;
} Client;

static int start_next(Client *client);

static void add_string(json_object *o, const char *key, const char *value) {
        json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}

static void on_done(void *userdata, const HttpReply *reply, const Failure *failure) {
        Client *client = userdata;
        json_object *o = json_object_new_object();

        if (client->inside_start)
                abort();
        if (reply) {
                json_object_object_add(o, "status", json_object_new_int((int) reply->status));
                json_object_object_add(o, "size", json_object_new_int64((int64_t) reply->size));
                json_object_object_add(o, "date", json_object_new_int64((int64_t) reply->date));
                add_string(o, "body", reply->body);
                add_string(o, "requestId", reply->request_id);
                add_string(o, "retryAfter", reply->retry_after);
        } else {
                add_string(o, "kind", failure_kind_to_string(failure->kind));
                add_string(o, "code", failure->code);
                add_string(o, "sentence", failure->sentence);
                add_string(o, "hint", failure_advice(failure));
        }
        (void) printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
        (void) fflush(stdout);
        json_object_put(o);
        (void) start_next(client);
}

static const char *option(char **argv, const char *name, const char *fallback) {
        size_t n = strlen(name);

        for (argv++; *argv; argv++)
                if (strncmp(*argv, name, n) == 0 && (*argv)[n] == '=')
                        return *argv + n + 1;
        return fallback;
}

static int start_next(Client *client) {
        char line[4096], *save = NULL;
        const char *method, *url, *token;
        int r;

        if (!fgets(line, sizeof(line), stdin))
                return sd_event_exit(client->event, 0);
        method = strtok_r(line, " \n", &save);
        url = strtok_r(NULL, " \n", &save);
        token = strtok_r(NULL, "\n", &save);
        if (!method || !url)
                return sd_event_exit(client->event, -1);
        client->inside_start = true;
        r = http_start(client->http,
                       &(HttpRequest){ .method = method,
                                       .url = url,
                                       .authorization = token,
                                       .body = streq(method, "PUT") ? "{}" : NULL },
                       on_done, client);
        client->inside_start = false;
        return r < 0 ? sd_event_exit(client->event, r) : 0;
}

int main(int argc, char **argv) {
        HttpSettings settings = {
                .proxy = option(argv, "proxy", NULL),
                .ca_file = option(argv, "ca", NULL),
                .connect_timeout_usec =
                        strtoull(option(argv, "connect-ms", "20000"), NULL, 10) * USEC_PER_MSEC,
                .request_timeout_usec =
                        strtoull(option(argv, "total-ms", "30000"), NULL, 10) * USEC_PER_MSEC,
                .body_max = (size_t) 64 * 1024,
                .build_time = strtoull(option(argv, "build-time", "0"), NULL, 10),
                .latest_time = strtoull(option(argv, "latest-time", "0"), NULL, 10),
        };
        Client client = {};
        int r;

        r = sd_event_new(&client.event);
        if (r >= 0)
                r = http_new(&client.http, client.event, &settings);
        if (r >= 0)
                r = start_next(&client);
        if (r >= 0)
                r = sd_event_loop(client.event);
        client.http = http_free(client.http);
        (void) sd_event_unref(client.event);
        return r < 0;
}
