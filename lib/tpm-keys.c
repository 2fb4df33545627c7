#include "tpm-internal.h"

#include <errno.h>
#include <stdlib.h>

#include <tss2/tss2_mu.h>
#include <tss2/tss2_sys.h>

/* PolicySecret(TPM_RH_ENDORSEMENT): TCG EK Credential Profile 2.5, B.3.3, template L-1. */
#define EK_POLICY                                                                                           \
        {                                                                                                   \
                0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7,   \
                        0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, \
                        0x14, 0x69, 0xaa                                                                    \
        }

#define STORAGE_KEY                                                                                         \
        (TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |                 \
         TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT)

#define RSA_2048_AES_128_CFB                                                                                \
        {                                                                                                   \
                .symmetric = { .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB },   \
                .scheme.scheme = TPM2_ALG_NULL, .keyBits = TPM_RSA_SIZE * 8,                                \
        }

/* `unique` takes part in the derivation of a primary key: 256 zero bytes are what the profile says, and what
 * tpm2_createek and aziot-tpmd do. */
static const TPM2B_PUBLIC ek_template = {
        .publicArea = {
                .type = TPM2_ALG_RSA,
                .nameAlg = TPM2_ALG_SHA256,
                .objectAttributes = STORAGE_KEY | TPMA_OBJECT_ADMINWITHPOLICY,
                .authPolicy = { .size = SHA256_SIZE, .buffer = EK_POLICY },
                .parameters.rsaDetail = RSA_2048_AES_128_CFB,
                .unique.rsa.size = TPM_RSA_SIZE,
        },
};

static const TPM2B_PUBLIC srk_template = {
        .publicArea = {
                .type = TPM2_ALG_RSA,
                .nameAlg = TPM2_ALG_SHA256,
                .objectAttributes = STORAGE_KEY | TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA,
                .parameters.rsaDetail = RSA_2048_AES_128_CFB,
                .unique.rsa.size = TPM_RSA_SIZE,
        },
};

/* What ActivateCredential and Import need of either key. */
static bool is_storage_key(const TPMT_PUBLIC *key) {
        const TPMS_RSA_PARMS *rsa = &key->parameters.rsaDetail;
        const TPMA_OBJECT needed = TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;

        return key->type == TPM2_ALG_RSA && key->nameAlg == TPM2_ALG_SHA256 &&
               (key->objectAttributes & (needed | TPMA_OBJECT_SIGN_ENCRYPT)) == needed &&
               rsa->symmetric.algorithm == TPM2_ALG_AES && rsa->symmetric.keyBits.aes == 128 &&
               rsa->symmetric.mode.aes == TPM2_ALG_CFB && rsa->keyBits == TPM_RSA_SIZE * 8;
}

bool tpm_is_harmless(TPMA_OBJECT attributes) {
        const TPMA_OBJECT needed = TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA;

        return (attributes & needed) == needed;
}

bool tpm_is_ek(const TPMT_PUBLIC *key) {
        const TPM2B_DIGEST *policy = &ek_template.publicArea.authPolicy;

        return is_storage_key(key) && key->authPolicy.size == policy->size &&
               memcmp(key->authPolicy.buffer, policy->buffer, policy->size) == 0;
}

bool tpm_is_srk(const TPMT_PUBLIC *key) {
        /* With adminWithPolicy, ActivateCredential needs a policy. */
        return is_storage_key(key) && tpm_is_harmless(key->objectAttributes) &&
               !(key->objectAttributes & TPMA_OBJECT_ADMINWITHPOLICY);
}

/* The public area does not say whether a key has an authorization value. Certify needs the same
 * authorization as ActivateCredential, signs nothing with the null key, and changes nothing. */
int tpm_test_srk(Tpm *tpm, ESYS_TR object, const TPMT_PUBLIC *key, bool *ret_usable, Failure *reterr) {
        const TPMT_SIG_SCHEME none = { .scheme = TPM2_ALG_NULL };
        const TPM2B_DATA nothing = {};
        TPM2B_ATTEST *attest = NULL;
        TPMT_SIGNATURE *signature = NULL;
        TSS2_RC rc;

        if (!tpm_is_srk(key)) {
                *ret_usable = false;
                return 0;
        }
        rc = TPM_DO(tpm, Esys_Certify(tpm->esys, object, ESYS_TR_RH_NULL, ESYS_TR_PASSWORD, ESYS_TR_PASSWORD,
                                      ESYS_TR_NONE, &nothing, &none, &attest, &signature));
        Esys_Free(attest);
        Esys_Free(signature);
        if (rc != TSS2_RC_SUCCESS && !tpm_rc_is_auth(rc))
                return tpm_fail(tpm, reterr, rc, "The storage root key at the handle 0x%08x can't be tested",
                                TPM_SRK_HANDLE);
        *ret_usable = rc == TSS2_RC_SUCCESS;
        return 0;
}

static bool has_tcg_template(const TPMT_PUBLIC *ek) {
        const TPMT_PUBLIC *template = &ek_template.publicArea;

        return tpm_is_ek(ek) && ek->objectAttributes == template->objectAttributes &&
               ek->parameters.rsaDetail.scheme.scheme == TPM2_ALG_NULL &&
               ek->parameters.rsaDetail.exponent == 0;
}

static int marshal_public(Bytes *ret, const TPM2B_PUBLIC *public) {
        uint8_t buffer[sizeof(*public)];
        size_t size = 0;

        if (Tss2_MU_TPM2B_PUBLIC_Marshal(public, buffer, sizeof(buffer), &size) != TSS2_RC_SUCCESS)
                return -EBADMSG;
        return bytes_copy(ret, buffer, size);
}

int tpm_name(Tpm *tpm, ESYS_TR object, Bytes *ret, Failure *reterr) {
        TPM2B_NAME *name = NULL;
        TSS2_RC rc;
        int r;

        rc = Esys_TR_GetName(tpm->esys, object, &name);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The name of a key is not known");
        r = bytes_copy(ret, name->name, name->size);
        Esys_Free(name);
        return r;
}

/* Esys_TR_FromTPMPublic() has just read the public area, but keeps it to itself. The TPM's answer
 * (outPublic, name, qualifiedName) is still in the SAPI context below, which saves a command that takes a
 * discrete TPM some 30 ms. The name in it proves that it is that object's; -ENODATA if it isn't there. */
static int last_read_public(Tpm *tpm, ESYS_TR object, TPM2B_PUBLIC *ret) {
        TSS2_SYS_CONTEXT *sys = NULL;
        const uint8_t *answer = NULL;
        TPM2B_PUBLIC public = {};
        TPM2B_NAME name = {}, *expected = NULL;
        size_t size = 0, at = 0;
        bool same;

        if (Esys_GetSysContext(tpm->esys, &sys) != TSS2_RC_SUCCESS ||
            Tss2_Sys_GetRpBuffer(sys, &size, &answer) != TSS2_RC_SUCCESS ||
            Tss2_MU_TPM2B_PUBLIC_Unmarshal(answer, size, &at, &public) != TSS2_RC_SUCCESS ||
            Tss2_MU_TPM2B_NAME_Unmarshal(answer, size, &at, &name) != TSS2_RC_SUCCESS ||
            Esys_TR_GetName(tpm->esys, object, &expected) != TSS2_RC_SUCCESS)
                return -ENODATA;
        same = name.size == expected->size && memcmp(name.name, expected->name, name.size) == 0;
        Esys_Free(expected);
        if (!same)
                return -ENODATA;
        *ret = public;
        return 0;
}

int tpm_read_persistent(Tpm *tpm, uint32_t handle, ESYS_TR *ret, TPM2B_PUBLIC *ret_public,
                        Bytes *ret_marshalled, Failure *reterr) {
        ESYS_TR object = ESYS_TR_NONE;
        TPM2B_PUBLIC *public = NULL;
        TSS2_RC rc;
        int r;

        rc = TPM_DO(tpm, Esys_TR_FromTPMPublic(tpm->esys, handle, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                               &object));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM object at the handle 0x%08x can't be read",
                                handle);
        if (last_read_public(tpm, object, ret_public) < 0) {
                rc = TPM_DO(tpm, Esys_ReadPublic(tpm->esys, object, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                                 &public, NULL, NULL));
                if (rc != TSS2_RC_SUCCESS)
                        return tpm_fail(tpm, reterr, rc, "The TPM object at the handle 0x%08x can't be read",
                                        handle);
                *ret_public = *public;
                Esys_Free(public);
        }
        if (ret_marshalled) {
                r = marshal_public(ret_marshalled, ret_public);
                if (r < 0)
                        return r;
        }
        *ret = object;
        return 0;
}

TSS2_RC tpm_persist(Tpm *tpm, ESYS_TR object, uint32_t handle, ESYS_TR *ret) {
        TSS2_RC rc;

        rc = TPM_DO(tpm, Esys_EvictControl(tpm->esys, ESYS_TR_RH_OWNER, object, ESYS_TR_PASSWORD,
                                           ESYS_TR_NONE, ESYS_TR_NONE, handle, ret));
        if (rc == TSS2_RC_SUCCESS)
                tpm->owner_proven = true;
        return rc;
}

static bool owner_auth_missing(const Tpm *tpm) {
        return (tpm->permanent & TPMA_PERMANENT_OWNERAUTHSET) && !tpm->owner.given;
}

static TSS2_RC create_primary(Tpm *tpm, ESYS_TR hierarchy, const TPM2B_PUBLIC *template, ESYS_TR *ret,
                              TPM2B_PUBLIC **ret_public) {
        const TPM2B_SENSITIVE_CREATE sensitive = {};
        const TPM2B_DATA outside = {};
        const TPML_PCR_SELECTION pcrs = {};

        return TPM_DO(tpm, Esys_CreatePrimary(tpm->esys, hierarchy, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                              ESYS_TR_NONE, &sensitive, template, &outside, &pcrs, ret,
                                              ret_public, NULL, NULL, NULL));
}

/* Moves a new transient key to its handle where that is possible. It stays transient where the owner
 * authorization is unknown or the TPM is full: attesting works with it all the same. 0 also then; 1 when
 * somebody else has just filled the handle. */
static int try_to_persist(Tpm *tpm, TpmKey *key, uint32_t handle, Failure *reterr) {
        ESYS_TR persistent = ESYS_TR_NONE;
        TSS2_RC rc;

        if (tpm->read_only || owner_auth_missing(tpm))
                return 0;
        rc = tpm_persist(tpm, key->object, handle, &persistent);
        if (rc == TSS2_RC_SUCCESS) {
                tpm_flush(tpm, &key->object);
                key->object = persistent;
                key->persistent = true;
                return 0;
        }
        if (tpm_rc(rc) == TPM2_RC_NV_DEFINED) {
                tpm_flush(tpm, &key->object);
                return 1;
        }
        if (tpm_rc_is_auth(rc) || tpm_rc(rc) == TPM2_RC_NV_SPACE)
                return 0;
        return tpm_fail(tpm, reterr, rc, "The key can't be made persistent at the handle 0x%08x", handle);
}

static int create_ek(Tpm *tpm, Failure *reterr) {
        TPM2B_PUBLIC *public = NULL;
        TSS2_RC rc;
        int r;

        r = tpm_authorize(tpm, ESYS_TR_RH_ENDORSEMENT, reterr);
        if (r < 0)
                return r;
        rc = create_primary(tpm, ESYS_TR_RH_ENDORSEMENT, &ek_template, &tpm->ek.object, &public);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The endorsement key can't be created");
        tpm->ek_tcg_template = true;
        r = marshal_public(&tpm->ek.public_area, public);
        Esys_Free(public);
        return r;
}

static int read_ek(Tpm *tpm, Failure *reterr) {
        TPM2B_PUBLIC public = {};
        int r;

        r = tpm_read_persistent(tpm, TPM_EK_HANDLE, &tpm->ek.object, &public, &tpm->ek.public_area, reterr);
        if (r < 0)
                return r;
        tpm->ek.persistent = true;
        tpm->ek_tcg_template = has_tcg_template(&public.publicArea);
        if (tpm_is_ek(&public.publicArea))
                return 0;
        r = failure_set(reterr, FAILURE_TPM_HANDLE_TAKEN, NULL,
                        "The TPM object at the endorsement key's handle 0x%08x is not an RSA-2048 "
                        "endorsement key of the TCG profile",
                        TPM_EK_HANDLE);
        if (reterr)
                reterr->remedy =
                        "Find out which program uses the object ('tpm2_readpublic -c 0x81010001'). If none "
                        "does, remove it with 'tpm2_evictcontrol -C o -c 0x81010001' (-P with the owner "
                        "authorization, if one is set). A program that uses it loses its key. dps-tpmd "
                        "makes "
                        "the standard endorsement key in its place; compare the enrollment with what "
                        "'dps-provision enrollment' prints then.";
        return r;
}

/* After tpm_list_persistent() and tpm_read_permanent(). */
int tpm_find_ek(Tpm *tpm, Failure *reterr) {
        int r;

        if (tpm_is_listed(tpm, TPM_EK_HANDLE))
                return read_ek(tpm, reterr);
        r = create_ek(tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_authorize(tpm, ESYS_TR_RH_OWNER, reterr);
        if (r < 0)
                return r;
        r = try_to_persist(tpm, &tpm->ek, TPM_EK_HANDLE, reterr);
        if (r <= 0)
                return r;
        bytes_deinit(&tpm->ek.public_area);
        return read_ek(tpm, reterr);
}

static int create_srk_in(Tpm *tpm, ESYS_TR hierarchy, Failure *reterr) {
        TPM2B_PUBLIC *public = NULL;
        TSS2_RC rc;
        int r;

        r = tpm_authorize(tpm, hierarchy, reterr);
        if (r < 0)
                return r;
        rc = create_primary(tpm, hierarchy, &srk_template, &tpm->srk.object, &public);
        if (hierarchy == ESYS_TR_RH_OWNER && tpm_rc_is_auth(rc))
                return create_srk_in(tpm, ESYS_TR_RH_ENDORSEMENT, reterr);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The storage root key can't be created");
        if (hierarchy == ESYS_TR_RH_OWNER)
                tpm->owner_proven = true;
        r = marshal_public(&tpm->srk.public_area, public);
        Esys_Free(public);
        return r;
}

/* The storage root key belongs to the owner hierarchy. It is made in the endorsement hierarchy when it can't
 * be made persistent anyway: the owner authorization is not known, or an unusable key has its handle. The
 * endorsement hierarchy has to be usable in any case, so the key stays the same when the owner authorization
 * comes or goes, and a child of the key can be made persistent just as well. */
static int create_srk(Tpm *tpm, Failure *reterr) {
        return create_srk_in(tpm,
                             tpm->srk_unsuitable || owner_auth_missing(tpm) ? ESYS_TR_RH_ENDORSEMENT
                                                                            : ESYS_TR_RH_OWNER,
                             reterr);
}

static void release_key(Tpm *tpm, TpmKey *key) {
        if (key->persistent && key->object != ESYS_TR_NONE)
                (void) Esys_TR_Close(tpm->esys, &key->object);
        else
                tpm_flush(tpm, &key->object);
        bytes_deinit(&key->public_area);
        *key = (TpmKey){ .object = ESYS_TR_NONE };
}

static int read_srk(Tpm *tpm, bool *ret_usable, Failure *reterr) {
        TPM2B_PUBLIC public = {};
        int r;

        r = tpm_read_persistent(tpm, TPM_SRK_HANDLE, &tpm->srk.object, &public, &tpm->srk.public_area,
                                reterr);
        if (r < 0)
                return r;
        tpm->srk.persistent = true;
        r = tpm_test_srk(tpm, tpm->srk.object, &public.publicArea, ret_usable, reterr);
        if (r < 0)
                return r;
        if (!*ret_usable) {
                release_key(tpm, &tpm->srk);
                tpm->srk_unsuitable = true;
        }
        return 0;
}

/* After tpm_list_persistent() and tpm_read_permanent(). */
int tpm_find_srk(Tpm *tpm, Failure *reterr) {
        bool usable = false;
        int r;

        if (tpm_is_listed(tpm, TPM_SRK_HANDLE)) {
                r = read_srk(tpm, &usable, reterr);
                if (r < 0 || usable)
                        return r;
                return tpm->read_only ? 0 : create_srk(tpm, reterr);
        }
        if (tpm->read_only)
                return 0; /* nobody needs one then, and creating it takes some TPMs half a minute */
        r = create_srk(tpm, reterr);
        if (r < 0)
                return r;
        if (!tpm->owner_proven)
                return 0;
        r = try_to_persist(tpm, &tpm->srk, TPM_SRK_HANDLE, reterr);
        if (r <= 0)
                return r;
        bytes_deinit(&tpm->srk.public_area);
        r = read_srk(tpm, &usable, reterr);
        if (r < 0 || usable)
                return r;
        return create_srk(tpm, reterr);
}

void tpm_release_keys(Tpm *tpm) {
        release_key(tpm, &tpm->ek);
        release_key(tpm, &tpm->srk);
}

static int store_key(Tpm *tpm, const TpmKey *key, TpmCacheKey *ret) {
        uint8_t *serialized = NULL;
        size_t size = 0;
        int r;

        if (key->object == ESYS_TR_NONE)
                return 0;
        if (!key->persistent) {
                (void) TPM_DO(tpm, Esys_ContextSave(tpm->esys, key->object, &ret->context));
                return 0;
        }
        if (Esys_TR_Serialize(tpm->esys, key->object, &serialized, &size) != TSS2_RC_SUCCESS)
                return -ENOMEM;
        r = bytes_copy(&ret->serialized, serialized, size);
        Esys_Free(serialized);
        return r;
}

int tpm_store_keys(Tpm *tpm) {
        TpmCache *cache = tpm->cache;
        int r;

        if (!cache)
                return 0;
        tpm_cache_clear(cache);
        cache->permanent = tpm->permanent;
        cache->permanent_known = tpm->permanent_known;
        r = store_key(tpm, &tpm->ek, &cache->ek);
        if (r < 0)
                return r;
        return store_key(tpm, &tpm->srk, &cache->srk);
}

/* False when it isn't in the cache or the TPM doesn't take it anymore: then it has to be found anew. */
static bool load_key(Tpm *tpm, const TpmCacheKey *cached, TpmKey *ret) {
        TSS2_RC rc;

        if (cached->serialized.size > 0) {
                rc = Esys_TR_Deserialize(tpm->esys, cached->serialized.data, cached->serialized.size,
                                         &ret->object);
                ret->persistent = true;
        } else if (cached->context)
                rc = TPM_DO(tpm, Esys_ContextLoad(tpm->esys, cached->context, &ret->object));
        else
                return false;
        if (rc == TSS2_RC_SUCCESS)
                return true;
        *ret = (TpmKey){ .object = ESYS_TR_NONE };
        return false;
}

int tpm_prepare_keys(Tpm *tpm, bool with_ek, Failure *reterr) {
        TpmCache *cache = tpm->cache;
        int r;

        if (tpm->srk.object != ESYS_TR_NONE && (!with_ek || tpm->ek.object != ESYS_TR_NONE))
                return 0;
        tpm_release_keys(tpm);
        if (cache) {
                if (cache->permanent_known) {
                        tpm->permanent = cache->permanent;
                        tpm->permanent_known = true;
                }
                if (load_key(tpm, &cache->srk, &tpm->srk) &&
                    (!with_ek || load_key(tpm, &cache->ek, &tpm->ek)))
                        return 0;
                tpm_release_keys(tpm);
        }

        r = tpm_list_persistent(tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_read_permanent(tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_find_srk(tpm, reterr);
        if (r < 0)
                return r;
        if (with_ek) {
                r = tpm_find_ek(tpm, reterr);
                if (r < 0)
                        return r;
        }
        return tpm_store_keys(tpm);
}
