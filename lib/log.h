/*
 * Log: the programs' way to the journal or to standard error. lib/ itself never logs above LOG_DEBUG.
 *
 * Significant events carry a MESSAGE_ID, which the journal catalog explains, and fields. On standard error
 * the fields are appended in brackets, so that a test without a journal sees them too. Never log a key, a
 * token, a challenge or a whole body.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <syslog.h>

#include "util.h"

typedef enum LogTarget {
        LOG_TARGET_JOURNAL,
        LOG_TARGET_STDERR,
        _LOG_TARGET_MAX,
} LogTarget;

int log_target_from_string(const char *name); /* "journal", "stderr"; -EINVAL */
int log_level_from_string(
        const char *name); /* "err", "warning", "notice", "info", "debug" or 0..7; -EINVAL */

void log_init(const char *identifier, LogTarget target, int max_level); /* identifier is borrowed for ever */

void log_write(int level, const char *format, ...) PRINTF_LIKE(2, 3);

/* One event with fields. message_id: 32 hex digits or NULL. fields: NULL-terminated array of "NAME=value"
 * strings (NAME upper case with the prefix DPS_ or a journal field), or NULL; borrowed. */
void log_event(int level, const char *message_id, const char *const *fields, const char *format, ...)
        PRINTF_LIKE(4, 5);

#define log_error(...)   log_write(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)  log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)
