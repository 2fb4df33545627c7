/*
 * Enrollment: what a rollout engineer needs to create the individual enrolment, in the forms that Azure,
 * spreadsheets and people take. Pure code: text in, text out.
 */
#pragma once

#include "util.h"

/* Of one bulk request of the service's API, 2021-10-01: enrolments, and bytes (its documentation says 96
 * KB). */
#define ENROLLMENT_BULK_MAX      10
#define ENROLLMENT_BULK_SIZE_MAX ((size_t) 96 * 1000)

/* All borrowed. */
typedef struct Enrollment {
        const char *registration_id;
        const char *device_id; /* NULL: the registration ID becomes the device ID */
        const char *hub;       /* NULL: the instance's allocation policy decides */
        const void *ek_public; /* marshalled TPM2B_PUBLIC */
        size_t ek_public_size;
        bool ek_persistent; /* read from its handle (else created for this call) */
        bool ek_tcg_template;
        const char *certificate;         /* what there is to say about the EK's; NULL: nothing */
        const char *certificate_verdict; /* the same in a word */
        const char *serial_number, *mac, *host_name, *asset; /* NULL: not known */
        const char *dps_name, *resource_group;               /* NULL: filled in later */
        const char *id_scope;                                /* NULL: not set yet */
} Enrollment;

bool enrollment_device_id_valid(const char *id); /* what IoT Hub allows */
bool enrollment_hub_valid(const char *hub);      /* a host name */

/* Each result ends with a newline. */

/* For people: both values, where they come from, what to do next. */
int enrollment_to_text(char **ret, const Enrollment *enrollment);

/* One IndividualEnrollment of the DPS service API and nothing else. */
int enrollment_to_json(char **ret, const Enrollment *enrollment);
int enrollment_to_compact_json(char **ret, const Enrollment *enrollment); /* on one line */

/* The body of one bulk request, on one line. */
int enrollment_to_bulk(char **ret, const Enrollment *enrollment);

/* One line for a shell: `az iot dps enrollment create …`. Without a name of the instance or of the resource
 * group it takes them from $DPS_NAME and $RESOURCE_GROUP, and stops when these are not set. */
int enrollment_to_az(char **ret, const Enrollment *enrollment);

/* Comma-separated values (RFC 4180 with line feeds): one row of a table, without and with its header. Every
 * field is in quotes; control characters become blanks, what is no UTF-8 question marks; an apostrophe comes
 * before what a spreadsheet would take for a formula. */
int enrollment_to_csv_row(char **ret, const Enrollment *enrollment);
int enrollment_to_csv(char **ret, const Enrollment *enrollment);

/* May the enrolment be added to this table? *ret_end is where the last whole row ends (0: the table has no
 * header yet): what follows was cut off while it was written. -EEXIST: the row in line *ret_line is for the
 * same registration ID, device ID or endorsement key; -EBADMSG: line *ret_line is not what belongs there;
 * *ret_why, static, says what it is or would have to be. */
int enrollment_csv_check(const char *table, size_t size, const Enrollment *enrollment, size_t *ret_end,
                         size_t *ret_line, const char **ret_why);

/* Many devices' enrolments, joined into bodies of bulk requests. */
typedef struct EnrollmentMerge EnrollmentMerge;
typedef void EnrollmentNote(void *userdata, bool refused, const char *sentence);

int enrollment_merge_new(EnrollmentMerge **ret);
EnrollmentMerge *enrollment_merge_free(EnrollmentMerge *merge);
void enrollment_merge_freep(EnrollmentMerge **merge);

/* Adds what the text has: JSON of an IndividualEnrollment, an array of them, or the body of a bulk request;
 * or a table. One that is not for a TPM, or has the registration ID, device ID or endorsement key of an
 * earlier one, is left out: note() is told, and also of what was taken but looks like a mistake. source is
 * what the sentences call the text; text is NUL-terminated. -ENOMEM is the only error. */
int enrollment_merge_add(EnrollmentMerge *merge, const char *source, const char *text, size_t size,
                         EnrollmentNote *note, void *userdata);

/* The body of the next request, on one line: 1, or 0 when there is none anymore. *position, from 0 on, is
 * where the next one begins. */
int enrollment_merge_body(char **ret, const EnrollmentMerge *merge, size_t *position);
