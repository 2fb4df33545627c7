/* Endorsement key, storage root key, what is at the hub key's handle, owner authorization. */
#include "fixture.h"

#include <stdlib.h>

static void assert_same_file(Fixture *f, const Bytes *bytes, const char *file) {
        CLEANUP(freep) char *expected = output_of(f, "od -An -v -tx1 %s | tr -d ' \\n'", file);
        CLEANUP(freep) char *actual = NULL;

        assert_int_equal(hex_encode(&actual, bytes->data, bytes->size), 0);
        assert_string_equal(actual, expected);
}

static void missing_keys_are_created_and_persisted(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {}, again = {};

        identity(f, &id);
        assert_true(id.ek_persistent);
        assert_true(id.srk_persistent);
        assert_true(id.ek_tcg_template);
        assert_true(id.owner_auth_usable);
        assert_false(id.srk_unsuitable);
        assert_int_equal(id.hub_key_state, TPM_HUB_KEY_EMPTY);
        assert_int_equal(id.hub_key_name.size, 0);
        assert_nothing_left(f);

        run(f, "tpm2_readpublic -c 0x81010001 -f tss -o ek && tpm2_readpublic -c 0x81000001 -f tss -o srk");
        assert_same_file(f, &id.ek_public, "ek");
        assert_same_file(f, &id.srk_public, "srk");

        identity(f, &again);
        assert_true(bytes_equal(&id.ek_public, &again.ek_public));
        assert_true(bytes_equal(&id.srk_public, &again.srk_public));
        assert_int_equal(commands_named(f, "CreatePrimary"), 2);
        assert_int_equal(commands_named(f, "EvictControl"), 2);
}

static void the_created_ek_is_the_tools_one(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

        run(f, "tpm2_createek -c ek.ctx -G rsa -f tss -u ek && tpm2_flushcontext -t");
        identity(f, &id);
        assert_same_file(f, &id.ek_public, "ek");
}

static void an_ek_that_the_tools_made_is_taken(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

        run(f, "tpm2_createek -c 0x81010001 -G rsa -f tss -u ek && tpm2_flushcontext -t");
        identity(f, &id);
        assert_same_file(f, &id.ek_public, "ek");
        assert_true(id.ek_persistent);
        assert_true(id.ek_tcg_template);
        assert_int_equal(commands_named(f, "CreatePrimary"), 1); /* the SRK */
}

static void read_only_persists_nothing(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        CLEANUP(freep) char *handles = NULL;

        run(f, "tpm2_createek -c ek.ctx -G rsa -f tss -u ek && tpm2_flushcontext -t");
        f->settings.read_only = true;
        identity(f, &id);
        assert_same_file(f, &id.ek_public, "ek");
        assert_false(id.ek_persistent);
        assert_int_equal(id.srk_public.size, 0);
        assert_int_equal(commands_named(f, "EvictControl"), 0);
        assert_int_equal(commands_named(f, "CreatePrimary"), 1);
        handles = output_of(f, "tpm2_getcap handles-persistent");
        assert_string_equal(handles, "");
        assert_nothing_left(f);
}

static void an_unusable_object_at_the_ek_handle_is_reported_and_kept(void **state) {
        static const char *const makers[] = {
                "tpm2_createek -c 0x81010001 -G ecc -u ek",
                "tpm2_createprimary -C e -G rsa2048 -c p && tpm2_evictcontrol -c p 0x81010001",
                MAKE_HMAC_KEY("0x81010001"),
        };

        for (size_t i = 0; i < ARRAY_SIZE(makers); i++) {
                Fixture *f = *state;
                CLEANUP(freep) char *before = NULL, *after = NULL;

                run(f, "%s && tpm2_flushcontext -t", makers[i]);
                before = output_of(f, "tpm2_readpublic -c 0x81010001");
                identity_fails(f, FAILURE_TPM_HANDLE_TAKEN);
                assert_non_null(strstr(last_failure.sentence, "0x81010001"));
                after = output_of(f, "tpm2_readpublic -c 0x81010001");
                assert_string_equal(before, after);
                assert_int_equal(commands_named(f, "EvictControl"), 0);
                assert_nothing_left(f);
                run(f, "tpm2_clear");
        }
}

static void an_ecc_srk_is_left_alone_and_a_transient_one_serves(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {}, again = {};
        CLEANUP(bytes_deinit) Bytes name = {};
        CLEANUP(freep) char *before = NULL, *after = NULL, *at_handle = NULL;

        run(f, "tpm2_createprimary -C o -G ecc -c p && tpm2_evictcontrol -c p 0x81000001 && "
               "tpm2_flushcontext -t");
        before = output_of(f, "tpm2_readpublic -c 0x81000001");
        identity(f, &id);
        assert_false(id.srk_persistent);
        assert_true(id.srk_unsuitable);
        assert_true(id.srk_public.size > 256);
        identity(f, &again);
        assert_true(bytes_equal(&id.srk_public, &again.srk_public));
        assert_nothing_left(f);

        adopt_new(f, 1, &name);
        at_handle = hub_key_name(f);
        assert_int_equal(strlen(at_handle), 2 * name.size);
        after = output_of(f, "tpm2_readpublic -c 0x81000001");
        assert_string_equal(before, after);
        assert_nothing_left(f);
}

static void what_sits_at_the_hub_key_handle_is_told(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity foreign = {}, hmac = {};
        CLEANUP(freep) char *name = NULL, *expected = NULL;

        run(f, "tpm2_createprimary -C o -G rsa2048 -c p && tpm2_evictcontrol -c p 0x81000100 && "
               "tpm2_flushcontext -t");
        identity(f, &foreign);
        assert_int_equal(foreign.hub_key_state, TPM_HUB_KEY_FOREIGN);
        expected = hub_key_name(f);
        assert_int_equal(hex_encode(&name, foreign.hub_key_name.data, foreign.hub_key_name.size), 0);
        assert_string_equal(name, expected);

        freep(&name);
        freep(&expected);
        run(f, "tpm2_evictcontrol -c 0x81000100 && " MAKE_HMAC_KEY("0x81000100"));
        identity(f, &hmac);
        assert_int_equal(hmac.hub_key_state, TPM_HUB_KEY_HMAC);
        expected = hub_key_name(f);
        assert_int_equal(hex_encode(&name, hmac.hub_key_name.data, hmac.hub_key_name.size), 0);
        assert_string_equal(name, expected);
}

static void without_the_owner_auth_everything_is_transient(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {}, again = {};
        CLEANUP(bytes_deinit) Bytes blob = {};
        CLEANUP(freep) char *handles = NULL;
        uint8_t hmac[SHA256_SIZE];

        run(f, "tpm2_changeauth -c o secret");
        identity(f, &id);
        assert_false(id.owner_auth_usable);
        assert_false(id.ek_persistent);
        assert_false(id.srk_persistent);
        assert_false(id.srk_unsuitable);
        assert_int_equal(commands_named(f, "EvictControl"), 0);
        assert_nothing_left(f);

        make_blob(f, 1, &blob);
        sign(f, &blob, "message", hmac);
        f->settings.owner_auth = auth_value("wrong");
        identity(f, &again);
        assert_false(again.owner_auth_usable);
        assert_false(again.ek_persistent);
        assert_false(again.srk_persistent);
        assert_true(bytes_equal(&id.ek_public, &again.ek_public));
        assert_true(bytes_equal(&id.srk_public, &again.srk_public));
        handles = output_of(f, "tpm2_getcap handles-persistent");
        assert_string_equal(handles, "");
        assert_nothing_left(f);
}

static void the_right_owner_auth_persists(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {}, again = {}, wrong = {};

        run(f, "tpm2_changeauth -c o secret");
        f->settings.owner_auth = auth_value("secret");
        identity(f, &id);
        assert_true(id.owner_auth_usable);
        assert_true(id.ek_persistent);
        assert_true(id.srk_persistent);

        identity(f, &again); /* nothing to persist, so it has to be tried otherwise */
        assert_true(again.owner_auth_usable);
        f->settings.owner_auth = auth_value("wrong");
        identity(f, &wrong);
        assert_false(wrong.owner_auth_usable);
        assert_true(wrong.ek_persistent);
        assert_nothing_left(f);
}

static void an_owner_auth_for_a_tpm_that_has_none_does_no_harm(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

        f->settings.owner_auth = auth_value("secret");
        f->settings.endorsement_auth = auth_value("another");
        identity(f, &id);
        assert_true(id.owner_auth_usable);
        assert_true(id.ek_persistent);
        assert_true(id.srk_persistent);
}

static void an_owner_auth_that_no_tpm_can_have_is_refused(void **state) {
        Fixture *f = *state;
        char value[66] = "";
        Failure failure = {};
        Tpm *tpm = NULL;

        memset(value, 'x', sizeof(value) - 1);
        f->settings.owner_auth = auth_value(value);
        assert_true(tpm_open(&tpm, &f->settings, NULL, &failure) < 0);
        assert_int_equal(failure.kind, FAILURE_TPM_AUTH);
        assert_null(tpm);
}

static void the_endorsement_auth_is_used(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        run(f, "tpm2_changeauth -c e secret");
        identity_fails(f, FAILURE_TPM_AUTH);
        assert_nothing_left(f);
        f->settings.endorsement_auth = auth_value("secret");
        identity(f, &id);
        assert_true(id.ek_persistent);
        make_blob(f, 1, &blob);
        sign(f, &blob, "message", hmac);

        f->settings.endorsement_auth = auth_value("wrong");
        sign_fails(f, &blob, FAILURE_TPM_AUTH);
        assert_nothing_left(f);
        f->settings.endorsement_auth = (TpmAuthValue){};
        sign_fails(f, &blob, FAILURE_TPM_AUTH);
        assert_nothing_left(f);
}

static void a_full_tpm_still_attests(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        set_faults(f, "{\"rules\": [{\"command\": \"EvictControl\", \"times\": 0, \"answer\": \"0x14b\"}]}");
        identity(f, &id);
        assert_false(id.ek_persistent);
        assert_false(id.srk_persistent);
        make_blob(f, 1, &blob);
        sign(f, &blob, "message", hmac);
        assert_nothing_left(f);
}

static void somebody_else_may_be_faster(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

        /* the handles' first listing shows nothing, so both keys are made, and then the handles are taken */
        run(f, "tpm2_createek -c 0x81010001 -G rsa -u ek && tpm2_flushcontext -t");
        run(f, "tpm2_createprimary -C o -G rsa2048 -c p -a 'fixedtpm|fixedparent|sensitivedataorigin|"
               "userwithauth|noda|restricted|decrypt' && "
               "tpm2_evictcontrol -c p 0x81000001 && tpm2_flushcontext -t");
        set_faults(f, "{\"rules\": [{\"command\": \"GetCapability\", \"answer\": \"0x0\", "
                      "\"data\": \"000000000100000000\"}]}");
        identity(f, &id);
        assert_int_equal(commands_named(f, "CreatePrimary"), 2);
        assert_true(id.ek_persistent);
        assert_true(id.srk_persistent);
        assert_nothing_left(f);
        run(f, "tpm2_readpublic -c 0x81000001 -f tss -o srk");
        assert_same_file(f, &id.srk_public, "srk");
}

#define TPM_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup_fresh, fixture_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TPM_TEST(missing_keys_are_created_and_persisted),
                TPM_TEST(the_created_ek_is_the_tools_one),
                TPM_TEST(an_ek_that_the_tools_made_is_taken),
                TPM_TEST(read_only_persists_nothing),
                TPM_TEST(an_unusable_object_at_the_ek_handle_is_reported_and_kept),
                TPM_TEST(an_ecc_srk_is_left_alone_and_a_transient_one_serves),
                TPM_TEST(what_sits_at_the_hub_key_handle_is_told),
                TPM_TEST(without_the_owner_auth_everything_is_transient),
                TPM_TEST(the_right_owner_auth_persists),
                TPM_TEST(an_owner_auth_for_a_tpm_that_has_none_does_no_harm),
                TPM_TEST(an_owner_auth_that_no_tpm_can_have_is_refused),
                TPM_TEST(the_endorsement_auth_is_used),
                TPM_TEST(a_full_tpm_still_attests),
                TPM_TEST(somebody_else_may_be_faster),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
