#include "situation.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"

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
        if (config_toml_read(&s->applied, path, text, size, NULL) < 0)
                return;
        s->applied_exists = true;
        free(s->applied.id_scope);
        s->applied.id_scope = TAKE(s->applied.scope_id);
}

static bool exists(const char *root, const char *path) {
        CLEANUP(freep) char *full = NULL;
        struct stat st;

        return path_under(&full, root, path) >= 0 && lstat(full, &st) >= 0;
}

static void read_base(Situation *s) {
        CLEANUP(freep) char *path = NULL;
        int r;

        r = path_under(&path, s->root, PATH_BASE);
        if (r >= 0)
                r = read_file(path, BASE_MAX, &s->base, &s->base_size);
        if (r < 0 && r != -ENOENT)
                (void) failure_set_errno(&s->base_failure, FAILURE_STORAGE, r, "'%s' can't be read",
                                         path ? path : PATH_BASE);
        else
                (void) config_toml_read(&s->base_toml, path, s->base ? s->base : "", s->base_size,
                                        &s->base_failure);
}

int situation_read_iotedge(Situation *s, const char *root, Failure *reterr) {
        static const char *const others[] = { "keyd", "certd", "edged" };
        int r;

        s->root = root;
        r = handoff_record_load(&s->record, root, reterr);
        if (r >= 0)
                r = read_config_toml(s, root, reterr);
        if (r < 0)
                return r;
        if (!s->text) {
                s->attributes = (StoreAttributes){ .mode = 0600, .uid = geteuid(), .gid = getegid() };
                read_base(s);
        }
        s->legacy = exists(root, PATH_LEGACY);
        situation_read_applied(s, root);
        overrides_read(&s->identityd_files, root, "identityd");
        overrides_read(&s->tpmd_files, root, "tpmd");
        for (size_t i = 0; i < ARRAY_SIZE(others) && s->other_files.failure.kind == FAILURE_NONE; i++)
                overrides_read(&s->other_files, root, others[i]);
        s->device_info_hidden = device_info_read(&s->device_info, root) == -EACCES;
        s->prev_state = prev_state_mark(root);
        return 0;
}

bool situation_has_auth(const ConfigPaths *paths, const char *credential) {
        CLEANUP(config_auth_deinit) ConfigAuth auth = {};

        return config_read_auth(&auth, paths, credential) >= 0 && auth.value.size > 0;
}

int situation_read_files(Situation *s, const char *root, const ConfigPaths *paths, Failure *reterr) {
        int r;

        r = config_load(&s->config, paths);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "The configuration can't be read");
        if (config_failure(s->config, reterr))
                return failure_to_errno(reterr->kind);
        s->owner_auth = situation_has_auth(paths, "dps.tpm_owner_auth");
        s->endorsement_auth = situation_has_auth(paths, "dps.tpm_endorsement_auth");
        if (!s->config->id_scope)
                return failure_set(reterr, FAILURE_CONFIG, NULL, "IdScope= is not set");
        return situation_read_iotedge(s, root, reterr);
}

int situation_read_units(Situation *s, Units *units, Failure *reterr) {
        UnitState snap, engines[6];
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
                { UNIT_SNAP, &snap },
                { UNIT_DOCKER, &engines[0] },
                { UNIT_DOCKER_SOCKET, &engines[1] },
                { UNIT_MOBY, &engines[2] },
                { UNIT_PODMAN, &engines[3] },
                { UNIT_PODMAN_SOCKET, &engines[4] },
                { UNIT_DOCKER_SNAP, &engines[5] },
        };
        const char *names[ARRAY_SIZE(all)];
        UnitState states[ARRAY_SIZE(all)];
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                names[i] = all[i].unit;
        r = units_query_all(units, names, ARRAY_SIZE(all), states, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                *all[i].state = states[i];
        s->snap = snap.exists && (!s->edged.exists || !s->identityd.exists);
        s->edgeless = !s->edged.exists && s->identityd.exists && !s->snap && !s->legacy;
        for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
                s->engine_installed = s->engine_installed || (engines[i].exists && !engines[i].masked);
                if (engines[i].masked && !s->engine_masked)
                        s->engine_masked = names[ARRAY_SIZE(all) - ARRAY_SIZE(engines) + i];
        }
        s->units_known = true;
        return 0;
}

bool edged_had_identity(const char *root) {
        CLEANUP(freep) char *path = NULL;

        return path_under(&path, root, PATH_EDGED_STATE) < 0 || access(path, F_OK) == 0 || errno != ENOENT;
}

const char *situation_main_unit(const Situation *s) {
        return s->edgeless ? UNIT_IDENTITYD : UNIT_EDGED;
}

const UnitState *situation_main(const Situation *s) {
        return s->edgeless ? &s->identityd : &s->edged;
}

Origin situation_origin(const Situation *s) {
        if (s->text)
                return (Origin){ PATH_CONFIG, s->text, s->text_size, &s->toml };
        return (Origin){ PATH_BASE, s->base ? s->base : "", s->base_size, &s->base_toml };
}

void situation_deinit(Situation *s) {
        s->config = config_free(s->config);
        handoff_record_deinit(&s->record);
        free(s->text);
        config_toml_deinit(&s->toml);
        free(s->base);
        config_toml_deinit(&s->base_toml);
        config_toml_deinit(&s->applied);
        overrides_deinit(&s->identityd_files);
        overrides_deinit(&s->tpmd_files);
        overrides_deinit(&s->other_files);
        device_info_deinit(&s->device_info);
        *s = (Situation){};
}

bool situation_tables_ours(const Situation *s) {
        return str_set_and_equal(s->toml.digest, s->record.digest) ||
               str_set_and_equal(s->toml.digest, s->record.previous_digest);
}

/* --- places --- */

static int refuse_path(const char *path, int flags, Failure *reterr) {
        struct statx st;

        if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) < 0)
                return errno == ENOENT ? 0
                                       : failure_set_errno(reterr, FAILURE_STORAGE, errno,
                                                           "'%s' can't be looked at", path);
        if (st.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
                return failure_set(reterr, FAILURE_STORAGE, "EPERM",
                                   "'%s' is %s and can't be replaced; allow it with 'chattr -%s %s'", path,
                                   st.stx_attributes & STATX_ATTR_IMMUTABLE ? "immutable" : "append-only",
                                   st.stx_attributes & STATX_ATTR_IMMUTABLE ? "i" : "a", path);
        if (!(flags & W_OK) && st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
                return failure_set(reterr, FAILURE_STORAGE, "EBUSY",
                                   "'%s' is a mount point and can't be replaced; unmount it, and mount its "
                                   "directory if need be",
                                   path);
        if (flags & W_OK && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, errno, "'%s' can't be written to", path);
        return 0;
}

int situation_look_at_config_place(const Situation *s, Failure *reterr) {
        CLEANUP(freep) char *directory = NULL, *file = NULL;
        int r;

        r = path_under(&directory, s->root, PATH_CONFIG_DIR);
        if (r >= 0)
                r = path_under(&file, s->root, PATH_CONFIG);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "'" PATH_CONFIG "' can't be looked at");
        if (!exists(s->root, PATH_CONFIG_DIR))
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "ENOENT",
                                   "'%s', which the packages of IoT Edge install, does not exist",
                                   directory);
        r = refuse_path(directory, W_OK, reterr);
        return r < 0 ? r : refuse_path(file, 0, reterr);
}
