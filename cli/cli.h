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
        GO_ON = -1, /* no exit status yet */
};

int verb_enrollment(int argc, char *argv[]);
int verb_check(int argc, char *argv[]);
int verb_status(int argc, char *argv[]);
int verb_reprovision(int argc, char *argv[]);
int verb_retry(int argc, char *argv[]);
int verb_set_scope(int argc, char *argv[]);
int verb_config(int argc, char *argv[]);
int verb_factory_reset(int argc, char *argv[]);

/* An option of a verb: a switch sets *flag, any other has *value point to what it is given, which is empty
 * only where needs, what it needs, is NULL. */
typedef struct VerbOption {
        const char *name;
        bool *flag;
        const char **value;
        const char *needs;
} VerbOption;

#define VERB_OPTIONS_MAX 20

/* Options up to one without a name; each verb has --help (-h), too, and -y is the letter of --yes. The other
 * arguments, max of them at most, begin at optind afterwards. Returns GO_ON or, when help was asked for or
 * it has told what is wrong, an exit status. */
int parse_options(int argc, char *argv[], const VerbOption *options, int max, void (*print_help)(void));

/* Usage errors: names the verb, points to its --help; returns EXIT_USAGE. */
int usage_error(const char *verb, const char *format, ...) PRINTF_LIKE(2, 3);

/* "dps-provision: SENTENCE" and the remedy, on standard error; returns EXIT_FAILED. */
int report_failure(const Failure *failure);

/* One line "dps-provision: …: strerror" on standard error, and a hint when root could do it; returns
 * EXIT_FAILED. */
int report_errno(int error, const char *format, ...) PRINTF_LIKE(2, 3);

/* The directory in which this program's own credentials are, or where the units' LoadCredential= finds it:
 * 1; 0: nowhere; -EACCES: what this user can't see. */
int find_credential(const ConfigPaths *paths, const char *name, const char **ret_directory);

/* Control characters and what is no UTF-8 become question marks: a terminal obeys what it is shown. */
void make_showable(char *text);

/* An escape sequence where standard output is a terminal that shall have colours, else "". */
const char *colour(const char *code);

/* Asks at the terminal; it has told that nothing was done when the answer is not yes. */
bool confirmed(const char *question);

/* Everything that the daemon publishes. */
typedef struct Status {
        char *state, *step, *id_scope, *endpoint, *registration_id, *endorsement_key, *hub, *device_id,
                *substatus, *version;
        uint32_t attempts;
        uint64_t state_changed_usec, next_attempt_usec, last_success_usec;
        Failure failure;
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

/* A call to the daemon, to which arguments may be added; and why one failed, on standard error: -EHOSTDOWN,
 * or another negative errno. */
int client_new_call(sd_bus *bus, sd_bus_message **ret, const char *method);
int client_report_error(sd_bus *bus, const sd_bus_error *error, int r);

/* Why nobody has the daemon's name, and what to do about it, as far as systemd knows. bus may be NULL. */
typedef struct DaemonDown {
        const char *sentence, *remedy; /* without full stops */
} DaemonDown;

DaemonDown client_why_down(sd_bus *bus);

/* Calls a method without arguments; returns EXIT_OK or, having told why, EXIT_FAILED. */
int client_call(sd_bus *bus, const char *method);

/* Fills the disruption budget of the hand-off helper, when root calls this and IoT Edge is the target. An
 * older helper, or none, has no such budget. */
void client_allow_disruption(sd_bus *bus);

/* The daemon notices by itself that a file with the ID scope ("" for none) has changed. 1: it has, 0: not in
 * time, or it has another scope from elsewhere; -errno: nobody is there. */
int client_wait_for_scope(const char *scope);

/* From now on *changed becomes true whenever the daemon announces changes or comes and goes. */
int client_watch(sd_bus *bus, bool *changed);

/* 1: it has, and is false again; a burst counts once. 0: it is CLOCK_MONOTONIC's deadline. */
int client_wait_for_change(sd_bus *bus, bool *changed, usec_t deadline_usec);
