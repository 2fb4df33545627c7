#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "paths.h"

static int connect_unix(const char *path) {
        CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (fd < 0)
                return -errno;
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 && errno != EAGAIN)
                return -errno;
        return 0;
}

int engine_check(const Situation *s, Failure *reterr) {
        static const char scheme[] = "unix://";
        const char *uri = situation_origin(s).toml->runtime_uri;
        CLEANUP(freep) char *path = NULL;
        int r;

        if (uri && strncmp(uri, scheme, strlen(scheme)) != 0)
                return 0;
        r = path_under(&path, s->root, uri ? uri + strlen(scheme) : PATH_DOCKER);
        if (r >= 0)
                r = connect_unix(path);
        if (r >= 0)
                return 0;
        if (s->engine_installed || (path && faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) >= 0))
                return failure_set_errno(reterr, FAILURE_ENGINE_UNREACHABLE, r,
                                         "The container engine at '%s' does not answer",
                                         path ? path : PATH_DOCKER);
        return failure_set(reterr, FAILURE_RUNTIME_MISSING, "engine",
                           "No container engine is installed: neither a unit of an engine nor '%s' exists",
                           path ? path : PATH_DOCKER);
}
