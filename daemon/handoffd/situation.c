#include "situation.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "url.h"

#define APPLIED_MAX ((size_t) 64 * 1024)
#define BASE_MAX    ((size_t) 256 * 1024)

static int read_config_toml(Situation *s, const char *root, Failure *reterr) {
        CLEANUP(freep) char *path = NULL;
        struct stat st;
        int r;

        if (path_under(&path, root, PATH_CONFIG) < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, -ENOMEM,
                                         "'" PATH_CONFIG "' can't be read");
        if (lstat(path, &st) < 0) {
                if (errno == ENOENT)
                        return 0;
                return failure_set_errno(reterr, FAILURE_STORAGE, -errno, "'%s' can't be read", path);
        }
        if (!S_ISREG(st.st_mode))
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, NULL,
                                   "'%s' is a %s, not a file, and is not replaced", path,
                                   S_ISLNK(st.st_mode)   ? "symbolic link"
                                   : S_ISDIR(st.st_mode) ? "directory"
                                                         : "special file");
        r = read_file(path, CONFIG_TOML_MAX, &s->text, &s->text_size);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be read", path);
        s->attributes = (StoreAttributes){ .mode = st.st_mode & 07777, .uid = st.st_uid, .gid = st.st_gid };
        return config_toml_read(&s->toml, path, s->text, s->text_size, reterr);
}

/* One that can't be read is as good as none: it is written again. */
void situation_read_applied(Situation *s, const char *root) {
        CLEANUP(freep) char *path = NULL, *text = NULL;
        size_t size;

        config_toml_deinit(&s->applied);
        s->applied_exists = false;
        if (path_under(&path, root, PATH_APPLIED) < 0 || read_file(path, APPLIED_MAX, &text, &size) < 0)
                return;
        s->applied_exists = true;
        if (config_toml_read(&s->applied, path, text, size, NULL) < 0)
                return;
        free(s->applied.id_scope);
        s->applied.id_scope = TAKE(s->applied.scope_id);
}

int situation_read_iotedge(Situation *s, const char *root, Failure *reterr) {
        int r;

        r = handoff_record_load(&s->record, root, reterr);
        if (r >= 0)
                r = read_config_toml(s, root, reterr);
        if (r < 0)
                return r;
        if (!s->text)
                s->attributes = (StoreAttributes){ .mode = 0600, .uid = geteuid(), .gid = getegid() };
        situation_read_applied(s, root);
        (void) device_info_read(&s->device_info, root);
        s->prev_state = prev_state_mark(root);
        return 0;
}

int situation_read_files(Situation *s, const char *root, const ConfigPaths *paths, Failure *reterr) {
        int r;

        r = config_load(&s->config, paths);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "The configuration can't be read");
        if (config_failure(s->config, reterr))
                return failure_to_errno(reterr->kind);
        if (!s->config->id_scope)
                return failure_set(reterr, FAILURE_CONFIG, NULL, "IdScope= is not set");
        if (asprintf(&s->endpoint, "%s/", s->config->global_endpoint) < 0)
                s->endpoint = NULL;
        if (!s->endpoint || (s->config->payload && url_from_path(&s->payload_uri, s->config->payload) < 0))
                return failure_set_errno(reterr, FAILURE_STORAGE, -ENOMEM,
                                         "The configuration can't be read");
        return situation_read_iotedge(s, root, reterr);
}

int situation_read_units(Situation *s, Units *units, Failure *reterr) {
        const struct {
                const char *unit;
                UnitState *state;
        } all[] = {
                { UNIT_EDGED, &s->edged },
                { UNIT_EDGED_MGMT, &s->edged_mgmt },
                { UNIT_EDGED_WORKLOAD, &s->edged_workload },
                { UNIT_IDENTITYD, &s->identityd },
                { UNIT_IDENTITYD_SOCKET, &s->identityd_socket },
                { UNIT_TPMD, &s->tpmd },
                { UNIT_TPMD_SOCKET, &s->tpmd_socket },
                { UNIT_APPLY, &s->apply },
        };

        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                int r = units_query(units, all[i].unit, all[i].state, reterr);

                if (r < 0)
                        return r;
        }
        s->units_known = true;
        return 0;
}

int situation_read_base(Situation *s, const char *root, Failure *reterr) {
        CLEANUP(freep) char *path = NULL;
        int r;

        if (s->text)
                return 0;
        free(TAKE(s->base));
        config_toml_deinit(&s->base_toml);
        r = path_under(&path, root, PATH_BASE);
        if (r >= 0)
                r = read_file(path, BASE_MAX, &s->base, &s->base_size);
        if (r < 0 && r != -ENOENT)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be read",
                                         path ? path : PATH_BASE);
        return config_toml_read(&s->base_toml, path, s->base ? s->base : "", s->base_size, reterr);
}

Origin situation_origin(const Situation *s) {
        if (s->text)
                return (Origin){ PATH_CONFIG, s->text, s->text_size, &s->toml };
        return (Origin){ PATH_BASE, s->base ? s->base : "", s->base_size, &s->base_toml };
}

bool situation_reprovisions_itself(const Situation *s) {
        const char *mode = situation_origin(s).toml->auto_reprovisioning_mode;

        return mode && streq(mode, "AlwaysOnStartup");
}

void situation_deinit(Situation *s) {
        s->config = config_free(s->config);
        handoff_record_deinit(&s->record);
        free(s->text);
        config_toml_deinit(&s->toml);
        free(s->base);
        config_toml_deinit(&s->base_toml);
        config_toml_deinit(&s->applied);
        device_info_deinit(&s->device_info);
        free(s->endpoint);
        free(s->payload_uri);
        *s = (Situation){};
}

Provisioning situation_wanted(const Situation *s, const char *registration_id) {
        return (Provisioning){ .endpoint = s->endpoint,
                               .id_scope = s->config->id_scope,
                               .registration_id = registration_id,
                               .payload_uri = s->payload_uri };
}

static bool equal(const char *a, const char *b) {
        return a && b && streq(a, b);
}

bool situation_tables_ours(const Situation *s) {
        return equal(s->toml.digest, s->record.digest) || equal(s->toml.digest, s->record.previous_digest);
}

bool situation_provisioning_ours(const Situation *s, const Provisioning *wanted) {
        return !s->toml.has_provisioning || config_toml_matches(&s->toml, wanted) ||
               situation_tables_ours(s);
}
