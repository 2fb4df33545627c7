#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "cli.h"
#include "scope-files.h"

static void print_help(void) {
        (void) puts("Usage: dps-provision set-scope ID [--config=FILE]\n\n"
                    "Sets the ID scope (on the overview page of the DPS instance) in\n"
                    "  " SCOPE_DROPIN "\n"
                    "The daemon notices it by itself.\n\n"
                    "  --config=FILE   set it in this file instead, and leave the rest of it as it is");
}

static int set_in(const char *path, const char *scope) {
        CLEANUP(freep) char *copied = NULL;
        int r;

        r = scope_set(path, scope, &copied);
        if (r == -ENOLINK || r == -EBADF) {
                (void) fprintf(stderr, "dps-provision: '%s' is a link %s.\nRemove the link.\n", path,
                               r == -ENOLINK ? "that leads nowhere" : "to something else than a file");
                return EXIT_FAILED;
        }
        if (r < 0)
                return report_errno(r, "Failed to write '%s'", path);
        if (copied)
                (void) printf("'%s' was copied to '%s', which takes its place.\n", copied, path);
        return EXIT_OK;
}

static int set_in_dropin(const char *scope) {
        for (const char *const *dir = (const char *const[]){ "/etc/" CONFIG_DIR, SCOPE_DROPIN_DIR, NULL };
             *dir; dir++)
                if (mkdir(*dir, 0755) == 0)
                        (void) chmod(*dir, 0755); /* the daemon's user looks in, whatever root's umask is */
                else if (errno != EEXIST)
                        return report_errno(errno, "'%s' can't be made", *dir);
        return set_in(SCOPE_DROPIN, scope);
}

/* Which lines this one overrides. */
static void tell_overrides(const Config *config, size_t index) {
        for (size_t i = 0; i < config->override_count; i++)
                if (config->overrides[i].index == index)
                        (void) printf("It overrides %s.\n", config->overrides[i].old);
}

/* A later file may win over the one that was written, and a mistake elsewhere keeps the daemon from using
 * it. */
static int check_effect(const ConfigPaths *paths, const char *scope, const char *path) {
        CLEANUP(config_freep) Config *config = NULL;
        const char *section, *key, *source = NULL;
        CLEANUP(freep) char *value = NULL;
        Failure failure;
        size_t i;

        if (config_load(&config, paths) < 0)
                return EXIT_OK;
        for (i = 0; config_describe(config, i, &section, &key, &value, &source); i++) {
                if (streq(key, "IdScope"))
                        break;
                free(TAKE(value));
        }
        if (config->id_scope && streq(config->id_scope, scope)) {
                (void) printf("The ID scope is %s (%s).\n", scope, source ? source : path);
                tell_overrides(config, i);
                return config_failure(config, &failure) ? report_failure(&failure) : EXIT_OK;
        }
        if (!config->id_scope) {
                (void) fprintf(stderr, "dps-provision: '%s' was written, but the ID scope is not used.\n",
                               path);
                for (i = 0; i < config->problem_count; i++) {
                        CLEANUP(freep) char *text = config_problem_to_string(&config->problems[i]);

                        (void) fprintf(stderr, "%s\n", text ? text : "");
                }
                return EXIT_FAILED;
        }
        (void) fprintf(stderr,
                       "dps-provision: '%s' was written, but %s sets IdScope=%s and wins.\nRemove the line "
                       "there.\n",
                       path, source ? source : "another file", value ? value : "");
        return EXIT_FAILED;
}

static void tell_down(void) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        DaemonDown down;

        (void) sd_bus_open_system(&bus);
        down = client_why_down(bus);
        (void) printf("%s.\n%s.\n", down.sentence, down.remedy);
}

static void tell_daemon(const char *scope) {
        int r = client_wait_for_scope(scope);

        if (r > 0)
                (void) puts("The daemon has taken it; 'dps-provision status --watch' shows how it goes on.");
        else if (r == 0)
                (void) puts(
                        "The daemon has not taken it yet; 'systemctl reload dps-provisiond' makes it look.");
        else
                tell_down();
}

int verb_set_scope(int argc, char *argv[]) {
        ConfigPaths paths = {};
        const VerbOption options[] = { { "config", .value = &paths.file, .needs = "a file" }, {} };
        const char *scope;
        int r;

        r = parse_options(argc, argv, options, 1, print_help);
        if (r != GO_ON)
                return r;
        if (argc - optind != 1)
                return usage_error(argv[0], "exactly one ID scope is needed");
        scope = argv[optind];
        if (!chars_valid(scope, CONFIG_SCOPE_CHARS, 1, CONFIG_SCOPE_MAX))
                return usage_error(
                        argv[0],
                        "'%s' is not an ID scope: 1 to %d letters, digits and dashes, as on the overview "
                        "page of the DPS instance",
                        scope, CONFIG_SCOPE_MAX);
        r = paths.file ? set_in(paths.file, scope) : set_in_dropin(scope);
        if (r == EXIT_OK)
                r = check_effect(&paths, scope, paths.file ? paths.file : SCOPE_DROPIN);
        if (r == EXIT_OK)
                tell_daemon(scope);
        return r;
}
