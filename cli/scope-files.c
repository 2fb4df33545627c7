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

/* Without it the one of its name would count that it hides. */
static bool hides_another(const char *path) {
        static const char *const below[] = { "/run", "/usr/lib" };
        const char *name = path + strlen("/etc"); /* "/run" is as long */

        if (strncmp(path, "/etc/", 5) != 0 && strncmp(path, "/run/", 5) != 0)
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
                CLEANUP(freep) char *other = NULL;

                if (asprintf(&other, "%s%s", below[i], name) < 0)
                        other = NULL;
                if (!other || (!streq(other, path) && access(other, F_OK) == 0))
                        return true;
        }
        return false;
}

static int change(const char *name, const char *scope) {
        CLEANUP(freep) char *old = NULL, *edited = NULL, *target = NULL;
        struct stat st = { .st_mode = 0644 };
        const char *path = name;
        int r;

        if (lstat(name, &st) == 0 && S_ISLNK(st.st_mode)) { /* it stays one */
                target = realpath(name, NULL);
                path = target ? target : name;
        }
        st.st_mode = 0644;
        r = read_file(path, FILE_MAX, &old, NULL);
        if (r == -ENOENT && scope)
                r = string_replace(&old, "");
        if (r < 0)
                return r;
        (void) stat(path, &st);
        r = edit(&edited, old, scope);
        if (r < 0)
                return r;
        return !scope && says_nothing(edited) && path == name && !hides_another(path)
                       ? store_remove(path)
                       : store_write(path, edited, strlen(edited), st.st_mode & 07777);
}

int scope_set(const char *path, const char *scope) {
        return change(path, scope);
}

int scope_unset(const char *path) {
        return change(path, NULL);
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
