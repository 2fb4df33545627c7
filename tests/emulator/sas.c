#include "sas.h"

#include <errno.h>
#include <stdlib.h>

#include "exchange.h"
#include "tpm-crypto.h"

#define SAS_PREFIX "SharedAccessSignature "

enum {
        FIELD_SR,
        FIELD_SIG,
        FIELD_SE,
        FIELD_SKN,
        _FIELD_MAX
};

typedef struct Field {
        const char *value;
        size_t size;
} Field;

static int refuse(const char **ret_why, int error, const char *why) {
        if (ret_why)
                *ret_why = why;
        return error;
}

static int find_fields(Field fields[static _FIELD_MAX], const char *text, const char **ret_why) {
        static const char *const names[] = {
                [FIELD_SR] = "sr=", [FIELD_SIG] = "sig=", [FIELD_SE] = "se=", [FIELD_SKN] = "skn="
        };

        for (;;) {
                size_t size = strcspn(text, "&");
                unsigned i;

                for (i = 0; i < _FIELD_MAX; i++)
                        if (strncmp(text, names[i], strlen(names[i])) == 0)
                                break;
                if (i == _FIELD_MAX)
                        return refuse(ret_why, -EBADMSG,
                                      "the token has a field other than sr, sig, se and skn");
                if (fields[i].value)
                        return refuse(ret_why, -EBADMSG, "the token has a field twice");
                fields[i] = (Field){ text + strlen(names[i]), size - strlen(names[i]) };
                if (text[size] == '\0')
                        break;
                text += size + 1;
        }
        for (unsigned i = 0; i < _FIELD_MAX; i++)
                if (i != FIELD_SKN && fields[i].size == 0)
                        return refuse(ret_why, -EBADMSG, "the token lacks sr, sig or se");
        return 0;
}

static int parse_signature(const Field *field, uint8_t ret[static SHA256_SIZE], const char **ret_why) {
        CLEANUP(freep) char *text = NULL;
        CLEANUP(bytes_deinit) Bytes signature = {};

        /* A query string's "+" is a space: a client that does not escape it sends another signature. */
        if (memchr(field->value, '+', field->size))
                return refuse(ret_why, -EBADMSG, "the token's sig has an unescaped '+'");
        text = percent_decode(field->value, field->size);
        if (!text || base64_decode(&signature, text, SHA256_SIZE) < 0 || signature.size != SHA256_SIZE)
                return refuse(ret_why, -EBADMSG,
                              "the token's sig is not a percent-encoded base64 HMAC-SHA256");
        memcpy(ret, signature.data, SHA256_SIZE);
        return 0;
}

int sas_parse(SasToken *ret, const char *authorization, const char **ret_why) {
        CLEANUP(sas_deinit) SasToken token = {};
        Field fields[_FIELD_MAX] = {};
        int r;

        if (strlen(authorization) > SAS_MAX)
                return refuse(ret_why, -EBADMSG, "the token is too long");
        if (strncmp(authorization, SAS_PREFIX, strlen(SAS_PREFIX)) != 0)
                return refuse(ret_why, -EBADMSG, "Authorization is not a SharedAccessSignature");
        r = find_fields(fields, authorization + strlen(SAS_PREFIX), ret_why);
        if (r < 0)
                return r;
        r = parse_signature(&fields[FIELD_SIG], token.signature, ret_why);
        if (r < 0)
                return r;

        token.resource = strndup(fields[FIELD_SR].value, fields[FIELD_SR].size);
        token.expiry_text = strndup(fields[FIELD_SE].value, fields[FIELD_SE].size);
        if (!token.resource || !token.expiry_text)
                return refuse(ret_why, -ENOMEM, "out of memory");
        if (strspn(token.expiry_text, "0123456789") != fields[FIELD_SE].size ||
            parse_uint(token.expiry_text, INT64_MAX, &token.expiry) < 0)
                return refuse(ret_why, -EBADMSG, "the token's se is not a number of seconds");

        token.key_name = percent_decode(fields[FIELD_SKN].value ? fields[FIELD_SKN].value : "",
                                        fields[FIELD_SKN].size);
        if (!token.key_name)
                return refuse(ret_why, -EBADMSG, "the token's skn is malformed");

        *ret = token;
        token = (SasToken){};
        return 0;
}

void sas_deinit(SasToken *token) {
        free(token->resource);
        free(token->expiry_text);
        free(token->key_name);
        *token = (SasToken){};
}

char *sas_resource(const SasToken *token) {
        return percent_decode(token->resource, strlen(token->resource));
}

int sas_verify(const SasToken *token, const uint8_t *key, size_t key_size, uint64_t now,
               const char **ret_why) {
        CLEANUP(freep) char *text = NULL;
        uint8_t expected[SHA256_SIZE], difference = 0;
        int size, r;

        size = asprintf(&text, "%s\n%s", token->resource, token->expiry_text);
        if (size < 0) {
                text = NULL;
                return refuse(ret_why, -ENOMEM, "out of memory");
        }
        r = tpm_crypto_hmac(key, key_size, text, (size_t) size, expected);
        if (r < 0)
                return refuse(ret_why, r, "the HMAC can't be computed");

        for (size_t i = 0; i < sizeof(expected); i++)
                difference |= (uint8_t) (expected[i] ^ token->signature[i]);
        explicit_bzero(expected, sizeof(expected));
        if (difference != 0)
                return refuse(ret_why, -EKEYREJECTED,
                              "the token is not signed with the key that was issued");
        if (token->expiry <= now)
                return refuse(ret_why, -EKEYEXPIRED, "the token has expired");
        return 0;
}
