#include "tpm-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include <tss2/tss2_tctildr.h>

#define DEFAULT_NODE       "/dev/tpmrm0"
#define RETRY_FIRST_USEC   (20 * USEC_PER_MSEC)
#define RETRY_MAX_USEC     (2 * USEC_PER_SEC)
#define HANDLE_FIRST       0x81000000u
#define HUB_KEY_HANDLE_MIN 0x81000002u
#define HUB_KEY_HANDLE_MAX 0x817FFFFFu

static void cache_key_deinit(TpmCacheKey *key) {
        bytes_deinit(&key->serialized);
        free(key->context);
        key->context = NULL;
}

void tpm_cache_clear(TpmCache *cache) {
        if (!cache)
                return;
        cache_key_deinit(&cache->ek);
        cache_key_deinit(&cache->srk);
        cache->permanent_known = false;
}

int tpm_cache_new(TpmCache **ret) {
        TpmCache *cache = calloc(1, sizeof(*cache));

        if (!cache)
                return -ENOMEM;
        *ret = cache;
        return 0;
}

TpmCache *tpm_cache_free(TpmCache *cache) {
        tpm_cache_clear(cache);
        free(cache);
        return NULL;
}

static int set_auth(TpmAuth *auth, const TpmAuthValue *value, const char *hierarchy, Failure *reterr) {
        size_t max = sizeof(auth->value.buffer);
        int r;

        if (value->size > max) {
                r = failure_set(
                        reterr, FAILURE_TPM_AUTH, NULL,
                        "The %s authorization value%s%s%s is longer than the %zu bytes a TPM can take",
                        hierarchy, value->source ? " in '" : "", value->source ? value->source : "",
                        value->source ? "'" : "", max);
                if (reterr)
                        reterr->remedy = TPM_AUTH_HINT;
                return r;
        }
        if (value->size > 0)
                memcpy(auth->value.buffer, value->data, value->size);
        auth->value.size = (uint16_t) value->size;
        auth->given = value->size > 0;
        return string_replace(&auth->source, value->source);
}

void tpm_describe_auth_fault(const TpmAuth *auth, char ret[static TPM_AUTH_FAULT_MAX]) {
        const uint8_t *value = auth->value.buffer;
        size_t size = auth->value.size;
        const char *oddity = size == 0                        ? ""
                             : memchr(value, '\0', size)      ? ", which contains a NUL byte"
                             : strchr(" \t", value[size - 1]) ? ", which ends in a blank"
                             : strchr(" \t", value[0])        ? ", which begins with a blank"
                                                              : "";

        (void) snprintf(ret, TPM_AUTH_FAULT_MAX, "the TPM rejects the authorization value in '%s'%s",
                        auth->source ? auth->source : "the settings", oddity);
}

/* tss2 tries one TCTI after the other when it is given no configuration, and /dev/tpm0 after /dev/tpmrm0
 * when "device" has none: whoever opens /dev/tpm0 shuts everybody else out. So the node is always named. */
static int open_tcti(Tpm *tpm, const char *conf, Failure *reterr) {
        const char *node = NULL;
        TSS2_RC rc;
        int r;

        if (!conf || streq(conf, "") || streq(conf, "device") || streq(conf, "device:"))
                conf = "device:" DEFAULT_NODE;
        if (strncmp(conf, "device:", strlen("device:")) == 0)
                node = conf + strlen("device:");
        if (node) {
                r = tpm_check_node(node, reterr);
                if (r < 0)
                        return r;
        }
        rc = Tss2_TctiLdr_Initialize(conf, &tpm->tcti);
        if (rc == TSS2_RC_SUCCESS)
                return 0;
        r = tpm_fail(tpm, reterr, rc, "The TPM can't be reached through '%s'", conf);
        if (!node && reterr && reterr->kind == FAILURE_TPM_MISSING)
                reterr->remedy =
                        "Check the value of Tcti= (or --tcti=): the library of what comes before its "
                        "colon, libtss2-tcti-…, has to be installed, and what comes after it has to "
                        "be there.";
        return r;
}

int tpm_open(Tpm **ret, const TpmSettings *settings, TpmCache *cache, Failure *reterr) {
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        TSS2_RC rc;
        int r;

        if (settings->hub_key_handle < HUB_KEY_HANDLE_MIN || settings->hub_key_handle > HUB_KEY_HANDLE_MAX ||
            settings->hub_key_handle == TPM_EK_HANDLE)
                return failure_set(reterr, FAILURE_CONFIG, NULL,
                                   "The hub key can't be kept at the handle 0x%08x",
                                   settings->hub_key_handle);

        tpm = malloc(sizeof(*tpm));
        if (!tpm)
                return -ENOMEM;
        *tpm = (Tpm){
                .cache = cache,
                .hub_key_handle = settings->hub_key_handle,
                .read_only = settings->read_only,
                .retry_left_usec = TPM_RETRY_USEC,
                .ek.object = ESYS_TR_NONE,
                .srk.object = ESYS_TR_NONE,
                .session = ESYS_TR_NONE,
                .key = ESYS_TR_NONE,
        };
        r = set_auth(&tpm->owner, &settings->owner_auth, "owner", reterr);
        if (r < 0)
                return r;
        r = set_auth(&tpm->endorsement, &settings->endorsement_auth, "endorsement", reterr);
        if (r < 0)
                return r;

        r = open_tcti(tpm, settings->tcti, reterr);
        if (r < 0)
                return r;
        rc = Esys_Initialize(&tpm->esys, tpm->tcti, NULL);
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM can't be used");

        *ret = TAKE(tpm);
        return 0;
}

Tpm *tpm_close(Tpm *tpm) {
        if (!tpm)
                return NULL;
        if (tpm->esys) {
                (void) tpm_end(tpm, 0);
                tpm_release_keys(tpm);
                Esys_Finalize(&tpm->esys);
        }
        if (tpm->tcti)
                Tss2_TctiLdr_Finalize(&tpm->tcti);
        free(tpm->owner.source);
        free(tpm->endorsement.source);
        explicit_bzero(tpm, sizeof(*tpm));
        free(tpm);
        return NULL;
}

void tpm_closep(Tpm **tpm) {
        *tpm = tpm_close(*tpm);
}

bool tpm_try_again(Tpm *tpm, TSS2_RC rc) {
        usec_t delay;
        struct timespec ts;

        if (!tpm_rc_is_retry(rc)) {
                tpm->retry_delay_usec = 0;
                return false;
        }
        delay = tpm->retry_delay_usec == 0 ? RETRY_FIRST_USEC : 2 * tpm->retry_delay_usec;
        if (delay > RETRY_MAX_USEC)
                delay = RETRY_MAX_USEC;
        if (delay > tpm->retry_left_usec)
                return false;

        tpm->retry_left_usec -= delay;
        tpm->retry_delay_usec = delay;
        ts = (struct timespec){ .tv_sec = (time_t) (delay / USEC_PER_SEC),
                                .tv_nsec = (long) (delay % USEC_PER_SEC * 1000) };
        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
        return true;
}

void tpm_flush(Tpm *tpm, ESYS_TR *object) {
        if (*object == ESYS_TR_NONE)
                return;
        /* When that fails, the TPM is gone or was reset, and with it the object. */
        (void) TPM_DO(tpm, Esys_FlushContext(tpm->esys, *object));
        *object = ESYS_TR_NONE;
}

int tpm_end(Tpm *tpm, int r) {
        tpm_flush(tpm, &tpm->session);
        tpm_flush(tpm, &tpm->key);
        tpm->authorizing = NULL;
        /* Whatever went wrong, what the cache says about the TPM may be why. */
        if (r < 0)
                tpm_cache_clear(tpm->cache);
        return r;
}

/* One reply lists all handles unless the TPM splits them up; TPM2_MAX_CAP_HANDLES are far more than any TPM
 * has room for. */
int tpm_list_handles(Tpm *tpm, uint32_t first, TPML_HANDLE *ret, Failure *reterr) {
        TPMI_YES_NO more = TPM2_YES;

        ret->count = 0;
        while (more && ret->count < TPM2_MAX_CAP_HANDLES) {
                uint32_t from = ret->count == 0 ? first : ret->handle[ret->count - 1] + 1;
                TPMS_CAPABILITY_DATA *data = NULL;
                const TPML_HANDLE *part;
                TSS2_RC rc;

                rc = TPM_DO(tpm,
                            Esys_GetCapability(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                               TPM2_CAP_HANDLES, from, TPM2_MAX_CAP_HANDLES, &more, &data));
                if (rc != TSS2_RC_SUCCESS)
                        return tpm_fail(tpm, reterr, rc, "The TPM does not list what it stores");
                part = &data->data.handles;
                if (data->capability != TPM2_CAP_HANDLES || part->count == 0)
                        more = TPM2_NO;
                for (uint32_t i = 0; data->capability == TPM2_CAP_HANDLES && i < part->count; i++)
                        if (ret->count < TPM2_MAX_CAP_HANDLES)
                                ret->handle[ret->count++] = part->handle[i];
                Esys_Free(data);
        }
        return 0;
}

int tpm_list_persistent(Tpm *tpm, Failure *reterr) {
        return tpm_list_handles(tpm, HANDLE_FIRST, &tpm->persistent, reterr);
}

bool tpm_is_listed(const Tpm *tpm, uint32_t handle) {
        for (uint32_t i = 0; i < tpm->persistent.count; i++)
                if (tpm->persistent.handle[i] == handle)
                        return true;
        return false;
}

int tpm_read_permanent(Tpm *tpm, Failure *reterr) {
        TPMS_CAPABILITY_DATA *data = NULL;
        TSS2_RC rc;

        if (tpm->permanent_known)
                return 0;
        rc = TPM_DO(tpm, Esys_GetCapability(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                            TPM2_CAP_TPM_PROPERTIES, TPM2_PT_PERMANENT, 1, NULL, &data));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM does not tell its properties");
        if (data->capability == TPM2_CAP_TPM_PROPERTIES && data->data.tpmProperties.count > 0 &&
            data->data.tpmProperties.tpmProperty[0].property == TPM2_PT_PERMANENT) {
                tpm->permanent = data->data.tpmProperties.tpmProperty[0].value;
                tpm->permanent_known = true;
        }
        Esys_Free(data);
        return 0;
}

int tpm_authorize(Tpm *tpm, ESYS_TR hierarchy, Failure *reterr) {
        bool owner = hierarchy == ESYS_TR_RH_OWNER;
        TpmAuth *auth = owner ? &tpm->owner : &tpm->endorsement;
        TPMA_PERMANENT set = owner ? TPMA_PERMANENT_OWNERAUTHSET : TPMA_PERMANENT_ENDORSEMENTAUTHSET;
        TSS2_RC rc;
        int r;

        assert(owner || hierarchy == ESYS_TR_RH_ENDORSEMENT);
        tpm->authorizing = auth;
        if (!auth->given || auth->settled)
                return 0; /* empty is what ESYS starts with */
        r = tpm_read_permanent(tpm, reterr);
        if (r < 0)
                return r;
        if (tpm->permanent & set) {
                rc = Esys_TR_SetAuth(tpm->esys, hierarchy, &auth->value);
                if (rc != TSS2_RC_SUCCESS)
                        return tpm_fail(tpm, reterr, rc, "The %s authorization value can't be used",
                                        owner ? "owner" : "endorsement");
        }
        auth->settled = true;
        return 0;
}
