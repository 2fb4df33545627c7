#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"

typedef struct Options {
        bool wait, yes;
        usec_t timeout_usec; /* USEC_INFINITY: none */
} Options;

static void print_help(void) {
        (void) puts("Usage: dps-provision reprovision [--wait] [--timeout=SEC] [--yes]\n\n"
                    "Makes the device attest again. The service may move it to another hub, or reset its "
                    "data there.\n"
                    "Until the new assignment is proven, IoT Edge keeps the old one.\n\n"
                    "  --wait          show the states as they pass, until handed-off (exit status 0) or "
                    "until a failure\n"
                    "                  that somebody has to mend (exit status 1)\n"
                    "  --timeout=SEC   with --wait: give up after so long (exit status 1); it goes on by "
                    "itself\n"
                    "  --yes           do not ask");
}

static int parse(Options *ret, int argc, char *argv[]) {
        const char *timeout = NULL;
        const VerbOption options[] = { { "wait", .flag = &ret->wait },
                                       { "timeout", .value = &timeout, .needs = "a number of seconds" },
                                       { "yes", .flag = &ret->yes },
                                       {} };
        uint64_t seconds;
        int r;

        r = parse_options(argc, argv, options, 0, print_help);
        if (r != GO_ON || !timeout)
                return r;
        if (!ret->wait)
                return usage_error(argv[0], "--timeout= is for --wait");
        if (parse_uint(timeout, 604800, &seconds) < 0 || seconds < 1)
                return usage_error(argv[0], "--timeout=%s is not 1 to 604800 seconds", timeout);
        ret->timeout_usec = seconds * USEC_PER_SEC;
        return GO_ON;
}

/* A working gateway is at stake, and somebody sits there who can be asked. */
static bool may_go_on(const Status *status) {
        if (!streq(status->state, "handed-off") || !isatty(STDIN_FILENO))
                return true;
        (void) fprintf(stderr,
                       "This device works as '%s' on '%s'. The service may move it or reset its data.\n",
                       status->device_id, status->hub);
        return confirmed("Attest again?");
}

static bool for_the_operator(const Status *s) {
        return s->failure.kind != FAILURE_NONE && failure_class(s->failure.kind) == FAILURE_CLASS_OPERATOR;
}

/* One line for each new state, step or failure. Returns an exit status, or -1 to go on. */
static int show_progress(const Status *s, char *last, size_t size) {
        char line[700];

        if (s->failure.kind != FAILURE_NONE)
                (void) snprintf(line, sizeof(line), "%s (%s): %s", s->state, s->step, s->failure.sentence);
        else if (streq(s->state, "handed-off"))
                (void) snprintf(line, sizeof(line), "handed-off: '%s' on '%s'", s->device_id, s->hub);
        else
                (void) snprintf(line, sizeof(line), "%s (%s)", s->state, s->step);
        if (!streq(line, last)) {
                (void) puts(line);
                (void) fflush(stdout);
                (void) snprintf(last, size, "%s", line);
        }
        if (streq(s->state, "handed-off") && streq(s->step, "idle"))
                return EXIT_OK;
        if (for_the_operator(s)) {
                (void) printf("%s\n", failure_advice(&s->failure));
                return EXIT_FAILED;
        }
        return -1;
}

static int wait_for_end(sd_bus *bus, bool *changed, usec_t deadline_usec) {
        char last[700] = "";
        int r;

        while ((r = client_wait_for_change(bus, changed, deadline_usec)) > 0) {
                CLEANUP(status_deinit) Status status = {};

                if (client_get_status(bus, &status) < 0)
                        return EXIT_FAILED;
                r = show_progress(&status, last, sizeof(last));
                if (r >= 0)
                        return r;
        }
        if (r < 0)
                return report_errno(r, "The connection to the bus is gone");
        (void) fputs("dps-provision: Not handed off within the time given; the daemon goes on.\n", stderr);
        return EXIT_FAILED;
}

int verb_reprovision(int argc, char *argv[]) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        CLEANUP(status_deinit) Status status = {};
        Options o = { .timeout_usec = USEC_INFINITY };
        bool changed = true;
        int r;

        r = parse(&o, argc, argv);
        if (r != GO_ON)
                return r;
        if (client_open(&bus) < 0 || client_get_status(bus, &status) < 0)
                return EXIT_FAILED;
        if (!o.yes && !may_go_on(&status))
                return EXIT_FAILED;
        /* before the call, so that no change is missed */
        if (o.wait && client_watch(bus, &changed) < 0)
                return EXIT_FAILED;
        client_allow_disruption(bus);
        r = client_call(bus, "Reprovision");
        if (r != EXIT_OK)
                return r;
        if (!o.wait) {
                (void) puts(
                        "This device attests again; 'dps-provision status --watch' shows how it goes on.");
                return EXIT_OK;
        }
        return wait_for_end(bus, &changed,
                            o.timeout_usec == USEC_INFINITY ? USEC_INFINITY
                                                            : now_usec(CLOCK_MONOTONIC) + o.timeout_usec);
}

static void print_retry_help(void) {
        (void) puts("Usage: dps-provision retry\n\n"
                    "Ends the wait for the next attempt. A wait that the service has asked for is kept.");
}

int verb_retry(int argc, char *argv[]) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        int r;

        r = parse_options(argc, argv, (const VerbOption[]){ {} }, 0, print_retry_help);
        if (r != GO_ON)
                return r;
        if (client_open(&bus) < 0)
                return EXIT_FAILED;
        client_allow_disruption(bus);
        r = client_call(bus, "Retry");
        if (r == EXIT_OK)
                (void) puts("It tries again now; 'dps-provision status --watch' shows how it goes on.");
        return r;
}
