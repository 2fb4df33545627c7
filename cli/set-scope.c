#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "cli.h"
#include "store.h"

#define DROPIN_DIR  "/etc/" CONFIG_DIR "/provisiond.conf.d"
#define DROPIN_FILE DROPIN_DIR "/50-scope.conf"
#define FILE_MAX    ((size_t) 256 * 1024)

static void print_help(void) {
        (void) puts("Usage: dps-provision set-scope ID [--config=FILE]\n\n"
                    "Sets the ID scope (on the overview page of the DPS instance) in\n"
                    "  " DROPIN_FILE "\n"
                    "The daemon notices it by itself.\n\n"
                    "  --config=FILE   set it in this file instead, and leave the rest of it as it is");
}

static bool line_is_key(const char *line, const char *key) {
        line += strspn(line, " \t");
        if (strncmp(line, key, strlen(key)) != 0)
                return false;
        line += strlen(key);
        return line[strspn(line, " \t")] == '=';
}

/* Copies the text; the assignment replaces every IdScope= of [Provisioning], or follows its header, or comes
 * last. */
static int edit(char **ret, const char *text, const char *scope) {
        CLEANUP(freep) char *edited = NULL;
        size_t size = 0;
        bool inside = false, written = false, has_section = strstr(text, "[Provisioning]") != NULL;
        FILE *f = open_memstream(&edited, &size);

        if (!f)
                return -ENOMEM;
        while (*text) {
                size_t length = strcspn(text, "\n");
                const char *start = text + strspn(text, " \t");

                if (*start == '[')
                        inside = strncmp(start, "[Provisioning]", 14) == 0;
                if (!(inside && line_is_key(text, "IdScope")))
                        (void) fprintf(f, "%.*s\n", (int) length, text);
                if (inside && !written) {
                        (void) fprintf(f, "IdScope=%s\n", scope);
                        written = true;
                }
                text += length + (text[length] == '\n');
        }
        if (!has_section || !written)
                (void) fprintf(f, "[Provisioning]\nIdScope=%s\n", scope);
        if (fclose(f) != 0)
                return -ENOMEM;
        *ret = TAKE(edited);
        return 0;
}

static int set_in_file(const char *path, const char *scope) {
        CLEANUP(freep) char *old = NULL, *edited = NULL;
        struct stat st = { .st_mode = 0644 };
        int r;

        r = read_file(path, FILE_MAX, &old, NULL);
        if (r == -ENOENT)
                old = strdup("");
        else if (r < 0)
                return report_errno(r, "'%s' can't be read", path);
        if (!old)
                return report_errno(ENOMEM, "'%s' can't be edited", path);
        (void) stat(path, &st);
        r = edit(&edited, old, scope);
        if (r >= 0)
                r = store_write(path, edited, strlen(edited), st.st_mode & 07777);
        return r < 0 ? report_errno(r, "'%s' can't be written", path) : EXIT_OK;
}

static int set_in_dropin(const char *scope) {
        CLEANUP(freep) char *text = NULL;
        int r;

        for (const char *const *dir = (const char *const[]){ "/etc/" CONFIG_DIR, DROPIN_DIR, NULL }; *dir;
             dir++)
                if (mkdir(*dir, 0755) < 0 && errno != EEXIST)
                        return report_errno(errno, "'%s' can't be made", *dir);
        if (asprintf(&text, "# Written by 'dps-provision set-scope'.\n[Provisioning]\nIdScope=%s\n", scope) <
            0) {
                text = NULL;
                return report_errno(ENOMEM, "'%s' can't be written", DROPIN_FILE);
        }
        r = store_write(DROPIN_FILE, text, strlen(text), 0644);
        return r < 0 ? report_errno(r, "'%s' can't be written", DROPIN_FILE) : EXIT_OK;
}

/* A later file may win over the one that was written. */
static int check_effect(const ConfigPaths *paths, const char *scope, const char *path) {
        CLEANUP(config_freep) Config *config = NULL;
        const char *section, *key, *source;
        CLEANUP(freep) char *value = NULL;

        if (config_load(&config, paths) < 0)
                return EXIT_OK;
        if (config->id_scope && streq(config->id_scope, scope)) {
                (void) printf("The ID scope is %s (%s).\n", scope, path);
                return EXIT_OK;
        }
        for (size_t i = 0; config_describe(config, i, &section, &key, &value, &source); i++) {
                if (streq(key, "IdScope"))
                        break;
                free(TAKE(value));
        }
        (void) fprintf(stderr,
                       "dps-provision: '%s' was written, but %s sets IdScope=%s and wins.\nRemove the line "
                       "there.\n",
                       path, source ? source : "another file", value ? value : "");
        return EXIT_FAILED;
}

int verb_set_scope(int argc, char *argv[]) {
        static const struct option options[] = {
                { "config", required_argument, NULL, 'c' },
                { "help", no_argument, NULL, 'h' },
                {},
        };
        ConfigPaths paths = {};
        const char *scope;
        int c, r;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case 'c':
                        paths.file = optarg;
                        break;
                case 'h':
                        print_help();
                        return EXIT_OK;
                default:
                        return usage_error(argv[0], "this option is not known, or lacks its value");
                }
        if (argc - optind != 1)
                return usage_error(argv[0], "exactly one ID scope is needed");
        scope = argv[optind];
        if (!chars_valid(scope, CONFIG_SCOPE_CHARS, 1, CONFIG_SCOPE_MAX))
                return usage_error(argv[0], "'%s' is not an ID scope: 1 to %d letters, digits and dashes",
                                   scope, CONFIG_SCOPE_MAX);
        r = paths.file ? set_in_file(paths.file, scope) : set_in_dropin(scope);
        return r != EXIT_OK ? r : check_effect(&paths, scope, paths.file ? paths.file : DROPIN_FILE);
}
