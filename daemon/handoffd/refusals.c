#include "refusals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "paths.h"

#define TPM_PERSISTENT_FIRST 0x81000000u

static bool exists(const char *root, const char *path) {
        CLEANUP(freep) char *full = NULL;
        struct stat st;

        return path_under(&full, root, path) >= 0 && lstat(full, &st) >= 0;
}

int refusal_of_runtime(const Situation *s, Units *units, const char *root, Failure *reterr) {
        UnitState other = {};

        if (s->edged.masked || s->identityd.masked)
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "masked",
                                   "'%s' is masked, so IoT Edge can't be started",
                                   s->edged.masked ? UNIT_EDGED : UNIT_IDENTITYD);
        if (s->edged.exists && s->identityd.exists)
                return 0;
        if (units_query(units, UNIT_SNAP, &other, NULL) >= 0 && other.exists)
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "snap",
                                   "IoT Edge is installed as a snap, which is not supported; install its "
                                   "packages");
        if (exists(root, PATH_LEGACY))
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "legacy",
                                   "'%s' belongs to IoT Edge 1.1, which is not supported; upgrade IoT Edge",
                                   PATH_LEGACY);
        return failure_set(reterr, FAILURE_RUNTIME_MISSING, NULL,
                           "Azure IoT Edge is not installed: there is no unit '%s'",
                           s->edged.exists ? UNIT_IDENTITYD : UNIT_EDGED);
}

static int refuse_edit(const Situation *s, const Provisioning *wanted, Failure *reterr) {
        CLEANUP(freep) char *edited = NULL;
        const Origin from = situation_origin(s);

        if (s->text && config_toml_matches(&s->toml, wanted))
                return 0;
        return config_toml_edit(&edited, from.path, from.text, from.size, wanted, reterr);
}

int refusal_of_config(Situation *s, const Config *config, const Provisioning *wanted, const char *root,
                      Failure *reterr) {
        uint64_t index = config->hub_key_handle - TPM_PERSISTENT_FIRST;
        Origin from;
        int r;

        r = situation_read_base(s, root, reterr);
        if (r < 0)
                return r;
        from = situation_origin(s);
        if (!s->text && exists(root, PATH_LEGACY))
                return failure_set(
                        reterr, FAILURE_CONFIG_CONFLICT, "legacy",
                        "'%s' of IoT Edge 1.1 was never imported; run 'iotedge config import', or "
                        "remove it",
                        PATH_LEGACY);
        if (from.toml->parent_hostname)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, "parent_hostname",
                                   "'%s%s' sets parent_hostname, and IoT Edge can't use DPS below a parent",
                                   root, from.path);
        if (config->identity == IDENTITY_ADOPT && from.toml->auth_key_index != index)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, "auth_key_index",
                                   "'%s%s' has IoT Edge's key at auth_key_index 0x%llx of [tpm], but "
                                   "HubKeyHandle= is 0x%08x; make them the same%s",
                                   root, s->base ? PATH_BASE : PATH_CONFIG,
                                   (unsigned long long) from.toml->auth_key_index, config->hub_key_handle,
                                   s->text ? "" : ", in '" PATH_BASE "'");
        r = refuse_edit(s, wanted, reterr); /* known now what it would refuse later, with its line */
        if (r < 0)
                return r;
        if (!situation_provisioning_ours(s, wanted) && !config->replace_provisioning)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, s->toml.source,
                                   "'%s%s' is provisioned by somebody else (source \"%s\"%s%s)", root,
                                   PATH_CONFIG, s->toml.source ? s->toml.source : "?",
                                   s->toml.id_scope ? ", scope " : "",
                                   s->toml.id_scope ? s->toml.id_scope : "");
        return 0;
}

static int connect_unix(const char *path) {
        CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (fd < 0)
                return -errno;
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        return connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
}

/* `iotedge config apply` asks the container runtime before it changes anything, except the first time. */
int refusal_of_apply(const Situation *s, const char *root, Failure *reterr) {
        static const char scheme[] = "unix://";
        const char *uri = situation_origin(s).toml->runtime_uri;
        CLEANUP(freep) char *path = NULL;
        int r;

        if (!s->apply.exists || s->apply.masked)
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, NULL,
                                   "The unit '%s', which applies IoT Edge's configuration, is %s",
                                   UNIT_APPLY, s->apply.masked ? "masked" : "not installed");
        if (!s->applied_exists || (uri && strncmp(uri, scheme, strlen(scheme)) != 0))
                return 0;
        r = path_under(&path, root, uri ? uri + strlen(scheme) : PATH_DOCKER);
        if (r >= 0)
                r = connect_unix(path);
        if (r == -EAGAIN)
                r = 0;
        return r < 0 ? failure_set_errno(reterr, FAILURE_RUNTIME_MISSING, r,
                                         "The container runtime at '%s' does not answer, and without it "
                                         "'iotedge config apply' fails",
                                         path ? path : PATH_DOCKER)
                     : 0;
}

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
        if (flags & W_OK && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, errno, "'%s' can't be written to", path);
        return 0;
}

int refusal_of_write(const char *root, Failure *reterr) {
        CLEANUP(freep) char *directory = NULL, *file = NULL;
        int r;

        r = path_under(&directory, root, PATH_CONFIG_DIR);
        if (r >= 0)
                r = path_under(&file, root, PATH_CONFIG);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "'" PATH_CONFIG "' can't be looked at");
        r = refuse_path(directory, W_OK, reterr);
        return r < 0 ? r : refuse_path(file, 0, reterr);
}
