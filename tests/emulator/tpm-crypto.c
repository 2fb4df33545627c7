#include "tpm-crypto.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include <mbedtls/aes.h>
#include <mbedtls/md.h>
#include <mbedtls/pk.h>
#include <mbedtls/rsa.h>

/* TCG algorithm registry and Trusted Platform Module Library part 2 */
#define ALG_RSA       0x0001u
#define ALG_HMAC      0x0005u
#define ALG_AES       0x0006u
#define ALG_KEYEDHASH 0x0008u
#define ALG_SHA256    0x000Bu
#define ALG_NULL      0x0010u
#define ALG_CFB       0x0043u

#define ATTRIBUTE_RESTRICTED   0x00010000u
#define ATTRIBUTE_DECRYPT      0x00020000u
#define ATTRIBUTES_STORAGE_KEY (ATTRIBUTE_RESTRICTED | ATTRIBUTE_DECRYPT)

#define AES_KEY_SIZE     16u
#define DEFAULT_EXPONENT 65537u
#define PUBLIC_SIZE      48u
#define TRAILER_SIZE     154u

/* of a key of so many bytes: TPM2B_SENSITIVE with a 32-byte seed, its inner wrapping, TPM2B_PRIVATE */
#define SENSITIVE_SIZE(key_size)         (2 + 2 + 2 + 2 + SHA256_SIZE + 2 + (key_size))
#define PRIVATE_SENSITIVE_SIZE(key_size) (2 + SHA256_SIZE + SENSITIVE_SIZE(key_size))
#define PRIVATE_SIZE(key_size)           (2 + SHA256_SIZE + PRIVATE_SENSITIVE_SIZE(key_size))
#define PRIVATE_MAX                      PRIVATE_SIZE(TPM_CRYPTO_HMAC_KEY_MAX)
#define BLOB_SIZE(key_size)                                                                                 \
        (6 * 2 + TPM_CRYPTO_ID_OBJECT_SIZE + 2 * TPM_CRYPTO_RSA_SIZE + PRIVATE_SIZE(key_size) +             \
         PUBLIC_SIZE + TRAILER_SIZE)

static_assert(BLOB_SIZE(TPM_CRYPTO_KEY_SIZE) == TPM_CRYPTO_BLOB_SIZE, "the parts make up the blob");

/* Big-endian reading with bounds: past the end everything reads as 0 and bad is set. */
typedef struct Reader {
        const uint8_t *data;
        size_t left;
        bool bad;
} Reader;

static const uint8_t *read_bytes(Reader *r, size_t size) {
        const uint8_t *start = r->data;

        if (r->bad || size > r->left) {
                r->bad = true;
                return NULL;
        }
        r->data += size;
        r->left -= size;
        return start;
}

static uint32_t read_number(Reader *r, size_t size) {
        const uint8_t *p = read_bytes(r, size);
        uint32_t value = 0;

        for (size_t i = 0; p && i < size; i++)
                value = value << 8 | p[i];
        return value;
}

static uint8_t *put(uint8_t *at, const void *data, size_t size) {
        memcpy(at, data, size);
        return at + size;
}

static uint8_t *put_number(uint8_t *at, uint32_t value, size_t size) {
        for (size_t i = 0; i < size; i++)
                at[i] = (uint8_t) (value >> (8 * (size - 1 - i)));
        return at + size;
}

static uint8_t *put_sized(uint8_t *at, const void *data, size_t size) {
        return put(put_number(at, (uint32_t) size, 2), data, size);
}

int tpm_crypto_random(void *ret, size_t size) {
        uint8_t *at = ret;

        while (size > 0) {
                ssize_t n = getrandom(at, size, 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                at += n;
                size -= (size_t) n;
        }
        return 0;
}

int tpm_crypto_hmac(const uint8_t *key, size_t key_size, const void *data, size_t size,
                    uint8_t ret[static SHA256_SIZE]) {
        const mbedtls_md_info_t *md = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);

        return md && mbedtls_md_hmac(md, key, key_size, data, size, ret) == 0 ? 0 : -EIO;
}

/* KDFa of part 1, section 11.4.10.2, for at most one block of SHA-256: HMAC(key, 1 || label || 0 || context
 * || bits); contextV is empty wherever we need it. */
static int kdfa(const uint8_t seed[static SHA256_SIZE], const char *label, const uint8_t *context,
                size_t context_size, uint8_t *ret, size_t size) {
        uint8_t block[SHA256_SIZE], message[128], *at = message;
        size_t label_size = strlen(label) + 1;
        int r;

        if (4 + label_size + context_size + 4 > sizeof(message) || size > SHA256_SIZE)
                return -EINVAL;
        at = put_number(at, 1, 4);
        at = put(at, label, label_size);
        if (context_size > 0)
                at = put(at, context, context_size);
        at = put_number(at, (uint32_t) size * 8, 4);

        r = tpm_crypto_hmac(seed, SHA256_SIZE, message, (size_t) (at - message), block);
        if (r == 0)
                memcpy(ret, block, size);
        explicit_bzero(block, sizeof(block));
        return r;
}

/* AES-128-CFB in place with a zero IV, as every wrapping of the TPM has it. */
static int encrypt(const uint8_t key[static AES_KEY_SIZE], uint8_t *data, size_t size) {
        mbedtls_aes_context aes;
        unsigned char iv[16] = {};
        size_t offset = 0;
        int r;

        mbedtls_aes_init(&aes);
        r = mbedtls_aes_setkey_enc(&aes, key, AES_KEY_SIZE * 8);
        if (r == 0)
                r = mbedtls_aes_crypt_cfb128(&aes, MBEDTLS_AES_ENCRYPT, size, &offset, iv, data, data);
        mbedtls_aes_free(&aes);
        return r == 0 ? 0 : -EIO;
}

/* The outer wrapping that credentials and duplicates share (part 1, sections 22.4 and 24.4): data becomes
 * encrypted in place, integrity gets the HMAC over it and the name. */
static int wrap_outer(const uint8_t seed[static SHA256_SIZE],
                      const uint8_t name[static TPM_CRYPTO_NAME_SIZE], uint8_t *data, size_t size,
                      uint8_t integrity[static SHA256_SIZE]) {
        uint8_t key[AES_KEY_SIZE], hmac_key[SHA256_SIZE], message[PRIVATE_MAX + TPM_CRYPTO_NAME_SIZE];
        int r;

        if (size + TPM_CRYPTO_NAME_SIZE > sizeof(message))
                return -EINVAL;
        r = kdfa(seed, "STORAGE", name, TPM_CRYPTO_NAME_SIZE, key, sizeof(key));
        if (r == 0)
                r = kdfa(seed, "INTEGRITY", NULL, 0, hmac_key, sizeof(hmac_key));
        if (r == 0)
                r = encrypt(key, data, size);
        if (r == 0) {
                uint8_t *end = put(put(message, data, size), name, TPM_CRYPTO_NAME_SIZE);

                r = tpm_crypto_hmac(hmac_key, sizeof(hmac_key), message, (size_t) (end - message),
                                    integrity);
        }
        explicit_bzero(key, sizeof(key));
        explicit_bzero(hmac_key, sizeof(hmac_key));
        return r;
}

/* MGF1 with SHA-256 (RFC 8017 appendix B.2.1), XORed onto target. */
static int mask(const uint8_t *seed, size_t seed_size, uint8_t *target, size_t size) {
        uint8_t input[TPM_CRYPTO_RSA_SIZE + 4], digest[SHA256_SIZE];

        for (uint32_t counter = 0, done = 0; done < size; counter++) {
                uint8_t *end = put_number(put(input, seed, seed_size), counter, 4);
                int r = sha256(input, (size_t) (end - input), digest);

                if (r < 0)
                        return r;
                for (size_t i = 0; i < sizeof(digest) && done < size; i++, done++)
                        target[done] ^= digest[i];
        }
        return 0;
}

/* EME-OAEP (RFC 8017 section 7.1.1) with SHA-256. mbedtls has it too, but its signature changed with 3.0.
 * The label counts with its terminating NUL (part 1, appendix B.4). */
static int oaep(const char *label, const uint8_t message[static SHA256_SIZE],
                uint8_t ret[static TPM_CRYPTO_RSA_SIZE]) {
        uint8_t *seed = ret + 1, *block = seed + SHA256_SIZE;
        size_t block_size = TPM_CRYPTO_RSA_SIZE - 1 - SHA256_SIZE;
        int r;

        memset(ret, 0, TPM_CRYPTO_RSA_SIZE);
        r = sha256(label, strlen(label) + 1, block);
        if (r < 0)
                return r;
        block[block_size - SHA256_SIZE - 1] = 1;
        memcpy(block + block_size - SHA256_SIZE, message, SHA256_SIZE);

        r = tpm_crypto_random(seed, SHA256_SIZE);
        if (r == 0)
                r = mask(seed, SHA256_SIZE, block, block_size);
        if (r == 0)
                r = mask(block, block_size, seed, SHA256_SIZE);
        return r;
}

static int encrypt_seed(const TpmStorageKey *key, const char *label, const uint8_t seed[static SHA256_SIZE],
                        uint8_t ret[static TPM_CRYPTO_RSA_SIZE]) {
        uint8_t encoded[TPM_CRYPTO_RSA_SIZE], exponent[4];
        mbedtls_pk_context pk;
        int r;

        r = oaep(label, seed, encoded);
        if (r < 0)
                return r;
        (void) put_number(exponent, key->exponent, sizeof(exponent));

        /* through mbedtls_pk, because mbedtls_rsa_init() changed with 3.0 too */
        mbedtls_pk_init(&pk);
        r = mbedtls_pk_setup(&pk, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA));
        if (r == 0)
                r = mbedtls_rsa_import_raw(mbedtls_pk_rsa(pk), key->modulus, sizeof(key->modulus), NULL, 0,
                                           NULL, 0, NULL, 0, exponent, sizeof(exponent));
        if (r == 0)
                r = mbedtls_rsa_complete(mbedtls_pk_rsa(pk));
        if (r == 0)
                r = mbedtls_rsa_public(mbedtls_pk_rsa(pk), encoded, ret);
        mbedtls_pk_free(&pk);
        explicit_bzero(encoded, sizeof(encoded));
        return r == 0 ? 0 : -EIO;
}

static int set_why(const char **ret_why, int error, const char *why) {
        if (ret_why)
                *ret_why = why;
        return error;
}

int tpm_storage_key_parse(TpmStorageKey *ret, const void *data, size_t size, const char **ret_why) {
        TpmStorageKey key = {};
        Reader r = { data, size, false };
        const uint8_t *public_area, *modulus;
        uint32_t public_size, attributes, type, name_alg, symmetric, symmetric_bits, mode, scheme, bits;
        size_t modulus_size;

        if (size > TPM_CRYPTO_PUBLIC_MAX)
                return set_why(ret_why, -EBADMSG, "is too long for a TPM2B_PUBLIC");
        public_size = read_number(&r, 2);
        if (r.bad || public_size != r.left || public_size < 2 * 4)
                return set_why(ret_why, -EBADMSG, "is not one TPM2B_PUBLIC");
        public_area = r.data;

        type = read_number(&r, 2);
        name_alg = read_number(&r, 2);
        attributes = read_number(&r, 4);
        if (type != ALG_RSA || name_alg != ALG_SHA256)
                return set_why(ret_why, -EOPNOTSUPP, "is not an RSA key with nameAlg SHA-256");
        if ((attributes & (ATTRIBUTES_STORAGE_KEY | TPM_CRYPTO_SIGN)) != ATTRIBUTES_STORAGE_KEY)
                return set_why(ret_why, -EOPNOTSUPP, "is not a restricted decryption key");

        (void) read_bytes(&r, read_number(&r, 2)); /* authPolicy */
        symmetric = read_number(&r, 2);
        symmetric_bits = read_number(&r, 2);
        mode = read_number(&r, 2);
        scheme = read_number(&r, 2);
        bits = read_number(&r, 2);
        key.exponent = read_number(&r, 4);
        modulus_size = read_number(&r, 2);
        modulus = read_bytes(&r, modulus_size);
        if (!modulus || r.bad || r.left > 0)
                return set_why(ret_why, -EBADMSG, "is a malformed TPM2B_PUBLIC");

        if (symmetric != ALG_AES || symmetric_bits != 128 || mode != ALG_CFB || scheme != ALG_NULL)
                return set_why(ret_why, -EOPNOTSUPP, "does not use AES-128-CFB");
        if (bits != 2048 || modulus_size != sizeof(key.modulus))
                return set_why(ret_why, -EOPNOTSUPP, "is not an RSA-2048 key");
        if (!(modulus[0] & 0x80) || !(modulus[modulus_size - 1] & 1))
                return set_why(ret_why, -EBADMSG, "has a modulus that can't be one");
        if (key.exponent == 0)
                key.exponent = DEFAULT_EXPONENT;
        else if (key.exponent < 3 || key.exponent % 2 == 0)
                return set_why(ret_why, -EBADMSG, "has an exponent that can't be one");
        memcpy(key.modulus, modulus, modulus_size);

        (void) put_number(key.name, ALG_SHA256, 2);
        if (sha256(public_area, public_size, key.name + 2) < 0)
                return set_why(ret_why, -EIO, "can't be hashed");
        *ret = key;
        return 0;
}

int tpm_storage_key_random(TpmStorageKey *ret) {
        TpmStorageKey key = { .exponent = DEFAULT_EXPONENT };
        int r;

        r = tpm_crypto_random(key.modulus, sizeof(key.modulus));
        if (r == 0)
                r = tpm_crypto_random(key.name + 2, sizeof(key.name) - 2);
        if (r < 0)
                return r;
        /* The smallest moduli there are: a TPM refuses a ciphertext that is not below its own modulus with
         * another error than the one of a wrong key. */
        key.modulus[0] = 0x80;
        key.modulus[sizeof(key.modulus) - 1] |= 1;
        (void) put_number(key.name, ALG_SHA256, 2);
        *ret = key;
        return 0;
}

int tpm_crypto_make_credential(uint8_t id_object[static TPM_CRYPTO_ID_OBJECT_SIZE],
                               uint8_t secret[static TPM_CRYPTO_RSA_SIZE], const TpmStorageKey *ek,
                               const uint8_t name[static TPM_CRYPTO_NAME_SIZE],
                               const uint8_t credential[static TPM_CRYPTO_CREDENTIAL_SIZE]) {
        uint8_t seed[SHA256_SIZE], *integrity = put_number(id_object, SHA256_SIZE, 2);
        uint8_t *identity = integrity + SHA256_SIZE;
        int r;

        r = tpm_crypto_random(seed, sizeof(seed));
        if (r < 0)
                return r;
        (void) put_sized(identity, credential, TPM_CRYPTO_CREDENTIAL_SIZE);
        r = wrap_outer(seed, name, identity, 2 + TPM_CRYPTO_CREDENTIAL_SIZE, integrity);
        if (r == 0)
                r = encrypt_seed(ek, "IDENTITY", seed, secret);
        explicit_bzero(seed, sizeof(seed));
        return r;
}

/* TPMT_PUBLIC of the key and its name. */
static int make_public(const TpmHmacKey *key, const uint8_t obfuscation[static SHA256_SIZE],
                       uint8_t ret[static PUBLIC_SIZE], uint8_t ret_name[static TPM_CRYPTO_NAME_SIZE]) {
        uint8_t secret[SHA256_SIZE + TPM_CRYPTO_HMAC_KEY_MAX], unique[SHA256_SIZE], *at = ret;
        int r;

        /* part 1, section 27.5.3.2: unique = H(seedValue || sensitive) */
        (void) put(put(secret, obfuscation, SHA256_SIZE), key->data, key->size);
        r = sha256(secret, SHA256_SIZE + key->size, unique);
        explicit_bzero(secret, sizeof(secret));
        if (r < 0)
                return r;

        at = put_number(at, ALG_KEYEDHASH, 2);
        at = put_number(at, ALG_SHA256, 2);
        at = put_number(at, key->attributes, 4);
        at = put_number(at, 0, 2); /* authPolicy */
        at = put_number(at, ALG_HMAC, 2);
        at = put_number(at, ALG_SHA256, 2);
        (void) put_sized(at, unique, sizeof(unique));

        (void) put_number(ret_name, ALG_SHA256, 2);
        return sha256(ret, PUBLIC_SIZE, ret_name + 2);
}

/* The inner wrapping of a duplicate (part 1, section 23.3.2.3): integrity of sensitive and name, then both
 * encrypted with the inner key. */
static int make_sensitive(const TpmHmacKey *key, const uint8_t obfuscation[static SHA256_SIZE],
                          const uint8_t name[static TPM_CRYPTO_NAME_SIZE],
                          const uint8_t inner_key[static AES_KEY_SIZE], uint8_t *ret) {
        uint8_t *integrity = put_number(ret, SHA256_SIZE, 2), *sensitive = integrity + SHA256_SIZE;
        uint8_t message[SENSITIVE_SIZE(TPM_CRYPTO_HMAC_KEY_MAX) + TPM_CRYPTO_NAME_SIZE], *at = sensitive;
        size_t size = SENSITIVE_SIZE(key->size);
        int r;

        at = put_number(at, (uint32_t) size - 2, 2);
        at = put_number(at, ALG_KEYEDHASH, 2);
        at = put_number(at, 0, 2); /* authValue */
        at = put_sized(at, obfuscation, SHA256_SIZE);
        (void) put_sized(at, key->data, key->size);

        (void) put(put(message, sensitive, size), name, TPM_CRYPTO_NAME_SIZE);
        r = sha256(message, size + TPM_CRYPTO_NAME_SIZE, integrity);
        explicit_bzero(message, sizeof(message));
        if (r < 0)
                return r;
        return encrypt(inner_key, ret, PRIVATE_SENSITIVE_SIZE(key->size));
}

/* The whole duplicate for the SRK. private gets PRIVATE_SIZE(key->size) bytes: the outer integrity and what
 * it covers. */
static int make_duplicate(const TpmStorageKey *srk, const TpmHmacKey *key,
                          const uint8_t inner_key[static AES_KEY_SIZE], uint8_t *private,
                          uint8_t secret[static TPM_CRYPTO_RSA_SIZE], uint8_t public[static PUBLIC_SIZE]) {
        struct {
                uint8_t obfuscation[SHA256_SIZE], seed[SHA256_SIZE];
        } random;
        uint8_t name[TPM_CRYPTO_NAME_SIZE], *integrity = put_number(private, SHA256_SIZE, 2);
        uint8_t *sensitive = integrity + SHA256_SIZE;
        int r;

        r = tpm_crypto_random(&random, sizeof(random));
        if (r < 0)
                return r;
        r = make_public(key, random.obfuscation, public, name);
        if (r == 0)
                r = make_sensitive(key, random.obfuscation, name, inner_key, sensitive);
        if (r == 0)
                r = wrap_outer(random.seed, name, sensitive, PRIVATE_SENSITIVE_SIZE(key->size), integrity);
        if (r == 0)
                r = encrypt_seed(srk, "DUPLICATE", random.seed, secret);
        explicit_bzero(&random, sizeof(random));
        return r;
}

int tpm_crypto_wrap_key(Bytes *ret_blob, const TpmStorageKey *ek, const TpmStorageKey *srk,
                        const TpmHmacKey *key) {
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t id_object[TPM_CRYPTO_ID_OBJECT_SIZE], secret[TPM_CRYPTO_RSA_SIZE], seed[TPM_CRYPTO_RSA_SIZE];
        uint8_t private[PRIVATE_MAX], public[PUBLIC_SIZE], trailer[TRAILER_SIZE];
        uint8_t inner_key[AES_KEY_SIZE], *at;
        int r;

        if (key->size > TPM_CRYPTO_HMAC_KEY_MAX)
                return -EINVAL;
        blob.data = malloc(BLOB_SIZE(key->size));
        if (!blob.data)
                return -ENOMEM;
        blob.size = BLOB_SIZE(key->size);
        r = tpm_crypto_random(inner_key, sizeof(inner_key));
        if (r == 0)
                r = tpm_crypto_random(trailer, sizeof(trailer));
        if (r == 0)
                r = tpm_crypto_make_credential(id_object, secret, ek, srk->name, inner_key);
        if (r == 0)
                r = make_duplicate(srk, key, inner_key, private, seed, public);
        explicit_bzero(inner_key, sizeof(inner_key));
        if (r < 0)
                return r;

        at = put_sized(blob.data, id_object, sizeof(id_object));
        at = put_sized(at, secret, sizeof(secret));
        at = put_sized(at, private, PRIVATE_SIZE(key->size));
        at = put_sized(at, seed, sizeof(seed));
        at = put_sized(at, public, sizeof(public));
        (void) put_sized(at, trailer, sizeof(trailer));
        *ret_blob = blob;
        blob = (Bytes){};
        return 0;
}

int tpm_crypto_wrap(Bytes *ret_blob, const TpmStorageKey *ek, const TpmStorageKey *srk,
                    const uint8_t key[static TPM_CRYPTO_KEY_SIZE]) {
        return tpm_crypto_wrap_key(ret_blob, ek, srk,
                                   &(TpmHmacKey){ key, TPM_CRYPTO_KEY_SIZE, TPM_CRYPTO_ATTRIBUTES });
}

int tpm_crypto_wrap_for(Bytes *ret_blob, const Bytes *ek_public, const Bytes *srk_public,
                        const uint8_t key[static TPM_CRYPTO_KEY_SIZE]) {
        TpmStorageKey ek, srk;
        int r;

        r = tpm_storage_key_parse(&ek, ek_public->data, ek_public->size, NULL);
        if (r == 0)
                r = tpm_storage_key_parse(&srk, srk_public->data, srk_public->size, NULL);
        if (r == 0)
                r = tpm_crypto_wrap(ret_blob, &ek, &srk, key);
        return r;
}
