/*
 * Tpm1: the last answers of the TPM helper (org.dps.Tpm1), and the registration ID derived from them.
 */
#pragma once

#include "util.h"

typedef enum HandleState {
        HANDLE_EMPTY,
        HANDLE_HMAC, /* a key of the hub key's kind */
        HANDLE_FOREIGN,
} HandleState;

typedef struct Tpm1 {
        Bytes ek_public, srk_public;
        char *ek_base64, *ek_hash;
        char *registration_id;
        HandleState handle;
        Bytes handle_name; /* of the object at the hub key's handle */
        bool owner_auth_usable;
} Tpm1;

void tpm1_deinit(Tpm1 *tpm);

int tpm1_set_keys(Tpm1 *tpm, const Bytes *ek_public, const Bytes *srk_public);
/* state: "empty", "hmac" or "foreign" */
int tpm1_set_handle(Tpm1 *tpm, const char *state, const Bytes *name);
