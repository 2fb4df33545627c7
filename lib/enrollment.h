/*
 * Enrollment: what a rollout engineer needs to create the individual enrolment, in the forms that Azure
 * takes. Pure code: text in, text out.
 */
#pragma once

#include "util.h"

typedef struct Enrollment {
        const char *registration_id;
        const char *device_id; /* NULL: the registration ID becomes the device ID */
        const char *hub;       /* NULL: the instance's allocation policy decides */
        const void *ek_public; /* marshalled TPM2B_PUBLIC */
        size_t ek_public_size;
        bool ek_persistent; /* read from its handle (else created for this call) */
        bool ek_tcg_template;
} Enrollment;

/* For people: both values, where they come from, what to do next. Ends with a newline. */
int enrollment_to_text(char **ret, const Enrollment *enrollment);

/* One IndividualEnrollment of the DPS service API and nothing else, with a newline. */
int enrollment_to_json(char **ret, const Enrollment *enrollment);
