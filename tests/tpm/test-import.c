/* The service's blobs: what is signed with them, what they leave behind, and the ones that don't fit. */
#include "fixture.h"

#include <errno.h>
#include <stdlib.h>

#include "tpm-crypto.h"

#define ATTESTATIONS 200

static void assert_hmac(uint8_t key, const char *message, const uint8_t actual[static SHA256_SIZE]) {
        uint8_t bytes[TPM_CRYPTO_KEY_SIZE], expected[SHA256_SIZE];

        memset(bytes, key, sizeof(bytes));
        assert_int_equal(tpm_crypto_hmac(bytes, sizeof(bytes), message, strlen(message), expected), 0);
        assert_memory_equal(actual, expected, sizeof(expected));
}

static void the_challenge_s_key_signs(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        CLEANUP(freep) char *name = NULL, *long_message = calloc(1, TPM_MESSAGE_MAX + 1);
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 7, &blob);
        sign(f, &blob, "", hmac);
        assert_hmac(7, "", hmac);
        assert_non_null(long_message);
        memset(long_message, 'x', TPM_MESSAGE_MAX);
        sign(f, &blob, long_message, hmac);
        assert_hmac(7, long_message, hmac);
        assert_nothing_left(f);

        name = hub_key_name(f);
        assert_string_equal(name, "");
}

static void a_message_that_is_too_long_is_refused(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        uint8_t message[TPM_MESSAGE_MAX + 1] = {}, hmac[SHA256_SIZE];

        assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
        assert_int_equal(tpm_sign_challenge(tpm, &(Bytes){}, message, sizeof(message), hmac, NULL),
                         -EMSGSIZE);
}

static void attesting_many_times_leaves_nothing_behind(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        for (unsigned i = 0; i < ATTESTATIONS; i++) {
                bytes_deinit(&blob);
                make_blob(f, (uint8_t) i, &blob);
                sign(f, &blob, "message", hmac);
                assert_hmac((uint8_t) i, "message", hmac);
        }
        assert_nothing_left(f);
}

static void one_tpm_serves_many_calls(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 1, &blob);
        assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
        for (unsigned i = 0; i < 20; i++) {
                CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
                CLEANUP(bytes_deinit) Bytes private = {}, public = {};

                assert_int_equal(tpm_sign_challenge(tpm, &blob, "message", 7, hmac, NULL), 0);
                assert_int_equal(tpm_import_hub_key(tpm, &blob, &private, &public, NULL), 0);
                assert_int_equal(tpm_identity(tpm, &id, NULL), 0);
        }
        tpm = tpm_close(tpm);
        assert_nothing_left(f);
}

/* EK and SRK that can't be made persistent are saved and loaded again, not made anew. */
static void transient_keys_are_kept_for_the_next_call(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        run(f, "tpm2_changeauth -c o secret");
        make_blob(f, 1, &blob);
        assert_int_equal(commands_named(f, "CreatePrimary"), 2);
        for (unsigned i = 0; i < 5; i++) {
                sign(f, &blob, "message", hmac);
                assert_hmac(1, "message", hmac);
        }
        assert_int_equal(commands_named(f, "CreatePrimary"), 2);
        assert_int_equal(commands_named(f, "ContextLoad"), 10);
        assert_nothing_left(f);

        /* a restarted TPM doesn't know them anymore */
        run(f, "swtpm_ioctl --unix tpm.ctrl -i && tpm2_startup -c");
        sign(f, &blob, "message", hmac);
        assert_hmac(1, "message", hmac);
        assert_nothing_left(f);
}

static void the_keys_of_another_process_s_identity_are_found(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 1, &blob);
        f->cache = tpm_cache_free(f->cache);
        sign(f, &blob, "message", hmac); /* without any cache */
        assert_hmac(1, "message", hmac);

        assert_int_equal(tpm_cache_new(&f->cache), 0);
        sign(f, &blob, "message", hmac); /* with an empty one, as a restarted helper has */
        assert_hmac(1, "message", hmac);
        assert_nothing_left(f);
}

static void a_challenge_for_another_tpm_is_told_as_such(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        CLEANUP(bytes_deinit) Bytes other_ek = {}, other_srk = {}, good = {};
        const uint8_t key[TPM_CRYPTO_KEY_SIZE] = { 1 };
        TpmStorageKey stranger, ek, srk;
        uint8_t hmac[SHA256_SIZE];

        identity(f, &id);
        assert_int_equal(tpm_storage_key_random(&stranger), 0);
        assert_int_equal(tpm_storage_key_parse(&ek, id.ek_public.data, id.ek_public.size, NULL), 0);
        assert_int_equal(tpm_storage_key_parse(&srk, id.srk_public.data, id.srk_public.size, NULL), 0);
        assert_int_equal(tpm_crypto_wrap(&other_ek, &stranger, &srk, key), 0);
        assert_int_equal(tpm_crypto_wrap(&other_srk, &ek, &stranger, key), 0);

        for (unsigned i = 0; i < 10; i++) {
                sign_fails(f, &other_ek, FAILURE_IDENTITY_MISMATCH);
                sign_fails(f, &other_srk, FAILURE_IDENTITY_MISMATCH);
        }
        assert_nothing_left(f);
        make_blob(f, 1, &good);
        sign(f, &good, "message", hmac);
        assert_hmac(1, "message", hmac);
}

static void truncated_and_malformed_blobs_are_the_protocol_s_fault(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};

        make_blob(f, 1, &blob);
        (void) commands_since_last(f);
        sign_fails(f, &(Bytes){}, FAILURE_PROTOCOL);
        sign_fails(f, &(Bytes){ blob.data, 700 }, FAILURE_PROTOCOL);
        blob.data[721] = 0x02;
        sign_fails(f, &blob, FAILURE_PROTOCOL);
        assert_int_equal(commands_since_last(f), 0); /* the TPM has not been bothered */
}

/* One changed byte in each part. Which kind it gives depends on how far the TPM gets; it never signs. */
static void mutated_blobs_are_refused_and_leave_nothing_behind(void **state) {
        Fixture *f = *state;
        static const struct {
                size_t offset;
                FailureKind kind;
        } changes[] = {
                { 4, FAILURE_IDENTITY_MISMATCH },  /* the credential's integrity */
                { 40, FAILURE_IDENTITY_MISMATCH }, /* its encrypted part */
                { 60, FAILURE_IDENTITY_MISMATCH }, /* its seed */
                { 316, FAILURE_PROTOCOL },         /* the duplicate's integrity */
                { 400, FAILURE_PROTOCOL },         /* its encrypted part */
                { 460, FAILURE_PROTOCOL },         /* its seed */
                { 719, FAILURE_PROTOCOL },         /* nameAlg */
                { 722, FAILURE_PROTOCOL },         /* attributes */
                { 740, FAILURE_PROTOCOL },         /* unique */
        };

        for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
                CLEANUP(bytes_deinit) Bytes blob = {};

                make_blob(f, 1, &blob);
                blob.data[changes[i].offset] ^= 0x21;
                sign_fails(f, &blob, changes[i].kind);
                assert_nothing_left(f);
        }
}

static void an_imported_key_is_of_no_use_elsewhere(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {};
        const uint8_t key[TPM_CRYPTO_KEY_SIZE] = { [0 ... TPM_CRYPTO_KEY_SIZE - 1] = 9 };

        make_blob(f, 9, &blob);
        import_key(f, &blob, &private, &public);
        assert_null(memmem(private.data, private.size, key, 8));
        assert_int_equal(public.size, 50);
        assert_memory_equal(public.data, blob.data + 714, 50);
        assert_nothing_left(f);

        run(f, "tpm2_clear");
        adopt_fails(f, &private, &public, NULL, 0, FAILURE_IDENTITY_MISMATCH);
}

#define TPM_TEST(test)       cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
#define FRESH_TPM_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup_fresh, fixture_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TPM_TEST(the_challenge_s_key_signs),
                TPM_TEST(a_message_that_is_too_long_is_refused),
                TPM_TEST(attesting_many_times_leaves_nothing_behind),
                TPM_TEST(one_tpm_serves_many_calls),
                FRESH_TPM_TEST(transient_keys_are_kept_for_the_next_call),
                TPM_TEST(the_keys_of_another_process_s_identity_are_found),
                TPM_TEST(a_challenge_for_another_tpm_is_told_as_such),
                TPM_TEST(truncated_and_malformed_blobs_are_the_protocol_s_fault),
                TPM_TEST(mutated_blobs_are_refused_and_leave_nothing_behind),
                TPM_TEST(an_imported_key_is_of_no_use_elsewhere),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
