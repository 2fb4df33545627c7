#include "judge.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "applied.h"
#include "apply-rules.h"
#include "engine.h"
#include "judge-identity.h"
#include "judge-settings.h"
#include "paths.h"
#include "proxies.h"
#include "url.h"

#define TPM_PERSISTENT_FIRST 0x81000000u

static const struct {
        FindingOwner owner;
        FindingSubject subject;
        unsigned mends;
} types[] = {
        [FINDING_RUNTIME_UNUSABLE] = { OWNER_OPERATOR, SUBJECT_INSTALLATION, 0 },
        [FINDING_APPLY_UNIT_UNUSABLE] = { OWNER_OPERATOR, SUBJECT_INSTALLATION, 0 },
        [FINDING_CONFIG_UNUSABLE] = { OWNER_OPERATOR, SUBJECT_CONFIG, 0 },
        [FINDING_CONFIG_MISSING] = { OWNER_US, SUBJECT_CONFIG, MEND_CONFIG | MEND_APPLY },
        [FINDING_CONFIG_UNPROVISIONED] = { OWNER_US, SUBJECT_CONFIG, MEND_CONFIG | MEND_APPLY },
        [FINDING_CONFIG_OUTDATED] = { OWNER_US, SUBJECT_CONFIG, MEND_CONFIG | MEND_APPLY },
        [FINDING_CONFIG_FOREIGN] = { OWNER_OPERATOR, SUBJECT_CONFIG, 0 },
        [FINDING_CONFIG_REPLACED] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_BASE_REPLACED] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_OVERRIDDEN] = { OWNER_OPERATOR, SUBJECT_CONFIG, 0 },
        [FINDING_REPROVISIONS_ITSELF] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_STRAY_KEYS] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_HOST_NAME] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_TPM_OTHER] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_AUTHORIZATION_MISSING] = { OWNER_OPERATOR, SUBJECT_CONFIG, 0 },
        [FINDING_AUTHORIZATION_LACKING] = { OWNER_NOBODY, SUBJECT_CONFIG, 0 },
        [FINDING_APPLIED_OUTDATED] = { OWNER_US, SUBJECT_APPLIED, MEND_APPLY },
        [FINDING_PAYLOAD_IGNORED] = { OWNER_NOBODY, SUBJECT_APPLIED, 0 },
        [FINDING_CONFIG_PLACE] = { OWNER_OPERATOR, SUBJECT_APPLIED, 0 },
        [FINDING_DEVICE_PLACE] = { OWNER_OPERATOR, SUBJECT_APPLIED, 0 },
        [FINDING_APPLY_REFUSES] = { OWNER_OPERATOR, SUBJECT_APPLIED, 0 },
        [FINDING_ENGINE_UNUSABLE] = { OWNER_OPERATOR, SUBJECT_APPLIED, 0 },
        [FINDING_ENGINE_SILENT] = { OWNER_OPERATOR, SUBJECT_APPLIED, 0 },
        [FINDING_PROXY_MISSING] = { OWNER_NOBODY, SUBJECT_PROXY, 0 },
        [FINDING_DEVICE_MISSING] = { OWNER_US, SUBJECT_DEVICE, MEND_DEVICE_INFO },
        [FINDING_DEVICE_OTHER] = { OWNER_US, SUBJECT_DEVICE, MEND_DEVICE_INFO },
        [FINDING_DEVICE_MOVED] = { OWNER_US, SUBJECT_DEVICE, MEND_DEVICE_INFO },
        [FINDING_IDENTITYD_SILENT] = { OWNER_NOBODY, SUBJECT_IDENTITY, 0 },
        [FINDING_IDENTITY_MISSING] = { OWNER_NOBODY, SUBJECT_IDENTITY, 0 },
        [FINDING_IDENTITY_OTHER] = { OWNER_NOBODY, SUBJECT_IDENTITY, 0 },
};
static_assert(ARRAY_SIZE(types) == _FINDING_TYPE_MAX, "every type of finding has a row");

/* --- what is wanted --- */

int wanted_make(Wanted *ret, const Config *config, const char *registration_id,
                const Assignment *assignment) {
        CLEANUP(wanted_deinit) Wanted w = { .config = config };

        if (asprintf(&w.endpoint, "%s/", config->global_endpoint) < 0) {
                w.endpoint = NULL;
                return -ENOMEM;
        }
        if (config->payload && url_from_path(&w.payload_uri, config->payload) < 0)
                return -ENOMEM;
        w.provisioning = (Provisioning){ .endpoint = w.endpoint,
                                         .id_scope = config->id_scope,
                                         .registration_id = registration_id,
                                         .payload_uri = w.payload_uri };
        if (assignment) {
                w.hub = assignment->hub;
                w.device_id = assignment->device_id;
        }
        *ret = w;
        w = (Wanted){};
        return 0;
}

void wanted_deinit(Wanted *w) {
        free(w->endpoint);
        free(w->payload_uri);
        *w = (Wanted){};
}

/* --- the list --- */

/* Returns the failure to fill. */
static Failure *add(Verdict *v, FindingType type) {
        Finding *f = &v->findings[v->count++];

        assert(v->count <= FINDINGS_MAX);
        *f = (Finding){ .type = type, .owner = types[type].owner, .subject = types[type].subject };
        v->mends |= types[type].mends;
        return &f->failure;
}

static void add_failure(Verdict *v, FindingType type, const Failure *failure) {
        *add(v, type) = *failure;
}

const Finding *verdict_find(const Verdict *v, FindingType type) {
        for (size_t i = 0; i < v->count; i++)
                if (v->findings[i].type == type)
                        return &v->findings[i];
        return NULL;
}

const Finding *verdict_refusal(const Verdict *v) {
        for (size_t i = 0; i < v->count; i++)
                if (v->findings[i].owner == OWNER_OPERATOR)
                        return &v->findings[i];
        return NULL;
}

const Finding *verdict_loss(const Verdict *v) {
        for (size_t i = 0; i < v->count; i++)
                if (v->findings[i].owner == OWNER_US || v->findings[i].type == FINDING_CONFIG_FOREIGN)
                        return &v->findings[i];
        return NULL;
}

/* --- the installation --- */

static void judge_runtime(Verdict *v, const Situation *s) {
        if (s->edged.masked || s->identityd.masked)
                (void) failure_set(add(v, FINDING_RUNTIME_UNUSABLE), FAILURE_RUNTIME_MISSING, "masked",
                                   "'%s' is masked, so IoT Edge can't be started",
                                   s->edged.masked ? UNIT_EDGED : UNIT_IDENTITYD);
        else if (s->edged.broken || s->identityd.broken) {
                const char *unit = s->edged.broken ? UNIT_EDGED : UNIT_IDENTITYD;

                (void) failure_set(add(v, FINDING_RUNTIME_UNUSABLE), FAILURE_RUNTIME_MISSING, "bad-setting",
                                   "systemd can't load '%s', so IoT Edge can't be started", unit);
                v->findings[v->count - 1].failure.remedy =
                        "Correct the file or the drop-in that 'systemctl status aziot-edged "
                        "aziot-identityd' names, and run 'systemctl daemon-reload'.";
        } else if ((s->edged.exists && s->identityd.exists) || s->edgeless)
                return;
        else if (s->snap)
                (void) failure_set(
                        add(v, FINDING_RUNTIME_UNUSABLE), FAILURE_RUNTIME_MISSING, "snap",
                        "IoT Edge is installed as a snap, which is not supported; install its packages");
        else if (s->legacy)
                (void) failure_set(add(v, FINDING_RUNTIME_UNUSABLE), FAILURE_RUNTIME_MISSING, "legacy",
                                   "'%s' belongs to IoT Edge 1.1, which is not supported; upgrade IoT Edge",
                                   PATH_LEGACY);
        else
                (void) failure_set(add(v, FINDING_RUNTIME_UNUSABLE), FAILURE_RUNTIME_MISSING, NULL,
                                   "Azure IoT Edge is not installed: there is no unit '%s'",
                                   s->edged.exists ? UNIT_IDENTITYD : UNIT_EDGED);
}

/* A missing unit prevents a hand-off only when something has to be applied. */
static void judge_apply_unit(Verdict *v, const Situation *s) {
        if (!s->units_known || (s->apply.exists && !s->apply.masked))
                return;
        (void) failure_set(add(v, FINDING_APPLY_UNIT_UNUSABLE), FAILURE_RUNTIME_MISSING, NULL,
                           "The unit '%s', which applies IoT Edge's configuration, is %s", UNIT_APPLY,
                           s->apply.masked ? "masked" : "not installed");
        v->findings[v->count - 1].failure.remedy =
                "Reinstall the package dps-provisiond, or unmask the unit.";
        if (!(v->mends & MEND_APPLY))
                v->findings[v->count - 1].owner = OWNER_NOBODY;
}

/* --- config.toml --- */

/* Settings that contradict the hand-off and that we leave alone. */
static bool judge_settings(Verdict *v, const Wanted *w, const Situation *s) {
        const Origin from = situation_origin(s);
        uint64_t index = w->config->hub_key_handle - TPM_PERSISTENT_FIRST;

        if (from.toml->parent_hostname)
                (void) failure_set(add(v, FINDING_CONFIG_UNUSABLE), FAILURE_CONFIG_CONFLICT,
                                   "parent_hostname",
                                   "'%s%s' sets parent_hostname, and IoT Edge can't use DPS below a parent",
                                   s->root, from.path);
        else if (w->config->identity == IDENTITY_ADOPT && from.toml->auth_key_index != index)
                (void) failure_set(add(v, FINDING_CONFIG_UNUSABLE), FAILURE_CONFIG_CONFLICT,
                                   "auth_key_index",
                                   "'%s%s' has IoT Edge's key at auth_key_index 0x%llx of [tpm], but "
                                   "HubKeyHandle= is 0x%08x; make them the same%s",
                                   s->root, s->base ? PATH_BASE : PATH_CONFIG,
                                   (unsigned long long) from.toml->auth_key_index, w->config->hub_key_handle,
                                   s->text ? "" : ", in '" PATH_BASE "'");
        else
                return true;
        return false;
}

static void judge_usable(Verdict *v, const Wanted *w, const Situation *s) {
        const Origin from = situation_origin(s);
        Failure failure;

        if (s->base_failure.kind != FAILURE_NONE)
                add_failure(v, FINDING_CONFIG_UNUSABLE, &s->base_failure);
        else if (!s->text && s->legacy)
                (void) failure_set(
                        add(v, FINDING_CONFIG_UNUSABLE), FAILURE_CONFIG_CONFLICT, "legacy",
                        "'%s' of IoT Edge 1.1 was never imported; run 'iotedge config import', or "
                        "remove it",
                        PATH_LEGACY);
        else if (judge_settings(v, w, s) && !config_toml_matches(&s->toml, &w->provisioning) &&
                 config_toml_check_editable(from.path, from.text, from.size, &failure) < 0)
                add_failure(v, FINDING_CONFIG_UNUSABLE, &failure);
}

static void add_foreign(Verdict *v, const Situation *s, FindingType type, const char *end) {
        (void) failure_set(
                add(v, type), FAILURE_CONFIG_CONFLICT, s->toml.source,
                "'%s%s' has a provisioning that dps-provisiond did not write (source \"%s\"%s%s)%s", s->root,
                PATH_CONFIG, s->toml.source ? s->toml.source : "?", s->toml.id_scope ? ", scope " : "",
                s->toml.id_scope ? s->toml.id_scope : "", end);
}

static void add_outdated(Verdict *v, const Situation *s) {
        (void) failure_set(add(v, FINDING_CONFIG_OUTDATED), FAILURE_NONE, NULL,
                           "'%s%s' has another provisioning", s->root, PATH_CONFIG);
}

static void judge_provisioning(Verdict *v, const Wanted *w, const Situation *s) {
        Failure other;
        bool runs_as_other = judge_runs_as_other(w, s, &other);

        if (runs_as_other)
                add_failure(v,
                            w->config->replace_provisioning ? FINDING_CONFIG_REPLACED
                                                            : FINDING_CONFIG_FOREIGN,
                            &other);
        if (runs_as_other && !w->config->replace_provisioning)
                return;
        if (!s->text)
                (void) failure_set(add(v, FINDING_CONFIG_MISSING), FAILURE_NONE, NULL,
                                   "'%s%s' does not exist", s->root, PATH_CONFIG);
        else if (!s->toml.has_provisioning)
                (void) failure_set(add(v, FINDING_CONFIG_UNPROVISIONED), FAILURE_NONE, NULL,
                                   "'%s%s' has no provisioning", s->root, PATH_CONFIG);
        else if (config_toml_matches(&s->toml, &w->provisioning))
                return;
        else if (situation_tables_ours(s))
                add_outdated(v, s);
        else if (!w->config->replace_provisioning)
                add_foreign(v, s, FINDING_CONFIG_FOREIGN, "");
        else {
                add_outdated(v, s);
                add_foreign(v, s, FINDING_CONFIG_REPLACED, ", and is replaced: ReplaceProvisioning=yes");
        }
}

static void judge_others(Verdict *v, const Wanted *w, const Situation *s) {
        const Origin from = situation_origin(s);
        const char *mode = from.toml->auto_reprovisioning_mode;
        Failure failure;

        if (judge_overridden(w, s, &failure))
                add_failure(v, FINDING_OVERRIDDEN, &failure);
        if (!s->text && s->base_toml.has_provisioning) {
                (void) failure_set(add(v, FINDING_BASE_REPLACED), FAILURE_NONE, NULL,
                                   "'%s%s' has a provisioning, which is replaced in the config.toml "
                                   "that is made from it",
                                   s->root, PATH_BASE);
                v->findings[v->count - 1].failure.remedy = "Remove [provisioning] from it: scope and "
                                                           "registration ID come from provisiond.conf.";
        }
        if (mode && streq(mode, "AlwaysOnStartup"))
                (void) failure_set(add(v, FINDING_REPROVISIONS_ITSELF), WARNING_REPROVISIONS_ITSELF, NULL,
                                   "'%s%s' sets auto_reprovisioning_mode = \"AlwaysOnStartup\", so IoT Edge "
                                   "registers itself at each start, as with Identity=register",
                                   s->root, from.path);
}

static void judge_meant(Verdict *v, const Wanted *w, const Situation *s) {
        bool registers =
                w->config->identity == IDENTITY_REGISTER || verdict_find(v, FINDING_REPROVISIONS_ITSELF);
        Failure failure;

        if (judge_stray_keys(s, &failure))
                add_failure(v, FINDING_STRAY_KEYS, &failure);
        if (judge_host_name(s, &failure))
                add_failure(v, FINDING_HOST_NAME, &failure);
        if (judge_tcti(s, w->config->tcti, &failure))
                add_failure(v, FINDING_TPM_OTHER, &failure);
        if (judge_authorization(s, registers ? FAILURE_CONFIG_CONFLICT : WARNING_EDGE_CONFIG, &failure))
                add_failure(v, registers ? FINDING_AUTHORIZATION_MISSING : FINDING_AUTHORIZATION_LACKING,
                            &failure);
}

/* --- the applied copy --- */

bool judge_payload_ignored(const Wanted *w, const ConfigToml *applied, Failure *reterr) {
        Provisioning without = w->provisioning;

        without.payload_uri = NULL;
        if (!w->payload_uri || applied->payload_uri || !config_toml_matches(applied, &without))
                return false;
        (void) failure_set(reterr, WARNING_PAYLOAD_IGNORED, NULL, "IoT Edge ignores the payload '%s'",
                           w->payload_uri);
        return true;
}

/* A service without its copy does not start, or not as config.toml says. */
static bool judge_lost_copies(Verdict *v, const Situation *s) {
        const char *service = s->applied_exists ? applied_find_lost(s->root, !s->edgeless) : NULL;

        if (service)
                (void) failure_set(add(v, FINDING_APPLIED_OUTDATED), FAILURE_NONE, NULL,
                                   "'%s" PATH_CONFIG_DIR "/%s/config.d/00-super.toml' is missing or empty",
                                   s->root, service);
        return service;
}

static void judge_applied(Verdict *v, const Wanted *w, const Situation *s) {
        Failure failure;

        if (v->mends & MEND_APPLY || judge_lost_copies(v, s) ||
            (config_toml_matches(&s->applied, &w->provisioning) && !s->record.applying))
                return;
        if (!s->record.applying && judge_payload_ignored(w, &s->applied, &failure) && s->toml.digest &&
            str_equal(s->toml.digest, s->record.ignored_digest))
                add_failure(v, FINDING_PAYLOAD_IGNORED, &failure);
        else
                (void) failure_set(add(v, FINDING_APPLIED_OUTDATED), FAILURE_NONE, NULL,
                                   "'%s%s' does not say what '%s%s' says", s->root, PATH_APPLIED, s->root,
                                   PATH_CONFIG);
}

/* `iotedge config apply` asks the engine before it changes anything, except the first time. Then the engine
 * may come as late as the start of aziot-edged. */
static void judge_engine(Verdict *v, const Situation *s) {
        Failure failure;

        if (s->edgeless || !(v->mends & MEND_APPLY) || verdict_refusal(v) || engine_check(s, &failure) >= 0)
                return;
        if (failure.kind != FAILURE_ENGINE_UNREACHABLE) {
                add_failure(v, FINDING_ENGINE_UNUSABLE, &failure);
                return;
        }
        add_failure(v, FINDING_ENGINE_SILENT, &failure);
        if (!s->applied_exists)
                v->findings[v->count - 1].owner = OWNER_NOBODY;
}

static void judge_places(Verdict *v, const Situation *s) {
        Failure failure;

        if (v->mends & MEND_CONFIG && situation_look_at_config_place(s, &failure) < 0)
                add_failure(v, FINDING_CONFIG_PLACE, &failure);
        if (device_info_refusal(s->root, &failure) < 0)
                add_failure(v, FINDING_DEVICE_PLACE, &failure);
        judge_apply_unit(v, s);
        if (v->mends & MEND_APPLY && apply_rules_check(s, &failure) < 0)
                add_failure(v, FINDING_APPLY_REFUSES, &failure);
        judge_engine(v, s);
}

/* --- the device --- */

static void judge_device(Verdict *v, const Wanted *w, const Situation *s) {
        const Assignment wanted = { .hub = (char *) w->hub, .device_id = (char *) w->device_id };
        const DeviceInfo *now = &s->device_info;

        if (!w->hub || s->device_info_hidden || assignment_same_device(&wanted, now->hub, now->device_id))
                return;
        if (!now->hub)
                (void) failure_set(add(v, FINDING_DEVICE_MISSING), FAILURE_NONE, NULL,
                                   "'%s%s/device_info' does not exist", s->root, PATH_IDENTITYD);
        else
                (void) failure_set(
                        add(v, situation_tables_ours(s) ? FINDING_DEVICE_MOVED : FINDING_DEVICE_OTHER),
                        FAILURE_NONE, NULL, "'%s%s/device_info' names '%s' on '%s'", s->root, PATH_IDENTITYD,
                        now->device_id, now->hub);
}

static void judge_identity(Verdict *v, const Wanted *w, const Situation *s) {
        const Assignment wanted = { .hub = (char *) w->hub, .device_id = (char *) w->device_id };
        const IdentitydAnswer *a = &s->device;

        if (!s->device_asked)
                return;
        if (a->status == 0)
                (void) failure_set(add(v, FINDING_IDENTITYD_SILENT), FAILURE_CONFIRM_TIMEOUT, NULL,
                                   "aziot-identityd does not answer: %s", a->message);
        else if (a->status != 200)
                (void) failure_set(add(v, FINDING_IDENTITY_MISSING), FAILURE_CONFIRM_TIMEOUT, NULL,
                                   "aziot-identityd has no identity (status %u): %s", a->status, a->message);
        else if (w->hub && !assignment_same_device(&wanted, a->hub, a->device_id))
                (void) failure_set(
                        add(v, FINDING_IDENTITY_OTHER), WARNING_ADOPTION_REFUSED, NULL,
                        "IoT Edge runs as '%s' on '%s', which is not what the daemon has handed over",
                        a->device_id, a->hub);
}

bool judge_identityd_provisioned(const Wanted *w, const Situation *s) {
        const IdentitydAnswer *a = &s->provisioning;
        const Provisioning *p = &w->provisioning;

        return url_same_endpoint(a->endpoint, p->endpoint) && streq(a->id_scope, p->id_scope) &&
               strcasecmp(a->registration_id, p->registration_id) == 0;
}

void judge(Verdict *ret, const Wanted *wanted, Situation *situation) {
        *ret = (Verdict){};
        if (situation->units_known)
                judge_runtime(ret, situation);
        judge_usable(ret, wanted, situation);
        judge_provisioning(ret, wanted, situation);
        judge_others(ret, wanted, situation);
        judge_meant(ret, wanted, situation);
        judge_applied(ret, wanted, situation);
        judge_places(ret, situation);
        if (situation->proxy_lacking)
                (void) proxies_failure(situation->proxy_lacking, add(ret, FINDING_PROXY_MISSING));
        judge_device(ret, wanted, situation);
        judge_identity(ret, wanted, situation);
}
