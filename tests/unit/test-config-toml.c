#include <stdlib.h>

#include "config-toml.h"
#include "memory.h"

#include "test.h"

static const Provisioning wanted = { .endpoint = "https://dps.example",
                                     .id_scope = "0neX",
                                     .registration_id = "gw-1" };

#define BLOCK                                                                                               \
        "[provisioning]\nsource = \"dps\"\nglobal_endpoint = \"https://dps.example\"\nid_scope = "          \
        "\"0neX\"\n\n"                                                                                      \
        "[provisioning.attestation]\nmethod = \"tpm\"\nregistration_id = \"gw-1\"\n"

static void expect_edit(const char *before, const char *after) {
        CLEANUP(freep) char *edited = NULL;
        Failure failure = {};
        int r = config_toml_edit(&edited, "f", before, strlen(before), &wanted, &failure);

        if (r < 0)
                fail_msg("%s: %s", before, failure.sentence);
        assert_string_equal(edited, after);
}

static void everything_else_stays(void **state) {
        static const struct {
                const char *before, *after;
        } cases[] = {
                { "", BLOCK },
                { "# only a comment", "# only a comment\n\n" BLOCK },
                { "hostname = \"a\"\n", "hostname = \"a\"\n\n" BLOCK },
                { "[provisioning]\nsource = \"manual\"\n# kept\n[agent]\nname = \"x\" # y\n",
                  BLOCK "# kept\n[agent]\nname = \"x\" # y\n" },
                { "[ provisioning ] # "
                  "old\nsource='dps'\n[agent]\n[provisioning.attestation]\nmethod='x509'\n",
                  BLOCK "[agent]\n" },
                { "[\"provisioning\"]\n'source' = \"dps\"\n", BLOCK },
                { "provisioning.source = \"dps\"\nprovisioning.attestation.method = \"tpm\"\nhostname = "
                  "\"a\"\n",
                  "hostname = \"a\"\n\n" BLOCK },
                { "provisioning = { source = \"dps\", attestation = { method = \"tpm\" } }\n[agent]\n",
                  "[agent]\n\n" BLOCK },
                { "provisioning = {\n  source = \"dps\", # } why\n\n  attestation = {\n    method = "
                  "\"tpm\",\n  },\n}\n[agent]\n",
                  "[agent]\n\n" BLOCK },
                { "provisioning.source = \"dps\"\na = 1\n[provisioning.attestation]\nmethod = "
                  "\"tpm\"\n[b]\n",
                  "a = 1\n" BLOCK "[b]\n" },
                { "[a.b]\n[a]\nc.d = 1\nc.e = 0x1_F\n[a.c.f]\n[[g]]\n[g.h]\n[[g]]\n[g.h]\nt = 07:32\n",
                  "[a.b]\n[a]\nc.d = 1\nc.e = 0x1_F\n[a.c.f]\n[[g]]\n[g.h]\n[[g]]\n[g.h]\nt = "
                  "07:32\n\n" BLOCK },
                { "[agent]\nx = { # [provisioning]\n  y = 1,\n}\n[provisioning]\nsource = \"\\e\\x41\"\n",
                  "[agent]\nx = { # [provisioning]\n  y = 1,\n}\n" BLOCK },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                expect_edit(cases[i].before, cases[i].after);
}

static void an_edit_is_found_done(void **state) {
        static const char text[] = "[agent]\nname = \"a\"\n\n" BLOCK;

        expect_edit(text, text);
}

static void it_is_removed_without_a_trace(void **state) {
        static const struct {
                const char *before, *after;
        } cases[] = {
                { BLOCK, "" },
                { "", "" },
                { "hostname = \"a\"\n", "hostname = \"a\"\n" },
                { "# mine\n" BLOCK "# kept\n[agent]\nname = \"x\" # y\n",
                  "# mine\n# kept\n[agent]\nname = \"x\" # y\n" },
                { "provisioning.source = \"dps\"\nhostname = \"a\"\n", "hostname = \"a\"\n" },
                { "a = '''\n[provisioning]\n'''\n", "a = '''\n[provisioning]\n'''\n" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *edited = NULL;
                Failure failure = {};
                int r = config_toml_edit(&edited, "f", cases[i].before, strlen(cases[i].before), NULL,
                                         &failure);

                if (r < 0)
                        fail_msg("%s: %s", cases[i].before, failure.sentence);
                assert_string_equal(edited, cases[i].after);
        }
}

static void look_alikes_are_not_provisioning(void **state) {
        static const char *const texts[] = {
                "# [provisioning]\n",
                "a = \"\"\"\n[provisioning]\nsource = \"x\"\n\"\"\"\n",
                "a = '''\n[provisioning]\n'''\n",
                "a = [\n  \"[provisioning]\",\n# [provisioning]\n]\n",
                "[\"\"]\nprovisioning.source = \"x\"\n",
                "\"\".provisioning.source = \"x\"\n",
                "\"provisioning\\u001fsource\" = 1\n",
                "\"provisioning\\u0000\" = 2\n",
                "\"\\u001e\".provisioning = 3\n",
                "[provisioning_x]\nsource = \"x\"\n",
                "[agent.env]\nprovisioning = \"x\"\n",
                "[agent.provisioning]\nsource = \"x\"\n",
                "[x]\ny = { provisioning = { source = \"x\" } }\n",
        };

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                CLEANUP(freep) char *expected = NULL;
                ConfigToml config;
                Failure failure;

                assert_int_equal(config_toml_read(&config, "f", texts[i], strlen(texts[i]), &failure), 0);
                assert_false(config.has_provisioning);
                assert_null(config.source);
                assert_null(config.digest);
                config_toml_deinit(&config);
                assert_true(asprintf(&expected, "%s\n" BLOCK, texts[i]) > 0);
                expect_edit(texts[i], expected);
        }
}

static void line_ends_are_kept(void **state) {
        CLEANUP(freep) char *edited = NULL;
        static const char text[] = "a = 1\r\n[provisioning]\r\nsource = \"x\"\r\n[b]\r\n";
        Failure failure;

        assert_int_equal(config_toml_edit(&edited, "f", text, strlen(text), &wanted, &failure), 0);
        for (const char *p = strchr(edited, '\n'); p; p = strchr(p + 1, '\n'))
                assert_int_equal(p[-1], '\r');
        assert_non_null(strstr(edited, "[b]\r\n"));
}

static void what_is_unclear_is_refused_with_its_line(void **state) {
        static const struct {
                const char *text, *where;
        } cases[] = {
                { "a = 1\n[[provisioning]]\nsource = \"x\"\n", "f:2:" },
                { "provisioning = \"x\"\n", "f:1:" },
                { "provisioning.source = \"x\"\n[provisioning]\n", "f:2:" },
                { "[provisioning]\n[[provisioning.list]]\n", "f:2:" },
                { "[provisioning]\n[agent]\n[provisioning]\n", "f:3:" },
                { "a = 1\nb =\n", "f:2:" },
                { "a = \"x\n", "f:1:" },
                { "a = [1,\n2\n", "f:3:" },
                { "x\n", "f:1:" },
                { "x = { a = 1,\n  b\n}\n", "f:2:" },
                { "x = { , }\n", "f:1:" },
                { "x = {\n  a = 1\n\n", "f:4:" },
                { "x = \"\\x4\"\n", "f:1:" },
                /* what concerns others, who would stumble */
                { "a = 1\nb.c = 2\na = 3\n", "f:3:" },
                { "b.c = 1\nb = { d = 2 }\n", "f:2:" },
                { "[a]\n[b]\n[a]\n", "f:3:" },
                { "[a.b]\n[a]\nb.c = 1\n", "f:3:" },
                { "[a]\n[[a]]\n", "f:2:" },
                { "a = []\n[[a]]\n", "f:2:" },
                { "a = { b = 1 }\n[a.c]\n", "f:2:" },
                { "a = { b = 1,\n  b = 2 }\n", "f:2:" },
                { "a = 1\nb = 01\n", "f:2:" },
                { "a = 1979-02-29\n", "f:1:" },
                { "a = 1\n# \xff\n", "f:2:" },
                { "a = 1\n# \xc3", "f:2:" },
                { "a = 1\n# \x7f\n", "f:2:" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char *edited = NULL;
                Failure failure = {};
                int r = config_toml_edit(&edited, "f", cases[i].text, strlen(cases[i].text), &wanted,
                                         &failure);

                assert_true(r < 0);
                assert_null(edited);
                assert_int_equal(failure.kind, FAILURE_CONFIG_CONFLICT);
                if (!strstr(failure.sentence, cases[i].where))
                        fail_msg("%s: %s", cases[i].text, failure.sentence);
        }
}

static void what_a_file_says_is_read(void **state) {
        static const char text[] = "parent_hostname = \"up\"\nauto_reprovisioning_mode = 'AlwaysOnStartup'\n"
                                   "[tpm]\nauth_key_index = 0x00_01_00\n"
                                   "[moby_runtime]\nuri = \"unix:///d.sock\"\n" BLOCK;
        Provisioning other = wanted;
        ConfigToml c;
        Failure failure;

        assert_int_equal(config_toml_read(&c, "f", text, strlen(text), &failure), 0);
        assert_true(c.has_provisioning);
        assert_string_equal(c.parent_hostname, "up");
        assert_string_equal(c.auto_reprovisioning_mode, "AlwaysOnStartup");
        assert_string_equal(c.runtime_uri, "unix:///d.sock");
        assert_int_equal(c.auth_key_index, 0x100);
        assert_int_equal(strlen(c.digest), 64);
        assert_true(config_toml_matches(&c, &wanted));
        other.endpoint = "https://DPS.example:443/";
        assert_true(config_toml_matches(&c, &other));
        other.id_scope = other.endpoint = other.registration_id = NULL; /* not known */
        assert_true(config_toml_matches(&c, &other));
        other.id_scope = "0neY";
        assert_false(config_toml_matches(&c, &other));
        other = wanted;
        other.payload_uri = "file:///p";
        assert_false(config_toml_matches(&c, &other));
        other.payload_unknown = true;
        assert_true(config_toml_matches(&c, &other));
        config_toml_deinit(&c);
}

static void payloads_are_compared_by_their_meaning(void **state) {
        static const char text[] = "[provisioning]\npayload.uri = 'file:///a/./b c'\n"
                                   "source = 'dps'\nattestation.method = 'tpm'\n"
                                   "attestation.registration_id = 'gw-1'\n"
                                   "global_endpoint = 'https://DPS.example:443'\nid_scope = '0neX'\n";
        Provisioning other = wanted;
        ConfigToml c;
        Failure failure;

        assert_int_equal(config_toml_read(&c, "f", text, strlen(text), &failure), 0);
        assert_false(config_toml_matches(&c, &wanted));
        other.payload_uri = "file:///a/b%20c";
        assert_true(config_toml_matches(&c, &other));
        other.payload_uri = "file:///a/b%2520c";
        assert_false(config_toml_matches(&c, &other));
        config_toml_deinit(&c);
}

static void escapes_are_decoded(void **state) {
        static const char text[] =
                "[provisioning]\nid_scope = \"0\\x6Ee\\u0058\"\nsource = \"\"\"d\\\n   ps\"\"\"\n"
                "global_endpoint = \"a\\u0000b\"\n";
        ConfigToml c;
        Failure failure;

        assert_int_equal(config_toml_read(&c, "f", text, strlen(text), &failure), 0);
        assert_string_equal(c.id_scope, "0neX");
        assert_string_equal(c.source, "dps");
        assert_string_equal(c.endpoint, "a\x1a"
                                        "b"); /* not "a" */
        config_toml_deinit(&c);
}

/* Never a part of the file. */
static void no_memory_is_an_error(void **state) {
        CLEANUP(freep) char *text = calloc(400, 80), *expected = NULL;
        bool enough = false;
        Failure failure;

        assert_non_null(text);
        for (int line = 0; line < 300; line++)
                (void) snprintf(text + strlen(text), 80, "# line %d of those that have to be kept\n%s", line,
                                line == 10 ? "[provisioning]\nsource = \"manual\"\n" : "");
        assert_int_equal(config_toml_edit(&expected, "f", text, strlen(text), &wanted, &failure), 0);
        for (int once = 0; once < 2; once++, enough = false)
                for (unsigned n = 0; !enough; n++) {
                        char *edited = NULL;
                        int r;

                        memory_limit(n, once);
                        r = config_toml_edit(&edited, "f", text, strlen(text), &wanted, &failure);
                        enough = !memory_unlimit();
                        if (r >= 0)
                                assert_string_equal(edited, expected);
                        free(edited);
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(everything_else_stays),
                cmocka_unit_test(an_edit_is_found_done),
                cmocka_unit_test(it_is_removed_without_a_trace),
                cmocka_unit_test(look_alikes_are_not_provisioning),
                cmocka_unit_test(line_ends_are_kept),
                cmocka_unit_test(what_is_unclear_is_refused_with_its_line),
                cmocka_unit_test(what_a_file_says_is_read),
                cmocka_unit_test(payloads_are_compared_by_their_meaning),
                cmocka_unit_test(escapes_are_decoded),
                cmocka_unit_test(no_memory_is_an_error),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
