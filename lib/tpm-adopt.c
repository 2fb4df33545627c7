/* The hub key at its handle: the only object in the TPM that is ever evicted. */
#include "tpm-internal.h"

#include <errno.h>
#include <sys/random.h>

/* What sits at the hub key's handle. */
typedef struct Resident {
        ESYS_TR object; /* ESYS_TR_NONE: nothing */
        bool hub_key;   /* of the kind that may be evicted at all */
        bool comparable;
        Bytes name;
} Resident;

static void resident_deinit(Resident *resident) {
        bytes_deinit(&resident->name);
}

static int read_resident(Tpm *tpm, Resident *ret, Failure *reterr) {
        TPM2B_PUBLIC public;
        int r;

        *ret = (Resident){ .object = ESYS_TR_NONE };
        r = tpm_list_persistent(tpm, reterr);
        if (r < 0)
                return r;
        if (!tpm_is_listed(tpm, tpm->hub_key_handle))
                return 0;
        r = tpm_read_persistent(tpm, tpm->hub_key_handle, &ret->object, &public, NULL, reterr);
        if (r < 0)
                return r;
        ret->hub_key = tpm_is_hub_key(&public.publicArea);
        ret->comparable =
                tpm_is_harmless(public.publicArea.objectAttributes) &&
                public.publicArea.parameters.keyedHashDetail.scheme.details.hmac.hashAlg == TPM2_ALG_SHA256;
        return tpm_name(tpm, ret->object, &ret->name, reterr);
}

static int handle_taken(Tpm *tpm, const char *code, const char *what, Failure *reterr) {
        return failure_set(reterr, FAILURE_TPM_HANDLE_TAKEN, code,
                           "The hub key's handle 0x%08x in the TPM holds %s", tpm->hub_key_handle, what);
}

/* The wrapped key may only be used with the SRK that it was wrapped by. */
static int load_wrapped(Tpm *tpm, const TPM2B_PRIVATE *private, const TPM2B_PUBLIC *public,
                        Failure *reterr) {
        int r;

        /* read_resident() has just listed the handles: a cached SRK that is gone was of another life */
        if (tpm->cache && tpm->cache->srk.serialized.size > 0 && !tpm_is_listed(tpm, TPM_SRK_HANDLE))
                tpm_cache_clear(tpm->cache);
        r = tpm_prepare_keys(tpm, false, reterr);
        if (r < 0)
                return r;
        return tpm_load(tpm, private, public,
                        &(TpmFault){ FAILURE_IDENTITY_MISMATCH,
                                     "The TPM no longer takes the hub key that was wrapped for it, as after "
                                     "it was cleared" },
                        reterr);
}

/* Two keys are the same if they sign the same: the public areas of the same key differ in each blob. */
static int same_key(Tpm *tpm, const Resident *resident, bool *ret, Failure *reterr) {
        uint8_t nonce[SHA256_SIZE], ours[SHA256_SIZE], theirs[SHA256_SIZE];
        TSS2_RC rc;

        *ret = false;
        if (!resident->comparable)
                return 0;
        if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
                return -EIO;
        rc = tpm_hmac(tpm, tpm->key, nonce, sizeof(nonce), ours);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail_input(
                        tpm, reterr, rc,
                        &(TpmFault){ FAILURE_PROTOCOL, "The TPM does not sign with the hub key" },
                        "The TPM failed to sign with the hub key");
        rc = tpm_hmac(tpm, resident->object, nonce, sizeof(nonce), theirs);
        if (tpm_rc_is_auth(rc))
                return 0;
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM does not sign with the key at the handle 0x%08x",
                                tpm->hub_key_handle);
        *ret = memcmp(ours, theirs, sizeof(ours)) == 0;
        return 0;
}

static int evict(Tpm *tpm, const Resident *resident, Failure *reterr) {
        ESYS_TR gone = ESYS_TR_NONE;
        TSS2_RC rc;
        int r;

        r = tpm_authorize(tpm, ESYS_TR_RH_OWNER, reterr);
        if (r < 0)
                return r;
        rc = tpm_persist(tpm, resident->object, tpm->hub_key_handle, &gone);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The old hub key at the handle 0x%08x can't be removed",
                                tpm->hub_key_handle);
        return 0;
}

static int persist(Tpm *tpm, Bytes *ret_name, Failure *reterr) {
        ESYS_TR object = ESYS_TR_NONE;
        TSS2_RC rc;
        int r;

        r = tpm_authorize(tpm, ESYS_TR_RH_OWNER, reterr);
        if (r < 0)
                return r;
        rc = tpm_persist(tpm, tpm->key, tpm->hub_key_handle, &object);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The hub key can't be made persistent at the handle 0x%08x",
                                tpm->hub_key_handle);
        r = tpm_name(tpm, object, ret_name, reterr);
        (void) Esys_TR_Close(tpm->esys, &object);
        return r;
}

static bool is_among(const Bytes *name, const Bytes *names, size_t count) {
        for (size_t i = 0; i < count; i++)
                if (bytes_equal(name, &names[i]))
                        return true;
        return false;
}

typedef struct Adoption {
        TPM2B_PRIVATE private;
        TPM2B_PUBLIC public;
        const Bytes *names; /* of the keys that may be replaced */
        size_t name_count;
} Adoption;

static int adopt(Tpm *tpm, const Adoption *adoption, bool *ret_changed, Bytes *ret_name, Failure *reterr) {
        CLEANUP(resident_deinit) Resident resident = { .object = ESYS_TR_NONE };
        bool same;
        int r;

        r = read_resident(tpm, &resident, reterr);
        if (r < 0)
                return r;
        if (resident.object != ESYS_TR_NONE && !resident.hub_key)
                return handle_taken(tpm, NULL, "something else than an HMAC key", reterr);
        r = load_wrapped(tpm, &adoption->private, &adoption->public, reterr);
        if (r < 0)
                return r;
        if (resident.object != ESYS_TR_NONE) {
                r = same_key(tpm, &resident, &same, reterr);
                if (r < 0)
                        return r;
                if (same) {
                        r = bytes_copy(ret_name, resident.name.data, resident.name.size);
                        if (r == 0)
                                *ret_changed = false;
                        return r;
                }
                if (!is_among(&resident.name, adoption->names, adoption->name_count))
                        return handle_taken(tpm, TPM_CODE_HUB_KEY, "an HMAC key that is not ours", reterr);
                r = evict(tpm, &resident, reterr);
                if (r < 0)
                        return r;
        }
        r = persist(tpm, ret_name, reterr);
        if (r == 0)
                *ret_changed = true;
        return r;
}

int tpm_adopt_hub_key(Tpm *tpm, const Bytes *private_area, const Bytes *public_area, const Bytes *names,
                      size_t name_count, bool *ret_changed, Bytes *ret_name, Failure *reterr) {
        Adoption adoption = { .names = names, .name_count = name_count };
        const char *why = NULL;

        if (tpm_private_parse(&adoption.private, private_area->data, private_area->size, &why) < 0 ||
            tpm_hmac_public_parse(&adoption.public, public_area->data, public_area->size, &why) < 0)
                return failure_set(reterr, FAILURE_IDENTITY_MISMATCH, NULL,
                                   "The stored hub key can't be read: %s", why);
        return tpm_end(tpm, adopt(tpm, &adoption, ret_changed, ret_name, reterr));
}

static int look(Tpm *tpm, TpmHubKeyState *ret_state, Bytes *ret_name, Failure *reterr) {
        CLEANUP(resident_deinit) Resident resident = { .object = ESYS_TR_NONE };
        int r;

        r = read_resident(tpm, &resident, reterr);
        if (r < 0)
                return r;
        *ret_state = resident.object == ESYS_TR_NONE ? TPM_HUB_KEY_EMPTY
                     : resident.hub_key              ? TPM_HUB_KEY_HMAC
                                                     : TPM_HUB_KEY_FOREIGN;
        *ret_name = resident.name;
        resident.name = (Bytes){};
        return 0;
}

int tpm_hub_key(Tpm *tpm, TpmHubKeyState *ret_state, Bytes *ret_name, Failure *reterr) {
        return tpm_end(tpm, look(tpm, ret_state, ret_name, reterr));
}

static int forget(Tpm *tpm, const Bytes *names, size_t count, Failure *reterr) {
        CLEANUP(resident_deinit) Resident resident = { .object = ESYS_TR_NONE };
        int r;

        r = read_resident(tpm, &resident, reterr);
        if (r < 0)
                return r;
        if (resident.object == ESYS_TR_NONE)
                return 0;
        if (!resident.hub_key || !is_among(&resident.name, names, count))
                return handle_taken(tpm, resident.hub_key ? TPM_CODE_HUB_KEY : NULL,
                                    "another object than the key that was adopted", reterr);
        return evict(tpm, &resident, reterr);
}

int tpm_forget_hub_key(Tpm *tpm, const Bytes *names, size_t name_count, Failure *reterr) {
        return tpm_end(tpm, forget(tpm, names, name_count, reterr));
}
