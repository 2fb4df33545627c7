/* What goes wrong with a TPM in the field: disabled hierarchies, a broken connection, a missing command. */
#include "fixture.h"

#include <stdlib.h>

#define ALWAYS "{\"rules\": [{\"command\": \"%s\", \"times\": 0, \"answer\": \"%s\"}]}"

static void answer_always(Fixture *f, const char *command, const char *code) {
        char faults[128];

        (void) snprintf(faults, sizeof(faults), ALWAYS, command, code);
        set_faults(f, faults);
}

static const struct {
        const char *disable, *name;
} hierarchies[] = {
        { "tpm2_hierarchycontrol -C e ehEnable clear", "endorsement hierarchy is disabled" },
        { "tpm2_hierarchycontrol -C o shEnable clear", "storage hierarchy is disabled" },
        { "tpm2_hierarchycontrol -C o shEnable clear && tpm2_hierarchycontrol -C e ehEnable clear",
          "storage and endorsement hierarchies are disabled" },
};

static void assert_hierarchy_named(const char *name) {
        assert_non_null(strstr(last_failure.sentence, name));
        assert_non_null(strstr(failure_advice(&last_failure), "firmware"));
        assert_null(strstr(failure_advice(&last_failure), "power-cycle"));
}

static void a_disabled_hierarchy_is_named(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(hierarchies); i++) {
                CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

                run(f, "%s", hierarchies[i].disable);
                identity_fails(f, FAILURE_TPM_HIERARCHY);
                assert_hierarchy_named(hierarchies[i].name);
                assert_nothing_left(f);
                power_cut(f); /* enables both */
                identity(f, &id);
        }
}

static void a_hierarchy_that_goes_during_a_job_is_named(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {}, first = {};

        adopt_new(f, 1, &first);
        make_blob(f, 2, &blob);
        import_key(f, &blob, &private, &public);
        run(f, "tpm2_hierarchycontrol -C e ehEnable clear");
        sign_fails(f, &blob, FAILURE_TPM_HIERARCHY);
        assert_hierarchy_named("endorsement hierarchy is disabled");
        power_cut(f);
        run(f, "tpm2_hierarchycontrol -C o shEnable clear");
        adopt_fails(f, &private, &public, &first, 1, FAILURE_TPM_HIERARCHY);
        assert_hierarchy_named("storage hierarchy is disabled");
        power_cut(f);
        assert_true(adopt(f, &private, &public, &first, 1, NULL));
}

/* The firmware disables it as a rule, and DPS needs nothing of it. */
static void the_platform_hierarchy_is_not_needed(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        CLEANUP(tpm_certificates_deinit) TpmCertificates held = {};
        uint8_t hmac[SHA256_SIZE];
        Failure failure = {};
        Tpm *tpm = NULL;

        run(f, "echo x >nv && tpm2_nvdefine -Q 0x1c00002 -C p -s 2 -a "
               "'ppread|ppwrite|ownerread|authread|no_da|platformcreate' && "
               "tpm2_nvwrite -Q 0x1c00002 -C p -i nv && "
               "tpm2_hierarchycontrol -C p phEnableNV clear && tpm2_hierarchycontrol -C p phEnable clear");
        make_blob(f, 1, &blob);
        sign(f, &blob, "message", hmac);
        answer_always(f, "CreatePrimary", "0x18b"); /* another reason for this answer than the hierarchy */
        run(f, "tpm2_evictcontrol -C o -c 0x81010001");
        identity_fails(f, FAILURE_TPM_FAILED);
        set_faults(f, "{}");

        assert_int_equal(tpm_open(&tpm, &f->settings, NULL, &failure), 0);
        assert_true(tpm_certificates(tpm, &held, &failure) < 0);
        assert_non_null(strstr(failure.sentence, "platform"));
        tpm = tpm_close(tpm);
}

/* An endorsement key that DPS can't use, at its handle. */
static void an_unusable_endorsement_key_has_its_own_hint(void **state) {
        static const char *const keys[] = {
                "tpm2_createek -G ecc -c ek -u x",
                "tpm2_createprimary -Q -C e -G rsa -c ek",
                "tpm2_createprimary -Q -C e -G rsa2048:rsassa:null -c ek -a "
                "'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign'",
                "tpm2_createprimary -Q -C e -G rsa2048:aes256cfb -c ek",
                "tpm2_createprimary -Q -C e -G hmac -c ek -a "
                "'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign'",
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
                const char *hint;

                run(f,
                    "%s; tpm2_flushcontext -t; tpm2_evictcontrol -Q -C o -c ek 0x81010001; "
                    "tpm2_flushcontext -t",
                    keys[i]);
                identity_fails(f, FAILURE_TPM_HANDLE_TAKEN);
                hint = failure_advice(&last_failure);
                assert_non_null(strstr(hint, "tpm2_evictcontrol -C o -c 0x81010001"));
                assert_null(strstr(hint, "HubKeyHandle="));
                assert_null(strstr(hint, "ReplaceProvisioning="));
                run(f, "tpm2_evictcontrol -C o -c 0x81010001");
                identity(f, &id);
                assert_true(id.ek_persistent && id.ek_tcg_template);
                run(f, "tpm2_evictcontrol -C o -c 0x81010001");
        }
}

/* The connection breaks at any command. The failure is transient and does not accuse the key. */
static void a_broken_connection_accuses_no_key(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {}, first = {};
        char faults[64];

        adopt_new(f, 1, &first);
        make_blob(f, 2, &blob);
        import_key(f, &blob, &private, &public);
        for (unsigned i = 1; i <= 11; i++) {
                bool signs = i <= 6;

                (void) snprintf(faults, sizeof(faults), "{\"rules\": [{\"nth\": %u, \"drop\": true}]}",
                                signs ? i : i - 6);
                set_faults(f, faults);
                if (signs)
                        sign_fails(f, &blob, FAILURE_TPM_MISSING);
                else
                        adopt_fails(f, &private, &public, &first, 1, FAILURE_TPM_MISSING);
                assert_int_equal(failure_class(last_failure.kind), FAILURE_CLASS_TRANSIENT);
                assert_null(strstr(last_failure.sentence, "another TPM"));
                assert_null(strstr(last_failure.sentence, "the service sent"));
                assert_null(strstr(last_failure.sentence, "cleared"));
                assert_non_null(strstr(failure_advice(&last_failure), "journalctl -k"));
                run(f, "tpm2_flushcontext -t; tpm2_flushcontext -l");
        }
}

/* A resource manager's own errors, and an answer that can't be read. */
static void other_layers_accuse_no_key(void **state) {
        static const char *const codes[] = { "0xb0001", "0xa000a", "0x80001", "0xc0143" };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};

        make_blob(f, 1, &blob);
        for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
                answer_always(f, "ActivateCredential", codes[i]);
                sign_fails(f, &blob, i == 1 ? FAILURE_TPM_MISSING : FAILURE_TPM_FAILED);
                assert_null(strstr(last_failure.sentence, "another TPM"));
                assert_int_equal(failure_class(last_failure.kind), FAILURE_CLASS_TRANSIENT);
                run(f, "tpm2_flushcontext -l"); /* ESYS sends nothing after such an error */
        }
}

static void a_tpm_without_hmac_signs_with_a_sequence(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {}, name = {};
        uint8_t with[SHA256_SIZE], without[SHA256_SIZE];
        char message[TPM_MESSAGE_MAX + 1];

        memset(message, 'x', TPM_MESSAGE_MAX);
        message[TPM_MESSAGE_MAX] = '\0';
        make_blob(f, 1, &blob);
        sign(f, &blob, message, with);
        answer_always(f, "HMAC", "0x143");
        sign(f, &blob, message, without);
        assert_memory_equal(with, without, sizeof(with));
        assert_nothing_left(f);

        adopt_new(f, 1, &name);
        import_key(f, &blob, &private, &public);
        assert_false(adopt(f, &private, &public, NULL, 0, NULL)); /* the same key, compared by HMACs */
        assert_nothing_left(f);

        static const char *const steps[] = { "HMAC_Start", "SequenceComplete" };
        for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
                char faults[256];

                (void) snprintf(faults, sizeof(faults),
                                "{\"rules\": [{\"command\": \"HMAC\", \"times\": 0, \"answer\": \"0x143\"},"
                                "{\"command\": \"%s\", \"answer\": \"0x143\"}]}",
                                steps[i]);
                set_faults(f, faults);
                sign_fails(f, &blob, FAILURE_TPM_FAILED);
                assert_nothing_left(f);
        }
}

/* Without a resource manager a TPM has three places: both storage keys and the hub key take them. */
static void a_sequence_finds_room_beside_transient_keys(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t with[SHA256_SIZE], without[SHA256_SIZE];

        run(f, "tpm2_changeauth -c o secret");
        make_blob(f, 1, &blob);
        sign(f, &blob, "message", with);
        answer_always(f, "HMAC", "0x143");
        sign(f, &blob, "message", without);
        assert_memory_equal(with, without, sizeof(with));
        assert_nothing_left(f);
}

/* Every byte counts. The message about a rejected value names the file and nothing of the value. */
static void an_authorization_value_is_any_bytes(void **state) {
        static const struct {
                const char *data;
                size_t size;
                const char *hex, *oddity;
        } values[] = {
                { "se\0cret", 7, "73650063726574", "NUL byte" },
                { "secret ", 7, "73656372657420", "ends in a blank" },
                { "secret\t", 7, "73656372657409", "ends in a blank" },
                { " secret", 7, "20736563726574", "begins with a blank" },
                { "\377\200\n1", 4, "ff800a31", "/creds/auth'" },
        };
        static const char letters[] = "oe";
        Fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(values); i++)
                for (size_t h = 0; h < 2; h++) {
                        TpmAuthValue value = { values[i].data, values[i].size, "/creds/auth" };
                        TpmHierarchy which = h == 0 ? TPM_HIERARCHY_OWNER : TPM_HIERARCHY_ENDORSEMENT;
                        char fault[TPM_AUTH_FAULT_MAX];
                        Failure failure = {};
                        Tpm *tpm = NULL;

                        *(h == 0 ? &f->settings.owner_auth : &f->settings.endorsement_auth) = value;
                        run(f, "tpm2_changeauth -c %c hex:%s", letters[h], values[i].hex);
                        assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
                        assert_int_equal(tpm_test_auth(tpm, which, fault, &failure), 0);
                        assert_string_equal(fault, "");
                        tpm = tpm_close(tpm);

                        run(f, "tpm2_changeauth -c %c -p hex:%s other", letters[h], values[i].hex);
                        assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
                        assert_int_equal(tpm_test_auth(tpm, which, fault, &failure), 0);
                        assert_non_null(strstr(fault, "'/creds/auth'"));
                        assert_non_null(strstr(fault, values[i].oddity));
                        assert_null(strstr(fault, "cret"));
                        tpm = tpm_close(tpm);
                        run(f, "tpm2_changeauth -c %c -p other", letters[h]);
                }
        assert_nothing_left(f);
}

static void a_rejected_authorization_value_names_its_file(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {}, first = {};

        adopt_new(f, 1, &first);
        make_blob(f, 2, &blob);
        import_key(f, &blob, &private, &public);
        run(f, "tpm2_changeauth -c e secret && tpm2_changeauth -c o secret");
        f->settings.endorsement_auth = f->settings.owner_auth = auth_value("wrong ");
        identity(f, &id);
        assert_false(id.owner_auth_usable);
        assert_non_null(strstr(id.owner_auth_fault, "'/creds/auth', which ends in a blank"));
        sign_fails(f, &blob, FAILURE_TPM_AUTH);
        assert_non_null(strstr(last_failure.sentence, "'/creds/auth', which ends in a blank"));
        assert_non_null(strstr(failure_advice(&last_failure), "credstore"));
        adopt_fails(f, &private, &public, &first, 1, FAILURE_TPM_AUTH);
        assert_non_null(strstr(last_failure.sentence, "'/creds/auth'"));
        assert_nothing_left(f);
}

#define TPM_TEST(test)       cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
#define FRESH_TPM_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup_fresh, fixture_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TPM_TEST(a_disabled_hierarchy_is_named),
                TPM_TEST(a_hierarchy_that_goes_during_a_job_is_named),
                TPM_TEST(the_platform_hierarchy_is_not_needed),
                FRESH_TPM_TEST(an_unusable_endorsement_key_has_its_own_hint),
                TPM_TEST(a_broken_connection_accuses_no_key),
                TPM_TEST(other_layers_accuse_no_key),
                TPM_TEST(a_tpm_without_hmac_signs_with_a_sequence),
                FRESH_TPM_TEST(a_sequence_finds_room_beside_transient_keys),
                TPM_TEST(an_authorization_value_is_any_bytes),
                TPM_TEST(a_rejected_authorization_value_names_its_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
