#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "options.h"

#define ARGUMENTS_MAX 8

static const DaemonInfo all = { .name = "all",
                                .description = "Has every option.",
                                .has_state_dir = true,
                                .has_root = true,
                                .has_command_timeout = true,
                                .has_confirm_timeout = true };
static const DaemonInfo none = { .name = "none", .description = "Has those that all programs have." };

static char said[4096]; /* on standard output and error */
static int dumpable;    /* after the call; set to 1 again, which a leak checker may need */

/* Redirects the output: standard output carries the results of the tests. */
static int parse(DaemonOptions *ret, const DaemonInfo *info, const char *const *arguments) {
        char *argv[ARGUMENTS_MAX + 2] = { (char *) info->name };
        CLEANUP(closep) int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
        CLEANUP(closep) int fd = memfd_create("said", MFD_CLOEXEC);
        int argc = 1, r;
        ssize_t n;

        while (arguments[argc - 1]) {
                argv[argc] = (char *) arguments[argc - 1];
                argc++;
        }
        optind = 0; /* glibc: start again */
        (void) fflush(stdout);
        assert_true(dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0);
        r = daemon_options_parse(ret, info, argc, argv);
        dumpable = prctl(PR_GET_DUMPABLE);
        (void) prctl(PR_SET_DUMPABLE, 1L);
        (void) fflush(stdout);
        (void) dup2(out, STDOUT_FILENO);
        (void) dup2(err, STDERR_FILENO);
        n = pread(fd, said, sizeof(said) - 1, 0);
        assert_true(n >= 0);
        said[n] = '\0';
        return r;
}

#define ARGUMENTS(...)                                                                                      \
        (const char *const[]) {                                                                             \
                __VA_ARGS__, NULL                                                                           \
        }

static void defaults_come_from_the_environment(void **state) {
        DaemonOptions o;

        assert_int_equal(setenv("STATE_DIRECTORY", "/state", 1), 0);
        assert_int_equal(setenv("CREDENTIALS_DIRECTORY", "/credentials", 1), 0);
        assert_int_equal(parse(&o, &all, ARGUMENTS(NULL)), 1);
        assert_null(o.config.file);
        assert_string_equal(o.config.credentials_dir, "/credentials");
        assert_string_equal(o.state_dir, "/state");
        assert_string_equal(o.root, "");
        assert_int_equal(o.command_timeout_usec, 360 * USEC_PER_SEC);
        assert_int_equal(o.confirm_timeout_usec, 300 * USEC_PER_SEC);
        assert_int_equal(dumpable, 0); /* no secrets in core dumps */
}

static void options_are_taken(void **state) {
        DaemonOptions o;

        assert_int_equal(
                parse(&o, &all,
                      ARGUMENTS("--config=/c", "--state-dir=/s", "--root=/r", "--command-timeout=1",
                                "--confirm-timeout=86400", "--log-target=journal", "--log-level=debug")),
                1);
        assert_string_equal(o.config.file, "/c");
        assert_string_equal(o.state_dir, "/s");
        assert_string_equal(o.root, "/r");
        assert_int_equal(o.command_timeout_usec, USEC_PER_SEC);
        assert_int_equal(o.confirm_timeout_usec, 86400 * USEC_PER_SEC);
}

static void bad_ones_are_usage_errors(void **state) {
        static const struct {
                const DaemonInfo *info;
                const char *argument;
        } cases[] = {
                { &none, "--state-dir=/s" },
                { &none, "--root=/r" },
                { &none, "--command-timeout=1" },
                { &none, "--confirm-timeout=1" },
                { &all, "--command-timeout=0" },
                { &all, "--confirm-timeout=86401" },
                { &all, "--log-target=syslog" },
                { &all, "--log-level=loud" },
                { &all, "--log-level=8" },
                { &all, "--unknown" },
                { &all, "--config" },
                { &all, "argument" },
        };
        DaemonOptions o = { .root = "untouched" };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_int_equal(parse(&o, cases[i].info, ARGUMENTS(cases[i].argument)), -EINVAL);
        assert_string_equal(o.root, "untouched");
}

static void help_names_what_the_program_has(void **state) {
        DaemonOptions o;

        assert_int_equal(parse(&o, &all, ARGUMENTS("--help")), 0);
        assert_non_null(strstr(said, "--state-dir="));
        assert_non_null(strstr(said, "--root="));
        assert_non_null(strstr(said, "--command-timeout="));
        assert_non_null(strstr(said, "--confirm-timeout="));
        assert_int_equal(parse(&o, &none, ARGUMENTS("-h")), 0);
        assert_non_null(strstr(said, "--log-target="));
        assert_null(strstr(said, "--state-dir="));
        assert_null(strstr(said, "--root="));
        assert_null(strstr(said, "timeout="));
        assert_int_equal(parse(&o, &all, ARGUMENTS("--version")), 0);
        assert_memory_equal(said, "all ", 4);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(defaults_come_from_the_environment),
                cmocka_unit_test(options_are_taken),
                cmocka_unit_test(bad_ones_are_usage_errors),
                cmocka_unit_test(help_names_what_the_program_has),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
