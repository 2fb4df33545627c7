#include "store.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Between name and random letters; no editor, operator or rsync writes such a name. */
#define MARK           ".dps-"
#define LETTERS_LENGTH 6

static int write_all(int fd, const char *data, size_t size) {
        while (size > 0) {
                ssize_t n = write(fd, data, size);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                size -= (size_t) n;
        }
        return 0;
}

static bool is_leftover(const char *entry, const char *name) {
        size_t length = strlen(name), marked = 1 + length + strlen(MARK);

        return entry[0] == '.' && strncmp(entry + 1, name, length) == 0 &&
               strncmp(entry + 1 + length, MARK, strlen(MARK)) == 0 &&
               strlen(entry + marked) == LETTERS_LENGTH;
}

void store_remove_leftovers(int dir_fd, const char *name) {
        DIR *dir;
        int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return;
        dir = fdopendir(fd);
        if (!dir) {
                (void) close(fd);
                return;
        }
        for (struct dirent *entry; (entry = readdir(dir));)
                if (is_leftover(entry->d_name, name))
                        (void) unlinkat(dir_fd, entry->d_name, 0);
        (void) closedir(dir);
}

/* A descriptor of a new file, or 0 for a link to the target. */
static int make_temporary(int dir_fd, const char *name, const char *target, char *ret_path, size_t size) {
        static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

        for (unsigned tries = 0; tries < 100; tries++) {
                uint64_t random =
                        now_usec(CLOCK_MONOTONIC) * 0x9e3779b97f4a7c15u + tries + (uint64_t) getpid();
                char suffix[LETTERS_LENGTH + 1] = {};
                int fd;

                for (size_t i = 0; i < LETTERS_LENGTH; i++, random /= sizeof(letters) - 1)
                        suffix[i] = letters[random % (sizeof(letters) - 1)];
                if ((size_t) snprintf(ret_path, size, ".%s" MARK "%s", name, suffix) >= size)
                        return -ENAMETOOLONG;
                fd = target ? symlinkat(target, dir_fd, ret_path)
                            : openat(dir_fd, ret_path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                     0600);
                if (fd >= 0 || errno != EEXIST)
                        return fd >= 0 ? fd : -errno;
        }
        return -EEXIST;
}

/* The kernel makes these from the content, which is another one now. */
static bool belongs_to_content(const char *attribute) {
        return streq(attribute, "security.ima") || streq(attribute, "security.evm");
}

/* Labels of the kernel's security modules may need rights that we don't have; a new file has one of its own
 * by their policy. */
static bool may_be_refused(const char *attribute) {
        return strncmp(attribute, "security.", strlen("security.")) == 0 ||
               strncmp(attribute, "trusted.", strlen("trusted.")) == 0;
}

static int copy_attribute(int from, int to, const char *attribute) {
        CLEANUP(freep) char *value = NULL;
        ssize_t size;

        size = fgetxattr(from, attribute, NULL, 0);
        if (size < 0)
                return errno == ENODATA ? 0 : -errno;
        value = malloc((size_t) size + 1);
        if (!value)
                return -ENOMEM;
        size = fgetxattr(from, attribute, value, (size_t) size);
        if (size < 0)
                return -errno;
        if (fsetxattr(to, attribute, value, (size_t) size, 0) < 0 &&
            !((errno == EPERM || errno == EACCES) && may_be_refused(attribute)))
                return -errno;
        return 0;
}

static int copy_attributes(int dir_fd, const char *like, int to) {
        CLEANUP(closep) int from = openat(dir_fd, like, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        CLEANUP(freep) char *names = NULL;
        ssize_t size;

        if (from < 0)
                return errno == ENOENT ? 0 : -errno;
        size = flistxattr(from, NULL, 0);
        if (size <= 0)
                return size == 0 || errno == ENOTSUP ? 0 : -errno;
        names = malloc((size_t) size);
        if (!names)
                return -ENOMEM;
        size = flistxattr(from, names, (size_t) size);
        if (size < 0)
                return -errno;
        for (const char *name = names; name < names + size; name += strlen(name) + 1) {
                int r = belongs_to_content(name) ? 0 : copy_attribute(from, to, name);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int fill_temporary(int dir_fd, int fd, const void *data, size_t size,
                          const StoreAttributes *attributes) {
        int r;

        r = write_all(fd, data, size);
        if (r < 0)
                return r;
        if ((attributes->uid != (uid_t) -1 || attributes->gid != (gid_t) -1) &&
            fchown(fd, attributes->uid, attributes->gid) < 0)
                return -errno;
        if (fchmod(fd, attributes->mode) < 0) /* after the chown, which would clear set-id bits */
                return -errno;
        if (attributes->like) { /* after the mode, which is a part of an ACL */
                r = copy_attributes(dir_fd, attributes->like, fd);
                if (r < 0)
                        return r;
        }
        return fsync(fd) < 0 ? -errno : 0;
}

/* rename() onto a mount point of this namespace fails with EBUSY. */
static bool is_mount_point(int dir_fd, const char *name) {
        struct statx st;

        return statx(dir_fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &st) >= 0 &&
               st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

static int prepare(StoreFile *f, const void *data, size_t size, const StoreAttributes *attributes) {
        int fd, r;

        if (is_mount_point(f->dir_fd, f->name))
                return -EBUSY;
        fd = make_temporary(f->dir_fd, f->name, NULL, f->temporary, sizeof(f->temporary));
        if (fd < 0)
                return fd;
        r = fill_temporary(f->dir_fd, fd, data, size, attributes);
        if (close(fd) < 0 && r >= 0)
                r = -errno;
        return r;
}

int store_prepare_at(StoreFile *ret, int dir_fd, const char *name, const void *data, size_t size,
                     const StoreAttributes *attributes) {
        StoreFile f = {};
        int r;

        if (name[0] == '\0' || strchr(name, '/'))
                return -EINVAL;
        if (strlen(name) >= sizeof(f.name))
                return -ENAMETOOLONG;
        store_remove_leftovers(dir_fd, name);
        f.dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
        if (f.dir_fd < 0)
                return -errno;
        f.state = STORE_PREPARED;
        memcpy(f.name, name, strlen(name) + 1);
        r = prepare(&f, data, size, attributes);
        if (r < 0) {
                store_discard(&f);
                return r;
        }
        *ret = f;
        return 0;
}

static int sync_directory(const StoreFile *f) {
        return fsync(f->dir_fd) < 0 ? -errno : 0;
}

int store_commit(StoreFile *f) {
        assert(f->state == STORE_PREPARED);
        if (renameat(f->dir_fd, f->temporary, f->dir_fd, f->name) < 0)
                return -errno;
        f->state = STORE_PLACED;
        return sync_directory(f);
}

/* For a file system or a kernel that can't exchange two names: the old file gets a second name instead. */
static int keep_by_link(StoreFile *f) {
        char kept[sizeof(f->temporary)];

        (void) snprintf(kept, sizeof(kept), "%s", f->temporary);
        kept[strlen(kept) - 1] = kept[strlen(kept) - 1] == 'x' ? 'y' : 'x';
        if (linkat(f->dir_fd, f->name, f->dir_fd, kept, 0) < 0)
                return -errno;
        if (renameat(f->dir_fd, f->temporary, f->dir_fd, f->name) < 0) {
                int r = -errno;

                (void) unlinkat(f->dir_fd, kept, 0);
                return r;
        }
        memcpy(f->temporary, kept, sizeof(kept));
        return 0;
}

int store_exchange(StoreFile *f) {
        int r = 0;

        assert(f->state == STORE_PREPARED);
        if (renameat2(f->dir_fd, f->temporary, f->dir_fd, f->name, RENAME_EXCHANGE) < 0)
                r = -errno;
        if (r == -EINVAL || r == -ENOSYS)
                r = keep_by_link(f);
        if (r == -ENOENT) /* there is no old file */
                return store_commit(f);
        if (r < 0)
                return r;
        f->state = STORE_EXCHANGED;
        return sync_directory(f);
}

int store_put_back(StoreFile *f) {
        if (f->state == STORE_EXCHANGED && renameat(f->dir_fd, f->temporary, f->dir_fd, f->name) < 0)
                return -errno;
        if (f->state == STORE_PLACED && unlinkat(f->dir_fd, f->name, 0) < 0 && errno != ENOENT)
                return -errno;
        if (f->state != STORE_EXCHANGED && f->state != STORE_PLACED)
                return 0;
        f->state = STORE_PLACED; /* nothing temporary is left */
        return sync_directory(f);
}

void store_discard(StoreFile *f) {
        if (f->state == STORE_NONE)
                return;
        if (f->state != STORE_PLACED)
                (void) unlinkat(f->dir_fd, f->temporary, 0);
        (void) close(f->dir_fd);
        *f = (StoreFile){};
}

int store_write_at(int dir_fd, const char *name, const void *data, size_t size,
                   const StoreAttributes *attributes) {
        CLEANUP(store_discard) StoreFile f = {};
        int r;

        r = store_prepare_at(&f, dir_fd, name, data, size, attributes);
        return r < 0 ? r : store_commit(&f);
}

int store_link_at(int dir_fd, const char *name, const char *target, const StoreAttributes *attributes) {
        char temporary[sizeof(((StoreFile *) NULL)->temporary)];
        int r;

        store_remove_leftovers(dir_fd, name);
        r = make_temporary(dir_fd, name, target, temporary, sizeof(temporary));
        if (r < 0)
                return r;
        if (fchownat(dir_fd, temporary, attributes->uid, attributes->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
            renameat(dir_fd, temporary, dir_fd, name) < 0) {
                r = -errno;
                (void) unlinkat(dir_fd, temporary, 0);
                return r;
        }
        return fsync(dir_fd) < 0 ? -errno : 0;
}

static int open_parent(const char *path) {
        CLEANUP(freep) char *copy = strdup(path);
        int fd;

        if (!copy)
                return -ENOMEM;
        fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static const char *name_of(const char *path) {
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

int store_write_as(const char *path, const void *data, size_t size, const StoreAttributes *attributes) {
        CLEANUP(closep) int fd = open_parent(path);

        return fd < 0 ? fd : store_write_at(fd, name_of(path), data, size, attributes);
}

int store_write(const char *path, const void *data, size_t size, mode_t mode) {
        const StoreAttributes attributes = { .mode = mode, .uid = (uid_t) -1, .gid = (gid_t) -1 };

        return store_write_as(path, data, size, &attributes);
}

int store_remove(const char *path) {
        CLEANUP(closep) int fd = open_parent(path);

        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        if (unlinkat(fd, name_of(path), 0) < 0)
                return errno == ENOENT ? 0 : -errno;
        return fsync(fd) < 0 ? -errno : 0;
}

int store_make_directory(const char *path, mode_t mode) {
        CLEANUP(freep) char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
                *slash = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return mkdir(copy, mode) < 0 && errno != EEXIST ? -errno : 0;
}
