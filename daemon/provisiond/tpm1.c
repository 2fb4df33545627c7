#include "tpm1.h"

#include <stdlib.h>

void tpm1_deinit(Tpm1 *tpm) {
        bytes_deinit(&tpm->ek_public);
        bytes_deinit(&tpm->srk_public);
        bytes_deinit(&tpm->handle_name);
        free(tpm->ek_base64);
        free(tpm->ek_hash);
        free(tpm->registration_id);
        *tpm = (Tpm1){};
}

int tpm1_set_keys(Tpm1 *tpm, const Bytes *ek_public, const Bytes *srk_public) {
        uint8_t hash[SHA256_SIZE];
        int r;

        bytes_deinit(&tpm->ek_public);
        bytes_deinit(&tpm->srk_public);
        free(TAKE(tpm->ek_base64));
        free(TAKE(tpm->ek_hash));
        r = bytes_copy(&tpm->ek_public, ek_public->data, ek_public->size);
        if (r >= 0)
                r = bytes_copy(&tpm->srk_public, srk_public->data, srk_public->size);
        if (r >= 0)
                r = base64_encode(&tpm->ek_base64, ek_public->data, ek_public->size);
        if (r >= 0)
                r = sha256(ek_public->data, ek_public->size, hash);
        return r < 0 ? r : hex_encode(&tpm->ek_hash, hash, sizeof(hash));
}

static HandleState handle_state(const char *name) {
        return streq(name, "empty") ? HANDLE_EMPTY : streq(name, "hmac") ? HANDLE_HMAC : HANDLE_FOREIGN;
}

int tpm1_set_handle(Tpm1 *tpm, const char *state, const Bytes *name) {
        bytes_deinit(&tpm->handle_name);
        tpm->handle = handle_state(state);
        return bytes_copy(&tpm->handle_name, name->data, name->size);
}
