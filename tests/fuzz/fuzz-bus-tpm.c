/* Calls of org.dps.Tpm1. Stubs replace lib/tpm. */
#include <errno.h>

#include "bus-calls.h"
#include "bus.h"
#include "dps.h"
#include "identity.h"
#include "scratch.h"
#include "tpmd.h"

/* --- lib/tpm: the TPM refuses an odd number of bytes --- */

int tpm_open(Tpm **ret, const TpmSettings *settings, TpmCache *cache, Failure *reterr) {
        PROMISE(settings->hub_key_handle >> 24 == 0x81);
        return 0;
}

Tpm *tpm_close(Tpm *tpm) {
        return NULL;
}

static int judge(const Bytes *bytes, size_t max, Failure *reterr) {
        PROMISE(bytes->size <= max);
        return bytes->size % 2 == 0 ? 0 : failure_set(reterr, FAILURE_PROTOCOL, "0x1", "odd");
}

int tpm_identity(Tpm *tpm, TpmIdentity *ret, Failure *reterr) {
        return bytes_copy(&ret->ek_public, "ek", 2);
}

void tpm_identity_deinit(TpmIdentity *identity) {
        bytes_deinit(&identity->ek_public);
}

int tpm_sign_challenge(Tpm *tpm, const Bytes *blob, const void *message, size_t message_size,
                       uint8_t ret_hmac[static SHA256_SIZE], Failure *reterr) {
        PROMISE(message_size <= TPM_MESSAGE_MAX);
        memset(ret_hmac, 0xa5, SHA256_SIZE);
        return judge(blob, TPM_BLOB_MAX, reterr);
}

int tpm_import_hub_key(Tpm *tpm, const Bytes *blob, Bytes *ret_private, Bytes *ret_public, Failure *reterr) {
        int r = judge(blob, TPM_BLOB_MAX, reterr);

        if (r >= 0)
                r = bytes_copy(ret_private, blob->data, blob->size);
        return r < 0 ? r : bytes_copy(ret_public, "public", 6);
}

static void check_names(const Bytes *names, size_t count) {
        PROMISE(count <= 8);
        for (size_t i = 0; i < count; i++)
                PROMISE(names[i].size <= 66);
}

int tpm_adopt_hub_key(Tpm *tpm, const Bytes *private_area, const Bytes *public_area, const Bytes *names,
                      size_t name_count, bool *ret_changed, Bytes *ret_name, Failure *reterr) {
        int r = judge(private_area, TPM_BLOB_MAX, reterr);

        PROMISE(public_area->size <= TPM_BLOB_MAX);
        check_names(names, name_count);
        *ret_changed = name_count > 0;
        return r < 0 ? r : bytes_copy(ret_name, "name", 4);
}

int tpm_hub_key(Tpm *tpm, TpmHubKeyState *ret_state, Bytes *ret_name, Failure *reterr) {
        *ret_state = TPM_HUB_KEY_HMAC;
        return bytes_copy(ret_name, "name", 4);
}

int tpm_forget_hub_key(Tpm *tpm, const Bytes *names, size_t name_count, Failure *reterr) {
        check_names(names, name_count);
        return name_count % 2 == 0 ? 0 : failure_set(reterr, FAILURE_TPM_HANDLE_TAKEN, NULL, "odd");
}

static void settle(void) {
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char config[] = "[Provisioning]\nIdScope=0ne00000000\n";
        static DaemonOptions options;
        static Tpmd tpmd = { .options = &options };

        if (!options.config.file) {
                options.config.file = scratch_write("provisiond.conf", config, strlen(config));
                PROMISE(sd_bus_add_object_vtable(bus_calls_open(), NULL, TPM_PATH, TPM_NAME, tpmd_vtable,
                                                 &tpmd) >= 0);
        }
        bus_calls_run(TPM_PATH, TPM_NAME, data, size, settle);
        return 0;
}
