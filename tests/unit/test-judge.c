#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "judge.h"
#include "paths.h"

#include "test.h"

static char root[] = "/tmp/test-judge-XXXXXX"; /* IoT Edge is installed there, and has no files */

#define TABLES(endpoint, rest)                                                                              \
        "[provisioning]\nsource = 'dps'\nglobal_endpoint = '" endpoint "'\nid_scope = '0neX'\n" rest        \
        "[provisioning.attestation]\nmethod = 'tpm'\nregistration_id = 'gw-1'\n"
#define OURS    TABLES("https://dps.example/", "")
#define PAYLOAD TABLES("https://dps.example/", "payload.uri = 'file:///p%20q'\n")
#define FOREIGN "[provisioning]\nsource = 'manual'\n"

#define F(type) (FINDING_##type + 1) /* 0 ends the list */

/* What a gateway that was handed off looks like, with the changes of the case. NULL: as it was handed off.
 */
typedef struct Case {
        const char *name;
        const char *config, *applied, *base, *recorded, *device, *payload;
        bool no_config, no_applied, no_device, hidden, legacy, snap, masked, missing, no_apply_unit, replace,
                applying, ignored, unknown, no_assignment, no_engine, silent_engine, was_applied;
        unsigned status;
        int types[6];
        unsigned mends;
        FindingType refusal, loss; /* _FINDING_TYPE_MAX: none */
} Case;

#define NONE _FINDING_TYPE_MAX

static void read_toml(ConfigToml *ret, const char *text) {
        Failure failure = {};

        if (config_toml_read(ret, "f", text, strlen(text), &failure) < 0)
                fail_msg("%s", failure.sentence);
}

static void fill_record(Situation *s, const Case *c) {
        CLEANUP(config_toml_deinit) ConfigToml recorded = {};

        read_toml(&recorded, c->recorded ? c->recorded : OURS);
        s->record.digest = strdup(recorded.digest);
        s->record.ignored_digest = c->ignored ? strdup(recorded.digest) : NULL;
        s->record.applying = c->applying;
}

static void fill_files(Situation *s, const Case *c) {
        const char *text = c->config ? c->config : OURS;

        if (c->no_config) {
                s->base = c->base ? strdup(c->base) : NULL;
                s->base_size = c->base ? strlen(c->base) : 0;
                read_toml(&s->base_toml, c->base ? c->base : "");
        } else {
                s->text = strdup(text);
                s->text_size = strlen(text);
                read_toml(&s->toml, text);
        }
        if (!c->no_applied)
                read_toml(&s->applied, c->applied ? c->applied : OURS);
        if (!c->no_device && !c->hidden) {
                s->device_info.hub = strdup("hub.example");
                s->device_info.device_id = strdup(c->device ? c->device : "gw-1");
        }
        s->device_info_hidden = c->hidden;
        s->legacy = c->legacy;
}

/* An engine without a unix socket is not asked. */
static void fill_engine(Situation *s, const Case *c) {
        ConfigToml *toml = c->no_config ? &s->base_toml : &s->toml;

        if (!c->no_engine && !c->silent_engine)
                assert_int_equal(string_replace(&toml->runtime_uri, "http://engine.example"), 0);
        s->engine_installed = c->silent_engine;
        s->applied_exists = c->was_applied;
}

static void fill(Situation *s, const Case *c) {
        *s = (Situation){ .root = root, .units_known = true, .snap = c->snap };
        fill_record(s, c);
        fill_files(s, c);
        fill_engine(s, c);
        s->edged.exists = s->identityd.exists = !c->missing;
        s->identityd.masked = c->masked;
        s->apply.exists = !c->no_apply_unit;
        s->device_asked = c->status > 0;
        s->device.status = c->status;
        (void) snprintf(s->device.hub, sizeof(s->device.hub), "hub.example");
        (void) snprintf(s->device.device_id, sizeof(s->device.device_id), "%s",
                        c->device ? c->device : "gw-1");
}

static void judge_case(const Case *c, Verdict *ret) {
        const Config config = { .global_endpoint = (char *) "https://dps.example",
                                .id_scope = c->unknown ? NULL : (char *) "0neX",
                                .payload = (char *) c->payload,
                                .hub_key_handle = 0x81000100,
                                .replace_provisioning = c->replace };
        const Assignment assignment = { .hub = (char *) "HUB.example", .device_id = (char *) "gw-1" };
        CLEANUP(wanted_deinit) Wanted wanted = {};
        CLEANUP(situation_deinit) Situation s = {};

        fill(&s, c);
        assert_int_equal(wanted_make(&wanted, &config, c->unknown ? NULL : "gw-1",
                                     c->no_assignment ? NULL : &assignment),
                         0);
        judge(ret, &wanted, &s);
}

static FindingType type_of(const Finding *f) {
        return f ? f->type : NONE;
}

#define CONFIG_APPLY (MEND_CONFIG | MEND_APPLY)

static const Case cases[] = {
        { "healthy", .refusal = NONE, .loss = NONE },
        { "spelled otherwise", .config = TABLES("HTTPS://DPS.example:443", ""), .refusal = NONE,
          .loss = NONE },
        { "nothing is known", .config = TABLES("https://dps.example", ""), .recorded = FOREIGN,
          .unknown = true, .hidden = true, .no_assignment = true, .refusal = NONE, .loss = NONE },
        { "not installed", .missing = true, .types = { F(RUNTIME_UNUSABLE) },
          .refusal = FINDING_RUNTIME_UNUSABLE, .loss = NONE },
        { "snap", .missing = true, .snap = true, .types = { F(RUNTIME_UNUSABLE) },
          .refusal = FINDING_RUNTIME_UNUSABLE, .loss = NONE },
        { "masked", .masked = true, .types = { F(RUNTIME_UNUSABLE) }, .refusal = FINDING_RUNTIME_UNUSABLE,
          .loss = NONE },
        { "no unit to apply, and nothing to apply", .no_apply_unit = true,
          .types = { F(APPLY_UNIT_UNUSABLE) }, .refusal = NONE, .loss = NONE },
        { "no unit to apply", .no_apply_unit = true, .no_applied = true,
          .types = { F(APPLIED_OUTDATED), F(APPLY_UNIT_UNUSABLE) }, .mends = MEND_APPLY,
          .refusal = FINDING_APPLY_UNIT_UNUSABLE, .loss = FINDING_APPLIED_OUTDATED },
        { "no config.toml", .no_config = true, .types = { F(CONFIG_MISSING) }, .mends = CONFIG_APPLY,
          .refusal = NONE, .loss = FINDING_CONFIG_MISSING },
        { "no engine", .no_config = true, .no_engine = true,
          .types = { F(CONFIG_MISSING), F(ENGINE_UNUSABLE) }, .mends = CONFIG_APPLY,
          .refusal = FINDING_ENGINE_UNUSABLE, .loss = FINDING_CONFIG_MISSING },
        { "an engine that is not up yet", .no_config = true, .silent_engine = true,
          .types = { F(CONFIG_MISSING), F(ENGINE_SILENT) }, .mends = CONFIG_APPLY, .refusal = NONE,
          .loss = FINDING_CONFIG_MISSING },
        { "the same, later", .no_config = true, .silent_engine = true, .was_applied = true,
          .types = { F(CONFIG_MISSING), F(ENGINE_SILENT) }, .mends = CONFIG_APPLY,
          .refusal = FINDING_ENGINE_SILENT, .loss = FINDING_CONFIG_MISSING },
        { "no engine, and nothing to apply", .no_engine = true, .refusal = NONE, .loss = NONE },
        { "a base with everything", .no_config = true, .base = FOREIGN "[x]\n[tpm]\nauth_key_index = 7\n",
          .types = { F(CONFIG_UNUSABLE), F(CONFIG_MISSING), F(BASE_REPLACED) }, .mends = CONFIG_APPLY,
          .refusal = FINDING_CONFIG_UNUSABLE, .loss = FINDING_CONFIG_MISSING },
        { "IoT Edge 1.1 was never imported", .no_config = true, .legacy = true,
          .types = { F(CONFIG_UNUSABLE), F(CONFIG_MISSING) }, .mends = CONFIG_APPLY,
          .refusal = FINDING_CONFIG_UNUSABLE, .loss = FINDING_CONFIG_MISSING },
        { "unprovisioned", .config = "auto_reprovisioning_mode = 'AlwaysOnStartup'\n",
          .types = { F(CONFIG_UNPROVISIONED), F(REPROVISIONS_ITSELF) }, .mends = CONFIG_APPLY,
          .refusal = NONE, .loss = FINDING_CONFIG_UNPROVISIONED },
        { "below a parent", .config = "parent_hostname = 'p'\n" OURS, .types = { F(CONFIG_UNUSABLE) },
          .refusal = FINDING_CONFIG_UNUSABLE, .loss = NONE },
        { "not editable", .config = "[[provisioning]]\n", .types = { F(CONFIG_UNUSABLE), F(CONFIG_FOREIGN) },
          .refusal = FINDING_CONFIG_UNUSABLE, .loss = FINDING_CONFIG_FOREIGN },
        { "ours for another configuration", .config = TABLES("https://other.example/", ""),
          .recorded = TABLES("https://other.example/", ""), .types = { F(CONFIG_OUTDATED) },
          .mends = CONFIG_APPLY, .refusal = NONE, .loss = FINDING_CONFIG_OUTDATED },
        { "an operator's", .config = FOREIGN, .types = { F(CONFIG_FOREIGN) },
          .refusal = FINDING_CONFIG_FOREIGN, .loss = FINDING_CONFIG_FOREIGN },
        { "an operator's that is replaced", .config = FOREIGN, .replace = true,
          .types = { F(CONFIG_OUTDATED), F(CONFIG_REPLACED) }, .mends = CONFIG_APPLY, .refusal = NONE,
          .loss = FINDING_CONFIG_OUTDATED },
        { "not applied", .applied = FOREIGN, .types = { F(APPLIED_OUTDATED) }, .mends = MEND_APPLY,
          .refusal = NONE, .loss = FINDING_APPLIED_OUTDATED },
        { "an apply that was interrupted", .applying = true, .types = { F(APPLIED_OUTDATED) },
          .mends = MEND_APPLY, .refusal = NONE, .loss = FINDING_APPLIED_OUTDATED },
        { "a payload", .payload = "/p q", .config = PAYLOAD, .applied = PAYLOAD, .refusal = NONE,
          .loss = NONE },
        { "a payload that was not applied", .payload = "/p q", .config = PAYLOAD, .recorded = PAYLOAD,
          .types = { F(APPLIED_OUTDATED) }, .mends = MEND_APPLY, .refusal = NONE,
          .loss = FINDING_APPLIED_OUTDATED },
        { "a payload that IoT Edge ignores", .payload = "/p q", .config = PAYLOAD, .recorded = PAYLOAD,
          .ignored = true, .types = { F(PAYLOAD_IGNORED) }, .refusal = NONE, .loss = NONE },
        { "a payload that IoT Edge ignored in other tables", .payload = "/p q", .config = PAYLOAD "\n",
          .recorded = TABLES("https://dps.example", "payload.uri = 'file:///p%20q'\n"), .ignored = true,
          .types = { F(APPLIED_OUTDATED) }, .mends = MEND_APPLY, .refusal = NONE,
          .loss = FINDING_APPLIED_OUTDATED },
        { "no device_info", .no_device = true, .types = { F(DEVICE_MISSING) }, .mends = MEND_DEVICE_INFO,
          .refusal = NONE, .loss = FINDING_DEVICE_MISSING },
        { "another device with our provisioning", .device = "gw-2", .types = { F(DEVICE_MOVED) },
          .mends = MEND_DEVICE_INFO, .refusal = NONE, .loss = FINDING_DEVICE_MOVED },
        { "another device with the same provisioning of an operator", .device = "gw-2", .recorded = FOREIGN,
          .status = 200, .types = { F(DEVICE_OTHER), F(IDENTITY_OTHER) }, .mends = MEND_DEVICE_INFO,
          .refusal = NONE, .loss = FINDING_DEVICE_OTHER },
        { "an identity", .status = 200, .refusal = NONE, .loss = NONE },
        { "no identity", .status = 400, .types = { F(IDENTITY_MISSING) }, .refusal = NONE, .loss = NONE },
};

static void each_case_has_its_findings(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const Case *c = &cases[i];
                size_t expected = 0;
                Verdict v;

                judge_case(c, &v);
                while (c->types[expected])
                        expected++;
                if (v.count != expected || v.mends != c->mends)
                        fail_msg("%s: %zu findings, mends %x; the first: %s", c->name, v.count, v.mends,
                                 v.count > 0 ? v.findings[0].failure.sentence : "none");
                for (size_t j = 0; j < expected; j++) {
                        if ((int) v.findings[j].type + 1 != c->types[j])
                                fail_msg("%s: finding %zu: %s", c->name, j, v.findings[j].failure.sentence);
                        assert_true(v.findings[j].failure.sentence[0]);
                }
                if (type_of(verdict_refusal(&v)) != c->refusal || type_of(verdict_loss(&v)) != c->loss)
                        fail_msg("%s: refusal or loss", c->name);
        }
}

/* A finding of an operator has a kind of failure, one of ours has none. */
static void owners_fit_the_failures(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Verdict v;

                judge_case(&cases[i], &v);
                for (size_t j = 0; j < v.count; j++) {
                        const Finding *f = &v.findings[j];

                        assert_int_equal(f->owner == OWNER_US, f->failure.kind == FAILURE_NONE &&
                                                                       f->type != FINDING_BASE_REPLACED);
                        assert_ptr_equal(verdict_find(&v, f->type), f);
                }
                assert_null(verdict_find(&v, NONE));
        }
}

static void identityd_s_provisioning_is_compared_by_its_meaning(void **state) {
        const Config config = { .global_endpoint = (char *) "https://dps.example",
                                .id_scope = (char *) "0neX" };
        CLEANUP(wanted_deinit) Wanted wanted = {};
        Situation s = { .provisioning = { .endpoint = "https://DPS.example:443/",
                                          .id_scope = "0neX",
                                          .registration_id = "GW-1" } };

        assert_int_equal(wanted_make(&wanted, &config, "gw-1", NULL), 0);
        assert_string_equal(wanted.provisioning.endpoint, "https://dps.example/");
        assert_true(judge_identityd_provisioned(&wanted, &s));
        s.provisioning.id_scope[0] = '1';
        assert_false(judge_identityd_provisioned(&wanted, &s));
}

static const char *const directories[] = { "/etc",     PATH_CONFIG_DIR,  "/var",
                                           "/var/lib", "/var/lib/aziot", PATH_IDENTITYD };

static int make_root(void **state) {
        if (!mkdtemp(root))
                return -1;
        for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
                CLEANUP(freep) char *path = NULL;

                if (path_under(&path, root, directories[i]) < 0 || mkdir(path, 0755) < 0)
                        return -1;
        }
        return 0;
}

static int remove_root(void **state) {
        for (size_t i = ARRAY_SIZE(directories); i > 0; i--) {
                CLEANUP(freep) char *path = NULL;

                if (path_under(&path, root, directories[i - 1]) < 0 || rmdir(path) < 0)
                        return -1;
        }
        return rmdir(root);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(each_case_has_its_findings),
                cmocka_unit_test(owners_fit_the_failures),
                cmocka_unit_test(identityd_s_provisioning_is_compared_by_its_meaning),
        };

        return cmocka_run_group_tests(tests, make_root, remove_root);
}
