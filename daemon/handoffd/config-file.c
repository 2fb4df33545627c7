/* config.toml on disk: written whole, with the operator's file kept beside it, and put back when it could
 * not be applied. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

#define NAME        "config.toml"
#define BACKUP      NAME ".before-dps-provisiond-"
#define BACKUPS_MAX 5 /* the first one, which is the operator's own, and the newest */

static const char *root_of(const Operation *op) {
        return op->h->options->root;
}

static bool same(const char *a, const char *b) {
        return a && b && streq(a, b);
}

static int open_directory(const char *root) {
        CLEANUP(freep) char *path = NULL;
        int fd, r;

        r = path_under(&path, root, PATH_CONFIG_DIR);
        if (r >= 0)
                r = store_make_directory(path, 0755);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

/* --- writing it --- */

static int storage_failure(Operation *op, int r, const char *path) {
        return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s%s' can't be written", root_of(op),
                                 path);
}

/* Recorded before it is written: whichever of the two a power cut leaves is known to be ours. */
static int record_config(Operation *op, const char *text) {
        CLEANUP(config_toml_deinit) ConfigToml config = {};
        Situation *s = &op->situation;
        Record *rec = &s->record;
        bool ours = same(s->toml.digest, rec->digest) || same(s->toml.digest, rec->previous_digest);
        int r;

        assert(text); /* the edit went well */
        r = config_toml_read(&config, PATH_CONFIG, text, strlen(text), &op->failure);
        if (r < 0)
                return r;
        r = string_replace(&rec->previous_digest, ours ? s->toml.digest : NULL);
        if (r >= 0)
                r = string_replace(&rec->digest, config.digest);
        if (r >= 0)
                r = string_replace(&rec->registration_id, op->registration_id);
        if (r < 0)
                return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s%s' can't be written",
                                         root_of(op), PATH_RECORD);
        return handoff_record_save(rec, root_of(op), &op->failure);
}

/* Is the file what was read, or written, before? An editor's work of the meantime must not get lost. */
static int check_unchanged(Operation *op, const char *text, size_t size) {
        CLEANUP(freep) char *path = NULL, *now = NULL;
        size_t now_size = 0;
        int r;

        r = path_under(&path, root_of(op), PATH_CONFIG);
        if (r >= 0)
                r = read_file(path, CONFIG_TOML_MAX, &now, &now_size);
        if (r < 0 && r != -ENOENT)
                return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s' can't be read", path);
        if (!text == !now && (!text || (size == now_size && memcmp(text, now, size) == 0)))
                return 0;
        return failure_set(&op->failure, FAILURE_STORAGE, "EAGAIN",
                           "Somebody else has changed '%s' meanwhile, so it was not written", path);
}

int operation_write(Operation *op, const char *path, const char *text, size_t size) {
        CLEANUP(closep) int dir = open_directory(root_of(op));
        StoreAttributes attributes = op->situation.attributes;
        int r = dir;

        attributes.like = op->situation.text ? NAME : NULL;
        if (r >= 0)
                r = store_write_at(dir, strrchr(path, '/') + 1, text, size, &attributes);
        return r < 0 ? storage_failure(op, r, path) : 0;
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

/* One for each change, also when a power cut comes between this and the change. */
static int keep_backup(Operation *op) {
        const Situation *s = &op->situation;
        CLEANUP(closep) int dir = open_directory(root_of(op));
        char name[sizeof(PATH_CONFIG_DIR BACKUP) + 24];
        uint64_t newest;
        Backups backups;
        int r;

        if (dir < 0)
                return storage_failure(op, dir, PATH_CONFIG);
        backups_read(&backups, dir, false);
        newest = backups.count > 0 ? backups.numbers[backups.count - 1] : 0;
        if (newest > 0 && backup_is(root_of(op), newest, s->text, s->text_size))
                return 0;
        (void) snprintf(name, sizeof(name), PATH_CONFIG_DIR "/" BACKUP "%llu",
                        (unsigned long long) newest + 1);
        r = operation_write(op, name, s->text, s->text_size);
        if (r >= 0)
                backups_read(&backups, dir, true);
        return r;
}

/* --- steps --- */

int step_write_config(Operation *op) {
        const Situation *s = &op->situation;
        const Origin from = situation_origin(s);
        Plan *plan = &op->plan;
        int r;

        if (!plan->write_config)
                return 0;
        r = config_toml_edit(&plan->written, from.path, from.text, from.size, &plan->wanted, &op->failure);
        if (r >= 0)
                r = record_config(op, plan->written);
        if (r >= 0 && s->text)
                r = keep_backup(op);
        if (r >= 0)
                r = check_unchanged(op, s->text, s->text_size);
        if (r >= 0)
                r = operation_write(op, PATH_CONFIG, plan->written, strlen(plan->written));
        if (r < 0)
                return r;
        plan->config_written = op->changed = true;
        log_notice("The provisioning in '%s%s' was written", root_of(op), PATH_CONFIG);
        return 0;
}

/* Never across a replaced key: the old scope with the new key would be a mixture, while device_info and key
 * work together even with the old config.toml. */
int step_restore_config(Operation *op) {
        const Situation *s = &op->situation;
        const Plan *plan = &op->plan;
        const UnitJob job = { UNIT_START, UNIT_APPLY };
        Failure first = op->failure;
        int r;

        if (!plan->config_written || !plan->applied || op->assignment.key.changed || !s->text ||
            !s->edged.active || (first.kind != FAILURE_APPLY_FAILED && first.kind != FAILURE_RESTART_FAILED))
                return 0;
        r = check_unchanged(op, plan->written, strlen(plan->written));
        if (r >= 0)
                r = operation_write(op, PATH_CONFIG, s->text, s->text_size);
        if (r < 0) {
                log_error("The previous '%s' could not be put back: %s", PATH_CONFIG, op->failure.sentence);
                op->failure = first;
                return 0;
        }
        (void) failure_set(&op->failure, first.kind, first.code, "%s; the previous config.toml was put back",
                           first.sentence);
        return operation_jobs(op, &job, 1);
}
