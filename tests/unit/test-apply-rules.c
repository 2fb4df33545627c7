#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apply-rules.h"
#include "paths.h"

#include "test.h"

#define AGENT            "[agent]\nname = 'a'\ntype = 't'\nconfig.image = 'i'\n"
#define RELEASE(version) "Package: aziot-edge\nVersion: " version "\n"

static char root[] = "/tmp/test-apply-rules-XXXXXX";

/* code NULL: accepted, as by `iotedge config apply` 1.6.1 */
static const struct {
        const char *config, *code;
} cases[] = {
        { "", NULL },
        { "x = 1\n[y]\n", NULL },
        /* tables without their members */
        { "[agent]\n", "agent" },
        { "[agent.env]\nx = 'y'\n", "agent" },
        { "agent.env.x = 'y'\n", "agent" },
        { "agent = { env = { x = 'y' } }\n", "agent" },
        { "[agent]\nname = 'a'\ntype = 'docker'\n", "agent" },
        { "[agent]\nname = 'a'\nconfig.image = 'i'\n", "agent" },
        { "[agent]\nname = ''\ntype = ''\n[agent.config]\nimage = 'i'\n", NULL },
        { "[agent.env]\nx = 'y'\n[agent]\nname = 'a'\ntype = 't'\n[agent.config]\n", NULL },
        { "agent = { name = 'a', type = 't', config = { image = 'i' } }\n", NULL },
        { "agent = { name = 'a', type = 't', config.image = 'i' }\n", NULL },
        { "agent.name = 'a'\nagent.type = 't'\nagent.config.image = 'i'\n", NULL },
        { "agent = ['a', 't', 'on-create', { image = 'i' }, {}]\n", NULL },
        { "[agents]\n[x.agent]\n[[principal]]\nagent.env = 1\n", NULL },
        { "[connect]\nworkload_uri = 'unix:///a'\n", "connect" },
        { "[connect]\nworkload_uri = 'unix:///a'\nmanagement_uri = 'unix:///b'\n", NULL },
        { "[listen]\n", "listen" },
        { "[listen]\nmin_tls_version = 'tls1.2'\n", "listen" },
        { "[listen]\nworkload_uri = 'fd://x'\nmanagement_uri = 'fd://y'\n", NULL },
        { "[moby_runtime]\nuri = 'unix:///d'\n", "moby_runtime" },
        { "[moby_runtime]\nnetwork = 'n'\n", "moby_runtime" },
        { "[moby_runtime]\nuri = 'unix:///d'\nnetwork = { name = 'n', ipv6 = true }\n", NULL },
        { "[moby_runtime]\nuri = 'unix:/d'\n[moby_runtime.network]\nname = 'n'\n", NULL },
        { "[edge_ca]\n", "edge_ca" },
        { "[edge_ca]\ncert = 'file:///c'\n", "edge_ca" },
        { "[edge_ca]\ncert = 'file:///c'\npk = 'file:///p'\n", NULL },
        { "[edge_ca]\nmethod = 'est'\nurl = 'http://x'\n", NULL },
        { "[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\n", NULL },
        { "iotedge_max_requests = 1\n", "iotedge_max_requests" },
        { "iotedge_max_requests = { management = 50 }\n", "iotedge_max_requests" },
        { "iotedge_max_requests = { management = 50, workload = 50 }\n", NULL },
        { "aziot_max_requests = { keyd = 50 }\n", "aziot_max_requests" },
        { "aziot_max_requests = { keyd = 5, certd = 5, identityd = 5, tpmd = 5 }\n", NULL },
        /* URLs without a scheme */
        { "trust_bundle_cert = '/etc/x.pem'\n", "trust_bundle_cert" },
        { "trust_bundle_cert = ''\n", "trust_bundle_cert" },
        { "trust_bundle_cert = 'http://x'\n", NULL },
        { "trust_bundle_cert = ' file:///etc/none.pem'\n", NULL },
        { "manifest_trust_bundle_cert = '/x'\n", NULL },
        { "[connect]\nworkload_uri = 'x'\nmanagement_uri = 'unix:///b'\n", "workload_uri" },
        { "[moby_runtime]\nuri = '/var/run/docker.sock'\nnetwork = 'n'\n", "uri" },
        { "[moby_runtime]\nuri = 'http://127.0.0.1:1'\nnetwork = 'n'\n", NULL },
        /* files */
        { "imported_master_encryption_key = 1\n", "imported_master_encryption_key" },
        { "imported_master_encryption_key = '/none'\n", "imported_master_encryption_key" },
        { "imported_master_encryption_key = '/etc/none/x'\n", "imported_master_encryption_key" },
        { "imported_master_encryption_key = 'file:///none'\n", "imported_master_encryption_key" },
        { "imported_master_encryption_key = '/etc/there'\n", NULL },
        { "additional_info = '/none.toml'\n", "additional_info" },
        { "additional_info = 'file:///none.toml'\n", "additional_info" },
        { "additional_info = 'file:///etc/there'\n", NULL },
        /* files that the helper may not see */
        { "imported_master_encryption_key = '/home/none'\n", NULL },
        { "imported_master_encryption_key = '/tmp/none'\n", NULL },
        { "imported_master_encryption_key = '/etc/link/none'\n", NULL },
        { "imported_master_encryption_key = '/none/../home/x'\n", NULL },
        { "imported_master_encryption_key = 'none'\n", NULL },
        { "additional_info = 'file:///n%6Fne.toml'\n", NULL },
        { "additional_info = 'file://localhost/none.toml'\n", NULL },
        /* values of every key of a table, and of other types */
        { AGENT "[agent.env]\nx = 1\n", "x" },
        { AGENT "[agent.env]\n'a.b' = '1'\ny = true\n", "y" },
        { AGENT "[agent.env]\nx = '1'\n", NULL },
        { "agent = { name = 'a', type = 't', config = { image = 1 } }\n", "image" },
        { "agent = { name = 'a', type = 't', config = 'x' }\n", "config" },
        { "agent = { name = 'a', type = 't', config = { image = 'i', createOptions = 'x' } }\n",
          "createOptions" },
        { "agent = { name = 'a', type = 't', imagePullPolicy = 'always', config = { image = 'i' } }\n",
          "imagePullPolicy" },
        { "[aziot_keys]\nx = 1\n", "x" },
        { "[preloaded_keys]\nk = '/k'\n", "k" },
        { "[preloaded_keys]\nk = 'http://x'\n", "k" },
        { "[preloaded_keys]\nk = 'file:///k'\nl = 'pkcs11:token=t;object=o'\n", NULL },
        { "[preloaded_certs]\nc = '/c'\n", "c" },
        { "[preloaded_certs]\nc = ['a', 'b']\nd = 'file:///d'\n", NULL },
        { "[edge_ca]\ncert = '/c'\npk = 'file:///p'\n", "cert" },
        { "[edge_ca]\nmethod = 'self_signed'\nexpiry_days = 0\n", "expiry_days" },
        { "[edge_ca]\nauto_generated_edge_ca_expiry_days = '90'\n", "auto_generated_edge_ca_expiry_days" },
        { "[localid]\n", "localid" },
        { "[tpm]\nhierarchy_authorization = 1\n", "hierarchy_authorization" },
        { "[tpm.hierarchy_authorization]\nowner = 1\n", "owner" },
        { "[tpm.hierarchy_authorization]\nowner = 'x'\n", NULL },
        { "[moby_runtime]\nuri = 'tcp://x'\nnetwork = 'n'\n", "uri" },
        { "prefer_module_identity_cache = 'true'\n", "prefer_module_identity_cache" },
        { "[image_garbage_collection]\nenabled = 'yes'\n", "enabled" },
        /* values */
        { "[watchdog]\n", NULL },
        { "[watchdog]\nmax_retries = 'Infinite'\n", NULL },
        { "[watchdog]\nmax_retries = 5\n", NULL },
        { "[watchdog]\nmax_retries = -5\n", "max_retries" },
        { "[watchdog]\nmax_retries = '5'\n", "max_retries" },
        { "cloud_timeout_sec = 69\n", "cloud_timeout_sec" },
        { "cloud_timeout_sec = 70.0\n", "cloud_timeout_sec" },
        { "cloud_retries = 4294967296\n", "cloud_retries" },
        { "hostname = 1\n", "hostname" },
        { "auto_reprovisioning_mode = true\n", "auto_reprovisioning_mode" },
        { "allow_elevated_docker_permissions = 'true'\n", "allow_elevated_docker_permissions" },
        { "tpm = { auth_key_index = 0x80_0000 }\n", "auth_key_index" },
        { "tpm = { auth_key_index = 0x7F_FFFF, tcti = 1 }\n", "tcti" },
};

/* What releases before 1.4 do not know. */
static const char *const newer[] = {
        "cloud_timeout_sec = 10\n",
        "iotedge_max_requests = { management = 50 }\n",
        "aziot_max_requests = { keyd = 50 }\n",
};

static void write_file(const char *name, const char *text) {
        CLEANUP(freep) char *path = NULL;
        FILE *f;

        assert_int_equal(path_under(&path, root, name), 0);
        f = fopen(path, "we");
        assert_non_null(f);
        assert_int_not_equal(fputs(text, f), EOF);
        assert_int_equal(fclose(f), 0);
}

static int check(const char *config, Failure *ret) {
        const Situation s = { .root = root, .text = (char *) config, .text_size = strlen(config) };

        *ret = (Failure){};
        return apply_rules_check(&s, ret);
}

static void each_case_is_accepted_or_refused(void **state) {
        write_file("/var/lib/dpkg/status", RELEASE("1.6.1-1"));
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Failure failure;
                int r = check(cases[i].config, &failure);

                if ((r < 0) != (cases[i].code != NULL) ||
                    (cases[i].code && !streq(failure.code, cases[i].code)))
                        fail_msg("%s: %s", cases[i].config, failure.sentence);
                if (r < 0) {
                        assert_int_equal(failure.kind, FAILURE_CONFIG_CONFLICT);
                        assert_non_null(failure.remedy);
                }
        }
}

static void what_a_release_does_not_know_is_accepted(void **state) {
        static const char *const lists[] = { RELEASE("1.3.0-1"), "Package: x\nVersion: 1.6.1-1\n" };

        for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
                write_file("/var/lib/dpkg/status", lists[i]);
                for (size_t j = 0; j < ARRAY_SIZE(newer); j++) {
                        Failure failure;

                        if (check(newer[j], &failure) < 0)
                                fail_msg("%s: %s", newer[j], failure.sentence);
                }
        }
}

static void a_refusal_names_table_member_and_line(void **state) {
        Failure failure;

        assert_true(check("\n[agent.env]\nx = 'y'\n", &failure) < 0);
        assert_non_null(strstr(failure.sentence, "line 2"));
        assert_non_null(strstr(failure.sentence, "'agent'"));
        assert_non_null(strstr(failure.sentence, "'name'"));
}

static const char *const directories[] = { "/etc", "/var", "/var/lib", "/var/lib/dpkg" };
static const char *const files[] = { "/etc/there", "/var/lib/dpkg/status", "/etc/link" };

static int make_root(void **state) {
        CLEANUP(freep) char *link = NULL;

        if (!mkdtemp(root))
                return -1;
        for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
                CLEANUP(freep) char *path = NULL;

                if (path_under(&path, root, directories[i]) < 0 || mkdir(path, 0755) < 0)
                        return -1;
        }
        write_file("/etc/there", "");
        write_file("/var/lib/dpkg/status", "");
        return path_under(&link, root, "/etc/link") < 0 ? -1 : symlink("/home", link);
}

static int remove_root(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                CLEANUP(freep) char *path = NULL;

                if (path_under(&path, root, files[i]) < 0 || unlink(path) < 0)
                        return -1;
        }
        for (size_t i = ARRAY_SIZE(directories); i > 0; i--) {
                CLEANUP(freep) char *path = NULL;

                if (path_under(&path, root, directories[i - 1]) < 0 || rmdir(path) < 0)
                        return -1;
        }
        return rmdir(root);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(each_case_is_accepted_or_refused),
                cmocka_unit_test(what_a_release_does_not_know_is_accepted),
                cmocka_unit_test(a_refusal_names_table_member_and_line),
        };

        return cmocka_run_group_tests(tests, make_root, remove_root);
}
