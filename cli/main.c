#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "cli.h"
#include "log.h"
#include "project.h"

static const struct {
        const char *name;
        int (*run)(int argc, char *argv[]);
        const char *help;
} verbs[] = {
        { "enrollment", verb_enrollment, "print what an individual enrolment needs" },
        { "status", verb_status, "say how far the provisioning is" },
        { "check", verb_check, "look for what keeps this device from being provisioned" },
        { "reprovision", verb_reprovision, "attest again" },
        { "retry", verb_retry, "try now instead of waiting" },
        { "set-scope", verb_set_scope, "set the ID scope" },
        { "config", verb_config, "print the configuration and where it comes from" },
        { "factory-reset", verb_factory_reset, "forget that this device was provisioned" },
};

static void print_help(void) {
        (void) puts("Usage: dps-provision VERB [OPTION…]\n");
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                (void) printf("  %-14s %s\n", verbs[i].name, verbs[i].help);
        (void) puts(
                "\n'dps-provision VERB --help' says more. Exit status: 0 done, 1 failed, 2 wrong usage,\n"
                "3 not provisioned yet (status).");
}

int usage_error(const char *verb, const char *format, ...) {
        va_list ap;

        (void) fputs("dps-provision: ", stderr);
        va_start(ap, format);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        (void) fprintf(stderr, "\nTry 'dps-provision%s%s --help'.\n", verb ? " " : "", verb ? verb : "");
        return EXIT_USAGE;
}

int report_failure(const Failure *failure) {
        (void) fprintf(stderr, "dps-provision: %s%s%s%s.\n%s\n", failure->sentence,
                       failure->code[0] ? " [" : "", failure->code, failure->code[0] ? "]" : "",
                       failure_remedy(failure->kind));
        return EXIT_FAILED;
}

int report_errno(int error, const char *format, ...) {
        va_list ap;

        (void) fputs("dps-provision: ", stderr);
        va_start(ap, format);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        (void) fprintf(stderr, ": %s\n", strerror(error < 0 ? -error : error));
        return EXIT_FAILED;
}

int main(int argc, char *argv[]) {
        log_init("dps-provision", LOG_TARGET_STDERR, LOG_WARNING);
        (void) setenv("TSS2_LOG", "all+none", 0); /* what the TPM says is in our own words */
        if (argc < 2)
                return usage_error(NULL, "a verb is missing");
        if (streq(argv[1], "--help") || streq(argv[1], "-h") || streq(argv[1], "help")) {
                print_help();
                return EXIT_OK;
        }
        if (streq(argv[1], "--version")) {
                (void) puts("dps-provision " PROJECT_VERSION);
                return EXIT_OK;
        }
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                if (streq(argv[1], verbs[i].name))
                        return verbs[i].run(argc - 1, argv + 1);
        return usage_error(NULL, "'%s' is not a verb", argv[1]);
}
