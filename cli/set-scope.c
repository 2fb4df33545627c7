#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "cli.h"
#include "scope-files.h"
#include "store.h"

static void print_help(void) {
        (void) puts("Usage: dps-provision set-scope ID [--config=FILE]\n\n"
                    "Sets the ID scope (on the overview page of the DPS instance) in\n"
                    "  " SCOPE_DROPIN "\n"
                    "The daemon notices it by itself.\n\n"
                    "  --config=FILE   set it in this file instead, and leave the rest of it as it is");
}

static int write_result(int r, const char *path) {
        return r < 0 ? report_errno(r, "'%s' can't be written", path) : EXIT_OK;
}

static int set_in_dropin(const char *scope) {
        CLEANUP(freep) char *text = NULL;

        for (const char *const *dir = (const char *const[]){ "/etc/" CONFIG_DIR, SCOPE_DROPIN_DIR, NULL };
             *dir; dir++)
                if (mkdir(*dir, 0755) < 0 && errno != EEXIST)
                        return report_errno(errno, "'%s' can't be made", *dir);
        if (asprintf(&text, "# Written by 'dps-provision set-scope'.\n[Provisioning]\nIdScope=%s\n", scope) <
            0) {
                text = NULL;
                return report_errno(ENOMEM, "'%s' can't be written", SCOPE_DROPIN);
        }
        return write_result(store_write(SCOPE_DROPIN, text, strlen(text), 0644), SCOPE_DROPIN);
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
        r = paths.file ? write_result(scope_set(paths.file, scope), paths.file) : set_in_dropin(scope);
        return r != EXIT_OK ? r : check_effect(&paths, scope, paths.file ? paths.file : SCOPE_DROPIN);
}
