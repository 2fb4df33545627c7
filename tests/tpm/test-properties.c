#include "fixture.h"

static Tpm *open_tpm(Fixture *f) {
        Failure failure = {};
        Tpm *tpm = NULL;

        if (tpm_open(&tpm, &f->settings, NULL, &failure) < 0)
                fail_msg("%s", failure.sentence);
        return tpm;
}

static TpmProperties properties_of(Fixture *f) {
        CLEANUP(tpm_closep) Tpm *tpm = open_tpm(f);
        TpmProperties properties = {};

        assert_int_equal(tpm_properties(tpm, &properties, &last_failure), 0);
        return properties;
}

static TpmObject object_at(Fixture *f, uint32_t handle) {
        CLEANUP(tpm_closep) Tpm *tpm = open_tpm(f);
        TpmObject object = {};

        assert_int_equal(tpm_object(tpm, handle, &object, &last_failure), 0);
        return object;
}

static void it_says_who_it_is(void **state) {
        TpmProperties p = properties_of(*state);

        assert_string_equal(p.manufacturer, "IBM"); /* swtpm's */
        assert_true(p.firmware[0] != 0);
        assert_true(p.persistent_available > 0);
        assert_false(p.owner_auth_set || p.endorsement_auth_set || p.in_lockout);
        assert_nothing_left(*state);
}

static void authorizations_and_lockout_show(void **state) {
        Fixture *f = *state;
        TpmProperties p;

        run(f, "tpm2_dictionarylockout -s -n 2 -t 100 -l 200 && tpm2_createprimary -Q -C o -c p -p right && "
               "tpm2_flushcontext -t && tpm2_evictcontrol -Q -C o -c p 0x81000123 && tpm2_flushcontext -t");
        p = properties_of(f);
        assert_int_equal(p.lockout_counter, 0);
        assert_int_equal(p.lockout_limit, 2);
        assert_int_equal(p.lockout_interval_sec, 100);

        run(f, "! tpm2_create -C 0x81000123 -P wrong -u u -r r 2>/dev/null");
        assert_int_equal(properties_of(f).lockout_counter, 1);
        run(f, "! tpm2_create -C 0x81000123 -P wrong -u u -r r 2>/dev/null");
        p = properties_of(f);
        assert_int_equal(p.lockout_counter, 2);
        assert_true(p.in_lockout);

        run(f, "tpm2_changeauth -c owner x && tpm2_changeauth -c endorsement y");
        p = properties_of(f);
        assert_true(p.owner_auth_set && p.endorsement_auth_set);
        assert_nothing_left(f);
}

static void objects_are_described(void **state) {
        Fixture *f = *state;
        TpmIdentity id = {};
        TpmObject o;

        o = object_at(f, TPM_EK_HANDLE);
        assert_false(o.present);
        assert_string_equal(o.description, "");

        identity(f, &id);
        tpm_identity_deinit(&id);
        o = object_at(f, TPM_EK_HANDLE);
        assert_true(o.present && o.is_ek && !o.is_srk && !o.is_hub_key);
        o = object_at(f, TPM_SRK_HANDLE);
        assert_true(o.present && o.is_srk && !o.is_ek);
        assert_string_equal(o.description, "an RSA-2048 storage key");

        run(f, MAKE_HMAC_KEY("0x81000100"));
        o = object_at(f, TPM_DEFAULT_HUB_KEY);
        assert_true(o.is_hub_key);
        assert_string_equal(o.description, "an HMAC key");

        run(f, "tpm2_createprimary -Q -C o -G ecc -c e && tpm2_flushcontext -t && "
               "tpm2_evictcontrol -Q -C o -c e 0x81000123 && tpm2_flushcontext -t");
        o = object_at(f, 0x81000123);
        assert_true(o.present && !o.is_ek && !o.is_srk && !o.is_hub_key);
        assert_string_equal(o.description, "an ECC storage key");
        assert_nothing_left(f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(it_says_who_it_is, fixture_setup_fresh, fixture_teardown),
                cmocka_unit_test_setup_teardown(authorizations_and_lockout_show, fixture_setup_fresh,
                                                fixture_teardown),
                cmocka_unit_test_setup_teardown(objects_are_described, fixture_setup_fresh,
                                                fixture_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
