#include "judge-identity.h"

#include <stdlib.h>
#include <strings.h>

#include "paths.h"
#include "url.h"

#define SEP   TOML_SEPARATOR
#define TABLE "provisioning"
#define REMOVE_TABLE                                                                                        \
        "Remove [provisioning] from the named file, and run 'iotedge system restart' if IoT Edge runs."
#define REPLACE_IT                                                                                          \
        "Set ReplaceProvisioning=yes in [HandOff] if dps-provisiond may replace the identity. If the "      \
        "gateway keeps it, set Target=none, and put the provisioning back into /etc/aziot/config.toml."

enum {
        SOURCE,
        ENDPOINT,
        SCOPE,
        METHOD,
        REGISTRATION,
        KEYS
};

static const char *const keys[KEYS] = {
        [SOURCE] = TABLE SEP "source",
        [ENDPOINT] = TABLE SEP "global_endpoint",
        [SCOPE] = TABLE SEP "scope_id",
        [METHOD] = TABLE SEP "attestation" SEP "method",
        [REGISTRATION] = TABLE SEP "attestation" SEP "registration_id",
};

static int with_hint(Failure *reterr, int r, const char *hint) {
        reterr->remedy = hint;
        return r;
}

/* --- the provisioning of identityd --- */

static bool key_wanted(const Wanted *w, size_t key, const char *text) {
        const Provisioning *p = &w->provisioning;

        switch (key) {
        case SOURCE:
                return streq(text, "dps");
        case ENDPOINT:
                return !p->endpoint || url_same_endpoint(text, p->endpoint);
        case SCOPE:
                return !p->id_scope || streq(text, p->id_scope);
        case METHOD:
                return streq(text, "tpm");
        default:
                return !p->registration_id || strcasecmp(text, p->registration_id) == 0;
        }
}

/* Borrowed from the situation: later files win over what was applied, and that over its own config.toml.
 * *ret_file is the first that says something else than is wanted, else the first. */
static ConfigToml merge(const Wanted *w, const Situation *s, const char **ret_file) {
        char *const applied[KEYS] = { s->applied.source, s->applied.endpoint, s->applied.id_scope,
                                      s->applied.method, s->applied.registration_id };
        ConfigToml merged = {};
        bool differs = false;
        char **const targets[KEYS] = { &merged.source, &merged.endpoint, &merged.id_scope, &merged.method,
                                       &merged.registration_id };

        for (size_t i = 0; i < KEYS; i++) {
                const char *file = PATH_APPLIED;
                const TomlValue *value = overrides_get(&s->identityd_files, true, keys[i], &file);

                if (!value && !applied[i])
                        value = overrides_get(&s->identityd_files, false, keys[i], &file);
                *targets[i] = value ? value->text : applied[i];
                if (!*targets[i] || (*ret_file && (differs || key_wanted(w, i, *targets[i]))))
                        continue;
                *ret_file = file;
                differs = !key_wanted(w, i, *targets[i]);
        }
        return merged;
}

/* What this helper wrote into config.toml, had that to become the copy? */
static bool applied_ours(const Situation *s) {
        const Provisioning p = { .endpoint = s->applied.endpoint,
                                 .id_scope = s->applied.id_scope,
                                 .registration_id = s->applied.registration_id,
                                 .payload_uri = s->applied.payload_uri };
        CLEANUP(freep) char *digest = NULL;

        if (!p.endpoint || !p.id_scope || !p.registration_id || config_toml_digest(&digest, &p) < 0)
                return false;
        return str_set_and_equal(digest, s->record.digest) ||
               str_set_and_equal(digest, s->record.previous_digest) ||
               str_set_and_equal(digest, s->record.ignored_digest);
}

static bool same_device(const DeviceInfo *info, const char *hub, const char *device_id) {
        return hub && device_id && strcasecmp(info->hub, hub) == 0 && streq(info->device_id, device_id);
}

/* Without any provisioning an identityd that runs is the only user of device_info. */
static bool device_of_other(const Wanted *w, const Situation *s) {
        const DeviceInfo *info = &s->device_info;

        return s->identityd.active && info->hub && info->device_id &&
               !same_device(info, w->hub, w->device_id) &&
               !same_device(info, s->record.hub, s->record.device_id) &&
               !same_device(info, s->record.previous_hub, s->record.previous_device_id);
}

bool judge_runs_as_other(const Wanted *w, const Situation *s, Failure *reterr) {
        Provisioning wanted = w->provisioning;
        const char *file = NULL;
        const ConfigToml merged = merge(w, s, &file);

        if (s->text && s->toml.has_provisioning)
                return false;
        wanted.payload_unknown = true;
        if (!merged.source && device_of_other(w, s))
                (void) with_hint(
                        reterr,
                        failure_set(reterr, FAILURE_CONFIG_CONFLICT, "device_info",
                                    "IoT Edge runs as '%s' on '%s', which dps-provisiond did not hand "
                                    "over, and '%s%s' has no provisioning",
                                    s->device_info.device_id, s->device_info.hub, s->root, PATH_CONFIG),
                        REPLACE_IT);
        else if (merged.source && !config_toml_matches(&merged, &wanted) && !applied_ours(s))
                (void) with_hint(
                        reterr,
                        failure_set(
                                reterr, FAILURE_CONFIG_CONFLICT, merged.source,
                                "IoT Edge is provisioned by '%s%s' (source \"%s\"%s%s%s%s), which "
                                "dps-provisiond did not write, and '%s%s' has no provisioning",
                                streq(file, PATH_APPLIED) ? s->root : "", file, merged.source,
                                merged.id_scope ? ", scope " : "", merged.id_scope ? merged.id_scope : "",
                                merged.registration_id ? ", registration ID " : "",
                                merged.registration_id ? merged.registration_id : "", s->root, PATH_CONFIG),
                        REPLACE_IT);
        else
                return false;
        return true;
}

/* --- files that win --- */

static bool index_overridden(const Wanted *w, const Situation *s, Failure *reterr) {
        const char *file = NULL;
        const TomlValue *value = overrides_get(&s->tpmd_files, true, "auth_key_index", &file);
        uint64_t index;

        if (!value && !situation_origin(s).toml->has_auth_key_index)
                value = overrides_get(&s->tpmd_files, false, "auth_key_index", &file);
        if (!value || w->config->identity != IDENTITY_ADOPT)
                return false;
        index = config_toml_integer(value);
        if (index == w->config->hub_key_handle - 0x81000000u)
                return false;
        (void) with_hint(
                reterr,
                failure_set(reterr, FAILURE_CONFIG_CONFLICT, "auth_key_index",
                            "'%s', line %u, sets auth_key_index = %s for aziot-tpmd, but HubKeyHandle= "
                            "is 0x%08x",
                            file, value->line, value->text ? value->text : "?", w->config->hub_key_handle),
                "Remove auth_key_index from the named file, or set HubKeyHandle= to 0x81000000 plus "
                "this number.");
        return true;
}

bool judge_overridden(const Wanted *w, const Situation *s, Failure *reterr) {
        const Overrides *const broken[] = { &s->identityd_files, &s->tpmd_files, &s->other_files };

        for (size_t i = 0; i < ARRAY_SIZE(broken); i++)
                if (broken[i]->failure.kind != FAILURE_NONE) {
                        *reterr = broken[i]->failure;
                        reterr->remedy = "Correct the named line, or remove the file: the service of IoT "
                                         "Edge that reads it can't start.";
                        return true;
                }
        for (size_t i = 0; i < KEYS + 1; i++) { /* the last: it is no table */
                const char *path = i < KEYS ? keys[i] : TABLE, *file;
                const TomlValue *value = overrides_get(&s->identityd_files, true, path, &file);
                const char *name = strrchr(path, SEP[0]) ? strrchr(path, SEP[0]) + 1 : path;

                if (!value || (i < KEYS && value->type == TOML_STRING && key_wanted(w, i, value->text)))
                        continue;
                (void) with_hint(
                        reterr,
                        failure_set(reterr, FAILURE_CONFIG_CONFLICT, name,
                                    "'%s', line %u, sets '%s' of [provisioning], and aziot-identityd "
                                    "prefers it to what 'iotedge config apply' writes",
                                    file, value->line, name),
                        REMOVE_TABLE);
                return true;
        }
        return index_overridden(w, s, reterr);
}
