/*
 * Tpm: the TPM 2.0 as DPS needs it, synchronous, through ESYS. The only user of tss2.
 *
 * The endorsement key (EK) at 0x81010001 and the storage root key (SRK) at 0x81000001 are used when they
 * fit, made persistent when missing (owner authorization permitting) and used transiently otherwise. An SRK
 * fits when its authorization value is empty and no use of it can count towards the TPM's lockout.
 * Challenge keys are imported and loaded transiently and flushed on every path. The hub key lives at the
 * configured handle and is the only object that is ever evicted, under the rules of tpm_adopt_hub_key().
 *
 * Blobs are the service's authenticationKey, decoded: TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET,
 * TPM2B_PRIVATE, TPM2B_ENCRYPTED_SECRET, TPM2B_PUBLIC and further data that is ignored, all big-endian as on
 * the TPM's wire. Public and private areas cross this interface as marshalled TPM2B structures, size bytes
 * included; names are the TPM's (nameAlg and digest).
 *
 * TPM_RC_RETRY, YIELDED, TESTING and NV_RATE are retried here with backoff, within TPM_RETRY_USEC; every
 * other error is a Failure of the kinds tpm-*.
 */
#pragma once

#include "failure.h"

#define TPM_EK_HANDLE       0x81010001u
#define TPM_SRK_HANDLE      0x81000001u
#define TPM_DEFAULT_HUB_KEY 0x81000100u
#define TPM_RETRY_USEC      (20 * USEC_PER_SEC)
#define TPM_BLOB_MAX        ((size_t) 4096)
#define TPM_MESSAGE_MAX     ((size_t) 1024) /* TPM2_MAX_DIGEST_BUFFER: what one TPM2_HMAC takes */

typedef struct Tpm Tpm;
typedef struct TpmCache
        TpmCache; /* EK and SRK as ESYS objects, serialized: saves later calls their ReadPublics */

/* The authorization value of a hierarchy: any bytes, borrowed during tpm_open(). Messages about a value that
 * the TPM rejects name its source, a file, and nothing of the value. */
typedef struct TpmAuthValue {
        const void *data;
        size_t size; /* 0: empty */
        const char *source;
} TpmAuthValue;

/* What to do about a rejected value. */
#define TPM_AUTH_HINT                                                                                       \
        "Correct the credential where systemd takes it from (/etc/credstore, the kernel command line, the " \
        "firmware). Line ends at its end do not count; every other byte does, blanks included. Then run "   \
        "'systemctl stop dps-tpmd' and 'dps-provision retry'."

typedef struct TpmSettings {
        const char *tcti; /* for Tss2_TctiLdr_Initialize(), e.g. "device:/dev/tpmrm0" */
        uint32_t hub_key_handle;
        TpmAuthValue owner_auth, endorsement_auth;
        bool read_only; /* create nothing persistent (dps-provision enrollment) */
} TpmSettings;

#define TPM_AUTH_FAULT_MAX 256

typedef enum TpmHubKeyState {
        TPM_HUB_KEY_EMPTY,
        TPM_HUB_KEY_HMAC,    /* a KEYEDHASH HMAC signing key: hub_key_name is set */
        TPM_HUB_KEY_FOREIGN, /* something else */
} TpmHubKeyState;

typedef struct TpmIdentity {
        Bytes ek_public, srk_public; /* TPM2B_PUBLIC */
        bool ek_persistent, srk_persistent;
        bool ek_tcg_template; /* the EK's template is TCG L-1 with 256 zero bytes of unique, as far as can be
                                 told from its public area (attributes, policy, symmetric, key size) */
        bool owner_auth_usable; /* nothing else than ownerAuth that we don't have keeps us from persisting */
        bool srk_unsuitable;    /* the object at 0x81000001 is unusable, or its use could lock the TPM */
        TpmHubKeyState hub_key_state;
        Bytes hub_key_name; /* name of what is at the handle, empty when TPM_HUB_KEY_EMPTY */
        char owner_auth_fault[TPM_AUTH_FAULT_MAX]; /* why a given value is not usable; "": none was given */
} TpmIdentity;

TpmCache *tpm_cache_free(TpmCache *cache);
int tpm_cache_new(TpmCache **ret);

/* cache may be NULL; it is borrowed until tpm_close() and forgets everything after a failed call. */
int tpm_open(Tpm **ret, const TpmSettings *settings, TpmCache *cache, Failure *reterr);
Tpm *tpm_close(Tpm *tpm); /* flushes what is left */
void tpm_closep(Tpm **tpm);

int tpm_identity(Tpm *tpm, TpmIdentity *ret, Failure *reterr);
void tpm_identity_deinit(TpmIdentity *identity);

/* What the manufacturer stored about the TPM's endorsement keys (TCG EK Credential Profile 2.5,
 * section 2.2.1): X.509 in DER as a rule, perhaps with padding behind it, of whatever keys the profile
 * knows. ek-certificate.h makes sense of it. */
#define TPM_CERTIFICATES_MAX    10
#define TPM_CERTIFICATE_MAX     ((size_t) 8192) /* bytes of one NV index */
#define TPM_CERTIFICATE_RSA2048 0x01c00002u     /* the NV index of the one for the key that DPS uses */

typedef struct TpmCertificates {
        struct TpmCertificate {
                uint32_t index;
                Bytes data;
        } keys[TPM_CERTIFICATES_MAX];
        size_t count;
        Bytes chain; /* the issuers': 0x01C00100 to 0x01C001FF, one behind the other */
} TpmCertificates;

/* Needs no authorization where the NV indices are as the profile says, else the owner's. */
int tpm_certificates(Tpm *tpm, TpmCertificates *ret, Failure *reterr);
void tpm_certificates_deinit(TpmCertificates *certificates);

/* Modulus (big-endian) and exponent in a TPM2B_PUBLIC of an RSA key; -EBADMSG. */
int tpm_rsa_public(const Bytes *public_area, Bytes *ret_modulus, uint32_t *ret_exponent);

/* Activates and imports the challenge, computes HMAC-SHA256 over message (at most TPM_MESSAGE_MAX bytes)
 * with the key in it, leaves nothing behind in the TPM. FAILURE_IDENTITY_MISMATCH: the challenge was made
 * for another EK. FAILURE_PROTOCOL: the blob is malformed. */
int tpm_sign_challenge(Tpm *tpm, const Bytes *blob, const void *message, size_t message_size,
                       uint8_t ret_hmac[static SHA256_SIZE], Failure *reterr);

/* Activates and imports the hub's key: the result is wrapped by the SRK, worthless outside this TPM. Errors
 * as above. */
int tpm_import_hub_key(Tpm *tpm, const Bytes *blob, Bytes *ret_private, Bytes *ret_public, Failure *reterr);

/* Failure.code of FAILURE_TPM_HANDLE_TAKEN when the handle holds an HMAC key that is not ours. */
#define TPM_CODE_HUB_KEY "hub-key"

/* Makes the wrapped key persistent at the handle. What is there already:
 *   the same key (compared by the HMAC of one random nonce): nothing is written, *ret_changed is false;
 *   an HMAC key with one of the names: evicted first;
 *   anything else: FAILURE_TPM_HANDLE_TAKEN, nothing touched.
 * *ret_name is the name of what is at the handle afterwards. FAILURE_IDENTITY_MISMATCH: this TPM no longer
 * takes the wrapped key (it was cleared). */
int tpm_adopt_hub_key(Tpm *tpm, const Bytes *private_area, const Bytes *public_area, const Bytes *names,
                      size_t name_count, bool *ret_changed, Bytes *ret_name, Failure *reterr);

/* What is at the hub key's handle now. *ret_name is empty when the handle is empty. */
int tpm_hub_key(Tpm *tpm, TpmHubKeyState *ret_state, Bytes *ret_name, Failure *reterr);

/* Evicts the hub key if it has one of the names; nothing to do (0) when the handle is empty. */
int tpm_forget_hub_key(Tpm *tpm, const Bytes *names, size_t name_count, Failure *reterr);

/* --- for a doctor: nothing is changed, no authorization value is used that could count towards lockout ---
 */

typedef struct TpmProperties {
        char manufacturer[5];
        uint32_t firmware[2];
        uint32_t lockout_counter,
                lockout_limit;         /* wrong authorization values so far; from which on it is locked */
        uint32_t lockout_interval_sec; /* takes back one of them every so many seconds; 0: never */
        uint32_t persistent_available; /* objects that still fit, as far as it knows */
        bool in_lockout, owner_auth_set, endorsement_auth_set;
} TpmProperties;

int tpm_properties(Tpm *tpm, TpmProperties *ret, Failure *reterr);

/* Tries the value that tpm_open() was given for the hierarchy, which has no lockout. ret_fault says why the
 * TPM rejects it; "" when it is right, or none was given. */
typedef enum TpmHierarchy {
        TPM_HIERARCHY_OWNER,
        TPM_HIERARCHY_ENDORSEMENT
} TpmHierarchy;
int tpm_test_auth(Tpm *tpm, TpmHierarchy hierarchy, char ret_fault[static TPM_AUTH_FAULT_MAX],
                  Failure *reterr);

/* What sits at a persistent handle, and what it could be used as. */
typedef struct TpmObject {
        bool present, is_ek, is_hub_key;
        bool is_srk;          /* at TPM_SRK_HANDLE, with an empty authorization value */
        char description[96]; /* "an RSA-2048 storage key"; "" for nothing */
} TpmObject;

int tpm_object(Tpm *tpm, uint32_t handle, TpmObject *ret, Failure *reterr);
