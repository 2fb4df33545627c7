#include "scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "fuzz.h"
#include "util.h"

#define NAMES_MAX 8

static char *directory;
static struct { char *name, *path; } files[NAMES_MAX];

static void remove_directory(void) {
        DIR *dir = opendir(directory);
        const struct dirent *entry;

        while (dir && (entry = readdir(dir)))
                (void) unlinkat(dirfd(dir), entry->d_name, 0);
        if (dir)
                (void) closedir(dir);
        (void) rmdir(directory);
        for (size_t i = 0; i < NAMES_MAX; i++) {
                free(files[i].name);
                free(files[i].path);
        }
        free(directory);
}

/* Prefer memory: a disk is slow when files are replaced and fsync() is called. */
static void make_directory(void) {
        const char *const parents[] = { "/dev/shm", getenv("TMPDIR"), "/tmp" };

        for (size_t i = 0; i < ARRAY_SIZE(parents); i++) {
                if (!parents[i])
                        continue;
                PROMISE(asprintf(&directory, "%s/fuzz-XXXXXX", parents[i]) > 0);
                if (mkdtemp(directory)) {
                        PROMISE(atexit(remove_directory) == 0);
                        return;
                }
                free(TAKE(directory));
        }
        PROMISE(directory);
}

const char *scratch_path(const char *name) {
        size_t i = 0;

        if (!directory)
                make_directory();
        while (i < NAMES_MAX && files[i].name && !streq(files[i].name, name))
                i++;
        PROMISE(i < NAMES_MAX);
        if (!files[i].name) {
                files[i].name = strdup(name);
                PROMISE(files[i].name && asprintf(&files[i].path, "%s/%s", directory, name) > 0);
        }
        return files[i].path;
}

const char *scratch_write(const char *name, const void *data, size_t size) {
        const char *path = scratch_path(name);
        CLEANUP(closep) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        PROMISE(fd >= 0 && (size == 0 || write(fd, data, size) == (ssize_t) size));
        return path;
}
