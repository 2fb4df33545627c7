/* Tokens as the clients in the field write them, and as they must not be. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sas.h"
#include "tpm-crypto.h"

#define NOW 1700000000u
#define SR  "0ne%2Fregistrations%2Fgw-1"

static const uint8_t key[TPM_CRYPTO_KEY_SIZE] = "a key that the service has issu";
static const uint8_t other_key[TPM_CRYPTO_KEY_SIZE] = "a key that somebody else issued";

/* base64 of the HMAC, percent-encoded with upper-case or lower-case digits. */
static char *sign(const uint8_t *with, const char *sr, const char *se, bool upper_case) {
        CLEANUP(freep) char *text = NULL, *signature = NULL;
        uint8_t hmac[SHA256_SIZE];
        size_t size;
        char *encoded = NULL;
        FILE *out;

        assert_true(asprintf(&text, "%s\n%s", sr, se) > 0);
        assert_int_equal(tpm_crypto_hmac(with, TPM_CRYPTO_KEY_SIZE, text, strlen(text), hmac), 0);
        assert_int_equal(base64_encode(&signature, hmac, sizeof(hmac)), 0);
        out = open_memstream(&encoded, &size);
        assert_non_null(out);
        for (const char *c = signature; *c; c++)
                if (!strchr("+/=", *c))
                        (void) fputc(*c, out);
                else if (upper_case)
                        (void) fprintf(out, "%%%02X", (unsigned) *c);
                else
                        (void) fprintf(out, "%%%02x", (unsigned) *c);
        assert_int_equal(fclose(out), 0);
        return encoded;
}

static char *new_token(const uint8_t *with, const char *sr, const char *se, bool upper_case,
                       const char *rest) {
        CLEANUP(freep) char *signature = sign(with, sr, se, upper_case);
        char *token = NULL;

        assert_true(asprintf(&token, "SharedAccessSignature sr=%s&sig=%s&se=%s%s", sr, signature, se, rest) >
                    0);
        return token;
}

static void every_spelling_is_verified_as_it_was_sent(void **state) {
        static const struct {
                const char *sr, *rest;
                bool upper_case;
        } cases[] = {
                { SR, "&skn=registration", true },                            /* Node, C# */
                { "0ne%2fregistrations%2fgw-1", "&skn=registration", false }, /* C */
                { "0ne/registrations/gw-1", "&skn=", true },                  /* Java */
                { "0ne/registrations/gw-1", "&skn=registration", true },      /* aziot-identityd */
                { "0ne/registrations/gw-1", "", true },                       /* devices, at the hub */
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep)
                char *token = new_token(key, cases[i].sr, "1700000030", cases[i].upper_case, cases[i].rest);
                CLEANUP(freep) char *resource = NULL;
                CLEANUP(sas_deinit) SasToken sas = {};
                const char *why = "";

                if (sas_parse(&sas, token, &why) < 0 || sas_verify(&sas, key, sizeof(key), NOW, &why) < 0)
                        fail_msg("%s: %s", token, why);
                resource = sas_resource(&sas);
                assert_string_equal(resource, "0ne/registrations/gw-1");
                assert_string_equal(sas.key_name,
                                    strstr(cases[i].rest, "registration") ? "registration" : "");
                assert_int_equal(sas.expiry, 1700000030);
        }
}

static void fields_may_come_in_any_order(void **state) {
        CLEANUP(freep) char *signature = sign(key, SR, "1700000030", true), *token = NULL;
        CLEANUP(sas_deinit) SasToken sas = {};
        const char *why;

        assert_true(asprintf(&token, "SharedAccessSignature skn=registration&se=1700000030&sig=%s&sr=%s",
                             signature, SR) > 0);
        assert_int_equal(sas_parse(&sas, token, &why), 0);
        assert_int_equal(sas_verify(&sas, key, sizeof(key), NOW, &why), 0);
}

static void what_is_signed_is_the_text(void **state) {
        CLEANUP(freep) char *signature = sign(key, SR, "1700000030", true);
        static const struct {
                const char *sr, *se;
        } cases[] = {
                { "0ne%2fregistrations%2fgw-1", "1700000030" }, /* the same resource, spelt differently */
                { "0ne/registrations/gw-1", "1700000030" },
                { "0ne%2Fregistrations%2Fgw-2", "1700000030" },
                { SR, "1700000031" },
                { SR, "01700000030" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *token = NULL;
                CLEANUP(sas_deinit) SasToken sas = {};
                const char *why = "";

                assert_true(asprintf(&token, "SharedAccessSignature sr=%s&sig=%s&se=%s", cases[i].sr,
                                     signature, cases[i].se) > 0);
                assert_int_equal(sas_parse(&sas, token, &why), 0);
                assert_int_equal(sas_verify(&sas, key, sizeof(key), NOW, &why), -EKEYREJECTED);
        }
}

static void key_and_expiry_are_checked(void **state) {
        static const struct {
                const uint8_t *key;
                const char *expiry;
                int result;
        } cases[] = {
                { key, "1700000001", 0 },          { key, "4000000000", 0 },
                { key, "9223372036854775807", 0 }, { key, "1700000000", -EKEYEXPIRED },
                { key, "0", -EKEYEXPIRED },        { other_key, "1700000001", -EKEYREJECTED },
                { other_key, "0", -EKEYREJECTED },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *token = new_token(cases[i].key, SR, cases[i].expiry, true, "");
                CLEANUP(sas_deinit) SasToken sas = {};
                const char *why = NULL;

                assert_int_equal(sas_parse(&sas, token, &why), 0);
                assert_int_equal(sas_verify(&sas, key, sizeof(key), NOW, &why), cases[i].result);
                assert_int_equal(why != NULL, cases[i].result < 0);
        }
}

static void what_is_no_token_is_refused(void **state) {
        static const char signature[] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D";
        static const struct {
                const char *before, *after;
        } cases[] = {
                { "Bearer sr=a&sig=", "&se=1" },
                { "SharedAccessSignature", "" },
                { "SharedAccessSignature sr=a&sig=", "" },
                { "SharedAccessSignature sr=a&sig=", "&se=" },
                { "SharedAccessSignature sr=&sig=", "&se=1" },
                { "SharedAccessSignature sr=a&se=1&sig=", "&" },
                { "SharedAccessSignature sr=a&sig=", "&se=1&se=2" },
                { "SharedAccessSignature sr=a&sig=", "&se=1&x=2" },
                { "SharedAccessSignature sr=a&sig=", "&se=-1" },
                { "SharedAccessSignature sr=a&sig=", "&se=1.5" },
                { "SharedAccessSignature sr=a&sig=", "&se= 1" },
                { "SharedAccessSignature sr=a&sig=", "&se=0x10" },
                { "SharedAccessSignature sr=a&sig=", "&se=99999999999999999999" },
                { "SharedAccessSignature sr=a&sig=", "&se=1&skn=%zz" },
                { "SharedAccessSignature sr=a&sig=", "A&se=1" },   /* too long */
                { "SharedAccessSignature sr=a&sig=%2", "&se=1" },  /* cut off */
                { "SharedAccessSignature sr=a&sig=%00", "&se=1" }, /* a NUL */
                { "SharedAccessSignature sr=a&sig=+", "&se=1" },   /* a space, to a server */
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *token = NULL;
                CLEANUP(sas_deinit) SasToken sas = {};
                const char *why = NULL;

                assert_true(asprintf(&token, "%s%s%s", cases[i].before, signature, cases[i].after) > 0);
                if (sas_parse(&sas, token, &why) != -EBADMSG)
                        fail_msg("%s was taken", token);
                assert_non_null(why);
                assert_null(sas.resource);
        }
}

static void an_endless_token_is_refused(void **state) {
        CLEANUP(freep) char *token = malloc(SAS_MAX + 2);
        CLEANUP(sas_deinit) SasToken sas = {};
        const char *why = NULL;

        assert_non_null(token);
        memset(token, 'a', SAS_MAX + 1);
        token[SAS_MAX + 1] = '\0';
        memcpy(token, "SharedAccessSignature sr=", strlen("SharedAccessSignature sr="));
        assert_int_equal(sas_parse(&sas, token, &why), -EBADMSG);
        assert_non_null(strstr(why, "too long"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_spelling_is_verified_as_it_was_sent),
                cmocka_unit_test(fields_may_come_in_any_order),
                cmocka_unit_test(what_is_signed_is_the_text),
                cmocka_unit_test(key_and_expiry_are_checked),
                cmocka_unit_test(what_is_no_token_is_refused),
                cmocka_unit_test(an_endless_token_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
