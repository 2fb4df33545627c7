/*
 * Attempts: what DPS remembers between the requests of one registration: the key in the challenge, and the
 * operation. In memory only, and bounded: the oldest make room.
 */
#pragma once

#include "enrollments.h"
#include "tpm-crypto.h"

#define ATTEMPTS_MAX 4096

typedef struct Attempt {
        char *registration_id;
        TpmStorageKey ek, srk;
        uint8_t key[TPM_CRYPTO_KEY_SIZE]; /* the challenge's */
        char *operation_id;               /* NULL until confirmed */
        unsigned polls;                   /* answered so far */
        json_object *result;              /* the last answer, once there is one: polls repeat it */
        char *hub, *device_id;            /* with result when assigned */
} Attempt;

typedef struct Attempts Attempts;

int attempts_new(Attempts **ret);
Attempts *attempts_free(Attempts *attempts);

/* Makes room if needed; the key is random. Valid until the next attempts_add(). */
int attempts_add(Attempts *attempts, const char *registration_id, Attempt **ret);
/* The next older one of that registration; before: NULL begins with the newest. */
Attempt *attempts_next(Attempts *attempts, const char *registration_id, const Attempt *before);
