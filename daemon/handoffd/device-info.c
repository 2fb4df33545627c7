#include "device-info.h"

#include <assert.h>
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
#define ALNUM           "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

bool hub_name_valid(const char *name) {
        return chars_valid(name, ALNUM "-.:", 1, 255);
}

bool device_id_valid(const char *id) {
        return chars_valid(id, ALNUM "-._:%+#*?!(),=@;$'/", 1, 128);
}

/* What is above the directory is followed as the system's owner has made it, as long as nobody else could
 * have put something else there meanwhile. -ELOOP: the directory is a link; -EPERM: it could have been
 * swapped. */
static int open_directory(const char *root) {
        CLEANUP(freep) char *path = NULL;
        CLEANUP(closep) int parent = -1;
        struct stat st;
        char *name;
        int fd, r;

        r = path_under(&path, root, PATH_IDENTITYD);
        if (r < 0)
                return r;
        name = strrchr(path, '/');
        *name++ = '\0';
        parent = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (parent < 0 || fstat(parent, &st) < 0)
                return -errno;
        if ((st.st_uid != 0 && st.st_uid != geteuid()) || st.st_mode & (S_IWGRP | S_IWOTH))
                return -EPERM;
        fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOTDIR && fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) >= 0 &&
                                       S_ISLNK(st.st_mode)
                               ? -ELOOP
                               : -errno;
        return fd;
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

static int copy_text(char **target, const Toml *toml, const char *key, bool (*valid)(const char *text)) {
        const TomlValue *value = toml_get(toml, key);

        if (!value || value->type != TOML_STRING || !valid(value->text))
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
                r = copy_text(&info.hub, &toml, "hub_name", hub_name_valid);
        if (r >= 0)
                r = copy_text(&info.device_id, &toml, "device_id", device_id_valid);
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

static const char *type_name(mode_t mode) {
        return S_ISLNK(mode)    ? "a symbolic link"
               : S_ISDIR(mode)  ? "a directory"
               : S_ISFIFO(mode) ? "a FIFO"
                                : "a special file";
}

static int refuse_directory(const char *root, int r, Failure *reterr) {
        if (r == -ELOOP)
                return failure_set(reterr, FAILURE_STORAGE, "ELOOP",
                                   "'%s%s' is a symbolic link, which is not followed; put the directory in "
                                   "its place",
                                   root, PATH_IDENTITYD);
        if (r == -EPERM)
                return failure_set(reterr, FAILURE_STORAGE, "EPERM",
                                   "The directory that '%s%s' is in may be written to by others than root, "
                                   "so nothing in it can be trusted; correct its owner and mode",
                                   root, PATH_IDENTITYD);
        if (r == -ENOENT)
                return failure_set(
                        reterr, FAILURE_RUNTIME_MISSING, "ENOENT",
                        "'%s%s', which the package aziot-identity-service installs, does not exist", root,
                        PATH_IDENTITYD);
        return failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s%s' can't be opened", root, PATH_IDENTITYD);
}

static int refuse_entry(int dir, const char *root, Failure *reterr) {
        struct statx st;

        if (statx(dir, NAME, AT_SYMLINK_NOFOLLOW, STATX_TYPE, &st) < 0)
                return errno == ENOENT ? 0
                                       : failure_set_errno(reterr, FAILURE_STORAGE, errno,
                                                           "'%s%s/" NAME "' can't be looked at", root,
                                                           PATH_IDENTITYD);
        if (!S_ISREG(st.stx_mode))
                return failure_set(reterr, FAILURE_STORAGE, NULL,
                                   "'%s%s/" NAME "' is %s, not a file, and is not replaced; remove it", root,
                                   PATH_IDENTITYD, type_name(st.stx_mode));
        if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
                return failure_set(reterr, FAILURE_STORAGE, "EBUSY",
                                   "'%s%s/" NAME "' is a mount point and can't be replaced; unmount it",
                                   root, PATH_IDENTITYD);
        return 0;
}

int device_info_refusal(const char *root, Failure *reterr) {
        CLEANUP(closep) int dir = open_directory(root);

        return dir < 0 ? refuse_directory(root, dir, reterr) : refuse_entry(dir, root, reterr);
}

void device_info_remove_leftovers(const char *root) {
        CLEANUP(closep) int dir = open_directory(root);

        if (dir >= 0)
                store_remove_leftovers(dir, NAME);
}

int device_info_prepare(StoreFile *ret, const char *root, const char *hub, const char *device_id,
                        Failure *reterr) {
        CLEANUP(freep) char *text = NULL;
        CLEANUP(closep) int dir = open_directory(root);
        struct stat st;
        int r;

        if (dir < 0)
                return refuse_directory(root, dir, reterr);
        r = refuse_entry(dir, root, reterr);
        if (r < 0)
                return r;
        if (fstat(dir, &st) < 0)
                r = -errno;
        else if (asprintf(&text, "hub_name = \"%s\"\nlocal_gateway_hostname = \"%s\"\ndevice_id = \"%s\"\n",
                          hub, hub, device_id) < 0)
                r = -ENOMEM;
        assert(r < 0 || text);
        if (r >= 0)
                r = store_prepare_at(ret, dir, NAME, text, strlen(text),
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
        FileMark mark = {};
        struct stat st;

        if (dir >= 0 && fstatat(dir, "prev_state", &st, AT_SYMLINK_NOFOLLOW) >= 0 && S_ISREG(st.st_mode))
                (void) snprintf(mark.text, sizeof(mark.text), "%llu %lld.%09ld",
                                (unsigned long long) st.st_ino, (long long) st.st_mtim.tv_sec,
                                st.st_mtim.tv_nsec);
        return mark;
}

bool file_mark_newer(const FileMark *now, const FileMark *before) {
        return now->text[0] && !streq(now->text, before->text);
}
