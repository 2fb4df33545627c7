/*
 * Enrollments: the individual enrollments, from a file in the form of the DPS service API. The file is read
 * again whenever it has changed; a broken one is reported and the last good one stays in force.
 *
 * Beyond the API's members an enrollment may have `emulator`: one rule, or an array of them, that makes the
 * service answer that device differently, and `emulatorState`, an object. Unknown members of a rule are
 * refused (they are typing errors), those of an enrollment ignored (the API has many that say nothing here).
 */
#pragma once

#include "exchange.h"

#define ENROLLMENTS_FILE_MAX ((size_t) 32 * 1024 * 1024)
#define ENROLLMENT_RULES_MAX 8
#define REGISTRATION_ID_MAX  128

typedef enum Outcome {
        OUTCOME_ASSIGNED,
        OUTCOME_FAILED,
        OUTCOME_DISABLED,
        OUTCOME_UNASSIGNED, /* for ever */
        OUTCOME_ASSIGNING,  /* for ever */
        _OUTCOME_MAX,
        _OUTCOME_INVALID = -22,
} Outcome;

const char *outcome_to_string(Outcome outcome); /* as in `status` of a reply */

/* Either an HTTP status instead of the answer to one kind of request, or another outcome. */
typedef struct EnrollmentRule {
        unsigned status; /* 0: none */
        RequestKind on;  /* for status */
        Outcome result;  /* OUTCOME_ASSIGNED: none */
        char *retry_after;
        int error_code; /* 0: one that suits */
        char *error_message;
        bool limited; /* only so often as left says */
        uint64_t left;
} EnrollmentRule;

typedef struct Enrollment {
        char *registration_id, *device_id, *hub;
        Bytes endorsement_key;
        bool iot_edge, enabled;
        bool update_hub, migrate_data; /* reprovisionPolicy */
        json_object *payload;          /* NULL: none */
        json_object *state; /* what each registrationState has beside its own members; NULL: none */
        EnrollmentRule rules[ENROLLMENT_RULES_MAX];
        size_t n_rules;
        char *rules_text; /* the JSON of the rules: how a reread file tells whether they changed */
} Enrollment;

typedef struct Enrollments Enrollments;

/* path is copied, default_hub is that of enrolments without one. */
int enrollments_new(Enrollments **ret, const char *path, const char *default_hub);
Enrollments *enrollments_free(Enrollments *enrollments);

/* Reads the file if it has changed. -EBADMSG and *ret_why (owned by the caller) when it is broken; a missing
 * file is an empty one. What is left of `times` survives when a rule has not changed. */
int enrollments_refresh(Enrollments *enrollments, char **ret_why);
int enrollments_parse(Enrollments *enrollments, const char *text, size_t size, char **ret_why);

/* Registration IDs are case-insensitive. Valid until the next refresh. */
Enrollment *enrollments_find(Enrollments *enrollments, const char *registration_id);

/* The rule for a status on that kind of request, or (outcome) for another outcome: it is used up by this.
 * NULL: none. */
const EnrollmentRule *enrollment_use_status(Enrollment *enrollment, RequestKind kind);
const EnrollmentRule *enrollment_use_outcome(Enrollment *enrollment);

bool registration_id_valid(const char *id);
