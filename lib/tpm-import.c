/* What is done with the service's blobs: activate, import, load, sign. */
#include "tpm-internal.h"

#include <errno.h>

#include <tss2/tss2_mu.h>

static int parse_blob(TpmBlob *ret, const Bytes *blob, Failure *reterr) {
        const char *why = NULL;

        if (tpm_blob_parse(ret, blob->data, blob->size, &why) < 0)
                return failure_set(reterr, FAILURE_PROTOCOL, NULL,
                                   "The key that the service sent can't be read: %s", why);
        return 0;
}

/* A session that allows the use of the EK: PolicySecret of the endorsement hierarchy. */
static int start_ek_session(Tpm *tpm, Failure *reterr) {
        const TPMT_SYM_DEF none = { .algorithm = TPM2_ALG_NULL };
        TSS2_RC rc;
        int r;

        r = tpm_authorize(tpm, ESYS_TR_RH_ENDORSEMENT, reterr);
        if (r < 0)
                return r;
        rc = TPM_DO(tpm, Esys_StartAuthSession(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                               ESYS_TR_NONE, ESYS_TR_NONE, NULL, TPM2_SE_POLICY, &none,
                                               TPM2_ALG_SHA256, &tpm->session));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM does not start a session");
        /* Without continueSession the session ends with the command that it authorizes. */
        rc = Esys_TRSess_SetAttributes(tpm->esys, tpm->session, 0, TPMA_SESSION_CONTINUESESSION);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM session can't be prepared");
        rc = TPM_DO(tpm, Esys_PolicySecret(tpm->esys, ESYS_TR_RH_ENDORSEMENT, tpm->session, ESYS_TR_PASSWORD,
                                           ESYS_TR_NONE, ESYS_TR_NONE, NULL, NULL, NULL, 0, NULL, NULL));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc,
                                "The TPM does not authorize the use of the endorsement key");
        tpm->authorizing = NULL; /* the session carries it */
        return 0;
}

/* The secret that only the TPM with this EK can read, and only if it has this SRK. */
static int activate(Tpm *tpm, const TpmBlob *blob, TPM2B_DATA *ret_inner, Failure *reterr) {
        TPM2B_DIGEST *inner = NULL;
        TSS2_RC rc;
        int r;

        r = start_ek_session(tpm, reterr);
        if (r < 0)
                return r;
        rc = TPM_DO(tpm, Esys_ActivateCredential(tpm->esys, tpm->srk.object, tpm->ek.object,
                                                 ESYS_TR_PASSWORD, tpm->session, ESYS_TR_NONE,
                                                 &blob->credential, &blob->secret, &inner));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail_input(
                        tpm, reterr, rc,
                        &(TpmFault){
                                FAILURE_IDENTITY_MISMATCH,
                                "The key that the service sent was made for another TPM than this one" },
                        "The TPM failed to decrypt the challenge");
        tpm->session = ESYS_TR_NONE;

        if (inner->size == TPM_INNER_KEY_SIZE) {
                ret_inner->size = inner->size;
                memcpy(ret_inner->buffer, inner->buffer, inner->size);
                r = 0;
        } else
                r = failure_set(reterr, FAILURE_PROTOCOL, NULL,
                                "The key that the service sent can't be read: its inner key has %u bytes",
                                inner->size);
        explicit_bzero(inner, sizeof(*inner));
        Esys_Free(inner);
        return r;
}

/* Wraps the key in the blob with the SRK. */
static int import(Tpm *tpm, const TpmBlob *blob, TPM2B_PRIVATE *ret, Failure *reterr) {
        const TPMT_SYM_DEF_OBJECT aes = { .algorithm = TPM2_ALG_AES,
                                          .keyBits.aes = TPM_INNER_KEY_SIZE * 8,
                                          .mode.aes = TPM2_ALG_CFB };
        TPM2B_PRIVATE *private = NULL;
        TPM2B_DATA inner = {};
        TSS2_RC rc;
        int r;

        r = activate(tpm, blob, &inner, reterr);
        if (r < 0)
                return r;
        rc = TPM_DO(tpm,
                    Esys_Import(tpm->esys, tpm->srk.object, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                &inner, &blob->public_area, &blob->duplicate, &blob->seed, &aes, &private));
        explicit_bzero(&inner, sizeof(inner));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail_input(tpm, reterr, rc,
                                      &(TpmFault){ FAILURE_PROTOCOL,
                                                   "The TPM does not take the key that the service sent" },
                                      "The TPM failed to import a key");
        *ret = *private;
        Esys_Free(private);
        return 0;
}

int tpm_load(Tpm *tpm, const TPM2B_PRIVATE *private, const TPM2B_PUBLIC *public, const TpmFault *fault,
             Failure *reterr) {
        TSS2_RC rc;

        rc = TPM_DO(tpm, Esys_Load(tpm->esys, tpm->srk.object, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                   private, public, &tpm->key));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail_input(tpm, reterr, rc, fault, "The TPM failed to load a key");
        return 0;
}

/* Firmware may lack TPM2_HMAC, whose command code TPM2_MAC shares. */
static TSS2_RC hmac_sequence(Tpm *tpm, ESYS_TR key, const TPM2B_MAX_BUFFER *buffer, TPM2B_DIGEST **ret) {
        const TPM2B_AUTH empty = {};
        ESYS_TR sequence = ESYS_TR_NONE;
        TSS2_RC rc;

        /* The sequence takes a place, and a TPM without a resource manager has three. */
        if (!tpm->ek.persistent)
                tpm_flush(tpm, &tpm->ek.object);
        rc = TPM_DO(tpm, Esys_HMAC_Start(tpm->esys, key, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                         &empty, TPM2_ALG_SHA256, &sequence));
        if (rc == TSS2_RC_SUCCESS)
                rc = TPM_DO(tpm, Esys_SequenceComplete(tpm->esys, sequence, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                                       ESYS_TR_NONE, buffer, ESYS_TR_RH_NULL, ret, NULL));
        if (rc != TSS2_RC_SUCCESS)
                tpm_flush(tpm, &sequence);
        return rc;
}

TSS2_RC tpm_hmac(Tpm *tpm, ESYS_TR key, const void *message, size_t size, uint8_t ret[static SHA256_SIZE]) {
        TPM2B_MAX_BUFFER buffer = { .size = (uint16_t) size };
        TPM2B_DIGEST *hmac = NULL;
        TSS2_RC rc;

        memcpy(buffer.buffer, message, size);
        rc = TPM_DO(tpm, Esys_HMAC(tpm->esys, key, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &buffer,
                                   TPM2_ALG_SHA256, &hmac));
        if (tpm_rc(rc) == TPM2_RC_COMMAND_CODE)
                rc = hmac_sequence(tpm, key, &buffer, &hmac);
        if (rc != TSS2_RC_SUCCESS)
                return rc;
        if (hmac->size == SHA256_SIZE)
                memcpy(ret, hmac->buffer, SHA256_SIZE);
        else
                rc = TSS2_ESYS_RC_MALFORMED_RESPONSE;
        explicit_bzero(hmac, sizeof(*hmac));
        Esys_Free(hmac);
        return rc;
}

static int sign_challenge(Tpm *tpm, const TpmBlob *blob, const void *message, size_t size,
                          uint8_t ret[static SHA256_SIZE], Failure *reterr) {
        TPM2B_PRIVATE private;
        TSS2_RC rc;
        int r;

        r = tpm_prepare_keys(tpm, true, reterr);
        if (r < 0)
                return r;
        r = import(tpm, blob, &private, reterr);
        if (r < 0)
                return r;
        r = tpm_load(tpm, &private, &blob->public_area,
                     &(TpmFault){ FAILURE_PROTOCOL, "The TPM does not load the key that the service sent" },
                     reterr);
        if (r < 0)
                return r;
        rc = tpm_hmac(tpm, tpm->key, message, size, ret);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail_input(
                        tpm, reterr, rc,
                        &(TpmFault){ FAILURE_PROTOCOL,
                                     "The TPM does not sign with the key that the service sent" },
                        "The TPM failed to sign");
        return 0;
}

int tpm_sign_challenge(Tpm *tpm, const Bytes *blob, const void *message, size_t message_size,
                       uint8_t ret_hmac[static SHA256_SIZE], Failure *reterr) {
        TpmBlob parsed;
        int r;

        if (message_size > TPM_MESSAGE_MAX)
                return -EMSGSIZE;
        r = parse_blob(&parsed, blob, reterr);
        if (r < 0)
                return r;
        return tpm_end(tpm, sign_challenge(tpm, &parsed, message, message_size, ret_hmac, reterr));
}

static int import_hub_key(Tpm *tpm, const TpmBlob *blob, Bytes *ret_private, Bytes *ret_public,
                          Failure *reterr) {
        CLEANUP(bytes_deinit) Bytes wrapped = {};
        TPM2B_PRIVATE private;
        uint8_t buffer[sizeof(TPM2B_PRIVATE) + sizeof(TPM2B_PUBLIC)];
        size_t private_size = 0, public_size = 0;
        int r;

        r = tpm_prepare_keys(tpm, true, reterr);
        if (r < 0)
                return r;
        r = import(tpm, blob, &private, reterr);
        if (r < 0)
                return r;

        if (Tss2_MU_TPM2B_PRIVATE_Marshal(&private, buffer, sizeof(buffer), &private_size) !=
            TSS2_RC_SUCCESS)
                return -EBADMSG;
        r = bytes_copy(&wrapped, buffer, private_size);
        if (r < 0)
                return r;
        if (Tss2_MU_TPM2B_PUBLIC_Marshal(&blob->public_area, buffer, sizeof(buffer), &public_size) !=
            TSS2_RC_SUCCESS)
                return -EBADMSG;
        r = bytes_copy(ret_public, buffer, public_size);
        if (r < 0)
                return r;
        *ret_private = wrapped;
        wrapped = (Bytes){};
        return 0;
}

int tpm_import_hub_key(Tpm *tpm, const Bytes *blob, Bytes *ret_private, Bytes *ret_public, Failure *reterr) {
        TpmBlob parsed;
        int r;

        r = parse_blob(&parsed, blob, reterr);
        if (r < 0)
                return r;
        return tpm_end(tpm, import_hub_key(tpm, &parsed, ret_private, ret_public, reterr));
}
