#include "applied.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"

#define NAME      "00-super.toml"
#define BYTES_MAX ((size_t) 256 * 1024)

/* aziot-edged is the last. */
static const char *const services[APPLIED_COUNT] = { "keyd", "certd", "identityd", "tpmd", "edged" };

static int directory_of(char **ret, const char *root, size_t i) {
        return asprintf(ret, "%s" PATH_CONFIG_DIR "/%s/config.d", root, services[i]) < 0 ? -ENOMEM : 0;
}

static int open_directory(const char *root, size_t i) {
        CLEANUP(freep) char *path = NULL;
        int fd, r;

        r = directory_of(&path, root, i);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

/* `iotedge config apply` replaces a link, whatever it leads to. */
static int read_link_at(int dir, AppliedCopy *ret) {
        char target[PATH_MAX];
        struct stat st;
        ssize_t n = readlinkat(dir, NAME, target, sizeof(target) - 1);

        if (n < 0 || fstatat(dir, NAME, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        *ret = (AppliedCopy){
                .text = strndup(target, (size_t) n),
                .size = (size_t) n,
                .link = true,
                .attributes = { .uid = st.st_uid, .gid = st.st_gid },
        };
        return ret->text ? 0 : -ENOMEM;
}

static int read_at(int dir, AppliedCopy *ret) {
        CLEANUP(closep) int fd = openat(dir, NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        CLEANUP(freep) char *text = NULL;
        struct stat st;
        ssize_t n;

        if (fd < 0)
                return errno == ENOENT ? 0 : errno == ELOOP ? read_link_at(dir, ret) : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || (size_t) st.st_size > BYTES_MAX)
                return -EBADMSG;
        text = malloc((size_t) st.st_size + 1);
        if (!text)
                return -ENOMEM;
        n = read(fd, text, (size_t) st.st_size);
        if (n < 0)
                return -errno;
        *ret = (AppliedCopy){
                .text = TAKE(text),
                .size = (size_t) n,
                .attributes = { .mode = st.st_mode & 07777, .uid = st.st_uid, .gid = st.st_gid },
        };
        return 0;
}

static int fail_copy(const char *root, size_t i, int r, const char *what, Failure *reterr) {
        return failure_set_errno(reterr, FAILURE_STORAGE, r,
                                 "'%s" PATH_CONFIG_DIR "/%s/config.d/" NAME "' %s", root, services[i], what);
}

int applied_read(Applied *ret, const char *root, bool edged, Failure *reterr) {
        CLEANUP(applied_deinit) Applied applied = { .count = edged ? APPLIED_COUNT : APPLIED_COUNT - 1 };

        for (size_t i = 0; i < applied.count; i++) {
                CLEANUP(closep) int dir = open_directory(root, i);
                int r = dir;

                if (r == -ENOENT)
                        return failure_set(reterr, FAILURE_RUNTIME_MISSING, "ENOENT",
                                           "'%s" PATH_CONFIG_DIR "/%s/config.d', which the packages of IoT "
                                           "Edge install, does not exist",
                                           root, services[i]);
                if (r >= 0) {
                        store_remove_leftovers(dir, NAME);
                        r = read_at(dir, &applied.copies[i]);
                }
                if (r < 0)
                        return fail_copy(root, i, r, "can't be read", reterr);
        }
        *ret = applied;
        applied = (Applied){};
        return 0;
}

const char *applied_find_lost(const char *root, bool edged) {
        for (size_t i = 0; i < (edged ? APPLIED_COUNT : APPLIED_COUNT - 1); i++) {
                CLEANUP(closep) int dir = open_directory(root, i);
                struct stat st;

                if (dir >= 0 && fstatat(dir, NAME, &st, 0) < 0 ? errno == ENOENT
                                                               : dir >= 0 && st.st_size == 0)
                        return services[i];
        }
        return NULL;
}

void applied_deinit(Applied *applied) {
        for (size_t i = 0; i < APPLIED_COUNT; i++)
                free(applied->copies[i].text);
        *applied = (Applied){};
}

bool applied_whole(const Applied *before, const char *root) {
        CLEANUP(applied_deinit) Applied now = {};

        if (applied_read(&now, root, before->count == APPLIED_COUNT, NULL) < 0)
                return false;
        for (size_t i = 0; i < before->count; i++)
                if (before->copies[i].text && now.copies[i].size == 0)
                        return false;
        return true;
}

static bool same_copy(const AppliedCopy *a, const AppliedCopy *b) {
        if (!a->text || !b->text)
                return !a->text && !b->text;
        return a->link == b->link && a->size == b->size && memcmp(a->text, b->text, a->size) == 0 &&
               a->attributes.mode == b->attributes.mode && a->attributes.uid == b->attributes.uid &&
               a->attributes.gid == b->attributes.gid;
}

static int remove_at(int dir) {
        if (unlinkat(dir, NAME, 0) < 0 && errno != ENOENT)
                return -errno;
        return fsync(dir) < 0 ? -errno : 0;
}

static int write_at(int dir, const AppliedCopy *copy) {
        return copy->link ? store_link_at(dir, NAME, copy->text, &copy->attributes)
                          : store_write_at(dir, NAME, copy->text, copy->size, &copy->attributes);
}

/* When the disk is full, the file in the place leaves its space to the copy. */
static int replace_at(int dir, const AppliedCopy *copy) {
        int r;

        r = write_at(dir, copy);
        if (r != -ENOSPC)
                return r;
        r = remove_at(dir);
        return r < 0 ? r : write_at(dir, copy);
}

static int put_back(const AppliedCopy *copy, const char *root, size_t i) {
        CLEANUP(closep) int dir = open_directory(root, i);
        AppliedCopy now = {};
        bool same;

        if (dir < 0)
                return dir;
        same = read_at(dir, &now) >= 0 && same_copy(copy, &now);
        free(now.text);
        if (same)
                return 0;
        return copy->text ? replace_at(dir, copy) : remove_at(dir);
}

int applied_put_back(const Applied *before, const char *root, Failure *reterr) {
        int first = 0;

        for (size_t i = 0; i < before->count; i++) {
                int r = put_back(&before->copies[i], root, i);

                if (r < 0 && first == 0)
                        first = fail_copy(root, i, r, "can't be put back", reterr);
        }
        return first;
}
