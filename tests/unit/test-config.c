#include "test.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "store.h"

static char root[] = "/tmp/test-config-XXXXXX";

static const char *in_root(const char *path) {
        static char full[512];

        (void) snprintf(full, sizeof(full), "%s/%s", root, path);
        return full;
}

static void put(const char *path, const char *text) {
        FILE *f = fopen(in_root(path), "w");

        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
}

static Config *load_text(const char *text) {
        Config *config = NULL;

        put("one.conf", text);
        assert_int_equal(config_load(&config, &(ConfigPaths){ .file = in_root("one.conf") }), 0);
        return config;
}

static void defaults_are_the_documented_ones(void **state) {
        CLEANUP(config_freep) Config *c = load_text("");

        assert_null(c->id_scope);
        assert_string_equal(c->global_endpoint, "https://global.azure-devices-provisioning.net");
        assert_int_equal(c->hub_key_handle, 0x81000100);
        assert_string_equal(c->tcti, "device:/dev/tpmrm0");
        assert_int_equal(c->request_timeout_usec, 60 * USEC_PER_SEC);
        assert_int_equal(c->retry.operator_long_max_usec, 21600 * USEC_PER_SEC);
        assert_true(config_hub_allowed(c, "contoso.azure-devices.net"));
        assert_true(config_hub_allowed(c, "contoso.device.azure-devices.net")); /* of a newer DPS */
        assert_true(config_hub_allowed(c, "contoso.device.azure-devices.us"));
        assert_false(config_hub_allowed(c, "contoso.device.azure-devices.net.example"));
        assert_int_equal(c->problem_count, 0);
}

static void values_are_checked(void **state) {
        static const struct {
                const char *line;
                bool good;
        } cases[] = {
                { "[Provisioning]\nIdScope=0ne00ABC-1", true },
                { "[Provisioning]\nIdScope=0ne 00", false },
                { "[Provisioning]\nIdScope=../../x", false },
                { "[Provisioning]\nGlobalEndpoint=https://dps.example:8443/", true },
                { "[Provisioning]\nGlobalEndpoint=https://[::1]:8443", true },
                { "[Provisioning]\nGlobalEndpoint=http://dps.example", false },
                { "[Provisioning]\nGlobalEndpoint=https://", false },
                { "[Provisioning]\nGlobalEndpoint=https://user@host", false },
                { "[Provisioning]\nGlobalEndpoint=https://host/path", false },
                { "[Provisioning]\nGlobalEndpoint=https://host:0", false },
                { "[Provisioning]\nGlobalEndpoint=https://host:0x10", false },
                { "[Provisioning]\nRegistrationId=gw-%H", true },
                { "[Provisioning]\nRegistrationId=gw-%x", false },
                { "[Provisioning]\nRegistrationId=gw-%", false },
                { "[Provisioning]\nRegistrationIdFormat=sha256-base32", true },
                { "[Provisioning]\nRegistrationIdFormat=sha256", false },
                { "[Provisioning]\nGlobalEndpoint=https://dps.1", false },
                { "[Provisioning]\nPayload=relative.json", false },
                { "[Provisioning]\nPayload=./x.json", false },
                { "[Provisioning]\nPayload=/etc/../x.json", false },
                { "[Provisioning]\nPayload=/etc/./x.json", false },
                { "[Provisioning]\nPayload=/etc//x.json", false },
                { "[Provisioning]\nPayload=//etc/x.json", false },
                { "[Provisioning]\nPayload=/etc/", false },
                { "[Provisioning]\nPayload=/etc/..", false },
                { "[Provisioning]\nPayload=/etc/a b.%20.\xc3\xa4.json", true },
                { "[Tpm]\nHubKeyHandle=0x81000002", true },
                { "[Tpm]\nHubKeyHandle=0x81000001", false },
                { "[Tpm]\nHubKeyHandle=0x81800000", false },
                { "[Network]\nProxy=http://u:p@proxy:3128", true },
                { "[Network]\nProxy=proxy:3128", false },
                { "[Tpm]\nHubKeyHandle=0x81010001", false }, /* the endorsement key's */
                { "[Network]\nConnectTimeoutSec=0", false },
                { "[Network]\nConnectTimeoutSec=604800", true },
                { "[Network]\nConnectTimeoutSec=604801", false },
                { "[Network]\nConnectTimeoutSec=5s", false },
                { "[HandOff]\nTarget=none", true },
                { "[HandOff]\nTarget=nothing", false },
                { "[HandOff]\nReplaceProvisioning=on", true },
                { "[HandOff]\nReplaceProvisioning=maybe", false },
                { "[HandOff]\nAllowedHubs=a.example *.b.example:8443", true },
                { "[HandOff]\nAllowedHubs=a/b", false },
                { "[Provisioning]\nthis is not an assignment", false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(config_freep) Config *c = load_text(cases[i].line);
                Failure f = {};

                if (config_failure(c, &f) == cases[i].good)
                        fail_msg("%s", cases[i].line);
                if (!cases[i].good) {
                        assert_int_equal(f.kind, FAILURE_CONFIG);
                        assert_non_null(strstr(f.sentence, "one.conf:2: "));
                }
        }
}

static void endpoints_are_canonical(void **state) {
        static const struct {
                const char *value, *endpoint;
        } cases[] = {
                { "https://DPS.Example:443", "https://dps.example" },
                { "https://dps.example/", "https://dps.example" },
                { "https://dps.example:8443/", "https://dps.example:8443" },
                { "https://[0:0::1]:0443/", "https://[::1]" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *text = NULL;
                CLEANUP(config_freep) Config *c = NULL;

                assert_true(asprintf(&text, "[Provisioning]\nGlobalEndpoint=%s\n", cases[i].value) > 0);
                c = load_text(text);
                assert_int_equal(c->problem_count, 0);
                assert_string_equal(c->global_endpoint, cases[i].endpoint);
        }
}

static void long_and_indented_lines(void **state) {
        char text[1000];
        CLEANUP(config_freep)
        Config *indented = load_text("[Provisioning]\n  IdScope=a\n\tRegistrationId=b\n");
        CLEANUP(config_freep) Config *c = NULL;
        Failure f;

        assert_string_equal(indented->id_scope, "a");
        assert_string_equal(indented->registration_id, "b");
        assert_int_equal(indented->problem_count, 0);
        (void) snprintf(text, sizeof(text), "[HandOff]\nAllowedHubs=%0500d\n[Provisioning]\nIdScope=x\n", 0);
        c = load_text(text);
        assert_true(config_failure(c, &f));
        assert_non_null(strstr(f.sentence, "one.conf:2: the line is longer"));
        assert_string_equal(c->id_scope, "x");
}

static void comments_may_be_longer_than_a_line(void **state) {
        char text[2000];
        CLEANUP(config_freep) Config *c = NULL;

        (void) snprintf(text, sizeof(text),
                        "\xef\xbb\xbf[Provisioning] ; %0300d\n# %0300d\n  ; %0300d\nIdScope=x \t; %0300d\n"
                        "RegistrationId=a;b%200s\n[Retry]\nMaxSec=7",
                        0, 0, 0, 0, "\r");
        c = load_text(text);
        assert_int_equal(c->problem_count, 1); /* the semicolon in the registration ID */
        assert_int_equal(c->problems[0].line, 5);
        assert_string_equal(c->id_scope, "x");
        assert_int_equal(c->retry.max_usec, 7 * USEC_PER_SEC);
}

static void a_list_takes_several_lines_of_a_file(void **state) {
        const ConfigPaths paths = { .root = root };
        CLEANUP(config_freep)
        Config *c = load_text("[HandOff]\nAllowedHubs=a.example\n[Retry]\nMaxSec=7\n[HandOff]\nAllowedHubs="
                              "b.example c.example\n");
        CLEANUP(config_freep)
        Config *reset = load_text("[HandOff]\nAllowedHubs=a.example\nAllowedHubs=\nAllowedHubs=b.example\n");
        CLEANUP(config_freep) Config *bad = load_text("[HandOff]\nAllowedHubs=a.example\nAllowedHubs=b/c\n");
        CLEANUP(config_freep) Config *later = NULL;

        assert_true(config_hub_allowed(c, "a.example") && config_hub_allowed(c, "c.example"));
        assert_false(config_hub_allowed(c, "x.azure-devices.net"));
        assert_int_equal(c->override_count, 0);
        assert_true(config_hub_allowed(reset, "b.example") && !config_hub_allowed(reset, "a.example"));
        assert_true(config_failure(bad, &(Failure){}));
        put("etc/dps-provisiond/provisiond.conf.d/80-a.conf",
            "[HandOff]\nAllowedHubs=a.example\nAllowedHubs=b.example\n");
        put("etc/dps-provisiond/provisiond.conf.d/81-b.conf", "[HandOff]\nAllowedHubs=c.example\n");
        assert_int_equal(config_load(&later, &paths), 0);
        assert_true(config_hub_allowed(later, "c.example") && !config_hub_allowed(later, "a.example"));
        assert_int_equal(later->override_count, 1);
        assert_int_equal(unlink(in_root("etc/dps-provisiond/provisiond.conf.d/80-a.conf")), 0);
        assert_int_equal(unlink(in_root("etc/dps-provisiond/provisiond.conf.d/81-b.conf")), 0);
}

/* What another user could have written does not count, and is named. */
static void untrusted_files_are_ignored(void **state) {
        static const char main_file[] = "trust/etc/dps-provisiond/provisiond.conf",
                          dropins[] = "trust/etc/dps-provisiond/provisiond.conf.d",
                          dropin[] = "trust/etc/dps-provisiond/provisiond.conf.d/90-x.conf",
                          directory[] = "trust/etc/dps-provisiond";
        static const struct {
                const char *file, *whose;
                mode_t mode;
                uid_t uid;
                bool counts;
        } cases[] = {
                { main_file, main_file, 0644, 0, true },  { main_file, main_file, 0664, 0, true },
                { main_file, main_file, 0666, 0, false }, { main_file, main_file, 0644, 65534, false },
                { dropin, dropin, 0646, 0, false },       { dropin, dropins, 0777, 0, false },
                { dropin, dropins, 0755, 65534, false },  { dropin, directory, 01777, 0, false },
                { main_file, directory, 0757, 0, false },
        };
        char trust[512];
        ConfigPaths paths = { .root = trust };

        if (geteuid() != 0)
                skip();
        (void) snprintf(trust, sizeof(trust), "%s", in_root("trust"));
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(config_freep) Config *c = NULL;

                assert_int_equal(store_make_directory(in_root(dropins), 0755), 0);
                put(cases[i].file, "[Provisioning]\nIdScope=x\n");
                assert_int_equal(chown(in_root(cases[i].whose), cases[i].uid, 0), 0);
                assert_int_equal(chmod(in_root(cases[i].whose), cases[i].mode), 0);
                assert_int_equal(config_load(&c, &paths), 0);
                assert_int_equal(c->id_scope != NULL, cases[i].counts);
                assert_int_equal(c->problem_count, cases[i].counts ? 0 : 1);
                if (!cases[i].counts)
                        assert_string_equal(c->problems[0].file, in_root(cases[i].whose));
                assert_false(config_failure(c, &(Failure){}));
                assert_int_equal(unlink(in_root(cases[i].file)), 0);
                assert_int_equal(rmdir(in_root(dropins)), 0);
                assert_int_equal(rmdir(in_root(directory)), 0);
        }
}

static void unknown_keys_are_only_warned_about(void **state) {
        CLEANUP(config_freep)
        Config *c = load_text("[Provisioning]\nScope=1\nIdScope=a\n[Prov]\nIdScope=b\n");
        Failure f;

        assert_false(config_failure(c, &f));
        assert_int_equal(c->problem_count, 2);
        assert_int_equal(c->problems[0].line, 2);
        assert_int_equal(c->problems[1].line, 5);
        assert_string_equal(c->id_scope, "a");
}

static void an_empty_assignment_resets(void **state) {
        CLEANUP(config_freep)
        Config *c = load_text("[Provisioning]\nIdScope=a\nIdScope=\n[Retry]\nMaxSec=7\nMaxSec=\n");

        assert_null(c->id_scope);
        assert_int_equal(c->retry.max_usec, 600 * USEC_PER_SEC);
}

static void later_dropins_win_and_higher_directories_mask(void **state) {
        const ConfigPaths paths = { .root = root, .credentials_dir = in_root("") };
        CLEANUP(config_freep) Config *c = NULL, *masked = NULL, *nothing = NULL;
        const char *section, *key, *source;
        char *value;

        put("etc/dps-provisiond/provisiond.conf", "[Provisioning]\nIdScope=main\n[Retry]\nMaxSec=7\n");
        put("usr/lib/dps-provisiond/provisiond.conf", "[Provisioning]\nIdScope=vendor\n");
        put("usr/lib/dps-provisiond/provisiond.conf.d/50-a.conf", "[Provisioning]\nIdScope=low\n");
        put("etc/dps-provisiond/provisiond.conf.d/50-a.conf", "[Provisioning]\nIdScope=high\n");
        put("run/dps-provisiond/provisiond.conf.d/40-b.conf", "[Provisioning]\nIdScope=earlier\n");
        put("etc/dps-provisiond/provisiond.conf.d/60-c.conf.bak", "[Provisioning]\nIdScope=backup\n");
        assert_int_equal(config_load(&c, &paths), 0);
        assert_string_equal(c->id_scope, "high");
        assert_int_equal(c->retry.max_usec, 7 * USEC_PER_SEC);
        assert_true(config_describe(c, 0, &section, &key, &value, &source));
        assert_string_equal(value, "high");
        assert_non_null(strstr(source, "/etc/dps-provisiond/provisiond.conf.d/50-a.conf:2"));
        free(value);

        assert_int_equal(unlink(in_root("etc/dps-provisiond/provisiond.conf.d/50-a.conf")), 0);
        assert_int_equal(symlink("/dev/null", in_root("etc/dps-provisiond/provisiond.conf.d/50-a.conf")), 0);
        assert_int_equal(config_load(&masked, &paths), 0);
        assert_string_equal(masked->id_scope, "earlier");

        /* a directory is no drop-in, and the main file can be masked, too */
        assert_int_equal(mkdir(in_root("etc/dps-provisiond/provisiond.conf.d/70-dir.conf"), 0755), 0);
        assert_int_equal(unlink(in_root("etc/dps-provisiond/provisiond.conf")), 0);
        assert_int_equal(symlink("/dev/null", in_root("etc/dps-provisiond/provisiond.conf")), 0);
        assert_int_equal(unlink(in_root("run/dps-provisiond/provisiond.conf.d/40-b.conf")), 0);
        assert_int_equal(config_load(&nothing, &paths), 0);
        assert_null(nothing->id_scope);
        assert_int_equal(nothing->problem_count, 0);
}

/* Another process does nothing else meanwhile, so that some of the many readings meet it in the middle. */
static void a_dropin_that_is_being_removed_is_no_problem(void **state) {
        const ConfigPaths paths = { .root = root };
        CLEANUP(config_freep) Config *dangling = NULL;
        char kept[512], going[512];
        unsigned problems = 0;
        pid_t child;

        put("kept.conf", "[Retry]\nMaxSec=7\n");
        (void) snprintf(kept, sizeof(kept), "%s", in_root("kept.conf"));
        (void) snprintf(going, sizeof(going), "%s",
                        in_root("run/dps-provisiond/provisiond.conf.d/80-x.conf"));
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        (void) (link(kept, going) + unlink(going));
        }
        for (unsigned i = 0; i < 5000; i++) {
                CLEANUP(config_freep) Config *c = NULL;

                assert_int_equal(config_load(&c, &paths), 0);
                problems += (unsigned) c->problem_count;
        }
        (void) kill(child, SIGKILL);
        (void) waitpid(child, NULL, 0);
        (void) unlink(going);
        assert_int_equal(problems, 0);

        /* a link that leads nowhere is one */
        assert_int_equal(symlink("/nonexistent", going), 0);
        assert_int_equal(config_load(&dangling, &paths), 0);
        assert_int_equal(dangling->problem_count, 1);
        assert_int_equal(unlink(going), 0);
}

static void the_credential_serves_when_no_file_sets_the_scope(void **state) {
        char dir[512];
        CLEANUP(config_freep) Config *c = NULL, *wins = NULL, *bad = NULL;
        Failure f;

        (void) snprintf(dir, sizeof(dir), "%s", in_root("credentials"));
        put("credentials/dps.id_scope", "0ne00CRED\n");
        put("empty.conf", "");
        assert_int_equal(
                config_load(&c, &(ConfigPaths){ .file = in_root("empty.conf"), .credentials_dir = dir }), 0);
        assert_string_equal(c->id_scope, "0ne00CRED");
        put("one.conf", "[Provisioning]\nIdScope=file\n");
        assert_int_equal(
                config_load(&wins, &(ConfigPaths){ .file = in_root("one.conf"), .credentials_dir = dir }),
                0);
        assert_string_equal(wins->id_scope, "file");
        put("credentials/dps.id_scope", "no scope");
        assert_int_equal(
                config_load(&bad, &(ConfigPaths){ .file = in_root("empty.conf"), .credentials_dir = dir }),
                0);
        assert_true(config_failure(bad, &f));
        assert_non_null(strstr(f.sentence, "credential dps.id_scope"));
}

static void a_credential_that_can_not_be_read_is_a_problem(void **state) {
        static const char *const names[] = { "dps.id_scope", "dps.proxy" };
        char dir[512], name[64], long_text[8192];
        Failure f;

        memset(long_text, 'x', sizeof(long_text) - 1);
        long_text[sizeof(long_text) - 1] = '\0';
        (void) snprintf(dir, sizeof(dir), "%s", in_root("credentials"));
        put("empty.conf", "");
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                CLEANUP(config_freep) Config *c = NULL;

                (void) snprintf(name, sizeof(name), "credentials/%s", names[i]);
                put(name, long_text);
                assert_int_equal(config_load(&c, &(ConfigPaths){ .file = in_root("empty.conf"),
                                                                 .credentials_dir = dir }),
                                 0);
                assert_true(config_failure(c, &f));
                assert_non_null(strstr(f.sentence, names[i]));
                assert_non_null(strstr(f.sentence, "File too large"));
                assert_int_equal(unlink(in_root(name)), 0);
        }
}

static void what_overrides_what_is_known(void **state) {
        CLEANUP(config_freep) Config *c = NULL;
        const char *section, *key, *source;
        char *value;

        put("one.conf", "[Provisioning]\nIdScope=first\n[Network]\nProxy=http://user:secret@proxy:1\n"
                        "[Provisioning]\nIdScope=second\nIdScope=\nIdScope=third\n");
        assert_int_equal(config_load(&c, &(ConfigPaths){ .file = in_root("one.conf") }), 0);
        assert_int_equal(c->override_count, 2); /* what was reset has no source left to override */
        assert_non_null(strstr(c->overrides[0].old, "one.conf:2"));
        assert_non_null(strstr(c->overrides[0].by, "one.conf:6"));
        assert_non_null(strstr(c->overrides[1].old, "one.conf:6"));
        assert_non_null(strstr(c->overrides[1].by, "one.conf:7"));
        for (size_t i = 0; config_describe(c, i, &section, &key, &value, &source); i++) {
                if (i == c->overrides[0].index)
                        assert_string_equal(key, "IdScope");
                if (streq(key, "Proxy"))
                        assert_string_equal(value, "http://...@proxy:1");
                free(value);
        }
}

static void a_password_is_not_repeated(void **state) {
        char dir[512];
        CLEANUP(config_freep) Config *c = NULL;
        Failure f;

        (void) snprintf(dir, sizeof(dir), "%s", in_root("credentials"));
        put("credentials/dps.proxy", "user:secret@proxy");
        put("one.conf", "[Provisioning]\nIdScope=file\n");
        assert_int_equal(
                config_load(&c, &(ConfigPaths){ .file = in_root("one.conf"), .credentials_dir = dir }), 0);
        assert_true(config_failure(c, &f));
        assert_non_null(strstr(f.sentence, "credential dps.proxy: Proxy="));
        assert_null(strstr(f.sentence, "secret"));
}

static void a_missing_file_is_a_problem_only_when_named(void **state) {
        CLEANUP(config_freep) Config *c = NULL, *none = NULL;
        Failure f;

        assert_int_equal(config_load(&c, &(ConfigPaths){ .file = in_root("nosuch.conf") }), 0);
        assert_true(config_failure(c, &f));
        assert_int_equal(config_load(&none, &(ConfigPaths){ .root = in_root("nosuch") }), 0);
        assert_false(config_failure(none, &f));
}

static void hubs_match_by_labels(void **state) {
        static const struct {
                const char *patterns, *hub;
                bool allowed;
        } cases[] = {
                { "*.azure-devices.net", "h.azure-devices.net", true },
                { "*.azure-devices.net", "a.b.azure-devices.net", true },
                { "*.azure-devices.net", "H.AZURE-devices.NET:443", true },
                { "*.azure-devices.net", ".azure-devices.net", false },
                { "*.azure-devices.net", "azure-devices.net", false },
                { "*.azure-devices.net", "h.azure-devices.net.evil.example", false },
                { "*.azure-devices.net", "h.azure-devices.net/x", false },
                { "*.azure-devices.net", "evil.example?.azure-devices.net", false },
                { "hub.example:8443", "hub.example:8443", true },
                { "hub.example:8443", "hub.example", false },
                { "hub.example", "hub.example:1", true },
                { "x.example localhost", "localhost:4711", true },
                { "*", "anything.example", true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char text[200];
                CLEANUP(config_freep) Config *c = NULL;

                (void) snprintf(text, sizeof(text), "[HandOff]\nAllowedHubs=%s\n", cases[i].patterns);
                c = load_text(text);
                if (config_hub_allowed(c, cases[i].hub) != cases[i].allowed)
                        fail_msg("%s %s", cases[i].patterns, cases[i].hub);
        }
}

static int make_root(void **state) {
        static const char *const dirs[] = { "etc",
                                            "run",
                                            "usr",
                                            "usr/lib",
                                            "etc/dps-provisiond",
                                            "run/dps-provisiond",
                                            "usr/lib/dps-provisiond",
                                            "etc/dps-provisiond/provisiond.conf.d",
                                            "run/dps-provisiond/provisiond.conf.d",
                                            "usr/lib/dps-provisiond/provisiond.conf.d",
                                            "credentials" };

        if (!mkdtemp(root))
                return -1;
        for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
                if (mkdir(in_root(dirs[i]), 0700) < 0)
                        return -1;
        return 0;
}

static int remove_root(void **state) {
        char command[64];

        (void) snprintf(command, sizeof(command), "rm -r %s", root);
        return system(command);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(defaults_are_the_documented_ones),
                cmocka_unit_test(values_are_checked),
                cmocka_unit_test(endpoints_are_canonical),
                cmocka_unit_test(long_and_indented_lines),
                cmocka_unit_test(comments_may_be_longer_than_a_line),
                cmocka_unit_test(a_list_takes_several_lines_of_a_file),
                cmocka_unit_test(untrusted_files_are_ignored),
                cmocka_unit_test(unknown_keys_are_only_warned_about),
                cmocka_unit_test(an_empty_assignment_resets),
                cmocka_unit_test(later_dropins_win_and_higher_directories_mask),
                cmocka_unit_test(a_dropin_that_is_being_removed_is_no_problem),
                cmocka_unit_test(the_credential_serves_when_no_file_sets_the_scope),
                cmocka_unit_test(a_credential_that_can_not_be_read_is_a_problem),
                cmocka_unit_test(what_overrides_what_is_known),
                cmocka_unit_test(a_password_is_not_repeated),
                cmocka_unit_test(a_missing_file_is_a_problem_only_when_named),
                cmocka_unit_test(hubs_match_by_labels),
        };

        return cmocka_run_group_tests(tests, make_root, remove_root);
}
