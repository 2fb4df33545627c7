/* The parser of the service's blobs, with two that the real service has sent. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>

#include "tpm-internal.h"

#define DATA_END 764 /* of the five parts that count, in a blob of the usual sizes */

static void read_challenge(const char *name, Bytes *ret) {
        CLEANUP(freep) char *path = NULL, *text = NULL;

        assert_true(asprintf(&path, "%s/%s", TEST_DATA, name) >= 0);
        assert_int_equal(read_file(path, 8192, &text, NULL), 0);
        text[strcspn(text, "\n")] = '\0';
        assert_int_equal(base64_decode(ret, text, TPM_BLOB_MAX), 0);
}

static void the_real_service_s_blobs_are_read(void **state) {
        static const char *const names[] = { "challenge-1.b64", "challenge-2.b64" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                CLEANUP(bytes_deinit) Bytes data = {};
                const TPMT_PUBLIC *area;
                const char *why = NULL;
                TpmBlob blob = {};

                read_challenge(names[i], &data);
                assert_int_equal(tpm_blob_parse(&blob, data.data, data.size, &why), 0);
                assert_int_equal(blob.credential.size, 52);
                assert_memory_equal(blob.credential.credential, data.data + 2, 52);
                assert_int_equal(blob.secret.size, 256);
                assert_memory_equal(blob.secret.secret, data.data + 56, 256);
                assert_int_equal(blob.duplicate.size, 142);
                assert_memory_equal(blob.duplicate.buffer, data.data + 314, 142);
                assert_int_equal(blob.seed.size, 256);
                assert_memory_equal(blob.seed.secret, data.data + 458, 256);

                area = &blob.public_area.publicArea;
                assert_int_equal(area->type, TPM2_ALG_KEYEDHASH);
                assert_int_equal(area->nameAlg, TPM2_ALG_SHA256);
                assert_int_equal(area->objectAttributes, 0x00040440);
                assert_int_equal(area->authPolicy.size, 0);
                assert_int_equal(area->parameters.keyedHashDetail.scheme.scheme, TPM2_ALG_HMAC);
                assert_int_equal(area->unique.keyedHash.size, 32);
                assert_memory_equal(area->unique.keyedHash.buffer, data.data + 732, 32);
        }
}

static void the_last_part_does_not_matter(void **state) {
        CLEANUP(bytes_deinit) Bytes data = {};
        uint8_t longer[TPM_BLOB_MAX + 1] = {};
        const char *why = NULL;
        TpmBlob blob;

        read_challenge("challenge-1.b64", &data);
        assert_int_equal(tpm_blob_parse(&blob, data.data, DATA_END, &why), 0);
        assert_int_equal(tpm_blob_parse(&blob, data.data, DATA_END + 1, &why), 0);

        memcpy(longer, data.data, data.size);
        assert_int_equal(tpm_blob_parse(&blob, longer, TPM_BLOB_MAX, &why), 0);
        assert_int_equal(tpm_blob_parse(&blob, longer, TPM_BLOB_MAX + 1, &why), -EBADMSG);
        assert_string_equal(why, "it is too long");
}

static void a_truncated_blob_is_refused(void **state) {
        CLEANUP(bytes_deinit) Bytes data = {};

        read_challenge("challenge-1.b64", &data);
        for (size_t size = 0; size < DATA_END; size++) {
                CLEANUP(bytes_deinit)
                Bytes part = {}; /* of exactly that size, so that reading past it shows */
                TpmBlob blob = { .credential.size = 7 };
                const char *why = NULL;

                assert_int_equal(bytes_copy(&part, data.data, size), 0);
                assert_int_equal(tpm_blob_parse(&blob, part.data, part.size, &why), -EBADMSG);
                assert_non_null(why);
                assert_int_equal(blob.credential.size, 7);
        }
}

static void wrong_sizes_and_other_kinds_of_keys_are_refused(void **state) {
        static const struct {
                const char *what;
                size_t offset;
                uint16_t value;
        } changes[] = {
                { "an empty credential", 0, 0 },
                { "a credential without an end", 0, 0xffff },
                { "a secret longer than RSA-2048 gives", 54, 257 },
                { "an empty secret", 54, 0 },
                { "an empty private area", 312, 0 },
                { "a private area without an end", 312, 0x8000 },
                { "a long seed", 456, 257 },
                { "an empty public area", 714, 0 },
                { "a public area one byte short", 714, 47 },
                { "a public area one byte long", 714, 49 },
                { "an RSA key", 716, 0x0001 },
                { "a key that does not sign", 720, 0x0000 },
                { "a key that decrypts", 720, 0x0006 },
                { "a restricted key", 720, 0x0005 },
                { "a key whose failures count for lockout", 722, 0x0040 },
                { "a key without user authorization", 722, 0x0400 },
                { "a policy without an end", 724, 0xffff },
                { "a scheme other than HMAC", 726, 0x000a },
                { "a hash other than SHA-256", 728, 0x0004 },
                { "a long unique", 730, 33 },
                { "a short unique", 730, 31 },
                { "an empty unique", 730, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
                CLEANUP(bytes_deinit) Bytes data = {};
                const char *why = NULL;
                TpmBlob blob;

                read_challenge("challenge-1.b64", &data);
                data.data[changes[i].offset] = (uint8_t) (changes[i].value >> 8);
                data.data[changes[i].offset + 1] = (uint8_t) changes[i].value;
                if (tpm_blob_parse(&blob, data.data, data.size, &why) != -EBADMSG)
                        fail_msg("%s was accepted", changes[i].what);
                assert_non_null(why);
        }
}

static void stored_areas_have_to_be_exact(void **state) {
        CLEANUP(bytes_deinit) Bytes data = {};
        const uint8_t *public, *private;
        TPM2B_PRIVATE parsed_private;
        TPM2B_PUBLIC parsed_public;
        const char *why = NULL;

        read_challenge("challenge-1.b64", &data);
        private = data.data + 312;
        public = data.data + 714;
        assert_int_equal(tpm_private_parse(&parsed_private, private, 144, &why), 0);
        assert_int_equal(tpm_private_parse(&parsed_private, private, 143, &why), -EBADMSG);
        assert_int_equal(tpm_private_parse(&parsed_private, private, 145, &why), -EBADMSG);
        assert_int_equal(tpm_private_parse(&parsed_private, NULL, 0, &why), -EBADMSG);
        assert_int_equal(tpm_hmac_public_parse(&parsed_public, public, 50, &why), 0);
        assert_int_equal(tpm_hmac_public_parse(&parsed_public, public, 49, &why), -EBADMSG);
        assert_int_equal(tpm_hmac_public_parse(&parsed_public, public, 51, &why), -EBADMSG);
        assert_int_equal(tpm_hmac_public_parse(&parsed_public, NULL, 0, &why), -EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_real_service_s_blobs_are_read),
                cmocka_unit_test(the_last_part_does_not_matter),
                cmocka_unit_test(a_truncated_blob_is_refused),
                cmocka_unit_test(wrong_sizes_and_other_kinds_of_keys_are_refused),
                cmocka_unit_test(stored_areas_have_to_be_exact),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
