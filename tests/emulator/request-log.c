#include "request-log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_TEXT_MAX 512

struct RequestLog {
        int fd;
};

int request_log_open(RequestLog **ret, const char *path) {
        RequestLog *log = calloc(1, sizeof(*log));

        if (!log)
                return -ENOMEM;
        log->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (log->fd < 0) {
                free(log);
                return -errno;
        }
        *ret = log;
        return 0;
}

RequestLog *request_log_close(RequestLog *log) {
        if (log)
                (void) close(log->fd);
        free(log);
        return NULL;
}

static void add_text(json_object *entry, const char *name, const char *text) {
        char clean[LOG_TEXT_MAX];
        size_t size = 0;

        if (!text)
                return;
        for (; size < sizeof(clean) - 1 && text[size]; size++)
                clean[size] = text[size] >= ' ' && text[size] < 0x7f ? text[size] : '?';
        clean[size] = '\0';
        json_add_string(entry, name, clean);
}

/* Half a line would spoil the next one as well. */
static void write_line(RequestLog *log, const char *line, size_t size) {
        ssize_t n = write(log->fd, line, size);
        struct stat st;

        if (n == (ssize_t) size)
                return;
        (void) fprintf(stderr, "dps-emulator: the request log can't be written\n");
        if (n > 0 && fstat(log->fd, &st) == 0)
                (void) !ftruncate(log->fd, st.st_size - n);
}

void request_log_write(RequestLog *log, usec_t when, unsigned connection, const Request *request,
                       const Response *response, unsigned status) {
        json_object *entry = json_object_new_object();
        char text[TIMESTAMP_SIZE], precise[TIMESTAMP_SIZE + 8];
        CLEANUP(freep) char *line = NULL;
        int size;

        timestamp(text, (time_t) (when / USEC_PER_SEC));
        (void) snprintf(precise, sizeof(precise), "%.19s.%06uZ", text, (unsigned) (when % USEC_PER_SEC));
        json_add_string(entry, "time", precise);
        json_add(entry, "connection", json_object_new_int64(connection));
        add_text(entry, "method", request->method);
        add_text(entry, "path", request->path);
        json_add(entry, "status", json_object_new_int((int) status));
        json_add_string(entry, "kind", request_kind_to_string(request->kind));
        add_text(entry, "registrationId", response->registration_id);
        add_text(entry, "userAgent", request->user_agent);
        json_add(entry, "authorized", json_object_new_boolean(response->authorized));
        add_text(entry, "hub", response->hub);
        add_text(entry, "deviceId", response->device_id);
        if (response->payload)
                json_add(entry, "payload", json_object_get(response->payload));
        add_text(entry, "error", response->error);

        size = asprintf(&line, "%s\n", json_object_to_json_string_ext(entry, JSON_C_TO_STRING_PLAIN));
        if (size < 0)
                line = NULL;
        else
                write_line(log, line, (size_t) size);
        json_object_put(entry);
}
