#include "bus-calls.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>

#include "log.h"
#include "util.h"

#define DEPTH_MAX 8

static sd_bus *service, *caller;
static size_t due; /* calls without a reply */

static bool turn(sd_bus *bus) {
        int r = sd_bus_process(bus, NULL);

        PROMISE(r >= 0);
        return r > 0;
}

static void turn_both(void) {
        bool moved;

        do {
                moved = turn(service);
                moved = turn(caller) || moved;
        } while (moved);
}

static void close_both(void) {
        service = sd_bus_close_unref(service);
        caller = sd_bus_close_unref(caller);
}

sd_bus *bus_calls_open(void) {
        static const sd_id128_t id =
                SD_ID128_MAKE(5b, 2c, 00, 00, 00, 00, 40, 00, 80, 00, 00, 00, 00, 00, 00, 01);
        int fds[2];

        log_init("fuzz", LOG_TARGET_STDERR, LOG_EMERG);
        PROMISE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
        PROMISE(sd_bus_new(&service) >= 0 && sd_bus_set_fd(service, fds[0], fds[0]) >= 0);
        PROMISE(sd_bus_set_server(service, true, id) >= 0 && sd_bus_start(service) >= 0);
        PROMISE(sd_bus_new(&caller) >= 0 && sd_bus_set_fd(caller, fds[1], fds[1]) >= 0);
        PROMISE(sd_bus_start(caller) >= 0 && atexit(close_both) == 0);
        while (sd_bus_is_ready(service) == 0 || sd_bus_is_ready(caller) == 0)
                turn_both();
        return service;
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        PROMISE(due > 0);
        due--;
        return 0;
}

/* NULL: libsystemd refuses the name. */
static sd_bus_message *new_call(const char *path, const char *interface, char *name) {
        sd_bus_message *call = NULL;
        char *dot = strrchr(name, '.');

        if (dot) {
                *dot = '\0';
                interface = name;
                name = dot + 1;
        }
        return sd_bus_message_new_method_call(caller, &call, NULL, path, interface, name) < 0 ? NULL : call;
}

static int append_number(sd_bus_message *call, char type, const char *text) {
        union {
                uint8_t y;
                int b;
                uint16_t q;
                uint32_t u;
                uint64_t t;
        } value = {};
        uint64_t number = strtoull(text, NULL, 0);

        switch (type) {
        case 'y':
                value.y = (uint8_t) number;
                break;
        case 'b':
                value.b = number != 0;
                break;
        case 'n':
        case 'q':
                value.q = (uint16_t) number;
                break;
        case 'i':
        case 'u':
                value.u = (uint32_t) number;
                break;
        default:
                value.t = number;
        }
        return sd_bus_message_append_basic(call, type, &value);
}

static int append(sd_bus_message *call, const char *line, size_t *depth) {
        static const char containers[][2] = { "[a", "(r", "{e", "<v" };
        int r = -EINVAL;

        if (line[0] == 's')
                r = sd_bus_message_append_basic(call, 's', line + 1);
        else if (line[0] == 'a')
                r = sd_bus_message_append_array(call, 'y', line + 1, strlen(line + 1));
        else if (strchr("ybnqiuxt", line[0]))
                r = append_number(call, line[0], line + 1);
        else if (line[0] == '.' && *depth > 0) {
                r = sd_bus_message_close_container(call);
                (*depth)--;
        }
        for (size_t i = 0; i < ARRAY_SIZE(containers); i++)
                if (line[0] == containers[i][0] && line[1] && *depth < DEPTH_MAX) {
                        r = sd_bus_message_open_container(call, containers[i][1], line + 1);
                        (*depth)++;
                }
        return r;
}

static void send_call(sd_bus_message *call, size_t depth) {
        while (depth > 0 && sd_bus_message_close_container(call) >= 0)
                depth--;
        if (depth == 0 && sd_bus_call_async(caller, NULL, call, on_reply, NULL, UINT64_MAX) >= 0)
                due++;
        (void) sd_bus_message_unref(call);
        turn_both();
}

void bus_calls_run(const char *path, const char *interface, const uint8_t *data, size_t size,
                   void (*settle)(void)) {
        CLEANUP(freep) char *text = strndup(size > 0 ? (const char *) data : "", size);
        sd_bus_message *call = NULL;
        size_t depth = 0;
        /* libsystemd leaves a message that it refuses inconsistent. No bus forwards such a message. */
        bool skip = false;
        char *next = text, *line;

        PROMISE(text);
        while ((line = strsep(&next, "\n")))
                if (line[0] == '\0') {
                        if (call)
                                send_call(TAKE(call), depth);
                        depth = 0;
                        skip = false;
                } else if (!call && !skip) {
                        call = new_call(path, interface, line);
                        skip = !call;
                } else if (call && append(call, line, &depth) < 0) {
                        call = sd_bus_message_unref(call);
                        skip = true;
                }
        if (call)
                send_call(call, depth);
        settle();
        turn_both();
        PROMISE(due == 0);
}
