/*
 * Cli: what the verbs of dps-provision share. One file a verb; each gets its own command line, the verb
 * being argv[0].
 */
#pragma once

#include <systemd/sd-bus.h>

#include "config.h"

enum {
        EXIT_OK = 0,
        EXIT_FAILED = 1,
        EXIT_USAGE = 2,
        EXIT_NOT_PROVISIONED = 3,
};

int verb_enrollment(int argc, char *argv[]);
int verb_check(int argc, char *argv[]);
int verb_status(int argc, char *argv[]);
int verb_reprovision(int argc, char *argv[]);
int verb_retry(int argc, char *argv[]);
int verb_set_scope(int argc, char *argv[]);
int verb_config(int argc, char *argv[]);
int verb_factory_reset(int argc, char *argv[]);

/* Usage errors: names the verb, points to its --help; returns EXIT_USAGE. */
int usage_error(const char *verb, const char *format, ...) PRINTF_LIKE(2, 3);

/* "dps-provision: SENTENCE" and the remedy, on standard error; returns EXIT_FAILED. */
int report_failure(const Failure *failure);

/* One line "dps-provision: …: strerror" on standard error; returns EXIT_FAILED. */
int report_errno(int error, const char *format, ...) PRINTF_LIKE(2, 3);

/* Everything that the daemon publishes. */
typedef struct Status {
        char *state, *step, *id_scope, *endpoint, *registration_id, *endorsement_key, *hub, *device_id,
                *substatus, *version;
        uint32_t attempts;
        uint64_t state_changed_usec, next_attempt_usec, last_success_usec;
        Failure failure;
        char *remedy;
        struct StatusWarning {
                char *kind, *sentence, *remedy;
        } * warnings;
        size_t warning_count;
} Status;

int client_open(sd_bus **ret);

/* 0, or a negative errno; -EHOSTDOWN: the daemon does not run. It has told why. */
int client_get_status(sd_bus *bus, Status *ret);
/* The same in silence. */
int client_read_status(sd_bus *bus, Status *ret, sd_bus_error *error);
void status_deinit(Status *status);

/* A call to the daemon, to which arguments may be added; and why one failed, on standard error. */
int client_new_call(sd_bus *bus, sd_bus_message **ret, const char *method);
int client_report_error(const sd_bus_error *error, int r);

/* Calls a method without arguments; returns EXIT_OK or, having told why, EXIT_FAILED. */
int client_call(sd_bus *bus, const char *method);

/* Calls changed() whenever the daemon announces changes or comes and goes; userdata is handed on. */
int client_watch(sd_bus *bus, sd_bus_message_handler_t changed, void *userdata);
