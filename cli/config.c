#include <stdlib.h>

#include "cli.h"

static void print_help(void) {
        (void) puts("Usage: dps-provision config [--config=FILE]\n\n"
                    "Prints the configuration that is in force, with the file and line that each value "
                    "comes from and the\n"
                    "lines that it overrides. Defaults are shown as comments, passwords never.\n\n"
                    "  --config=FILE   read this configuration and no other\n\n"
                    "Exit status: 0 good, 1 it has mistakes, which are listed.");
}

/* The whole is a configuration file again. */
static void print_key(const Config *config, size_t index, const char *key, const char *value,
                      const char *source) {
        if (source)
                (void) printf("# %s\n", source);
        for (size_t i = 0; i < config->override_count; i++)
                if (config->overrides[i].index == index)
                        (void) printf("# overrides %s\n", config->overrides[i].old);
        config_print_key(stdout, source ? "" : "#", key, value ? value : "");
}

static void print_config(const Config *config) {
        const char *section, *key, *source, *last = "";
        char *value;

        for (size_t i = 0; config_describe(config, i, &section, &key, &value, &source); i++) {
                if (!streq(section, last))
                        (void) printf("%s[%s]\n", last[0] ? "\n" : "", section);
                last = section;
                print_key(config, i, key, value, source);
                free(value);
        }
}

int verb_config(int argc, char *argv[]) {
        ConfigPaths paths = { .credentials_dir = getenv("CREDENTIALS_DIRECTORY") };
        const VerbOption options[] = { { "config", .value = &paths.file, .needs = "a file" }, {} };
        CLEANUP(config_freep) Config *config = NULL;
        Failure failure;
        int r;

        r = parse_options(argc, argv, options, 0, print_help);
        if (r != GO_ON)
                return r;
        r = config_load(&config, &paths);
        if (r < 0)
                return report_errno(r, "The configuration can't be read");
        print_config(config);
        (void) fflush(stdout);
        for (size_t i = 0; i < config->problem_count; i++) {
                CLEANUP(freep) char *text = config_problem_to_string(&config->problems[i]);

                (void) fprintf(stderr, "%s\n", text ? text : "");
        }
        return config_failure(config, &failure) ? EXIT_FAILED : EXIT_OK;
}
