/*
 * What the files of the Tpm share; nobody else includes this.
 *
 * Of transient things in the TPM a job has at most the two storage keys, one policy session and one loaded
 * key. They are members of the Tpm, so that every path gives them back: session and key at the end of each
 * public function, the storage keys in tpm_close().
 */
#pragma once

#include <tss2/tss2_esys.h>

#include "tpm.h"

#define TPM_RSA_SIZE       256u /* EK and SRK are RSA-2048 */
#define TPM_INNER_KEY_SIZE 16u  /* the challenge's inner wrapping is AES-128 */

/* EK or SRK as this job uses it. */
typedef struct TpmKey {
        ESYS_TR object; /* ESYS_TR_NONE: not looked up yet */
        bool persistent;
        Bytes public_area; /* marshalled TPM2B_PUBLIC; empty when the key comes from the cache */
} TpmKey;

typedef struct TpmAuth {
        TPM2B_AUTH value; /* secret */
        bool given;
        bool settled; /* ESYS has been told */
        char *source; /* NULL: none */
} TpmAuth;

struct Tpm {
        TSS2_TCTI_CONTEXT *tcti;
        ESYS_CONTEXT *esys;
        TpmCache *cache;

        uint32_t hub_key_handle;
        bool read_only;
        TpmAuth owner, endorsement;
        const TpmAuth *authorizing; /* what the next command uses; NULL: neither */
        usec_t retry_left_usec, retry_delay_usec;

        TPML_HANDLE persistent; /* what the TPM lists */
        TPMA_PERMANENT permanent;
        bool permanent_known;
        bool owner_proven; /* the TPM has taken the owner authorization in this job */

        TpmKey ek, srk;
        bool ek_tcg_template, srk_unsuitable;
        ESYS_TR session, key;
};

/* What a later job needs to go on without asking the TPM what it has. */
typedef struct TpmCacheKey {
        Bytes serialized;      /* Esys_TR_Serialize() of a persistent key */
        TPMS_CONTEXT *context; /* or the saved context of a transient one */
} TpmCacheKey;

struct TpmCache {
        TpmCacheKey ek, srk;
        TPMA_PERMANENT permanent;
        bool permanent_known;
};

/* tpm.c */

/* Runs an ESYS call until the TPM no longer answers "try again" or the budget is used up. */
#define TPM_DO(tpm, call)                                                                                   \
        ({                                                                                                  \
                TSS2_RC _tpm_rc;                                                                            \
                do                                                                                          \
                        _tpm_rc = (call);                                                                   \
                while (tpm_try_again(tpm, _tpm_rc));                                                        \
                _tpm_rc;                                                                                    \
        })
bool tpm_try_again(Tpm *tpm, TSS2_RC rc);

void tpm_flush(Tpm *tpm, ESYS_TR *object); /* and sets it to ESYS_TR_NONE */
int tpm_end(Tpm *tpm, int r);              /* of every public function: returns r */
/* Those of the first one's kind, from it on. */
int tpm_list_handles(Tpm *tpm, uint32_t first, TPML_HANDLE *ret, Failure *reterr);
int tpm_list_persistent(Tpm *tpm, Failure *reterr);
bool tpm_is_listed(const Tpm *tpm, uint32_t handle);
int tpm_read_permanent(Tpm *tpm, Failure *reterr); /* once per job */
/* Gives ESYS the authorization value of a hierarchy. The empty one is used when the TPM has none set, so
 * that one credential can serve a fleet. */
int tpm_authorize(Tpm *tpm, ESYS_TR hierarchy, Failure *reterr);
/* Why the TPM rejects the value: "the TPM rejects the value in '…'". */
void tpm_describe_auth_fault(const TpmAuth *auth, char ret[static TPM_AUTH_FAULT_MAX]);
void tpm_cache_clear(TpmCache *cache);

/* tpm-error.c */
/* The response code of the TPM itself, whoever handed it through; 0 when the code is not the TPM's. */
TPM2_RC tpm_rc(TSS2_RC rc);
bool tpm_rc_is_auth(TSS2_RC rc);
bool tpm_rc_is_retry(TSS2_RC rc);
bool tpm_rc_is_parameter(TSS2_RC rc); /* the TPM does not take one of the command's parameters */
/* Fills reterr with the kind that fits the code; the sentence is the formatted text and the code's meaning.
 * Asks the TPM for its recovery time when it is in lockout. */
int tpm_fail(Tpm *tpm, Failure *reterr, TSS2_RC rc, const char *format, ...) PRINTF_LIKE(4, 5);
bool tpm_read_property(Tpm *tpm, TPM2_PT property, uint32_t *ret); /* false: the TPM does not say */
/* "storage hierarchy is", for a message; NULL: those that DPS needs are enabled. */
const char *tpm_disabled_hierarchy(Tpm *tpm);
/* What the input of a command is accused of when the TPM does not take it. */
typedef struct TpmFault {
        FailureKind kind;
        const char *sentence;
} TpmFault;

/* The same, but with the fault when the code says that the input is to blame: a parameter's error, or
 * TPM_RC_FAILURE from a TPM that goes on working (what libtpms says to a credential for another EK). The
 * text says what failed when the input is not to blame. */
int tpm_fail_input(Tpm *tpm, Failure *reterr, TSS2_RC rc, const TpmFault *fault, const char *text);
/* Why a device node can't be used, found out by opening it; 0 when it can. */
int tpm_check_node(const char *path, Failure *reterr);

/* tpm-keys.c */
bool tpm_is_ek(const TPMT_PUBLIC *key); /* what ActivateCredential needs, with the TCG profile's policy */
/* A use of the key with the empty authorization value can't bring the TPM nearer to lockout. Without noDA
 * each wrong value counts, and so does each loss of power after a use with the right one. */
bool tpm_is_harmless(TPMA_OBJECT attributes);
bool tpm_is_srk(const TPMT_PUBLIC *key);
/* Tests whether the key, which is the object's public area, serves as SRK: by its attributes, then by one
 * use with the empty authorization value. The use is skipped when a wrong value would count towards lockout.
 */
int tpm_test_srk(Tpm *tpm, ESYS_TR object, const TPMT_PUBLIC *key, bool *ret_usable, Failure *reterr);
int tpm_find_ek(Tpm *tpm, Failure *reterr);
int tpm_find_srk(Tpm *tpm, Failure *reterr);
void tpm_release_keys(Tpm *tpm);
/* Takes EK and SRK from the cache, or finds them. Adopting needs the SRK only. */
int tpm_prepare_keys(Tpm *tpm, bool with_ek, Failure *reterr);
int tpm_store_keys(Tpm *tpm); /* into the cache; -ENOMEM */
int tpm_read_persistent(Tpm *tpm, uint32_t handle, ESYS_TR *ret, TPM2B_PUBLIC *ret_public,
                        Bytes *ret_marshalled, Failure *reterr);
int tpm_name(Tpm *tpm, ESYS_TR object, Bytes *ret, Failure *reterr);
TSS2_RC tpm_persist(Tpm *tpm, ESYS_TR object, uint32_t handle, ESYS_TR *ret);

/* tpm-import.c */
/* Loads a key below the SRK into tpm->key. */
int tpm_load(Tpm *tpm, const TPM2B_PRIVATE *private, const TPM2B_PUBLIC *public, const TpmFault *fault,
             Failure *reterr);
/* With TPM2_HMAC, or as a sequence on a TPM that does not have this command. */
TSS2_RC tpm_hmac(Tpm *tpm, ESYS_TR key, const void *message, size_t size, uint8_t ret[static SHA256_SIZE]);

/* tpm-identity.c */
bool tpm_is_hub_key(const TPMT_PUBLIC *key); /* one that signs HMACs and nothing else */

/* tpm-blob.c */
typedef struct TpmBlob {
        TPM2B_ID_OBJECT credential;
        TPM2B_ENCRYPTED_SECRET secret;
        TPM2B_PRIVATE duplicate;
        TPM2B_ENCRYPTED_SECRET seed;
        TPM2B_PUBLIC public_area;
} TpmBlob;

/* Bounded; ignores what follows the fifth part. -EBADMSG and *ret_why, a static half-sentence. */
int tpm_blob_parse(TpmBlob *ret, const void *data, size_t size, const char **ret_why);
/* An HMAC key as the service makes them: TPM2B_PUBLIC and nothing after it. Same errors. */
int tpm_hmac_public_parse(TPM2B_PUBLIC *ret, const void *data, size_t size, const char **ret_why);
int tpm_private_parse(TPM2B_PRIVATE *ret, const void *data, size_t size, const char **ret_why);
