#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "cli.h"
#include "scope-files.h"
#include "store.h"

#define DAEMON_USEC (5 * USEC_PER_SEC)

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

/* Which lines this one overrides. */
static void tell_overrides(const Config *config, size_t index) {
        for (size_t i = 0; i < config->override_count; i++)
                if (config->overrides[i].index == index)
                        (void) printf("It overrides %s.\n", config->overrides[i].old);
}

/* A later file may win over the one that was written. */
static int check_effect(const ConfigPaths *paths, const char *scope, const char *path) {
        CLEANUP(config_freep) Config *config = NULL;
        const char *section, *key, *source = NULL;
        CLEANUP(freep) char *value = NULL;
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
                return EXIT_OK;
        }
        (void) fprintf(stderr,
                       "dps-provision: '%s' was written, but %s sets IdScope=%s and wins.\nRemove the line "
                       "there.\n",
                       path, source ? source : "another file", value ? value : "");
        return EXIT_FAILED;
}

static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        *(bool *) userdata = true;
        return 0;
}

/* 1: the daemon has the scope, 0: another one, -errno: nobody is there. */
static int daemon_has_scope(sd_bus *bus, const char *scope) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(status_deinit) Status status = {};
        int r;

        r = client_read_status(bus, &status, &error);
        return r < 0 ? r : status.id_scope && streq(status.id_scope, scope);
}

/* It notices the file by itself; whether it has is worth a look. 1: it has, 0: not in time, -errno: nobody
 * is there. */
static int wait_for_daemon(const char *scope) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        usec_t deadline = now_usec(CLOCK_MONOTONIC) + DAEMON_USEC;
        bool changed = true;
        int r;

        r = sd_bus_open_system(&bus);
        if (r >= 0)
                r = client_watch(bus, on_changed, &changed);
        while (r >= 0 && now_usec(CLOCK_MONOTONIC) < deadline) {
                r = sd_bus_process(bus, NULL);
                if (r != 0)
                        continue;
                if (!changed) {
                        r = sd_bus_wait(bus, USEC_PER_SEC / 4);
                        continue;
                }
                changed = false;
                r = daemon_has_scope(bus, scope);
                if (r > 0)
                        return 1;
        }
        return r < 0 ? r : 0;
}

static void tell_daemon(const char *scope) {
        int r = wait_for_daemon(scope);

        if (r > 0)
                (void) puts("The daemon has taken it; 'dps-provision status --watch' shows how it goes on.");
        else if (r == 0)
                (void) puts(
                        "The daemon has not taken it yet; 'systemctl reload dps-provisiond' makes it look.");
        else
                (void) puts("The daemon does not run; 'systemctl enable --now dps-provisiond' starts it.");
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
        if (r == EXIT_OK)
                r = check_effect(&paths, scope, paths.file ? paths.file : SCOPE_DROPIN);
        if (r == EXIT_OK)
                tell_daemon(scope);
        return r;
}
