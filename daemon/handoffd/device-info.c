#include "device-info.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "store.h"
#include "toml.h"

#define NAME            "device_info"
#define DEVICE_INFO_MAX 4096

static int open_directory(const char *root) {
        CLEANUP(freep) char *path = NULL;
        int fd, r;

        r = path_under(&path, root, PATH_IDENTITYD);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static int read_regular(int dir, const char *name, char *buffer, size_t size) {
        CLEANUP(closep) int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat st;
        ssize_t n;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size >= (off_t) size)
                return -EBADMSG;
        n = read(fd, buffer, size - 1);
        if (n < 0)
                return -errno;
        buffer[n] = '\0';
        return (int) n;
}

static int copy_text(char **target, const Toml *toml, const char *key) {
        const TomlValue *value = toml_get(toml, key);

        if (!value || value->type != TOML_STRING || !value->text[0])
                return -EBADMSG;
        return string_replace(target, value->text);
}

int device_info_read(DeviceInfo *ret, const char *root) {
        CLEANUP(device_info_deinit) DeviceInfo info = {};
        CLEANUP(toml_deinit) Toml toml = {};
        CLEANUP(closep) int dir = open_directory(root);
        char text[DEVICE_INFO_MAX];
        const char *why;
        unsigned line;
        int r;

        if (dir < 0)
                return dir;
        r = read_regular(dir, NAME, text, sizeof(text));
        if (r >= 0)
                r = toml_parse(&toml, text, (size_t) r, &line, &why);
        if (r >= 0)
                r = copy_text(&info.hub, &toml, "hub_name");
        if (r >= 0)
                r = copy_text(&info.device_id, &toml, "device_id");
        if (r < 0)
                return r;
        *ret = info;
        info = (DeviceInfo){};
        return 0;
}

void device_info_deinit(DeviceInfo *info) {
        free(info->hub);
        free(info->device_id);
        *info = (DeviceInfo){};
}

int device_info_write(const char *root, const char *hub, const char *device_id, Failure *reterr) {
        CLEANUP(freep) char *text = NULL;
        CLEANUP(closep) int dir = open_directory(root);
        struct stat st;
        int r = dir < 0 ? dir : 0;

        if (r >= 0 && fstat(dir, &st) < 0)
                r = -errno;
        /* Both were checked to hold nothing that TOML would want escaped. */
        if (r >= 0 &&
            asprintf(&text, "hub_name = \"%s\"\nlocal_gateway_hostname = \"%s\"\ndevice_id = \"%s\"\n", hub,
                     hub, device_id) < 0)
                r = -ENOMEM;
        if (r >= 0)
                r = store_write_at(dir, NAME, text, strlen(text),
                                   &(StoreAttributes){ .mode = 0644, .uid = st.st_uid, .gid = st.st_gid });
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s%s/" NAME "' can't be written",
                                         root, PATH_IDENTITYD)
                     : 0;
}

int device_info_remove(const char *root, Failure *reterr) {
        CLEANUP(closep) int dir = open_directory(root);
        int r = dir < 0 ? dir : 0;

        if (r >= 0 && (unlinkat(dir, NAME, 0) < 0 || fsync(dir) < 0))
                r = -errno;
        return r < 0 && r != -ENOENT
                       ? failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s%s/" NAME "' can't be removed",
                                           root, PATH_IDENTITYD)
                       : 0;
}

FileMark prev_state_mark(const char *root) {
        CLEANUP(closep) int dir = open_directory(root);
        struct stat st;

        if (dir < 0 || fstatat(dir, "prev_state", &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
                return (FileMark){};
        return (FileMark){ .exists = true, .inode = st.st_ino, .mtime = st.st_mtim };
}

bool file_mark_newer(const FileMark *now, const FileMark *before) {
        return now->exists &&
               (!before->exists || now->inode != before->inode ||
                now->mtime.tv_sec != before->mtime.tv_sec || now->mtime.tv_nsec != before->mtime.tv_nsec);
}
