#include "overrides.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "paths.h"

#define SUPER     "00-super.toml"
#define SUFFIX    ".toml"
#define BYTES_MAX ((size_t) 256 * 1024)

static void note(Overrides *o, const char *code, const char *path, const char *what) {
        if (o->failure.kind == FAILURE_NONE)
                (void) failure_set(&o->failure, FAILURE_CONFIG_CONFLICT, code, "'%s' is not looked at: %s",
                                   path, what);
}

static void add_file(Overrides *o, const char *path, bool later) {
        CLEANUP(freep) char *text = NULL;
        OverrideFile *file = &o->files[o->count];
        const char *why = "";
        unsigned line = 0;
        size_t size;
        int r;

        if (o->count == OVERRIDES_MAX) {
                note(o, "number", path, "it is one of more than 32 files, which IoT Edge reads as well");
                return;
        }
        r = read_file(path, BYTES_MAX, &text, &size);
        if (r == -EFBIG)
                note(o, "size", path, "it is larger than 256 KiB");
        if (r < 0)
                return;
        r = toml_parse(&file->toml, text, size, &line, &why);
        if (r == -EBADMSG && o->failure.kind == FAILURE_NONE)
                (void) failure_set(&o->failure, FAILURE_CONFIG_CONFLICT, "toml", "%s:%u: not TOML: %s", path,
                                   line, why);
        if (r < 0)
                return;
        file->path = strdup(path);
        file->later = later;
        if (file->path)
                o->count++;
        else
                toml_deinit(&file->toml);
}

/* IoT Edge reads no file without a name before its suffix. */
static int is_toml(const struct dirent *entry) {
        size_t size = strlen(entry->d_name), suffix = strlen(SUFFIX);

        return size > suffix && streq(entry->d_name + size - suffix, SUFFIX) && !streq(entry->d_name, SUPER);
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
        return strcmp((*a)->d_name, (*b)->d_name);
}

/* IoT Edge follows no link in config.d. */
static void add_directory(Overrides *o, const char *directory) {
        struct dirent **entries = NULL;
        int n = scandir(directory, &entries, is_toml, by_bytes);

        for (int i = 0; i < n; i++) {
                CLEANUP(freep) char *path = NULL;
                struct stat st;

                if (asprintf(&path, "%s/%s", directory, entries[i]->d_name) < 0)
                        path = NULL;
                if (path && lstat(path, &st) >= 0 && S_ISREG(st.st_mode))
                        add_file(o, path, strcmp(entries[i]->d_name, SUPER) > 0);
                free(entries[i]);
        }
        free(entries);
}

void overrides_read(Overrides *ret, const char *root, const char *service) {
        CLEANUP(freep) char *file = NULL, *directory = NULL;

        overrides_deinit(ret);
        if (asprintf(&file, "%s" PATH_CONFIG_DIR "/%s/config.toml", root, service) < 0) {
                file = NULL;
                return;
        }
        if (asprintf(&directory, "%s" PATH_CONFIG_DIR "/%s/config.d", root, service) < 0) {
                directory = NULL;
                return;
        }
        add_file(ret, file, false);
        add_directory(ret, directory);
}

void overrides_deinit(Overrides *o) {
        for (size_t i = 0; i < o->count; i++) {
                free(o->files[i].path);
                toml_deinit(&o->files[i].toml);
        }
        *o = (Overrides){};
}

const TomlValue *overrides_get(const Overrides *o, bool later, const char *path, const char **ret_file) {
        for (size_t i = o->count; i > 0; i--) {
                const TomlValue *value = toml_get(&o->files[i - 1].toml, path);

                if (o->files[i - 1].later != later || !value)
                        continue;
                if (ret_file)
                        *ret_file = o->files[i - 1].path;
                return value;
        }
        return NULL;
}
