/*
 * TpmCrypto: the service's half of the TPM cryptography, without a TPM: parses the public areas that a
 * device sends, and makes the authenticationKey blobs that only the TPM with that endorsement key (EK) can
 * open, and only into a key below that storage root key (SRK).
 *
 * A blob is what the real service sends, byte for byte in its layout (Trusted Platform Module Library, part
 * 1, sections 23 "Protected Storage" and 24 "Credential Protection"; all integers big-endian):
 *
 *     TPM2B_ID_OBJECT         52   TPM2_MakeCredential to the EK, bound to the SRK's name: a 16-byte inner
 * key TPM2B_ENCRYPTED_SECRET 256   its seed, RSA-OAEP, label "IDENTITY" TPM2B_PRIVATE          142   the
 * HMAC key, wrapped by the inner key and then by a seed of its own TPM2B_ENCRYPTED_SECRET 256   that seed
 * for the SRK, RSA-OAEP, label "DUPLICATE" TPM2B_PUBLIC            48   KEYEDHASH, HMAC with SHA-256, sign |
 * userWithAuth | noDA, no policy TPM2B                  154   data that no client looks at
 *
 * It is a library of its own, so that tests of the device's half can play the service.
 */
#pragma once

#include "util.h"

#define TPM_CRYPTO_PUBLIC_MAX ((size_t) 512)
#define TPM_CRYPTO_RSA_SIZE   256u
#define TPM_CRYPTO_NAME_SIZE  34u /* nameAlg and a SHA-256 digest */
#define TPM_CRYPTO_KEY_SIZE   32u
#define TPM_CRYPTO_BLOB_SIZE  ((size_t) 920)

/* An RSA-2048 storage key (restricted, decrypt, AES-128-CFB, nameAlg SHA-256): what an EK or SRK must be. */
typedef struct TpmStorageKey {
        uint8_t modulus[TPM_CRYPTO_RSA_SIZE];
        uint32_t exponent;
        uint8_t name[TPM_CRYPTO_NAME_SIZE];
} TpmStorageKey;

/* data: one TPM2B_PUBLIC and nothing after it. -EBADMSG when it is malformed, -EOPNOTSUPP when it is another
 * kind of key; *ret_why (may be NULL) is then a static half-sentence for people. */
int tpm_storage_key_parse(TpmStorageKey *ret, const void *data, size_t size, const char **ret_why);

/* A key of the right form that no TPM has the private half of: for challenges that nobody can answer. */
int tpm_storage_key_random(TpmStorageKey *ret);

/* An HMAC key as it is wrapped. What the real service sends has TPM_CRYPTO_KEY_SIZE bytes and
 * TPM_CRYPTO_ATTRIBUTES. */
#define TPM_CRYPTO_HMAC_KEY_MAX ((size_t) 128)
#define TPM_CRYPTO_FIXED_TPM    0x00000002u
#define TPM_CRYPTO_WITH_AUTH    0x00000040u
#define TPM_CRYPTO_NO_DA        0x00000400u
#define TPM_CRYPTO_SIGN         0x00040000u
#define TPM_CRYPTO_ATTRIBUTES   (TPM_CRYPTO_SIGN | TPM_CRYPTO_WITH_AUTH | TPM_CRYPTO_NO_DA)
typedef struct TpmHmacKey {
        const uint8_t *data;
        size_t size;
        uint32_t attributes; /* TPMA_OBJECT */
} TpmHmacKey;

/* Wraps any key, also one that a TPM refuses. -EINVAL: longer than TPM_CRYPTO_HMAC_KEY_MAX. */
int tpm_crypto_wrap_key(Bytes *ret_blob, const TpmStorageKey *ek, const TpmStorageKey *srk,
                        const TpmHmacKey *key);

/* Wraps an HMAC key as above: TPM_CRYPTO_BLOB_SIZE bytes. Each call gives other bytes, the public area's
 * `unique` included: two blobs of the same key can't be recognised as such. */
int tpm_crypto_wrap(Bytes *ret_blob, const TpmStorageKey *ek, const TpmStorageKey *srk,
                    const uint8_t key[static TPM_CRYPTO_KEY_SIZE]);

/* The same from the two TPM2B_PUBLICs as the device sends them. */
int tpm_crypto_wrap_for(Bytes *ret_blob, const Bytes *ek_public, const Bytes *srk_public,
                        const uint8_t key[static TPM_CRYPTO_KEY_SIZE]);

/* TPM2_MakeCredential: id_object gets TPM_CRYPTO_ID_OBJECT_SIZE bytes, secret TPM_CRYPTO_RSA_SIZE bytes,
 * both without their size fields. name is that of the object to be given to ActivateCredential. */
#define TPM_CRYPTO_CREDENTIAL_SIZE 16u
#define TPM_CRYPTO_ID_OBJECT_SIZE  52u
int tpm_crypto_make_credential(uint8_t id_object[static TPM_CRYPTO_ID_OBJECT_SIZE],
                               uint8_t secret[static TPM_CRYPTO_RSA_SIZE], const TpmStorageKey *ek,
                               const uint8_t name[static TPM_CRYPTO_NAME_SIZE],
                               const uint8_t credential[static TPM_CRYPTO_CREDENTIAL_SIZE]);

int tpm_crypto_hmac(const uint8_t *key, size_t key_size, const void *data, size_t size,
                    uint8_t ret[static SHA256_SIZE]);
int tpm_crypto_random(void *ret, size_t size);
