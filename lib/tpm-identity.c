#include "tpm-internal.h"

#include <errno.h>

bool tpm_is_hub_key(const TPMT_PUBLIC *key) {
        return key->type == TPM2_ALG_KEYEDHASH && (key->objectAttributes & TPMA_OBJECT_SIGN_ENCRYPT) &&
               !(key->objectAttributes & (TPMA_OBJECT_DECRYPT | TPMA_OBJECT_RESTRICTED)) &&
               key->parameters.keyedHashDetail.scheme.scheme == TPM2_ALG_HMAC;
}

static int identify_hub_key(Tpm *tpm, TpmIdentity *identity, Failure *reterr) {
        ESYS_TR object = ESYS_TR_NONE;
        TPM2B_PUBLIC public;
        int r;

        identity->hub_key_state = TPM_HUB_KEY_EMPTY;
        if (!tpm_is_listed(tpm, tpm->hub_key_handle))
                return 0;
        r = tpm_read_persistent(tpm, tpm->hub_key_handle, &object, &public, NULL, reterr);
        if (r < 0)
                return r;
        r = tpm_name(tpm, object, &identity->hub_key_name, reterr);
        (void) Esys_TR_Close(tpm->esys, &object);
        if (r < 0)
                return r;
        identity->hub_key_state =
                tpm_is_hub_key(&public.publicArea) ? TPM_HUB_KEY_HMAC : TPM_HUB_KEY_FOREIGN;
        return 0;
}

/* With a value that may be wrong the only way to know is to use it; a trial session is the one that changes
 * nothing. The owner's hierarchy has no protection against dictionary attacks, so a wrong one costs nothing.
 */
static int prove_auth(Tpm *tpm, ESYS_TR hierarchy, bool *ret, Failure *reterr) {
        const TPMT_SYM_DEF none = { .algorithm = TPM2_ALG_NULL };
        TSS2_RC rc;
        int r;

        r = tpm_authorize(tpm, hierarchy, reterr);
        if (r < 0)
                return r;
        rc = TPM_DO(tpm, Esys_StartAuthSession(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                               ESYS_TR_NONE, ESYS_TR_NONE, NULL, TPM2_SE_TRIAL, &none,
                                               TPM2_ALG_SHA256, &tpm->session));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM does not start a session");
        rc = TPM_DO(tpm, Esys_PolicySecret(tpm->esys, hierarchy, tpm->session, ESYS_TR_PASSWORD,
                                           ESYS_TR_NONE, ESYS_TR_NONE, NULL, NULL, NULL, 0, NULL, NULL));
        tpm_flush(tpm, &tpm->session);
        tpm->authorizing = NULL;
        if (rc != TSS2_RC_SUCCESS && !tpm_rc_is_auth(rc))
                return tpm_fail(tpm, reterr, rc, "The %s authorization value can't be checked",
                                hierarchy == ESYS_TR_RH_OWNER ? "owner" : "endorsement");
        *ret = rc == TSS2_RC_SUCCESS;
        return 0;
}

static int prove_owner_auth(Tpm *tpm, TpmIdentity *identity, Failure *reterr) {
        int r;

        if (!tpm->owner_proven && (tpm->permanent & TPMA_PERMANENT_OWNERAUTHSET)) {
                if (!tpm->owner.given)
                        return 0;
                r = prove_auth(tpm, ESYS_TR_RH_OWNER, &tpm->owner_proven, reterr);
                if (r < 0)
                        return r;
                if (!tpm->owner_proven) {
                        tpm_describe_auth_fault(&tpm->owner, identity->owner_auth_fault);
                        return 0;
                }
        }
        identity->owner_auth_usable = true;
        return 0;
}

static int test_auth(Tpm *tpm, TpmHierarchy which, char *ret_fault, Failure *reterr) {
        bool owner = which == TPM_HIERARCHY_OWNER, accepted = false;
        const TpmAuth *auth = owner ? &tpm->owner : &tpm->endorsement;
        int r;

        ret_fault[0] = '\0';
        if (!auth->given)
                return 0;
        r = prove_auth(tpm, owner ? ESYS_TR_RH_OWNER : ESYS_TR_RH_ENDORSEMENT, &accepted, reterr);
        if (r >= 0 && !accepted)
                tpm_describe_auth_fault(auth, ret_fault);
        return r;
}

int tpm_test_auth(Tpm *tpm, TpmHierarchy hierarchy, char ret_fault[static TPM_AUTH_FAULT_MAX],
                  Failure *reterr) {
        return tpm_end(tpm, test_auth(tpm, hierarchy, ret_fault, reterr));
}

static int identify(Tpm *tpm, TpmIdentity *identity, Failure *reterr) {
        int r;

        r = tpm_list_persistent(tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_read_permanent(tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_find_ek(tpm, reterr);
        if (r < 0)
                return r;
        r = tpm_find_srk(tpm, reterr);
        if (r < 0)
                return r;
        r = identify_hub_key(tpm, identity, reterr);
        if (r < 0)
                return r;
        r = prove_owner_auth(tpm, identity, reterr);
        if (r < 0)
                return r;

        identity->ek_persistent = tpm->ek.persistent;
        identity->ek_tcg_template = tpm->ek_tcg_template;
        identity->srk_persistent = tpm->srk.persistent;
        identity->srk_unsuitable = tpm->srk_unsuitable;
        r = bytes_copy(&identity->ek_public, tpm->ek.public_area.data, tpm->ek.public_area.size);
        if (r < 0)
                return r;
        r = bytes_copy(&identity->srk_public, tpm->srk.public_area.data, tpm->srk.public_area.size);
        if (r < 0)
                return r;
        return tpm_store_keys(tpm);
}

int tpm_identity(Tpm *tpm, TpmIdentity *ret, Failure *reterr) {
        CLEANUP(tpm_identity_deinit) TpmIdentity identity = {};
        int r;

        /* afresh: this is what notices another TPM, or one that was cleared */
        tpm_release_keys(tpm);
        tpm->permanent_known = tpm->owner_proven = tpm->srk_unsuitable = false;
        r = tpm_end(tpm, identify(tpm, &identity, reterr));
        if (r < 0)
                return r;
        *ret = identity;
        identity = (TpmIdentity){};
        return 0;
}

void tpm_identity_deinit(TpmIdentity *identity) {
        bytes_deinit(&identity->ek_public);
        bytes_deinit(&identity->srk_public);
        bytes_deinit(&identity->hub_key_name);
}
