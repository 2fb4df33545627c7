/* The hub key at its handle: what is made persistent, what is evicted, and what never is. */
#include "fixture.h"

#include <stdlib.h>

#include "tpm-crypto.h"

static const Bytes nothing;

/* What the key at the handle signs, asked of the tools. */
static void assert_key_at_handle(Fixture *f, uint8_t key) {
        CLEANUP(freep)
        char *actual = output_of(f, "printf message | tpm2_hmac -c 0x81000100 --hex"), *hex = NULL;
        uint8_t bytes[TPM_CRYPTO_KEY_SIZE], expected[SHA256_SIZE];

        memset(bytes, key, sizeof(bytes));
        assert_int_equal(tpm_crypto_hmac(bytes, sizeof(bytes), "message", 7, expected), 0);
        assert_int_equal(hex_encode(&hex, expected, sizeof(expected)), 0);
        assert_string_equal(actual, hex);
}

static void assert_name_at_handle(Fixture *f, const Bytes *name) {
        CLEANUP(freep) char *actual = hub_key_name(f), *expected = NULL;

        assert_int_equal(hex_encode(&expected, name->data, name->size), 0);
        assert_string_equal(actual, expected);
}

static void import_new(Fixture *f, uint8_t key, Bytes *ret_private, Bytes *ret_public) {
        CLEANUP(bytes_deinit) Bytes blob = {};

        make_blob(f, key, &blob);
        import_key(f, &blob, ret_private, ret_public);
}

static void a_first_adoption_fills_the_handle(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, name = {}, again = {};

        import_new(f, 1, &private, &public);
        assert_true(adopt(f, &private, &public, &nothing, false, &name));
        assert_key_at_handle(f, 1);
        assert_name_at_handle(f, &name);
        assert_nothing_left(f);

        assert_false(adopt(f, &private, &public, &nothing, false, &again));
        assert_true(bytes_equal(&name, &again));
        assert_nothing_left(f);
}

static void the_same_key_in_another_blob_writes_nothing(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {}, name = {};
        unsigned evictions;

        adopt_new(f, 1, &first);
        import_new(f, 1, &private, &public);
        evictions = commands_named(f, "EvictControl");
        assert_false(adopt(f, &private, &public, &nothing, false, &name));
        assert_true(bytes_equal(&first, &name));
        assert_int_equal(commands_named(f, "EvictControl"), evictions);
        assert_name_at_handle(f, &first);
        assert_nothing_left(f);
}

static void our_own_key_is_replaced(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {}, name = {};

        adopt_new(f, 1, &first);
        import_new(f, 2, &private, &public);
        assert_true(adopt(f, &private, &public, &first, false, &name));
        assert_false(bytes_equal(&first, &name));
        assert_key_at_handle(f, 2);
        assert_name_at_handle(f, &name);
        assert_nothing_left(f);
}

static void somebody_else_s_hmac_key_is_replaced_only_when_allowed(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, name = {}, other = {};
        CLEANUP(freep) char *before = NULL, *after = NULL;

        import_new(f, 1, &private, &public);
        run(f, MAKE_HMAC_KEY("0x81000100"));
        before = hub_key_name(f);
        adopt_fails(f, &private, &public, &nothing, false, FAILURE_TPM_HANDLE_TAKEN);
        assert_int_equal(bytes_copy(&other, "\0\x0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 34), 0);
        adopt_fails(f, &private, &public, &other, false, FAILURE_TPM_HANDLE_TAKEN);
        after = hub_key_name(f);
        assert_string_equal(before, after);
        assert_nothing_left(f);

        assert_true(adopt(f, &private, &public, &nothing, true, &name));
        assert_key_at_handle(f, 1);
        assert_nothing_left(f);
}

/* Even with the right name: the rule is about the kind of object. */
static void a_foreign_object_is_never_evicted(void **state) {
        static const char *const makers[] = {
                "tpm2_createprimary -Q -C o -G rsa2048 -c p && tpm2_evictcontrol -Q -c p 0x81000100",
                "tpm2_createprimary -Q -C o -c parent && printf secret | tpm2_create -Q -C parent -i- -c "
                "sealed && "
                "tpm2_flushcontext -t && tpm2_evictcontrol -Q -C o -c sealed 0x81000100",
        };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};

        import_new(f, 1, &private, &public);
        for (size_t i = 0; i < ARRAY_SIZE(makers); i++) {
                CLEANUP(bytes_deinit) Bytes name = {};
                CLEANUP(freep) char *before = NULL, *after = NULL;
                CLEANUP(tpm_closep) Tpm *tpm = NULL;
                unsigned evictions = commands_named(f, "EvictControl");
                Failure failure = {};

                run(f, "%s && tpm2_flushcontext -t", makers[i]);
                before = hub_key_name(f);
                assert_int_equal(hex_decode(&name, before, 66), 0);
                adopt_fails(f, &private, &public, &name, true, FAILURE_TPM_HANDLE_TAKEN);
                assert_non_null(strstr(last_failure.sentence, "0x81000100"));

                assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
                assert_true(tpm_forget_hub_key(tpm, &name, &failure) < 0);
                assert_int_equal(failure.kind, FAILURE_TPM_HANDLE_TAKEN);
                tpm = tpm_close(tpm);

                after = hub_key_name(f);
                assert_string_equal(before, after);
                assert_int_equal(commands_named(f, "EvictControl"), evictions);
                assert_nothing_left(f);
                run(f, "tpm2_evictcontrol -c 0x81000100");
        }
}

/* Trying a key with an authorization value of its own would count towards lockout. */
static void a_protected_hmac_key_is_not_tried(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};
        CLEANUP(freep) char *counter = NULL;

        import_new(f, 1, &private, &public);
        run(f,
            "tpm2_createprimary -Q -C o -c parent && tpm2_create -Q -C parent -G hmac -p secret -c key && "
            "tpm2_flushcontext -t && tpm2_evictcontrol -Q -C o -c key 0x81000100 && tpm2_flushcontext -t");
        for (unsigned i = 0; i < 5; i++)
                adopt_fails(f, &private, &public, &nothing, false, FAILURE_TPM_HANDLE_TAKEN);
        counter = output_of(f, "tpm2_getcap properties-variable | grep LOCKOUT_COUNTER");
        assert_string_equal(counter, "TPM2_PT_LOCKOUT_COUNTER: 0x0");
        assert_nothing_left(f);

        assert_true(adopt(f, &private, &public, &nothing, true, NULL));
        assert_key_at_handle(f, 1);
}

static void without_the_owner_auth_nothing_is_touched(void **state) {
        static const char *const values[] = { NULL, "wrong" };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {};

        adopt_new(f, 1, &first);
        import_new(f, 2, &private, &public);
        run(f, "tpm2_changeauth -c o secret");
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                f->settings.owner_auth = values[i];
                adopt_fails(f, &private, &public, &first, true, FAILURE_TPM_AUTH);
                assert_name_at_handle(f, &first);
                assert_nothing_left(f);
        }
        f->settings.owner_auth = "secret";
        assert_true(adopt(f, &private, &public, &first, false, NULL));
        assert_key_at_handle(f, 2);
}

static void a_key_from_the_endorsement_hierarchy_can_be_adopted(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};

        run(f, "tpm2_createprimary -Q -C o -G ecc -c p && tpm2_evictcontrol -Q -c p 0x81000001 && "
               "tpm2_flushcontext -t && tpm2_changeauth -c o secret");
        import_new(f, 1, &private, &public);
        adopt_fails(f, &private, &public, &nothing, true, FAILURE_TPM_AUTH);
        assert_nothing_left(f);

        run(f, "tpm2_changeauth -c o -p secret");
        assert_true(adopt(f, &private, &public, &nothing, true, NULL));
        assert_key_at_handle(f, 1);
        assert_nothing_left(f);
}

/* Large objects first, then ones like the hub key, until nothing fits anymore. */
static void fill(Fixture *f) {
        run(f, "fill() { i=0; while tpm2_evictcontrol -Q -C o -c $1 $(printf 0x8100%%s%%02x $2 $i); do "
               "i=$((i + 1)); "
               "tpm2_flushcontext -t; done; tpm2_flushcontext -t; grep -q 0x14B errors; }; "
               "tpm2_createprimary -Q -C o -G rsa2048 -c parent && fill parent 02 && "
               "tpm2_create -Q -C parent -G hmac -u pub -r priv && tpm2_flushcontext -t && "
               "tpm2_load -Q -C parent -u pub -r priv -c key && tpm2_flushcontext -t && fill key 03");
}

static void a_full_tpm_is_told_and_can_still_replace(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {};

        import_new(f, 1, &private, &public);
        fill(f);
        adopt_fails(f, &private, &public, &nothing, true, FAILURE_TPM_FULL);
        assert_nothing_left(f);

        run(f, "tpm2_evictcontrol -Q -C o -c 0x81000200");
        assert_true(adopt(f, &private, &public, &nothing, true, &first));
        bytes_deinit(&private);
        bytes_deinit(&public);
        import_new(f, 2, &private, &public);
        assert_true(adopt(f, &private, &public, &first, false, NULL));
        assert_key_at_handle(f, 2);
}

static void a_cleared_tpm_does_not_take_the_key_anymore(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {}, new_private = {}, new_public = {};
        CLEANUP(freep) char *name = NULL;

        import_new(f, 1, &private, &public);
        assert_true(adopt(f, &private, &public, &nothing, false, &first));
        run(f, "tpm2_clear");
        adopt_fails(f, &private, &public, &first, true, FAILURE_IDENTITY_MISMATCH);
        adopt_fails(f, &private, &public, &first, true, FAILURE_IDENTITY_MISMATCH);
        name = hub_key_name(f);
        assert_string_equal(name, "");
        assert_nothing_left(f);

        import_new(f, 2, &new_private, &new_public);
        assert_true(adopt(f, &new_private, &new_public, &first, false, NULL));
        assert_key_at_handle(f, 2);
}

static void a_stored_key_that_is_damaged_is_refused(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};

        import_new(f, 1, &private, &public);
        adopt_fails(f, &nothing, &public, &nothing, true, FAILURE_IDENTITY_MISMATCH);
        adopt_fails(f, &private, &nothing, &nothing, true, FAILURE_IDENTITY_MISMATCH);
        private.data[private.size / 2] ^= 1;
        adopt_fails(f, &private, &public, &nothing, true, FAILURE_IDENTITY_MISMATCH);
        assert_nothing_left(f);
}

static void forget(Fixture *f, const Bytes *name, FailureKind kind) {
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        Failure failure = {};

        assert_int_equal(tpm_open(&tpm, &f->settings, f->cache, NULL), 0);
        assert_int_equal(tpm_forget_hub_key(tpm, name, &failure), failure_to_errno(kind));
        assert_int_equal(failure.kind, kind);
}

static void forgetting_evicts_our_key_only(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes first = {}, second = {};
        CLEANUP(freep) char *name = NULL;

        adopt_new(f, 1, &first);
        adopt_new(f, 2, &second);
        forget(f, &first, FAILURE_TPM_HANDLE_TAKEN);
        forget(f, &nothing, FAILURE_TPM_HANDLE_TAKEN);
        assert_name_at_handle(f, &second);
        forget(f, &second, FAILURE_NONE);
        name = hub_key_name(f);
        assert_string_equal(name, "");
        forget(f, &second, FAILURE_NONE);
        assert_nothing_left(f);
}

static void the_handle_is_the_configured_one(void **state) {
        static const uint32_t wrong[] = { 0,          TPM_EK_HANDLE, TPM_SRK_HANDLE,
                                          0x81000000, 0x81800000,    0x01c00002 };
        Fixture *f = *state;

        f->settings.hub_key_handle = 0x81000abc;
        adopt_new(f, 1, NULL);
        run(f, "tpm2_getcap handles-persistent | grep -qi 0x81000ABC && "
               "! tpm2_getcap handles-persistent | grep -q 0x81000100");

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                Failure failure = {};
                Tpm *tpm = NULL;

                f->settings.hub_key_handle = wrong[i];
                assert_true(tpm_open(&tpm, &f->settings, NULL, &failure) < 0);
                assert_int_equal(failure.kind, FAILURE_CONFIG);
        }
}

#define TPM_TEST(test)       cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
#define FRESH_TPM_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup_fresh, fixture_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TPM_TEST(a_first_adoption_fills_the_handle),
                TPM_TEST(the_same_key_in_another_blob_writes_nothing),
                TPM_TEST(our_own_key_is_replaced),
                TPM_TEST(somebody_else_s_hmac_key_is_replaced_only_when_allowed),
                TPM_TEST(a_foreign_object_is_never_evicted),
                TPM_TEST(a_protected_hmac_key_is_not_tried),
                TPM_TEST(without_the_owner_auth_nothing_is_touched),
                FRESH_TPM_TEST(a_key_from_the_endorsement_hierarchy_can_be_adopted),
                TPM_TEST(a_full_tpm_is_told_and_can_still_replace),
                TPM_TEST(a_cleared_tpm_does_not_take_the_key_anymore),
                TPM_TEST(a_stored_key_that_is_damaged_is_refused),
                TPM_TEST(forgetting_evicts_our_key_only),
                TPM_TEST(the_handle_is_the_configured_one),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
