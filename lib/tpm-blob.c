#include "tpm-internal.h"

#include <errno.h>

/* Reads big-endian values and TPM2B structures. Past the end everything is 0 and `bad` says so. */
typedef struct Reader {
        const uint8_t *at;
        size_t left;
        bool bad;
} Reader;

static const uint8_t *take(Reader *r, size_t size) {
        const uint8_t *start = r->at;

        if (r->bad || size > r->left) {
                r->bad = true;
                return NULL;
        }
        r->at += size;
        r->left -= size;
        return start;
}

static uint32_t take_number(Reader *r, size_t size) {
        const uint8_t *p = take(r, size);
        uint32_t value = 0;

        for (size_t i = 0; p && i < size; i++)
                value = value << 8 | p[i];
        return value;
}

/* A TPM2B's content into a buffer of at most max bytes; returns its size. Empty ones are bad, too: none of
 * the structures read here may be. */
static uint16_t take_sized(Reader *r, uint8_t *buffer, size_t max) {
        uint16_t size = (uint16_t) take_number(r, 2);
        const uint8_t *p = take(r, size);

        if (!p || size == 0 || size > max) {
                r->bad = true;
                return 0;
        }
        memcpy(buffer, p, size);
        return size;
}

/* Only the one form of public area that the service makes is read: a KEYEDHASH key that signs HMACs. Its
 * layout (Trusted Platform Module Library, part 2, section 12.2.4) is short enough to be read strictly,
 * without libtss2-mu, which would log each malformed one. */
static int take_hmac_public(Reader *r, TPM2B_PUBLIC *ret, const char **ret_why) {
        uint16_t size = (uint16_t) take_number(r, 2);
        Reader p = { .at = take(r, size), .left = size };
        TPM2B_PUBLIC public = { .size = size };
        TPMT_PUBLIC *area = &public.publicArea;
        TPMT_KEYEDHASH_SCHEME *scheme = &area->parameters.keyedHashDetail.scheme;
        const uint8_t *policy;

        if (!p.at) {
                *ret_why = "it ends within the public area";
                return -EBADMSG;
        }
        area->type = (TPM2_ALG_ID) take_number(&p, 2);
        area->nameAlg = (TPM2_ALG_ID) take_number(&p, 2);
        area->objectAttributes = take_number(&p, 4);
        if (p.bad || area->type != TPM2_ALG_KEYEDHASH ||
            !(area->objectAttributes & TPMA_OBJECT_SIGN_ENCRYPT) ||
            (area->objectAttributes & (TPMA_OBJECT_DECRYPT | TPMA_OBJECT_RESTRICTED))) {
                *ret_why = "the key in it is not one that signs HMACs";
                return -EBADMSG;
        }
        /* The public area does not show whether the key has an authorization value. A lockout would block
         * the owner of the disk's keys. */
        if (!tpm_is_harmless(area->objectAttributes)) {
                *ret_why = "the key in it could bring the TPM into lockout";
                return -EBADMSG;
        }

        area->authPolicy.size = (uint16_t) take_number(&p, 2);
        policy = take(&p, area->authPolicy.size);
        if (!policy || area->authPolicy.size > sizeof(area->authPolicy.buffer)) {
                *ret_why = "its public area is malformed";
                return -EBADMSG;
        }
        memcpy(area->authPolicy.buffer, policy, area->authPolicy.size);

        scheme->scheme = (TPM2_ALG_ID) take_number(&p, 2);
        scheme->details.hmac.hashAlg = (TPM2_ALG_ID) take_number(&p, 2);
        if (p.bad || scheme->scheme != TPM2_ALG_HMAC || scheme->details.hmac.hashAlg != TPM2_ALG_SHA256) {
                *ret_why = "the key in it is not one for HMAC-SHA256";
                return -EBADMSG;
        }
        area->unique.keyedHash.size =
                take_sized(&p, area->unique.keyedHash.buffer, sizeof(area->unique.keyedHash.buffer));
        if (p.bad || p.left > 0) {
                *ret_why = "its public area is malformed";
                return -EBADMSG;
        }
        *ret = public;
        return 0;
}

int tpm_blob_parse(TpmBlob *ret, const void *data, size_t size, const char **ret_why) {
        Reader r = { .at = data, .left = size };
        TpmBlob blob = {};
        int error;

        if (size > TPM_BLOB_MAX) {
                *ret_why = "it is too long";
                return -EBADMSG;
        }
        blob.credential.size =
                take_sized(&r, blob.credential.credential, sizeof(blob.credential.credential));
        /* encrypted with an RSA-2048 key */
        blob.secret.size = take_sized(&r, blob.secret.secret, TPM_RSA_SIZE);
        blob.duplicate.size = take_sized(&r, blob.duplicate.buffer, sizeof(blob.duplicate.buffer));
        blob.seed.size = take_sized(&r, blob.seed.secret, TPM_RSA_SIZE);
        if (r.bad) {
                *ret_why = "its parts are malformed";
                return -EBADMSG;
        }
        error = take_hmac_public(&r, &blob.public_area, ret_why);
        if (error < 0)
                return error;
        *ret = blob;
        return 0;
}

int tpm_hmac_public_parse(TPM2B_PUBLIC *ret, const void *data, size_t size, const char **ret_why) {
        Reader r = { .at = data, .left = size };
        TPM2B_PUBLIC public;
        int error;

        error = take_hmac_public(&r, &public, ret_why);
        if (error < 0)
                return error;
        if (r.left > 0) {
                *ret_why = "its public area is malformed";
                return -EBADMSG;
        }
        *ret = public;
        return 0;
}

int tpm_private_parse(TPM2B_PRIVATE *ret, const void *data, size_t size, const char **ret_why) {
        Reader r = { .at = data, .left = size };
        TPM2B_PRIVATE private = {};

        private.size = take_sized(&r, private.buffer, sizeof(private.buffer));
        if (r.bad || r.left > 0) {
                *ret_why = "its private area is malformed";
                return -EBADMSG;
        }
        *ret = private;
        return 0;
}
