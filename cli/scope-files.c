#include "scope-files.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store.h"

#define SECTION         "[Provisioning]"
#define BYTE_ORDER_MARK "\xef\xbb\xbf"
#define FILE_MAX        ((size_t) 256 * 1024)

/* As inih reads it. */
static bool line_is_key(const char *line) {
        static const char key[] = "IdScope";

        line += strspn(line, " \t");
        if (strncmp(line, key, strlen(key)) != 0)
                return false;
        line += strlen(key);
        line += strspn(line, " \t");
        return *line == '=' || *line == ':';
}

/* The assignment replaces every IdScope= of [Provisioning], or follows its header, or comes last. scope
 * NULL: they go. */
static int edit(char **ret, const char *text, const char *scope) {
        CLEANUP(freep) char *edited = NULL;
        size_t size = 0;
        bool inside = false, written = !scope, failed = false;
        FILE *f = open_memstream(&edited, &size);

        if (!f)
                return -ENOMEM;
        if (strncmp(text, BYTE_ORDER_MARK, strlen(BYTE_ORDER_MARK)) == 0)
                text += strlen(BYTE_ORDER_MARK);
        while (*text) {
                size_t length = strcspn(text, "\n");
                const char *start = text + strspn(text, " \t");

                if (*start == '[')
                        inside = strncmp(start, SECTION, strlen(SECTION)) == 0;
                if (!(inside && line_is_key(text)))
                        failed |= fprintf(f, "%.*s\n", (int) length, text) < 0;
                if (inside && !written) {
                        failed |= fprintf(f, "IdScope=%s\n", scope) < 0;
                        written = true;
                }
                text += length + (text[length] == '\n');
        }
        if (!written)
                failed |= fprintf(f, SECTION "\nIdScope=%s\n", scope) < 0;
        if (fclose(f) != 0 || failed || !edited)
                return -ENOMEM;
        *ret = TAKE(edited);
        return 0;
}

/* Nothing but comments and the section's header. */
static bool says_nothing(const char *text) {
        while (*text) {
                size_t length = strcspn(text, "\n");
                const char *start = text + strspn(text, " \t");

                if (!strchr("#;\r\n", *start) && strncmp(start, SECTION, strlen(SECTION)) != 0)
                        return false;
                text += length + (text[length] == '\n');
        }
        return true;
}

/* The next file of the same name and of a lower precedence, which does not count while this one is there.
 * *ret is NULL when there is none. */
static int find_hidden(char **ret, const char *path) {
        static const char *const below[] = { "/run", "/usr/lib" };
        const char *name = path + strlen("/etc"); /* "/run" is as long */

        *ret = NULL;
        if (strncmp(path, "/etc/" CONFIG_DIR, strlen("/etc/" CONFIG_DIR)) != 0 &&
            strncmp(path, "/run/" CONFIG_DIR, strlen("/run/" CONFIG_DIR)) != 0)
                return 0;
        for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
                CLEANUP(freep) char *other = NULL;

                if (asprintf(&other, "%s%s", below[i], name) < 0) {
                        other = NULL;
                        return -ENOMEM;
                }
                if (!streq(other, path) && access(other, F_OK) == 0) {
                        *ret = TAKE(other);
                        return 0;
                }
        }
        return 0;
}

/* What a new file begins with: the file that it hides goes on to count. */
static int start_file(char **ret, const char *path, char **ret_copied) {
        CLEANUP(freep) char *hidden = NULL;
        int r;

        r = find_hidden(&hidden, path);
        if (r >= 0)
                r = hidden ? read_file(hidden, FILE_MAX, ret, NULL)
                           : string_replace(ret, "# Written by 'dps-provision set-scope'.\n");
        if (r >= 0)
                *ret_copied = TAKE(hidden);
        return r;
}

/* A link stays one. -ENOLINK: it leads nowhere. */
static int resolve(char **ret, const char *path) {
        struct stat st;

        if (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode))
                return string_replace(ret, path);
        *ret = realpath(path, NULL);
        return *ret ? 0 : errno == ENOENT ? -ENOLINK : -errno;
}

/* Mode and owner stay as well. */
static int write_back(const char *path, const char *text, const struct stat *st) {
        const StoreAttributes attributes = { .mode = st->st_mode & 07777,
                                             .uid = st->st_uid,
                                             .gid = st->st_gid };

        return store_write_as(path, text, strlen(text), &attributes);
}

int scope_set(const char *name, const char *scope, char **ret_copied) {
        CLEANUP(freep) char *old = NULL, *edited = NULL, *path = NULL;
        struct stat st = { .st_mode = 0644, .st_uid = geteuid(), .st_gid = getegid() };
        int r;

        *ret_copied = NULL;
        r = resolve(&path, name);
        if (r < 0)
                return r;
        r = read_file_stat(path, FILE_MAX, &old, NULL, &st);
        if (r == -ENOENT)
                r = start_file(&old, path, ret_copied);
        if (r >= 0)
                r = edit(&edited, old, scope);
        return r < 0 ? r : write_back(path, edited, &st);
}

int scope_unset(const char *name) {
        CLEANUP(freep) char *old = NULL, *edited = NULL, *path = NULL, *hidden = NULL;
        struct stat st;
        int r;

        r = resolve(&path, name);
        if (r >= 0)
                r = read_file_stat(path, FILE_MAX, &old, NULL, &st);
        if (r >= 0)
                r = edit(&edited, old, NULL);
        if (r >= 0)
                r = find_hidden(&hidden, path);
        if (r < 0)
                return r;
        return says_nothing(edited) && streq(path, name) && !hidden ? store_remove(path)
                                                                    : write_back(path, edited, &st);
}

/* "FILE:LINE", or "credential …" as a whole. */
static char *file_of(const char *source) {
        return strndup(source, source[0] == '/' ? (size_t) (strrchr(source, ':') - source) : strlen(source));
}

/* What the line has overridden; NULL: nothing. */
static const char *overridden_by(const Config *config, size_t index, const char *line) {
        for (size_t i = 0; i < config->override_count; i++)
                if (config->overrides[i].index == index && streq(config->overrides[i].by, line))
                        return config->overrides[i].old;
        return NULL;
}

/* That of a file that is not ours, if it is among them, else the one that counts. */
static int choose(char **ret, const Config *config, size_t index, const char *source,
                  const ConfigPaths *paths) {
        CLEANUP(freep) char *first = file_of(source);

        if (!first)
                return -ENOMEM;
        for (const char *at = source; at; at = overridden_by(config, index, at)) {
                CLEANUP(freep) char *file = file_of(at);

                if (!file)
                        return -ENOMEM;
                if (scope_file_is_ours(file, paths))
                        continue;
                free(first);
                first = TAKE(file);
                break;
        }
        free(*ret);
        *ret = TAKE(first);
        return 0;
}

int scope_file(char **ret, const ConfigPaths *paths) {
        CLEANUP(config_freep) Config *config = NULL;
        const char *section, *key, *source;
        char *value;
        int r;

        r = config_load(&config, paths);
        if (r < 0)
                return r;
        for (size_t i = 0; config_describe(config, i, &section, &key, &value, &source); i++) {
                free(value);
                if (streq(key, "IdScope"))
                        return source ? choose(ret, config, i, source, paths) : string_replace(ret, NULL);
        }
        return -EINVAL;
}

bool scope_file_is_ours(const char *file, const ConfigPaths *paths) {
        return paths->file ? streq(file, paths->file)
                           : strncmp(file, "/etc/", 5) == 0 || strncmp(file, "/run/", 5) == 0;
}
