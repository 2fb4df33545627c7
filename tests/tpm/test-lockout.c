/* Keys that others left in the TPM never bring it nearer to lockout: a wrong authorization value counts
 * towards it unless the key has the attribute noDA. swtpm locks at the third. */
#include "fixture.h"

#include <stdlib.h>

#define ATTEMPTS 40u
#define FEW      6u /* more than bring swtpm into lockout */

#define STORAGE_KEY "fixedtpm|fixedparent|sensitivedataorigin|restricted|decrypt"
#define PRIMARY(hierarchy, attributes, options)                                                             \
        "tpm2_createprimary -Q -C " hierarchy " -G rsa2048:aes128cfb -a '" STORAGE_KEY "|" attributes       \
        "' -c p " options
#define AT(handle)               " && tpm2_evictcontrol -Q -c p " handle " && tpm2_flushcontext -t"
#define SRK(attributes, options) PRIMARY("o", attributes, options) AT("0x81000001")

/* The endorsement key's policy, PolicySecret(TPM_RH_ENDORSEMENT). */
#define EK(attributes, options)                                                                             \
        "tpm2_startauthsession -S session && tpm2_policysecret -Q -S session -c e -L policy && "            \
        "tpm2_flushcontext session && " PRIMARY("e", attributes, "-L policy " options) AT("0x81010001")

static unsigned long lockout_counter(Fixture *f) {
        CLEANUP(freep)
        char *counter = output_of(f, "tpm2_getcap properties-variable | sed -n 's/.*LOCKOUT_COUNTER: //p'");

        assert_string_not_equal(counter, "");
        return strtoul(counter, NULL, 16);
}

/* What the daemon does in one attempt; the hub's key is the same in each. */
static void attempt(Fixture *f, Bytes *ret_name) {
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {}, name = {};
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 1, &blob);
        sign(f, &blob, "message", hmac);
        import_key(f, &blob, &private, &public);
        (void) adopt(f, &private, &public, NULL, 0, &name);
        bytes_deinit(ret_name);
        assert_int_equal(bytes_copy(ret_name, name.data, name.size), 0);
}

static void attempt_often(Fixture *f, unsigned attempts) {
        CLEANUP(bytes_deinit) Bytes first = {}, name = {};

        assert_int_equal(lockout_counter(f), 0);
        attempt(f, &first);
        for (unsigned i = 1; i < attempts; i++) {
                attempt(f, &name);
                assert_true(bytes_equal(&first, &name));
        }
        assert_int_equal(lockout_counter(f), 0);
        assert_nothing_left(f);
        power_cut(f); /* the use of a key without noDA counts then, whatever its authorization value */
        assert_int_equal(lockout_counter(f), 0);
}

static void assert_srk_is_left_alone(Fixture *f, const char *before) {
        CLEANUP(freep) char *after = output_of(f, "tpm2_readpublic -c 0x81000001");
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

        assert_string_equal(before, after);
        identity(f, &id);
        assert_true(id.srk_unsuitable);
        assert_false(id.srk_persistent);
}

static void an_srk_does_no_harm(Fixture *f, const char *maker, unsigned attempts) {
        CLEANUP(freep) char *before = NULL;

        run(f, "%s", maker);
        before = output_of(f, "tpm2_readpublic -c 0x81000001");
        attempt_often(f, attempts);
        assert_srk_is_left_alone(f, before);
}

static void an_srk_with_an_auth_value_and_without_noda_does_no_harm(void **state) {
        an_srk_does_no_harm(*state, SRK("userwithauth", "-p secret"), ATTEMPTS);
}

static void an_srk_with_an_auth_value_and_noda_does_no_harm(void **state) {
        an_srk_does_no_harm(*state, SRK("userwithauth|noda", "-p secret"), ATTEMPTS);
}

static void an_srk_without_noda_does_no_harm(void **state) {
        an_srk_does_no_harm(*state, SRK("userwithauth", ""), ATTEMPTS);
}

/* ActivateCredential can't be authorized by the value. */
static void an_srk_that_needs_a_policy_does_no_harm(void **state) {
        an_srk_does_no_harm(*state, SRK("userwithauth|noda|adminwithpolicy", ""), FEW);
}

/* The owner authorization is needed to make the hub key persistent, and nothing else. */
static void with_the_owner_auth_such_an_srk_does_no_harm(void **state) {
        Fixture *f = *state;
        CLEANUP(freep) char *before = NULL;

        run(f, "%s && tpm2_changeauth -c o owner", SRK("userwithauth", "-p secret"));
        before = output_of(f, "tpm2_readpublic -c 0x81000001");
        f->settings.owner_auth = auth_value("owner");
        attempt_often(f, FEW);
        assert_srk_is_left_alone(f, before);
}

static void without_the_owner_auth_such_an_srk_does_no_harm(void **state) {
        static const char *const values[] = { NULL, "wrong" };
        Fixture *f = *state;

        run(f, "%s && tpm2_changeauth -c o owner", SRK("userwithauth", "-p secret"));
        for (unsigned i = 0; i < FEW; i++) {
                CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {};
                uint8_t hmac[SHA256_SIZE];

                f->settings.owner_auth = auth_value(values[i % ARRAY_SIZE(values)]);
                make_blob(f, 1, &blob);
                sign(f, &blob, "message", hmac);
                import_key(f, &blob, &private, &public);
                adopt_fails(f, &private, &public, NULL, 0, FAILURE_TPM_AUTH);
        }
        assert_int_equal(lockout_counter(f), 0);
        assert_nothing_left(f);
}

/* The transient SRK follows from the seed of its hierarchy. */
static void a_key_below_the_transient_srk_loads_again_after_a_reboot(void **state) {
        static const char *const makers[] = { SRK("userwithauth", "-p secret"),
                                              SRK("userwithauth|noda", "-p secret") };
        Fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(makers); i++) {
                CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {};

                run(f, "%s", makers[i]);
                make_blob(f, 1, &blob);
                import_key(f, &blob, &private, &public);
                for (unsigned boot = 0; boot < 3; boot++) {
                        power_cut(f);
                        f->cache = tpm_cache_free(f->cache);
                        assert_int_equal(tpm_cache_new(&f->cache), 0);
                        assert_true(adopt(f, &private, &public, NULL, 0, NULL));
                        run(f, "tpm2_evictcontrol -Q -c 0x81000100");
                }
                assert_int_equal(lockout_counter(f), 0);
                run(f, "tpm2_evictcontrol -Q -c 0x81000001");
        }
}

/* It is used by its policy, which does not ask for its authorization value. */
static void an_ek_with_an_auth_value_and_without_noda_does_no_harm(void **state) {
        static const char *const makers[] = { EK("adminwithpolicy", "-p secret"),
                                              EK("adminwithpolicy|userwithauth", "-p secret") };
        Fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(makers); i++) {
                CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

                run(f, "%s", makers[i]);
                attempt_often(f, FEW);
                identity(f, &id);
                assert_true(id.ek_persistent);
                run(f, "tpm2_evictcontrol -Q -c 0x81010001 && tpm2_evictcontrol -Q -c 0x81000100");
        }
}

/* The doctor's look counts as little. */
static void looking_at_such_keys_does_no_harm(void **state) {
        static const struct {
                const char *maker, *words;
        } cases[] = {
                { SRK("userwithauth", "-p secret"), "noDA" },
                { SRK("userwithauth", ""), "noDA" },
                { SRK("userwithauth|noda", "-p secret"), "authorization value" },
        };
        Fixture *f = *state;

        f->settings.read_only = true;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                run(f, "%s", cases[i].maker);
                for (unsigned n = 0; n < FEW; n++) {
                        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
                        CLEANUP(tpm_closep) Tpm *tpm = NULL;
                        TpmObject object = {};

                        identity(f, &id);
                        assert_true(id.srk_unsuitable);
                        assert_int_equal(id.srk_public.size, 0);
                        assert_int_equal(tpm_open(&tpm, &f->settings, NULL, NULL), 0);
                        assert_int_equal(tpm_object(tpm, TPM_SRK_HANDLE, &object, NULL), 0);
                        assert_true(object.present);
                        assert_false(object.is_srk);
                        assert_non_null(strstr(object.description, cases[i].words));
                }
                assert_int_equal(lockout_counter(f), 0);
                run(f, "tpm2_evictcontrol -Q -c 0x81000001");
        }
}

#define TPM_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup_fresh, fixture_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TPM_TEST(an_srk_with_an_auth_value_and_without_noda_does_no_harm),
                TPM_TEST(an_srk_with_an_auth_value_and_noda_does_no_harm),
                TPM_TEST(an_srk_without_noda_does_no_harm),
                TPM_TEST(an_srk_that_needs_a_policy_does_no_harm),
                TPM_TEST(with_the_owner_auth_such_an_srk_does_no_harm),
                TPM_TEST(without_the_owner_auth_such_an_srk_does_no_harm),
                TPM_TEST(a_key_below_the_transient_srk_loads_again_after_a_reboot),
                TPM_TEST(an_ek_with_an_auth_value_and_without_noda_does_no_harm),
                TPM_TEST(looking_at_such_keys_does_no_harm),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
