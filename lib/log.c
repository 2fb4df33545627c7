#define SD_JOURNAL_SUPPRESS_LOCATION
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include <systemd/sd-journal.h>

#define LOG_FIELDS_MAX 24

static struct {
        const char *identifier;
        LogTarget target;
        int max_level;
} log_settings = { "dps", LOG_TARGET_STDERR, LOG_INFO };

int log_target_from_string(const char *name) {
        if (streq(name, "journal"))
                return LOG_TARGET_JOURNAL;
        if (streq(name, "stderr"))
                return LOG_TARGET_STDERR;
        return -EINVAL;
}

int log_level_from_string(const char *name) {
        static const char *const names[] = { "emerg",   "alert",  "crit", "err",
                                             "warning", "notice", "info", "debug" };
        uint64_t number;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (streq(name, names[i]))
                        return (int) i;
        return parse_uint(name, LOG_DEBUG, &number) < 0 ? -EINVAL : (int) number;
}

void log_init(const char *identifier, LogTarget target, int max_level) {
        log_settings.identifier = identifier;
        log_settings.target = target;
        log_settings.max_level = max_level;
}

static void log_to_stderr(int level, const char *message_id, const char *const *fields,
                          const char *message) {
        CLEANUP(freep) char *line = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&line, &size);

        if (!f)
                return;
        /* One write() a line: several processes share the stream. The prefix is sd-daemon(3)'s log level. */
        (void) fprintf(f, "<%d>%s: %s", level, log_settings.identifier, message);
        if (message_id)
                (void) fprintf(f, " [MESSAGE_ID=%s", message_id);
        for (size_t i = 0; message_id && fields && fields[i]; i++)
                (void) fprintf(f, " %s", fields[i]);
        (void) fprintf(f, message_id ? "]\n" : "\n");
        if (fclose(f) == 0 && line)
                (void) fputs(line, stderr);
}

static char *field(const char *name, const char *value) {
        char *text = NULL;

        return asprintf(&text, "%s=%s", name, value) < 0 ? NULL : text;
}

static void log_to_journal(int level, const char *message_id, const char *const *fields,
                           const char *message) {
        CLEANUP(freep) char *text = field("MESSAGE", message);
        CLEANUP(freep) char *identifier = field("SYSLOG_IDENTIFIER", log_settings.identifier);
        CLEANUP(freep) char *id = message_id ? field("MESSAGE_ID", message_id) : NULL;
        char priority[] = "PRIORITY=x";
        struct iovec iov[LOG_FIELDS_MAX];
        int n = 0;

        if (!text || !identifier)
                return;
        priority[sizeof(priority) - 2] = (char) ('0' + level);
        iov[n++] = (struct iovec){ text, strlen(text) };
        iov[n++] = (struct iovec){ identifier, strlen(identifier) };
        iov[n++] = (struct iovec){ priority, strlen(priority) };
        if (id)
                iov[n++] = (struct iovec){ id, strlen(id) };
        for (size_t i = 0; fields && fields[i] && n < LOG_FIELDS_MAX; i++)
                iov[n++] = (struct iovec){ (void *) fields[i], strlen(fields[i]) };
        (void) sd_journal_sendv(iov, n);
}

PRINTF_LIKE(4, 0)
static void log_message(int level, const char *message_id, const char *const *fields, const char *format,
                        va_list ap) {
        CLEANUP(freep) char *message = NULL;

        if (level > log_settings.max_level)
                return;
        if (vasprintf(&message, format, ap) < 0) {
                message = NULL;
                return;
        }
        if (log_settings.target == LOG_TARGET_JOURNAL)
                log_to_journal(level, message_id, fields, message);
        else
                log_to_stderr(level, message_id, fields, message);
}

void log_write(int level, const char *format, ...) {
        int saved_errno = errno;
        va_list ap;

        va_start(ap, format);
        log_message(level, NULL, NULL, format, ap);
        va_end(ap);
        errno = saved_errno;
}

void log_event(int level, const char *message_id, const char *const *fields, const char *format, ...) {
        int saved_errno = errno;
        va_list ap;

        va_start(ap, format);
        log_message(level, message_id, fields, format, ap);
        va_end(ap);
        errno = saved_errno;
}
