/* How many commands a job takes, and what becomes of it when the TPM is busy, locked out, slow, gone or
 * loses its power in the middle. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tpm-crypto.h"

/* One attempt as the daemon makes it, each call a Tpm of its own; returns the commands up to the token and
 * counts the rest afterwards. */
static unsigned attest(Fixture *f, uint8_t key, Bytes *ret_private, Bytes *ret_public) {
        CLEANUP(bytes_deinit) Bytes challenge = {}, blob = {};
        uint8_t hmac[SHA256_SIZE];
        unsigned before_token;

        (void) commands_since_last(f);
        make_blob(f, key, &challenge); /* Identity */
        sign(f, &challenge, "message", hmac);
        before_token = commands_since_last(f);

        make_blob(f, key, &blob);
        (void) commands_since_last(f); /* the helper has its cache from the first Identity */
        import_key(f, &blob, ret_private, ret_public);
        return before_token;
}

static void the_number_of_commands_is_bounded(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        CLEANUP(bytes_deinit) Bytes name = {};
        static const struct {
                const char *what;
                uint8_t key;
                bool changed;
                unsigned token, all;
        } steps[] = {
                { "a first adoption", 1, true, 12, 20 },
                { "the same key", 1, false, 13, 23 },
                { "another key", 2, true, 13, 25 },
                { "the same key again", 2, false, 13, 23 },
        };

        identity(f, &id); /* makes EK and SRK persistent */
        for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
                CLEANUP(bytes_deinit) Bytes private = {}, public = {}, known = {};
                unsigned token, all;

                f->cache = tpm_cache_free(f->cache);
                assert_int_equal(tpm_cache_new(&f->cache), 0);
                known = name;
                name = (Bytes){};
                token = attest(f, steps[i].key, &private, &public);
                assert_int_equal(adopt(f, &private, &public, &known, 1, &name), steps[i].changed);
                all = token + commands_since_last(f);
                print_message("# %s: %u commands up to the token, %u in all\n", steps[i].what, token, all);
                assert_true(token <= steps[i].token);
                assert_true(all <= steps[i].all);
        }
}

static void busy_answers_are_retried(void **state) {
        static const char *const codes[] = { "0x908", "0x90a", "0x920", "0x922" };
        static const char *const commands[] = { "GetCapability",
                                                "ReadPublic",
                                                "StartAuthSession",
                                                "PolicySecret",
                                                "ActivateCredential",
                                                "Import",
                                                "Load",
                                                "HMAC",
                                                "FlushContext" };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];
        char faults[128];

        make_blob(f, 1, &blob);
        for (size_t c = 0; c < ARRAY_SIZE(codes); c++)
                for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
                        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};

                        /* twice, or, where ESYS has its own five tries, so that they don't suffice */
                        (void) snprintf(
                                faults, sizeof(faults),
                                "{\"rules\": [{\"command\": \"%s\", \"times\": %u, \"answer\": \"%s\"}]}",
                                commands[i], c == 2 ? 2u : 6u, codes[c]);
                        set_faults(f, faults);
                        identity(f, &id);
                        sign(f, &blob, "message", hmac);
                }
        set_faults(f, "{}");
        assert_nothing_left(f);
}

static void a_tpm_that_stays_busy_is_given_up(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        usec_t start;

        identity(f, &id);
        set_faults(f, "{\"rules\": [{\"command\": \"ReadPublic\", \"times\": 0, \"answer\": \"0x922\"}]}");
        start = now_usec(CLOCK_MONOTONIC);
        identity_fails(f, FAILURE_TPM_BUSY);
        assert_in_range(now_usec(CLOCK_MONOTONIC) - start, TPM_RETRY_USEC / 2, 2 * TPM_RETRY_USEC);
        assert_string_equal(last_failure.code, "0x922");
        set_faults(f, "{}");
        assert_nothing_left(f);
}

static void answers_have_their_kinds(void **state) {
        static const struct {
                const char *code;
                FailureKind kind;
        } answers[] = {
                { "0x921", FAILURE_TPM_LOCKOUT }, { "0x98e", FAILURE_TPM_AUTH },
                { "0x9a2", FAILURE_TPM_AUTH },    { "0x12f", FAILURE_TPM_AUTH },
                { "0x14b", FAILURE_TPM_FULL },    { "0x902", FAILURE_TPM_BUSY },
                { "0x903", FAILURE_TPM_BUSY },    { "0x904", FAILURE_TPM_BUSY },
                { "0x100", FAILURE_TPM_FAILED },  { "0x101", FAILURE_TPM_FAILED },
                { "0x143", FAILURE_TPM_FAILED },  { "0x99d", FAILURE_TPM_FAILED },
                { "0x18b", FAILURE_TPM_FAILED },  { "0x921", FAILURE_TPM_LOCKOUT },
        };
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        char faults[256];

        make_blob(f, 1, &blob);
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                (void) snprintf(faults, sizeof(faults),
                                "{\"rules\": [{\"command\": \"PolicySecret\", \"answer\": \"%s\"}]}",
                                answers[i].code);
                set_faults(f, faults);
                sign_fails(f, &blob, answers[i].kind);
                assert_string_equal(last_failure.code, answers[i].code);
                assert_nothing_left(f);
        }
}

static void a_failing_tpm_is_not_taken_for_a_wrong_challenge(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};

        make_blob(f, 1, &blob);
        set_faults(f, "{\"rules\": [{\"command\": \"ActivateCredential\", \"answer\": \"0x101\"},"
                      "{\"command\": \"GetRandom\", \"answer\": \"0x101\"}]}");
        sign_fails(f, &blob, FAILURE_TPM_FAILED);
        set_faults(f, "{\"rules\": [{\"command\": \"ActivateCredential\", \"answer\": \"0x101\"}]}");
        sign_fails(f, &blob, FAILURE_IDENTITY_MISMATCH);
        set_faults(f, "{\"rules\": [{\"command\": \"ActivateCredential\", \"answer\": \"0x921\"}]}");
        sign_fails(f, &blob, FAILURE_TPM_LOCKOUT);
        assert_nothing_left(f);
}

static void lockout_tells_its_recovery_time(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};

        make_blob(f, 1, &blob);
        run(f, "tpm2_dictionarylockout -s -n 5 -t 777 -l 60");
        set_faults(f, "{\"rules\": [{\"command\": \"PolicySecret\", \"answer\": \"0x921\"}]}");
        sign_fails(f, &blob, FAILURE_TPM_LOCKOUT);
        assert_true(last_failure.retry_after_usec == 777 * USEC_PER_SEC);
        assert_non_null(strstr(last_failure.sentence, "777 s"));
}

/* What a wrong value does to the TPM in earnest: our own key has noDA, so a locked out TPM still attests. */
static void a_real_lockout_does_not_stop_attesting(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 1, &blob);
        run(f, "tpm2_dictionarylockout -s -n 1 -t 1000 -l 1000 && tpm2_createprimary -Q -C o -c parent && "
               "tpm2_create -Q -C parent -G hmac -p secret -c key && tpm2_flushcontext -t && "
               "! (printf x | tpm2_hmac -c key -p wrong); tpm2_flushcontext -t; "
               "tpm2_getcap properties-variable | grep -q 'inLockout: *1'");
        sign(f, &blob, "message", hmac);
        assert_nothing_left(f);
}

static void every_step_may_fail_and_leaves_nothing_behind(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes first = {}, blob = {}, private = {}, public = {};
        CLEANUP(freep) char *before = NULL;
        char faults[128];
        unsigned steps;

        adopt_new(f, 1, &first);
        make_blob(f, 2, &blob);
        before = hub_key_name(f);

        /* without the cache, so that the steps that find the keys are among them */
        f->cache = tpm_cache_free(f->cache);
        (void) commands_since_last(f);
        import_key(f, &blob, &private, &public);
        steps = commands_since_last(f);
        assert_in_range(steps, 6, 12);
        for (unsigned i = 1; i <= steps; i++) {
                (void) snprintf(faults, sizeof(faults),
                                "{\"rules\": [{\"nth\": %u, \"answer\": \"0x100\"}]}", i);
                set_faults(f, faults);
                sign_fails(f, &blob, FAILURE_TPM_FAILED);
                assert_nothing_left(f);
        }
        for (unsigned i = 1; i <= 7; i++) {
                CLEANUP(freep) char *after = NULL;

                (void) snprintf(faults, sizeof(faults),
                                "{\"rules\": [{\"nth\": %u, \"answer\": \"0x100\"}]}", i);
                set_faults(f, faults);
                adopt_fails(f, &private, &public, &first, 1, FAILURE_TPM_FAILED);
                assert_nothing_left(f);
                after = hub_key_name(f);
                assert_string_equal(before, after);
        }
        set_faults(f, "{}");
        assert_true(adopt(f, &private, &public, &first, 1, NULL));
}

/* Power is cut before or after each command of an adoption that replaces a key. Afterwards the handle holds
 * the old key, the new one or nothing, and the stored key alone brings the new one there. */
static void a_power_cut_at_any_command_of_an_adoption_is_healed(void **state) {
        Fixture *f = *state;
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        unsigned emptied = 0;
        char faults[128];

        identity(f, &id);
        for (unsigned i = 0; i < 2 * 8; i++) {
                CLEANUP(bytes_deinit)
                Bytes first = {}, blob = {}, private = {}, public = {}, name = {}, result = {};
                CLEANUP(freep) char *between = NULL, *after = NULL, *hex = NULL;
                Tpm *tpm = NULL;
                bool changed = false;

                adopt_new(f, (uint8_t) (2 * i), &first);
                make_blob(f, (uint8_t) (2 * i + 1), &blob);
                import_key(f, &blob, &private, &public);
                (void) snprintf(faults, sizeof(faults),
                                "{\"rules\": [{\"nth\": %u, \"cut\": \"%s\", \"startup\": true}]}",
                                i / 2 + 1, i % 2 ? "after" : "before");
                set_faults(f, faults);
                assert_int_equal(tpm_open(&tpm, &f->settings, f->cache, NULL), 0);
                /* the last of them is a FlushContext, which is not missed */
                (void) tpm_adopt_hub_key(tpm, &private, &public, &first, 1, &changed, &result, NULL);
                tpm = tpm_close(tpm);
                set_faults(f, "{}");

                between = hub_key_name(f);
                if (streq(between, ""))
                        emptied++;
                (void) adopt(f, &private, &public, &first, 1, &name);
                after = hub_key_name(f);
                assert_int_equal(hex_encode(&hex, name.data, name.size), 0);
                assert_string_equal(after, hex);
                assert_nothing_left(f);

                /* it is the new one: importing it once more finds the same key */
                bytes_deinit(&private);
                bytes_deinit(&public);
                import_key(f, &blob, &private, &public);
                assert_false(adopt(f, &private, &public, NULL, 0, NULL));
        }
        assert_true(emptied >= 2); /* the cut between evicting and persisting was among them */
}

static void a_dead_connection_is_a_missing_tpm(void **state) {
        Fixture *f = *state;
        uint8_t hmac[SHA256_SIZE];
        char faults[64];

        for (unsigned i = 1; i <= 7; i++) {
                CLEANUP(bytes_deinit) Bytes blob = {};

                make_blob(f, 1, &blob);
                (void) snprintf(faults, sizeof(faults), "{\"rules\": [{\"nth\": %u, \"drop\": true}]}", i);
                set_faults(f, faults);
                if (i < 7)
                        sign_fails(f, &blob, FAILURE_TPM_MISSING);
                else
                        sign(f, &blob, "message", hmac); /* it was only to flush */
                run(f,
                    "tpm2_flushcontext -t; tpm2_flushcontext -l"); /* without a connection nobody else can */
        }
}

static void a_slow_tpm_is_waited_for(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 1, &blob);
        set_faults(f, "{\"rules\": [{\"command\": \"Import\", \"delay\": 2}]}");
        sign(f, &blob, "message", hmac);
}

static void a_changed_tpm_is_noticed_although_it_was_cached(void **state) {
        Fixture *f = *state;
        CLEANUP(bytes_deinit) Bytes blob = {};
        uint8_t hmac[SHA256_SIZE];

        make_blob(f, 1, &blob);
        run(f, "tpm2_evictcontrol -c 0x81010001 && tpm2_evictcontrol -c 0x81000001");
        sign_fails(f, &blob, FAILURE_TPM_FAILED); /* and forgets what it knew */
        sign(f, &blob, "message", hmac);
        assert_nothing_left(f);
}

static int open_with(const char *tcti, Failure *ret) {
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        TpmSettings settings = { .tcti = tcti, .hub_key_handle = TPM_DEFAULT_HUB_KEY };

        *ret = (Failure){};
        return tpm_open(&tpm, &settings, NULL, ret);
}

static void a_missing_device_is_named(void **state) {
        static const char *const none[] = { NULL, "", "device", "device:", "device:/dev/tpmrm0" };
        Failure failure;

        assert_int_equal(open_with("device:/dev/no-such-tpm", &failure),
                         failure_to_errno(FAILURE_TPM_MISSING));
        assert_int_equal(failure.kind, FAILURE_TPM_MISSING);
        assert_non_null(strstr(failure.sentence, "'/dev/no-such-tpm' does not exist"));
        assert_true(open_with("swtpm:path=/nowhere/tpm", &failure) < 0);
        assert_int_equal(failure.kind, FAILURE_TPM_MISSING);
        assert_true(open_with("no-such-tcti:x", &failure) < 0);
        assert_int_equal(failure.kind, FAILURE_TPM_MISSING);
        assert_true(open_with("device:/dev/null", &failure) < 0 || failure.kind == FAILURE_NONE);

        if (access("/dev/tpmrm0", F_OK) == 0)
                return; /* not skip(): in cmocka's TAP that is a failure */
        for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
                assert_true(open_with(none[i], &failure) < 0);
                assert_int_equal(failure.kind, FAILURE_TPM_MISSING);
                assert_non_null(strstr(failure.sentence, "'/dev/tpmrm0' does not exist"));
        }
}

static void a_device_without_access_is_named_with_owner_and_group(void **state) {
        Fixture *f = *state;
        const struct passwd *nobody = getpwnam("nobody");
        char node[64], tcti[80];
        int status;
        pid_t pid;

        if (geteuid() != 0 || !nobody)
                return;
        (void) snprintf(node, sizeof(node), "%s/node", f->dir);
        (void) snprintf(tcti, sizeof(tcti), "device:%s", node);
        assert_int_equal(close(open(node, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
        assert_int_equal(chmod(node, 0660), 0);
        assert_int_equal(chmod(f->dir, 0755), 0);

        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                Failure failure;

                if (setgroups(0, NULL) < 0 || setgid(nobody->pw_gid) < 0 || setuid(nobody->pw_uid) < 0)
                        _exit(2);
                (void) open_with(tcti, &failure);
                _exit(failure.kind == FAILURE_TPM_MISSING &&
                                      strstr(failure.sentence, "root:root, mode 0660") &&
                                      strstr(failure.sentence, "'nobody'")
                              ? 0
                              : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

#define TPM_TEST(test)       cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
#define FRESH_TPM_TEST(test) cmocka_unit_test_setup_teardown(test, fixture_setup_fresh, fixture_teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TPM_TEST(the_number_of_commands_is_bounded),
                TPM_TEST(busy_answers_are_retried),
                TPM_TEST(a_tpm_that_stays_busy_is_given_up),
                TPM_TEST(answers_have_their_kinds),
                TPM_TEST(a_failing_tpm_is_not_taken_for_a_wrong_challenge),
                TPM_TEST(lockout_tells_its_recovery_time),
                TPM_TEST(a_real_lockout_does_not_stop_attesting),
                TPM_TEST(every_step_may_fail_and_leaves_nothing_behind),
                TPM_TEST(a_power_cut_at_any_command_of_an_adoption_is_healed),
                TPM_TEST(a_dead_connection_is_a_missing_tpm),
                TPM_TEST(a_slow_tpm_is_waited_for),
                FRESH_TPM_TEST(a_changed_tpm_is_noticed_although_it_was_cached),
                cmocka_unit_test(a_missing_device_is_named),
                TPM_TEST(a_device_without_access_is_named_with_owner_and_group),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
