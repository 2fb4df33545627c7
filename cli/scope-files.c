#include "scope-files.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store.h"

#define SECTION  "[Provisioning]"
#define FILE_MAX ((size_t) 256 * 1024)

static bool line_is_key(const char *line) {
        static const char key[] = "IdScope";

        line += strspn(line, " \t");
        if (strncmp(line, key, strlen(key)) != 0)
                return false;
        line += strlen(key);
        return line[strspn(line, " \t")] == '=';
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

static int change(const char *path, const char *scope) {
        CLEANUP(freep) char *old = NULL, *edited = NULL;
        struct stat st = { .st_mode = 0644 };
        int r;

        r = read_file(path, FILE_MAX, &old, NULL);
        if (r == -ENOENT && scope)
                r = string_replace(&old, "");
        if (r < 0)
                return r;
        (void) stat(path, &st);
        r = edit(&edited, old, scope);
        if (r < 0)
                return r;
        return !scope && says_nothing(edited)
                       ? store_remove(path)
                       : store_write(path, edited, strlen(edited), st.st_mode & 07777);
}

int scope_set(const char *path, const char *scope) {
        return change(path, scope);
}

int scope_unset(const char *path) {
        return change(path, NULL);
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
                if (!streq(key, "IdScope"))
                        continue;
                if (!source)
                        return string_replace(ret, NULL);
                free(*ret);
                *ret = strndup(source,
                               source[0] == '/' ? (size_t) (strrchr(source, ':') - source) : strlen(source));
                return *ret ? 0 : -ENOMEM;
        }
        return -EINVAL;
}

bool scope_file_is_ours(const char *file, const ConfigPaths *paths) {
        return paths->file ? streq(file, paths->file)
                           : strncmp(file, "/etc/", 5) == 0 || strncmp(file, "/run/", 5) == 0;
}
