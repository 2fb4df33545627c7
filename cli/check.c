#include "check.h"

#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "project.h"

static const struct {
        const char *name, *title;
        const Probe *probes;
} groups[] = {
        { "daemon", "Daemon", check_daemon_probes },
        { "config", "Configuration", check_config_probes },
        { "tpm", "TPM", check_tpm_probes },
        { "network", "Network and service", check_network_probes },
        { "iotedge", "IoT Edge", check_edge_probes },
};

static const char *const result_names[_CHECK_RESULT_MAX] = {
        [CHECK_OK] = "ok", [CHECK_SKIP] = "skip", [CHECK_WARN] = "warn", [CHECK_FAIL] = "fail"
};

static void print_help(void) {
        (void) puts(
                "Usage: dps-provision check [OPTION…]\n\n"
                "Looks for everything that keeps this device from being provisioned, and says what to do. "
                "Changes\n"
                "nothing; runs without the daemon, and as any user, who is told what only root can see.\n\n"
                "  --json          for programs\n"
                "  --no-network    look at this machine only\n"
                "  --dps           ask the service for the enrolment also when this device is provisioned; "
                "nothing\n"
                "                  is registered by it, but the service may count it\n"
                "  --config=FILE   read this configuration and no other\n"
                "  --root=DIR      look for IoT Edge's files, and /sys, below this directory\n\n"
                "Exit status: 0 nothing failed (there may be warnings), 1 something failed.");
}

/* --- lines --- */

PRINTF_LIKE(5, 0)
static void add_line(Check *c, CheckResult result, FailureKind kind, const char *remedy, const char *format,
                     va_list ap) {
        CheckLine *longer = reallocarray(c->lines, c->line_count + 1, sizeof(*longer)), *line;

        if (!longer)
                return;
        c->lines = longer;
        line = &longer[c->line_count];
        *line = (CheckLine){ .id = c->probe->id, .title = c->probe->title, .result = result, .kind = kind };
        if (vasprintf(&line->text, format, ap) < 0)
                line->text = NULL;
        else
                make_showable(line->text);
        if (result != CHECK_OK)
                line->remedy = strdup(remedy ? remedy : failure_remedy(kind));
        c->line_count++;
}

void check_ok(Check *c, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        add_line(c, CHECK_OK, FAILURE_NONE, NULL, format, ap);
        va_end(ap);
}

void check_skip(Check *c, const char *remedy, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        add_line(c, CHECK_SKIP, FAILURE_NONE, remedy, format, ap);
        va_end(ap);
}

void check_bad(Check *c, CheckResult result, FailureKind kind, const char *remedy, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        add_line(c, result, kind, remedy, format, ap);
        va_end(ap);
}

void check_failure(Check *c, const Failure *failure) {
        check_bad(c, CHECK_FAIL, failure->kind, failure_advice(failure), "%s", failure->sentence);
}

/* --- the run --- */

static void run_probes(Check *c, const Probe *probes) {
        sighandler_t before =
                signal(SIGPIPE, SIG_IGN); /* a TPM behind a socket may go while it is spoken to */

        for (c->probe = probes; c->probe->id; c->probe++)
                if (c->probe->network && c->no_network)
                        check_skip(c, "Run it without --no-network", "Not looked at");
                else
                        c->probe->run(c);
        (void) signal(SIGPIPE, before); /* but nobody who reads on is an end */
}

static void print_line(const CheckLine *line) {
        static const char *const colours[_CHECK_RESULT_MAX] = { [CHECK_OK] = "\033[32m",
                                                                [CHECK_SKIP] = "\033[2m",
                                                                [CHECK_WARN] = "\033[33m",
                                                                [CHECK_FAIL] = "\033[1;31m" };

        (void) printf("  %s%-4s%s  %s: %s\n", colour(colours[line->result]), result_names[line->result],
                      colour("\033[0m"), line->title, line->text ? line->text : "");
        if (line->remedy)
                (void) printf("        > %s\n", line->remedy);
}

static size_t count(const Check *c, CheckResult result) {
        size_t n = 0;

        for (size_t i = 0; i < c->line_count; i++)
                n += c->lines[i].result == result;
        return n;
}

static void print_text(Check *c) {
        size_t fails, warns;

        for (size_t i = 0, printed = 0; i < ARRAY_SIZE(groups); i++) {
                run_probes(c, groups[i].probes);
                (void) printf("%s%s%s\n", colour("\033[1m"), groups[i].title, colour("\033[0m"));
                for (; printed < c->line_count; printed++)
                        print_line(&c->lines[printed]);
                (void) fflush(stdout);
        }
        fails = count(c, CHECK_FAIL);
        warns = count(c, CHECK_WARN);
        (void) printf("%zu failed, %zu %s, %zu not looked at\n", fails, warns,
                      warns == 1 ? "warning" : "warnings", count(c, CHECK_SKIP));
}

static void add_text(json_object *o, const char *key, const char *value) {
        (void) json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}

static void print_json(Check *c) {
        json_object *root = json_object_new_object(), *list = json_object_new_array();

        for (size_t i = 0, n = 0; i < ARRAY_SIZE(groups); i++)
                for (run_probes(c, groups[i].probes); n < c->line_count; n++) {
                        const CheckLine *line = &c->lines[n];
                        json_object *o = json_object_new_object();

                        add_text(o, "id", line->id);
                        add_text(o, "group", groups[i].name);
                        add_text(o, "result", result_names[line->result]);
                        add_text(o, "message", line->text);
                        add_text(o, "kind",
                                 line->kind != FAILURE_NONE ? failure_kind_to_string(line->kind) : NULL);
                        add_text(o, "remedy", line->remedy);
                        (void) json_object_array_add(list, o);
                }
        add_text(root, "version", PROJECT_VERSION);
        add_text(root, "result",
                 result_names[count(c, CHECK_FAIL) > 0   ? CHECK_FAIL
                              : count(c, CHECK_WARN) > 0 ? CHECK_WARN
                                                         : CHECK_OK]);
        (void) json_object_object_add(root, "checks", list);
        (void) puts(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
                                                                 JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(root);
}

static void check_deinit(Check *c) {
        for (size_t i = 0; i < c->line_count; i++) {
                free(c->lines[i].text);
                free(c->lines[i].remedy);
        }
        free(c->lines);
        c->tpm = tpm_close(c->tpm);
        c->edge = check_edge_free(c->edge);
        c->config = config_free(c->config);
        status_deinit(&c->status);
        bytes_deinit(&c->ek);
        bytes_deinit(&c->srk);
        free(c->registration_id);
        free(c->host);
        secret_freep(&c->proxy);
        (void) sd_bus_flush_close_unref(c->bus);
        (void) sd_event_unref(c->event);
}

static int parse(Check *ret, bool *ret_json, int argc, char *argv[]) {
        const VerbOption options[] = {
                { "json", .flag = ret_json },    { "no-network", .flag = &ret->no_network },
                { "dps", .flag = &ret->dps },    { "config", .value = &ret->paths.file, .needs = "a file" },
                { "root", .value = &ret->root }, {}
        };
        int r = parse_options(argc, argv, options, 0, print_help);

        return r == GO_ON && ret->dps && ret->no_network ? usage_error(argv[0], "--dps needs the network")
                                                         : r;
}

int verb_check(int argc, char *argv[]) {
        CLEANUP(check_deinit)
        Check c = { .root = "", .paths.credentials_dir = getenv("CREDENTIALS_DIRECTORY") };
        bool json = false;
        int r;

        r = parse(&c, &json, argc, argv);
        if (r != GO_ON)
                return r;
        if (c.root[0] && access(c.root, X_OK) < 0)
                return report_errno(errno, "'%s', which --root= names, can't be looked into", c.root);
        r = config_load(&c.config, &c.paths);
        if (r >= 0)
                r = sd_event_new(&c.event);
        if (r >= 0)
                r = check_edge_new(&c.edge);
        if (r < 0)
                return report_errno(r, "The configuration can't be read");
        if (json)
                print_json(&c);
        else
                print_text(&c);
        return count(&c, CHECK_FAIL) > 0 ? EXIT_FAILED : EXIT_OK;
}
