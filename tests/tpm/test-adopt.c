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
        assert_true(adopt(f, &private, &public, NULL, 0, &name));
        assert_key_at_handle(f, 1);
        assert_name_at_handle(f, &name);
        assert_nothing_left(f);

        assert_false(adopt(f, &private, &public, NULL, 0, &again));
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
        assert_false(adopt(f, &private, &public, NULL, 0, &name));
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
        assert_true(adopt(f, &private, &public, &first, 1, &name));
        assert_false(bytes_equal(&first, &name));
        assert_key_at_handle(f, 2);
        assert_name_at_handle(f, &name);
        assert_nothing_left(f);
}

/* Only the list of names decides whether the key at the handle may be replaced, whoever made it. */
static void an_hmac_key_is_replaced_only_when_its_name_is_listed(void **state) {
        const Bytes other = { (uint8_t *) "\0\x0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 34 };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, name = {}, before = {};
        unsigned evictions;

        import_new(f, 1, &private, &public);
        run(f, MAKE_HMAC_KEY("0x81000100"));
        read_hub_key_name(f, &before);
        evictions = commands_named(f, "EvictControl");
        for (size_t count = 0; count <= 2; count++) {
                const Bytes names[] = { other, nothing };

                adopt_fails(f, &private, &public, names, count, FAILURE_TPM_HANDLE_TAKEN);
                assert_string_equal(last_failure.code, TPM_CODE_HUB_KEY);
                assert_name_at_handle(f, &before);
                assert_int_equal(commands_named(f, "EvictControl"), evictions);
                assert_nothing_left(f);
        }

        assert_true(adopt(f, &private, &public, &before, 1, &name));
        assert_key_at_handle(f, 1);
        assert_name_at_handle(f, &name);
        assert_nothing_left(f);
}

static void each_name_in_the_list_may_be_replaced(void **state) {
        const Bytes other = { (uint8_t *) "\0\x0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 34 };
        Fixture *f = *state;

        adopt_new(f, 1, NULL);
        for (size_t position = 0; position < 3; position++) {
                CLEANUP(bytes_deinit) Bytes private = {}, public = {}, before = {};
                Bytes names[3] = { other, other, nothing };
                uint8_t key = (uint8_t) (2 + position);

                read_hub_key_name(f, &before);
                names[position] = before;
                import_new(f, key, &private, &public);
                assert_true(adopt(f, &private, &public, names, 3, NULL));
                assert_key_at_handle(f, key);
        }
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
                adopt_fails(f, &private, &public, &name, 1, FAILURE_TPM_HANDLE_TAKEN);
                assert_non_null(strstr(last_failure.sentence, "0x81000100"));
                assert_string_equal(last_failure.code, "");

                assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
                assert_true(tpm_forget_hub_key(tpm, &name, 1, &failure) < 0);
                assert_string_equal(failure.code, "");
                assert_int_equal(failure.kind, FAILURE_TPM_HANDLE_TAKEN);
                tpm = tpm_close(tpm);

                after = hub_key_name(f);
                assert_string_equal(before, after);
                assert_int_equal(commands_named(f, "EvictControl"), evictions);
                assert_nothing_left(f);
                run(f, "tpm2_evictcontrol -c 0x81000100");
        }
}

/* Trying a key with an authorization value counts towards lockout unless it has noDA. */
static void a_protected_hmac_key_brings_no_lockout(void **state) {
        static const char *const keys[] = { "-p secret -a 'sign|userwithauth|sensitivedataorigin'",
                                            "-p secret -a 'sign|userwithauth|sensitivedataorigin|noda'",
                                            "-a 'sign|userwithauth|sensitivedataorigin'" };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};

        import_new(f, 1, &private, &public);
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                CLEANUP(bytes_deinit) Bytes name = {};
                CLEANUP(freep) char *counter = NULL;

                run(f,
                    "tpm2_createprimary -Q -C o -c parent && tpm2_create -Q -C parent -G hmac %s -c key && "
                    "tpm2_flushcontext -t && tpm2_evictcontrol -Q -C o -c key 0x81000100 && "
                    "tpm2_flushcontext -t",
                    keys[i]);
                for (unsigned n = 0; n < 6; n++)
                        adopt_fails(f, &private, &public, NULL, 0, FAILURE_TPM_HANDLE_TAKEN);
                counter = output_of(f, "tpm2_getcap properties-variable | grep LOCKOUT_COUNTER");
                assert_string_equal(counter, "TPM2_PT_LOCKOUT_COUNTER: 0x0");
                assert_nothing_left(f);

                read_hub_key_name(f, &name);
                assert_true(adopt(f, &private, &public, &name, 1, NULL));
                assert_key_at_handle(f, 1);
                run(f, "tpm2_evictcontrol -Q -C o -c 0x81000100");
        }
}

static void without_the_owner_auth_nothing_is_touched(void **state) {
        static const char *const values[] = { NULL, "wrong" };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {};

        adopt_new(f, 1, &first);
        import_new(f, 2, &private, &public);
        run(f, "tpm2_changeauth -c o secret");
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                f->settings.owner_auth = auth_value(values[i]);
                adopt_fails(f, &private, &public, &first, 1, FAILURE_TPM_AUTH);
                assert_name_at_handle(f, &first);
                assert_nothing_left(f);
        }
        f->settings.owner_auth = auth_value("secret");
        assert_true(adopt(f, &private, &public, &first, 1, NULL));
        assert_key_at_handle(f, 2);
}

static void a_key_from_the_endorsement_hierarchy_can_be_adopted(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};

        run(f, "tpm2_createprimary -Q -C o -G ecc -c p && tpm2_evictcontrol -Q -c p 0x81000001 && "
               "tpm2_flushcontext -t && tpm2_changeauth -c o secret");
        import_new(f, 1, &private, &public);
        adopt_fails(f, &private, &public, NULL, 0, FAILURE_TPM_AUTH);
        assert_nothing_left(f);

        run(f, "tpm2_changeauth -c o -p secret");
        assert_true(adopt(f, &private, &public, NULL, 0, NULL));
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
        adopt_fails(f, &private, &public, NULL, 0, FAILURE_TPM_FULL);
        assert_nothing_left(f);

        run(f, "tpm2_evictcontrol -Q -C o -c 0x81000200");
        assert_true(adopt(f, &private, &public, NULL, 0, &first));
        bytes_deinit(&private);
        bytes_deinit(&public);
        import_new(f, 2, &private, &public);
        assert_true(adopt(f, &private, &public, &first, 1, NULL));
        assert_key_at_handle(f, 2);
}

static void a_cleared_tpm_does_not_take_the_key_anymore(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {}, first = {}, new_private = {}, new_public = {};
        CLEANUP(freep) char *name = NULL;

        import_new(f, 1, &private, &public);
        assert_true(adopt(f, &private, &public, NULL, 0, &first));
        run(f, "tpm2_clear");
        adopt_fails(f, &private, &public, &first, 1, FAILURE_IDENTITY_MISMATCH);
        adopt_fails(f, &private, &public, &first, 1, FAILURE_IDENTITY_MISMATCH);
        name = hub_key_name(f);
        assert_string_equal(name, "");
        assert_nothing_left(f);

        import_new(f, 2, &new_private, &new_public);
        assert_true(adopt(f, &new_private, &new_public, &first, 1, NULL));
        assert_key_at_handle(f, 2);
}

static void a_stored_key_that_is_damaged_is_refused(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes private = {}, public = {};

        import_new(f, 1, &private, &public);
        adopt_fails(f, &nothing, &public, NULL, 0, FAILURE_IDENTITY_MISMATCH);
        adopt_fails(f, &private, &nothing, NULL, 0, FAILURE_IDENTITY_MISMATCH);
        private.data[private.size / 2] ^= 1;
        adopt_fails(f, &private, &public, NULL, 0, FAILURE_IDENTITY_MISMATCH);
        assert_nothing_left(f);
}

static void forget(Fixture *f, const Bytes *names, size_t count, FailureKind kind) {
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        Failure failure = {};

        assert_int_equal(tpm_open(&tpm, &f->settings, f->cache, NULL), 0);
        assert_int_equal(tpm_forget_hub_key(tpm, names, count, &failure), failure_to_errno(kind));
        assert_int_equal(failure.kind, kind);
        if (kind == FAILURE_TPM_HANDLE_TAKEN)
                assert_string_equal(failure.code, TPM_CODE_HUB_KEY);
}

static void forgetting_evicts_our_keys_only(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes first = {}, second = {}, third = {};

        adopt_new(f, 1, &first);
        adopt_new(f, 2, &second);
        forget(f, NULL, 0, FAILURE_TPM_HANDLE_TAKEN);
        forget(f, &nothing, 1, FAILURE_TPM_HANDLE_TAKEN);
        forget(f, &first, 1, FAILURE_TPM_HANDLE_TAKEN);
        assert_name_at_handle(f, &second);
        for (size_t position = 0; position < 2; position++) {
                CLEANUP(freep) char *name = NULL;
                Bytes names[2] = { first, first };

                bytes_deinit(&third);
                adopt_new(f, 3, &third);
                names[position] = third;
                forget(f, names, 2, FAILURE_NONE);
                name = hub_key_name(f);
                assert_string_equal(name, "");
                forget(f, names, 2, FAILURE_NONE);
        }
        forget(f, NULL, 0, FAILURE_NONE);
        assert_nothing_left(f);
}

static void looking_at_the_handle_changes_nothing(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes ours = {}, found = {}, foreign = {}, foreign_found = {};
        unsigned evictions;

        assert_int_equal(hub_key_state(f, &found), TPM_HUB_KEY_EMPTY);
        assert_int_equal(found.size, 0);

        adopt_new(f, 1, &ours);
        evictions = commands_named(f, "EvictControl");
        assert_int_equal(hub_key_state(f, &found), TPM_HUB_KEY_HMAC);
        assert_true(bytes_equal(&ours, &found));
        assert_nothing_left(f);

        run(f, "tpm2_evictcontrol -Q -C o -c 0x81000100 && tpm2_createprimary -Q -C o -G rsa2048 -c p && "
               "tpm2_evictcontrol -Q -c p 0x81000100 && tpm2_flushcontext -t");
        read_hub_key_name(f, &foreign);
        assert_int_equal(hub_key_state(f, &foreign_found), TPM_HUB_KEY_FOREIGN);
        assert_true(bytes_equal(&foreign, &foreign_found));
        assert_name_at_handle(f, &foreign);
        assert_int_equal(commands_named(f, "EvictControl"), evictions);
        assert_nothing_left(f);
}

/* The public area of an object can be read by everybody. */
static void looking_at_the_handle_needs_no_authorization(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes ours = {}, found = {};

        adopt_new(f, 1, &ours);
        run(f, "tpm2_changeauth -c o secret");
        f->settings.owner_auth = auth_value("wrong");
        assert_int_equal(hub_key_state(f, &found), TPM_HUB_KEY_HMAC);
        assert_true(bytes_equal(&ours, &found));
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
                TPM_TEST(an_hmac_key_is_replaced_only_when_its_name_is_listed),
                TPM_TEST(each_name_in_the_list_may_be_replaced),
                TPM_TEST(a_foreign_object_is_never_evicted),
                TPM_TEST(a_protected_hmac_key_brings_no_lockout),
                TPM_TEST(without_the_owner_auth_nothing_is_touched),
                FRESH_TPM_TEST(a_key_from_the_endorsement_hierarchy_can_be_adopted),
                TPM_TEST(a_full_tpm_is_told_and_can_still_replace),
                TPM_TEST(a_cleared_tpm_does_not_take_the_key_anymore),
                TPM_TEST(a_stored_key_that_is_damaged_is_refused),
                TPM_TEST(forgetting_evicts_our_keys_only),
                TPM_TEST(looking_at_the_handle_changes_nothing),
                TPM_TEST(looking_at_the_handle_needs_no_authorization),
                TPM_TEST(the_handle_is_the_configured_one),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
