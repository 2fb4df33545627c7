#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <microhttpd.h>

#include "log.h"
#include "reply.h"
#include "sockets.h"

#define CONNECTIONS_MAX    1024
#define CONNECTION_TIMEOUT 120u                 /* seconds without a byte */
#define CONNECTION_MEMORY  ((size_t) 32 * 1024) /* request line and headers, at most */
#define SLOW_PAUSE_USEC    (USEC_PER_SEC / 20) /* after which a reply that waits looks at the faults again */

typedef struct Listener {
        struct MHD_Daemon *daemon;
        sd_event_source *io, *timer;
} Listener;

typedef struct Exchange Exchange;

struct Server {
        sd_event *event;
        Emulator *emulator;
        Certs *certs;
        RequestLog *log;
        Listener listeners[SOCKETS_MAX];
        size_t n_listeners;
        Exchange *suspended; /* whose replies wait */
        unsigned connections;
        uint16_t port;
};

/* One request under way. */
struct Exchange {
        Server *server;
        struct MHD_Connection *connection;
        char *body;
        size_t size;
        bool too_large;
        sd_event_source *delay;
        struct MHD_Response *delayed; /* the reply, while it waits */
        usec_t delayed_since;         /* CLOCK_MONOTONIC */
        RequestKind kind;
        unsigned status;
        Exchange *next, **link; /* in the server's list while it is suspended */
};

static Server *the_server;

uint16_t server_port(const Server *server) {
        return server->port;
}

/* --- TLS --- */

static int choose_certificate(gnutls_session_t session, const gnutls_datum_t *ca_names, int n_ca_names,
                              const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                              gnutls_pcert_st **ret_cert, unsigned int *ret_n, gnutls_privkey_t *ret_key) {
        static const struct {
                FaultType fault;
                CertVariant variant;
        } bad[] = {
                { FAULT_EXPIRED_CERT, CERT_EXPIRED },
                { FAULT_FUTURE_CERT, CERT_FUTURE },
                { FAULT_WRONG_HOST_CERT, CERT_WRONG_HOST },
                { FAULT_UNTRUSTED_CERT, CERT_UNTRUSTED },
        };
        Faults *faults = the_server->emulator->faults;
        CLEANUP(freep) char *why = NULL;
        CertVariant variant = CERT_GOOD;
        char name[256] = "";
        size_t size = sizeof(name);
        unsigned type;

        (void) faults_refresh(faults, &why); /* a wrong line is reported at the next request */
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                if (faults_use(faults, bad[i].fault, _REQUEST_KIND_INVALID))
                        variant = bad[i].variant;
        if (gnutls_server_name_get(session, name, &size, &type, 0) != 0 || type != GNUTLS_NAME_DNS)
                name[0] = '\0';
        *ret_n = 1;
        return certs_get(the_server->certs, variant, name[0] ? name : NULL, ret_cert, ret_key);
}

/* --- the event loop --- */

static int run_listener(Listener *listener) {
        MHD_UNSIGNED_LONG_LONG timeout;

        (void) MHD_run(listener->daemon);
        /* Data may wait inside TLS, which no descriptor shows; and idle connections end in time. */
        if (MHD_get_timeout(listener->daemon, &timeout) != MHD_YES)
                return sd_event_source_set_enabled(listener->timer, SD_EVENT_OFF);
        (void) sd_event_source_set_time_relative(listener->timer, (uint64_t) timeout * USEC_PER_MSEC);
        return sd_event_source_set_enabled(listener->timer, SD_EVENT_ONESHOT);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        return run_listener(userdata);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        return run_listener(userdata);
}

/* --- the files --- */

static void reread_faults(Emulator *emulator) {
        CLEANUP(freep) char *why = NULL;

        if (faults_refresh(emulator->faults, &why) < 0)
                log_error("The fault file has a line that is no fault: %s", why ? why : "out of memory");
}

static void reread_files(Emulator *emulator) {
        CLEANUP(freep) char *why = NULL;

        if (enrollments_refresh(emulator->enrollments, &why) < 0)
                log_error("The enrolments file is not usable, the last good one stays in force: %s",
                          why ? why : "out of memory");
        reread_faults(emulator);
}

/* --- replies that wait --- */

static void suspend(Exchange *exchange) {
        Exchange **list = &exchange->server->suspended;

        exchange->next = *list;
        if (exchange->next)
                exchange->next->link = &exchange->next;
        exchange->link = list;
        *list = exchange;
        MHD_suspend_connection(exchange->connection);
}

static void resume(Exchange *exchange) {
        *exchange->link = exchange->next;
        if (exchange->next)
                exchange->next->link = exchange->link;
        MHD_resume_connection(exchange->connection);
}

/* As the file says now: a reply does not wait for a fault that was taken away. */
static usec_t delay_left(const Exchange *exchange) {
        const Fault *slow = faults_use(exchange->server->emulator->faults, FAULT_SLOW, exchange->kind);
        usec_t whole = slow ? (usec_t) (slow->number * USEC_PER_SEC) : 0,
               waited = now_usec(CLOCK_MONOTONIC) - exchange->delayed_since;

        return whole > waited ? whole - waited : 0;
}

static int on_delay(sd_event_source *source, uint64_t usec, void *userdata) {
        Exchange *exchange = userdata;
        Server *server = exchange->server;
        usec_t left;
        int r = 0;

        reread_faults(server->emulator);
        left = delay_left(exchange);
        if (left > 0) {
                r = sd_event_source_set_time_relative(source,
                                                      left < SLOW_PAUSE_USEC ? left : SLOW_PAUSE_USEC);
                return r < 0 ? r : sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        }
        resume(exchange);
        /* a resumed connection shows at no descriptor */
        for (size_t i = 0; r >= 0 && i < server->n_listeners; i++)
                r = run_listener(&server->listeners[i]);
        return r;
}

/* The reply now, or after the delay of the fault `slow`. */
static enum MHD_Result send_reply(Exchange *exchange, RequestKind kind, struct MHD_Response *reply,
                                  unsigned status) {
        enum MHD_Result result;

        exchange->kind = kind;
        exchange->delayed_since = now_usec(CLOCK_MONOTONIC);
        if (delay_left(exchange) > 0 &&
            sd_event_add_time_relative(exchange->server->event, &exchange->delay, CLOCK_MONOTONIC, 0, 1000,
                                       on_delay, exchange) >= 0) {
                exchange->delayed = reply;
                exchange->status = status;
                suspend(exchange);
                return MHD_YES;
        }
        result = MHD_queue_response(exchange->connection, status, reply);
        MHD_destroy_response(reply);
        return result;
}

/* --- requests --- */

static enum MHD_Result handle(Exchange *exchange, Request *request) {
        Server *server = exchange->server;
        Faults *faults = server->emulator->faults;
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        unsigned connection = info && info->socket_context ? *(unsigned *) info->socket_context : 0;
        struct MHD_Response *reply = NULL;
        enum MHD_Result result = MHD_NO; /* closes the connection */
        bool drop, lose;
        Response response;
        usec_t now;

        response_init(&response);
        drop = faults_use(faults, FAULT_DROP_CONNECTION, request->kind);
        if (drop)
                (void) string_replace(&response.error, "fault: connection dropped, request ignored");
        else if (faults_use(faults, FAULT_CAPTIVE_PORTAL, request->kind)) {
                (void) string_replace(&response.error, "fault: a captive portal has answered");
                response.status = 403;
                reply = reply_new_captive_portal();
        } else {
                emulator_answer(server->emulator, request, &response);
                lose = faults_use(faults, FAULT_LOSE_REPLY, request->kind);
                if (lose)
                        (void) string_replace(&response.error, "fault: reply lost");
                else
                        reply = reply_new(server->emulator, request->kind, &response);
        }
        /* one look at the clock: two may be on either side of a second's end */
        now = now_usec(CLOCK_REALTIME) + (usec_t) server->emulator->clock_offset * USEC_PER_SEC;
        request_log_write(server->log, now, connection, request, &response, reply ? response.status : 0);
        if (reply)
                result = send_reply(exchange, request->kind, reply, response.status);
        response_deinit(&response);
        return result;
}

static enum MHD_Result collect_body(Exchange *exchange, const char *data, size_t size) {
        char *body;

        if (exchange->too_large || size > REQUEST_BODY_MAX - exchange->size) {
                exchange->too_large = true; /* the rest is read and forgotten, so that the reply is seen */
                return MHD_YES;
        }
        body = realloc(exchange->body, exchange->size + size + 1);
        if (!body)
                return MHD_NO;
        memcpy(body + exchange->size, data, size);
        exchange->body = body;
        exchange->size += size;
        body[exchange->size] = '\0';
        return MHD_YES;
}

static enum MHD_Result on_request(void *userdata, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *size,
                                  void **state) {
        Exchange *exchange = *state;
        CLEANUP(request_deinit) Request request = {};
        enum MHD_Result result;

        if (!exchange) {
                exchange = calloc(1, sizeof(*exchange));
                if (!exchange)
                        return MHD_NO;
                exchange->server = userdata;
                exchange->connection = connection;
                *state = exchange;
                return MHD_YES;
        }
        if (*size > 0) {
                result = collect_body(exchange, data, *size);
                *size = 0;
                return result;
        }
        if (exchange->delayed) { /* called again after the delay */
                struct MHD_Response *reply = TAKE(exchange->delayed);

                result = MHD_queue_response(connection, exchange->status, reply);
                MHD_destroy_response(reply);
                return result;
        }

        request.method = method;
        request.path = url;
        request.host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host");
        request.authorization = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
        request.if_match = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "If-Match");
        request.user_agent = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "User-Agent");
        if (!request.user_agent) /* one SDK spells it so */
                request.user_agent = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "UserAgent");
        request.api_version = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "api-version");
        request.has_body = exchange->size > 0;
        request.too_large = exchange->too_large;
        (void) request_classify(&request);
        if (exchange->size > 0 && !exchange->too_large)
                (void) request_set_body(&request, exchange->body, exchange->size);
        reread_files(exchange->server->emulator);
        return handle(exchange, &request);
}

static void on_completed(void *userdata, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
        Exchange *exchange = *state;

        if (!exchange)
                return;
        exchange->delay = sd_event_source_disable_unref(exchange->delay);
        if (exchange->delayed)
                MHD_destroy_response(exchange->delayed);
        free(exchange->body);
        free(exchange);
        *state = NULL;
}

static void on_connection(void *userdata, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code) {
        Server *server = userdata;

        if (code == MHD_CONNECTION_NOTIFY_STARTED) {
                unsigned *number = malloc(sizeof(*number));

                if (number)
                        *number = ++server->connections;
                *state = number;
        } else {
                free(*state);
                *state = NULL;
        }
}

/* The path stays as it was sent: its segments are decoded after they have been split. */
static size_t keep_escapes(void *userdata, struct MHD_Connection *connection, char *text) {
        return strlen(text);
}

static int attach(Listener *listener, sd_event *event) {
        const union MHD_DaemonInfo *info = MHD_get_daemon_info(listener->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        int r;

        if (!info || info->epoll_fd < 0)
                return -EOPNOTSUPP;
        r = sd_event_add_io(event, &listener->io, info->epoll_fd, EPOLLIN, on_io, listener);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &listener->timer, CLOCK_MONOTONIC, 0, 1000, on_timer,
                                               listener);
        return r;
}

static int start_listener(Server *server, int fd) {
        Listener *listener = &server->listeners[server->n_listeners];
        /* clang-format off */
        struct MHD_OptionItem options[] = {
                { MHD_OPTION_LISTEN_SOCKET, fd, NULL },
                { MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *) choose_certificate },
                { MHD_OPTION_NOTIFY_COMPLETED, (intptr_t) on_completed, server },
                { MHD_OPTION_NOTIFY_CONNECTION, (intptr_t) on_connection, server },
                { MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t) keep_escapes, NULL },
                { MHD_OPTION_CONNECTION_TIMEOUT, CONNECTION_TIMEOUT, NULL },
                { MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, NULL },
                { MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t) CONNECTION_MEMORY, NULL },
                { MHD_OPTION_HTTPS_PRIORITIES, 0, (void *) "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1" },
                { MHD_OPTION_END, 0, NULL },
        };
        /* clang-format on */

        listener->daemon = MHD_start_daemon(
                MHD_USE_TLS | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_SUPPRESS_DATE_NO_CLOCK, 0,
                NULL, NULL, on_request, server, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
        if (!listener->daemon) {
                (void) close(fd);
                return -EIO;
        }
        server->n_listeners++; /* from here on server_free() stops it */
        return attach(listener, server->event);
}

int server_new(Server **ret, sd_event *event, const char *address, uint16_t port, Emulator *emulator,
               Certs *certs, RequestLog *log, const char **ret_why) {
        int fds[SOCKETS_MAX] = { -1, -1 }, n = 1, r = 0;
        Server *server;

        *ret_why = "the port can't be listened on";
        if (address) {
                fds[0] = socket_listen(address, &port);
                if (fds[0] < 0)
                        return fds[0];
        } else {
                n = socket_listen_loopback(fds, &port);
                if (n < 0)
                        return n;
        }

        *ret_why = "the HTTP server can't be started";
        server = calloc(1, sizeof(*server));
        if (server)
                *server = (Server){
                        .event = event, .emulator = emulator, .certs = certs, .log = log, .port = port
                };
        else
                r = -ENOMEM;
        the_server = server;
        for (int i = 0; i < n; i++) {
                if (r < 0)
                        (void) close(fds[i]);
                else
                        r = start_listener(server, fds[i]);
        }
        if (r < 0) {
                server_free(server);
                return r;
        }
        *ret = server;
        return 0;
}

Server *server_free(Server *server) {
        if (!server)
                return NULL;
        while (server->suspended) /* libmicrohttpd aborts otherwise */
                resume(server->suspended);
        for (size_t i = 0; i < server->n_listeners; i++) {
                Listener *listener = &server->listeners[i];

                sd_event_source_disable_unref(listener->io);
                sd_event_source_disable_unref(listener->timer);
                MHD_stop_daemon(listener->daemon);
        }
        the_server = NULL;
        free(server);
        return NULL;
}
