/* What a doctor asks the TPM. Nothing is changed, and no use of a key counts towards lockout. */
#include "tpm-internal.h"

#include <ctype.h>

static const struct {
        TPM2_PT property;
        size_t offset;
} numbers[] = {
        { TPM2_PT_FIRMWARE_VERSION_1, offsetof(TpmProperties, firmware[0]) },
        { TPM2_PT_FIRMWARE_VERSION_2, offsetof(TpmProperties, firmware[1]) },
        { TPM2_PT_LOCKOUT_COUNTER, offsetof(TpmProperties, lockout_counter) },
        { TPM2_PT_MAX_AUTH_FAIL, offsetof(TpmProperties, lockout_limit) },
        { TPM2_PT_LOCKOUT_INTERVAL, offsetof(TpmProperties, lockout_interval_sec) },
        { TPM2_PT_HR_PERSISTENT_AVAIL, offsetof(TpmProperties, persistent_available) },
};

static void take_manufacturer(TpmProperties *p, uint32_t value) {
        for (size_t i = 0; i < 4; i++) {
                char c = (char) (value >> (24 - 8 * i));

                p->manufacturer[i] = isprint((unsigned char) c) && c != ' ' ? c : '\0';
        }
}

static void take(TpmProperties *p, const TPMS_TAGGED_PROPERTY *property) {
        uint32_t value = property->value;

        if (property->property == TPM2_PT_MANUFACTURER)
                take_manufacturer(p, value);
        if (property->property == TPM2_PT_PERMANENT) {
                p->owner_auth_set = value & TPMA_PERMANENT_OWNERAUTHSET;
                p->endorsement_auth_set = value & TPMA_PERMANENT_ENDORSEMENTAUTHSET;
                p->in_lockout = value & TPMA_PERMANENT_INLOCKOUT;
        }
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                if (numbers[i].property == property->property)
                        *(uint32_t *) (void *) ((char *) p + numbers[i].offset) = value;
}

static int read_group(Tpm *tpm, TpmProperties *p, TPM2_PT first, Failure *reterr) {
        TPMS_CAPABILITY_DATA *data = NULL;
        TSS2_RC rc;

        rc = TPM_DO(tpm, Esys_GetCapability(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                            TPM2_CAP_TPM_PROPERTIES, first, TPM2_MAX_TPM_PROPERTIES, NULL,
                                            &data));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM does not tell its properties");
        if (data->capability == TPM2_CAP_TPM_PROPERTIES)
                for (uint32_t i = 0; i < data->data.tpmProperties.count && i < TPM2_MAX_TPM_PROPERTIES; i++)
                        take(p, &data->data.tpmProperties.tpmProperty[i]);
        Esys_Free(data);
        return 0;
}

int tpm_properties(Tpm *tpm, TpmProperties *ret, Failure *reterr) {
        TpmProperties properties = {};
        int r;

        r = read_group(tpm, &properties, TPM2_PT_FIXED, reterr);
        if (r >= 0)
                r = read_group(tpm, &properties, TPM2_PT_VAR, reterr);
        if (r >= 0)
                *ret = properties;
        return tpm_end(tpm, r);
}

static void describe(const TPMT_PUBLIC *key, char *ret, size_t size) {
        const char *use =
                key->objectAttributes & TPMA_OBJECT_RESTRICTED
                        ? (key->objectAttributes & TPMA_OBJECT_DECRYPT ? "storage key" : "attestation key")
                : key->objectAttributes & TPMA_OBJECT_SIGN_ENCRYPT ? "signing key"
                                                                   : "key";

        switch (key->type) {
        case TPM2_ALG_RSA:
                (void) snprintf(ret, size, "an RSA-%u %s", key->parameters.rsaDetail.keyBits, use);
                break;
        case TPM2_ALG_ECC:
                (void) snprintf(ret, size, "an ECC %s", use);
                break;
        case TPM2_ALG_KEYEDHASH:
                (void) snprintf(ret, size, "%s", tpm_is_hub_key(key) ? "an HMAC key" : "a sealed object");
                break;
        case TPM2_ALG_SYMCIPHER:
                (void) snprintf(ret, size, "a symmetric key");
                break;
        default:
                (void) snprintf(ret, size, "an object of the type 0x%04x", key->type);
        }
}

static int judge_srk(Tpm *tpm, ESYS_TR tr, const TPMT_PUBLIC *key, TpmObject *object, Failure *reterr) {
        size_t used = strlen(object->description);
        const char *fault = "";
        int r;

        r = tpm_test_srk(tpm, tr, key, &object->is_srk, reterr);
        if (r < 0)
                return r;
        if (!object->is_srk && tpm_is_srk(key))
                fault = " with an authorization value";
        else if (!(key->objectAttributes & TPMA_OBJECT_NODA))
                fault = " without noDA, whose use could lock the TPM";
        (void) snprintf(object->description + used, sizeof(object->description) - used, "%s", fault);
        return 0;
}

static int read_object(Tpm *tpm, uint32_t handle, TpmObject *object, Failure *reterr) {
        ESYS_TR tr = ESYS_TR_NONE;
        TPM2B_PUBLIC public;
        int r;

        r = tpm_list_persistent(tpm, reterr);
        if (r < 0 || !tpm_is_listed(tpm, handle))
                return r;
        r = tpm_read_persistent(tpm, handle, &tr, &public, NULL, reterr);
        if (r < 0)
                return r;
        object->present = true;
        object->is_ek = tpm_is_ek(&public.publicArea);
        object->is_hub_key = tpm_is_hub_key(&public.publicArea);
        describe(&public.publicArea, object->description, sizeof(object->description));
        if (handle == TPM_SRK_HANDLE)
                r = judge_srk(tpm, tr, &public.publicArea, object, reterr);
        (void) Esys_TR_Close(tpm->esys, &tr);
        return r;
}

int tpm_object(Tpm *tpm, uint32_t handle, TpmObject *ret, Failure *reterr) {
        TpmObject object = {};
        int r;

        r = read_object(tpm, handle, &object, reterr);
        if (r >= 0)
                *ret = object;
        return tpm_end(tpm, r);
}
