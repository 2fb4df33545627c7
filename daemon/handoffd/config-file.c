/* config.toml on disk: written whole, with the operator's file kept beside it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "handoffd.h"
#include "paths.h"

#define NAME        "config.toml"
#define BACKUP      NAME ".before-dps-provisiond-"
#define BACKUPS_MAX 5 /* the first one, which is the operator's own, and the newest */

int config_directory_open(Operation *op) {
        CLEANUP(freep) char *path = NULL;
        int fd, r;

        r = path_under(&path, operation_root(op), PATH_CONFIG_DIR);
        if (r >= 0) {
                fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd >= 0)
                        return fd;
                r = -errno;
        }
        if (r == -ENOENT)
                return failure_set(&op->failure, FAILURE_RUNTIME_MISSING, "ENOENT",
                                   "'%s" PATH_CONFIG_DIR
                                   "', which the packages of IoT Edge install, does not "
                                   "exist",
                                   operation_root(op));
        return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s" PATH_CONFIG_DIR "' can't be opened",
                                 operation_root(op));
}

/* --- writing it --- */

void config_remove_leftovers(int dir) {
        store_remove_leftovers(dir, NAME);
}

int config_prepare(Operation *op, int dir, const char *text, StoreFile *ret) {
        StoreAttributes attributes = op->situation.attributes;
        int r;

        attributes.like = op->situation.text ? NAME : NULL;
        r = store_prepare_at(ret, dir, NAME, text, strlen(text), &attributes);
        return r < 0 ? operation_fail_write(op, r, PATH_CONFIG) : 0;
}

/* Fails when the file has changed since it was read or written: an editor's changes must not get lost. */
int config_check_unchanged(Operation *op, const char *text, size_t size) {
        CLEANUP(freep) char *path = NULL, *now = NULL;
        size_t now_size = 0;
        int r;

        r = path_under(&path, operation_root(op), PATH_CONFIG);
        if (r >= 0)
                r = read_file(path, CONFIG_TOML_MAX, &now, &now_size);
        if (r < 0 && r != -ENOENT)
                return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s' can't be read", path);
        if (!text == !now && (!text || (size == now_size && memcmp(text, now, size) == 0)))
                return 0;
        return failure_set(&op->failure, FAILURE_STORAGE, "EAGAIN",
                           "Somebody else has changed '%s' meanwhile, so it was not written", path);
}

int operation_write_config(Operation *op, const char *text) {
        CLEANUP(closep) int dir = config_directory_open(op);
        CLEANUP(store_discard) StoreFile file = {};
        int r;

        if (dir < 0)
                return dir;
        r = config_prepare(op, dir, text, &file);
        if (r < 0)
                return r;
        r = store_commit(&file);
        return r < 0 ? operation_fail_write(op, r, PATH_CONFIG) : 0;
}

/* --- what it was before --- */

typedef struct Backups {
        uint64_t numbers[BACKUPS_MAX + 1]; /* in ascending order */
        size_t count;
} Backups;

/* Of more than are kept the second one goes. */
static void backups_add(Backups *b, int dir, uint64_t number, bool remove) {
        char name[sizeof(BACKUP) + 24];
        size_t at = b->count++;

        for (; at > 0 && b->numbers[at - 1] > number; at--)
                b->numbers[at] = b->numbers[at - 1];
        b->numbers[at] = number;
        if (b->count <= BACKUPS_MAX)
                return;
        (void) snprintf(name, sizeof(name), BACKUP "%llu", (unsigned long long) b->numbers[1]);
        if (remove)
                (void) unlinkat(dir, name, 0);
        memmove(&b->numbers[1], &b->numbers[2], (BACKUPS_MAX - 1) * sizeof(b->numbers[0]));
        b->count--;
}

static void backups_read(Backups *ret, int dir, bool remove) {
        int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        uint64_t number;

        *ret = (Backups){};
        if (!d) {
                (void) closep(&fd);
                return;
        }
        for (struct dirent *entry; (entry = readdir(d));)
                if (strncmp(entry->d_name, BACKUP, strlen(BACKUP)) == 0 &&
                    parse_uint(entry->d_name + strlen(BACKUP), UINT32_MAX, &number) >= 0)
                        backups_add(ret, dir, number, remove);
        (void) closedir(d);
}

static bool backup_is(const char *root, uint64_t number, const char *text, size_t size) {
        CLEANUP(freep) char *path = NULL, *kept = NULL;
        size_t kept_size = 0;

        return asprintf(&path, "%s" PATH_CONFIG_DIR "/" BACKUP "%llu", root, (unsigned long long) number) >=
                       0 &&
               read_file(path, CONFIG_TOML_MAX, &kept, &kept_size) >= 0 && kept_size == size &&
               memcmp(kept, text, size) == 0;
}

/* Each change has one backup, also when a power cut comes between the backup and the change. The backup is
 * a second name of the same file, which needs no space. */
int step_keep_backup(Operation *op) {
        const Situation *s = &op->situation;
        CLEANUP(closep) int dir = -1;
        char name[sizeof(BACKUP) + 24];
        uint64_t newest;
        Backups backups;
        int r;

        if (!op->plan.write_config || !s->text)
                return 0;
        dir = config_directory_open(op);
        if (dir < 0)
                return dir;
        backups_read(&backups, dir, false);
        newest = backups.count > 0 ? backups.numbers[backups.count - 1] : 0;
        if (newest > 0 && backup_is(operation_root(op), newest, s->text, s->text_size))
                return 0;
        (void) snprintf(name, sizeof(name), BACKUP "%llu", (unsigned long long) newest + 1);
        r = linkat(dir, NAME, dir, name, 0) < 0 || fsync(dir) < 0 ? -errno : 0;
        if (r < 0)
                return failure_set_errno(&op->failure, FAILURE_STORAGE, r,
                                         "'%s" PATH_CONFIG_DIR "/%s' can't be written", operation_root(op),
                                         name);
        backups_read(&backups, dir, true);
        return 0;
}
