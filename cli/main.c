#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

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

/* A descriptor that is opened later, that of the TPM for instance, must not take the place of a closed one
 * of these, and so what is printed. */
static void occupy_standard_files(void) {
        int fd;

        do
                fd = open("/dev/null", O_RDONLY); /* what is written to it fails */
        while (fd >= 0 && fd <= STDERR_FILENO);
        closep(&fd);
}

static int run(int argc, char *argv[]) {
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

int main(int argc, char *argv[]) {
        int status;

        occupy_standard_files();
        log_init("dps-provision", LOG_TARGET_STDERR, LOG_WARNING);
        (void) setenv("TSS2_LOG", "all+none", 0); /* what the TPM says is in our own words */
        status = run(argc, argv);
        errno = 0;
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        if (errno > 0)
                return report_errno(errno, "Not all could be printed");
        (void) fputs("dps-provision: Not all could be printed.\n", stderr);
        return EXIT_FAILED;
}
