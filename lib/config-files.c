#include "config-internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX_SIZE       ((size_t) 256 * 1024)
#define CREDENTIAL_MAX_SIZE ((size_t) 4096)
#define DROPINS_MAX         1024

/* The higher first: a file in the first directory masks one of the same name in the others. */
#define BASE_DIRS 3
static const char *const base_dirs[BASE_DIRS] = { "/etc/" CONFIG_DIR, "/run/" CONFIG_DIR,
                                                  "/usr/lib/" CONFIG_DIR };

typedef struct Dropin {
        char *name;
        char *path;
} Dropin;

static const char *read_error(int r) {
        return r == -EBADF ? "it is not a regular file" : strerror(-r);
}

/* What keeps a file or directory from being read: whoever may write to it could send this gateway to a DPS
 * instance of theirs. Where the caller names the files, they may be the caller's. NULL: nothing does. */
static const char *distrust(const struct stat *st, const ConfigPaths *paths) {
        bool own = paths->file || paths->root;

        if (st->st_uid != 0 && !(own && st->st_uid == geteuid()))
                return "it does not belong to root";
        if ((st->st_mode & S_IWOTH) ||
            ((st->st_mode & S_IWGRP) && st->st_gid != 0 && !(own && st->st_gid == getegid())))
                return "others than root may write to it";
        return NULL;
}

/* 1: it was ignored, and that is noted. */
static int ignore(Config *config, const char *path, const struct stat *st, const ConfigPaths *paths) {
        const char *reason = distrust(st, paths);
        int r;

        if (!reason)
                return 0;
        r = config_add_problem(config, false, path, 0,
                               "the %s is ignored, since %s: run 'chown root:root %s' and 'chmod go-w %s'",
                               S_ISDIR(st->st_mode) ? "directory" : "file", reason, path, path);
        return r < 0 ? r : 1;
}

/* -ENOENT also for one that is ignored. */
static int read_one(Config *config, const char *path, const ConfigPaths *paths, bool must_exist) {
        CLEANUP(freep) char *text = NULL;
        struct stat st;
        size_t size;
        int r;

        r = read_file_stat(path, FILE_MAX_SIZE, &text, &size, &st);
        if (r == -ENOENT && !must_exist)
                return r;
        if (r == -ENOMEM)
                return r;
        if (r == -EFBIG)
                return config_add_problem(config, true, path, 0, "the file is larger than %zu KiB",
                                          FILE_MAX_SIZE / 1024);
        if (r < 0)
                return config_add_problem(config, true, path, 0, "the file can't be read: %s",
                                          read_error(r));
        r = ignore(config, path, &st, paths);
        if (r != 0)
                return r < 0 ? r : -ENOENT;
        if (strlen(text) != size)
                return config_add_problem(config, true, path, 0, "the file has a NUL byte");
        return config_parse(config, path, text);
}

static char *full_path(const ConfigPaths *paths, const char *dir, const char *rest) {
        char *path = NULL;

        return asprintf(&path, "%s%s%s", paths->root ? paths->root : "", dir, rest) < 0 ? NULL : path;
}

/* A link to /dev/null masks the same name further down, as for units. */
static bool is_masked(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISCHR(st.st_mode);
}

static int read_main(Config *config, const ConfigPaths *paths, const bool ignored[static BASE_DIRS]) {
        for (size_t i = 0; i < BASE_DIRS; i++) {
                CLEANUP(freep) char *path = full_path(paths, base_dirs[i], "/provisiond.conf");
                int r;

                if (!path)
                        return -ENOMEM;
                if (ignored[i])
                        continue;
                if (is_masked(path))
                        return 0;
                r = read_one(config, path, paths, false);
                if (r != -ENOENT)
                        return r;
        }
        return 0;
}

static bool is_dropin(const struct dirent *entry) {
        size_t length = strlen(entry->d_name);

        return entry->d_type != DT_DIR && entry->d_name[0] != '.' && length > 5 &&
               streq(entry->d_name + length - 5, ".conf");
}

static int add_dropin(Dropin **list, size_t *n, const char *dir, const char *name) {
        Dropin *longer;

        for (size_t i = 0; i < *n; i++)
                if (streq((*list)[i].name, name))
                        return 0; /* masked by a higher directory */
        if (*n >= DROPINS_MAX)
                return 0;
        longer = reallocarray(*list, *n + 1, sizeof(**list));
        if (!longer)
                return -ENOMEM;
        *list = longer;
        longer[*n] = (Dropin){ .name = strdup(name) };
        if (!longer[*n].name)
                return -ENOMEM;
        if (asprintf(&longer[*n].path, "%s/%s", dir, name) < 0) {
                longer[*n].path = NULL;
                free(longer[*n].name);
                return -ENOMEM;
        }
        (*n)++;
        return 0;
}

static int list_dropins(Config *config, const char *path, const ConfigPaths *paths, Dropin **list,
                        size_t *n) {
        DIR *dir = opendir(path);
        struct stat st;
        int r = 0;

        if (!dir)
                return errno == ENOENT || errno == ENOTDIR
                               ? 0
                               : config_add_problem(config, true, path, 0, "the directory can't be read: %s",
                                                    strerror(errno));
        if (fstat(dirfd(dir), &st) >= 0)
                r = ignore(config, path, &st, paths);
        for (struct dirent *entry; r == 0 && (entry = readdir(dir));)
                if (is_dropin(entry))
                        r = add_dropin(list, n, path, entry->d_name);
        (void) closedir(dir);
        return r < 0 ? r : 0;
}

static int compare_dropins(const void *a, const void *b) {
        return strcmp(((const Dropin *) a)->name, ((const Dropin *) b)->name);
}

/* One that is gone was removed since it was listed. A link that leads nowhere is a mistake. */
static int read_dropin(Config *config, const char *path, const ConfigPaths *paths) {
        struct stat st;
        int r;

        if (is_masked(path))
                return 0;
        r = read_one(config, path, paths, false);
        if (r != -ENOENT)
                return r;
        if (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode) || access(path, F_OK) >= 0)
                return 0;
        return config_add_problem(config, true, path, 0, "the file can't be read: %s", strerror(ENOENT));
}

static int read_dropins(Config *config, const ConfigPaths *paths, const bool ignored[static BASE_DIRS]) {
        Dropin *list = NULL;
        size_t n = 0;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < BASE_DIRS; i++) {
                CLEANUP(freep) char *path = full_path(paths, base_dirs[i], "/provisiond.conf.d");

                r = !path ? -ENOMEM : ignored[i] ? 0 : list_dropins(config, path, paths, &list, &n);
        }
        if (n > 0)
                qsort(list, n, sizeof(*list), compare_dropins);
        for (size_t i = 0; i < n; i++) {
                if (r >= 0)
                        r = read_dropin(config, list[i].path, paths);
                free(list[i].name);
                free(list[i].path);
        }
        free(list);
        return r;
}

static int ignore_directories(Config *config, const ConfigPaths *paths, bool ret[static BASE_DIRS]) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < BASE_DIRS; i++) {
                CLEANUP(freep) char *path = full_path(paths, base_dirs[i], "");
                struct stat st;

                if (!path)
                        return -ENOMEM;
                r = stat(path, &st) >= 0 ? ignore(config, path, &st, paths) : 0;
                ret[i] = r > 0;
        }
        return r;
}

static int read_credential(const ConfigPaths *paths, const char *name, char **ret_path, char **ret,
                           size_t *ret_size) {
        CLEANUP(freep) char *path = NULL;
        int r;

        if (!paths->credentials_dir)
                return -ENOENT;
        if (asprintf(&path, "%s/%s", paths->credentials_dir, name) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        r = read_file(path, CREDENTIAL_MAX_SIZE, ret, ret_size);
        if (r >= 0)
                *ret_path = TAKE(path);
        return r;
}

int config_read_credential(char **ret, const ConfigPaths *paths, const char *name) {
        CLEANUP(freep) char *path = NULL;
        char *text = NULL;
        size_t size;
        int r;

        r = read_credential(paths, name, &path, &text, &size);
        if (r < 0)
                return r;
        while (size > 0 && strchr(" \t\r\n", text[size - 1]))
                text[--size] = '\0';
        *ret = text;
        return 0;
}

int config_read_auth(ConfigAuth *ret, const ConfigPaths *paths, const char *name) {
        char *path = NULL, *text = NULL;
        size_t size;
        int r;

        r = read_credential(paths, name, &path, &text, &size);
        if (r < 0)
                return r;
        while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == '\r'))
                size--;
        *ret = (ConfigAuth){ .value = { .data = (uint8_t *) text, .size = size }, .path = path };
        return 0;
}

void config_auth_deinit(ConfigAuth *auth) {
        bytes_deinit(&auth->value);
        free(TAKE(auth->path));
}

static int apply_credential(Config *config, const ConfigPaths *paths, const char *name, const char *section,
                            const char *key) {
        CLEANUP(secret_freep) char *value = NULL;
        char source[64];
        int r;

        (void) snprintf(source, sizeof(source), "credential %s", name);
        r = config_read_credential(&value, paths, name);
        if (r == -ENOENT)
                return 0;
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return config_add_problem(config, true, source, 0, "it can't be read: %s", read_error(r));
        return config_assign(config, source, 0, section, key, value);
}

static int apply_credentials(Config *config, const ConfigPaths *paths) {
        int r = 0;

        if (!config->id_scope)
                r = apply_credential(config, paths, "dps.id_scope", "Provisioning", "IdScope");
        return r < 0 ? r : apply_credential(config, paths, "dps.proxy", "Network", "Proxy");
}

int config_read_files(Config *config, const ConfigPaths *paths) {
        bool ignored[BASE_DIRS] = {};
        int r;

        if (paths->file) {
                r = read_one(config, paths->file, paths, true);
                r = r == -ENOENT ? 0 : r;
        } else {
                r = ignore_directories(config, paths, ignored);
                if (r >= 0)
                        r = read_main(config, paths, ignored);
                if (r >= 0)
                        r = read_dropins(config, paths, ignored);
        }
        return r < 0 ? r : apply_credentials(config, paths);
}

int config_watch_directories(char ***ret, const ConfigPaths *paths) {
        char **list = calloc(2 * BASE_DIRS + 1, sizeof(char *));
        size_t n = 0;

        if (!list)
                return -ENOMEM;
        if (paths->file) {
                const char *slash = strrchr(paths->file, '/');

                list[n++] = !slash                 ? strdup(".")
                            : slash == paths->file ? strdup("/")
                                                   : strndup(paths->file, (size_t) (slash - paths->file));
        } else
                for (size_t i = 0; i < BASE_DIRS; i++) {
                        list[n++] = full_path(paths, base_dirs[i], "");
                        list[n++] = full_path(paths, base_dirs[i], "/provisiond.conf.d");
                }
        for (size_t i = 0; i < n; i++)
                if (!list[i]) {
                        for (size_t j = 0; j < n; j++)
                                free(list[j]);
                        free(list);
                        return -ENOMEM;
                }
        *ret = list;
        return 0;
}
