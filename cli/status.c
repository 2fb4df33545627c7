#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

#include <json-c/json.h>
#include <systemd/sd-event.h>

#include "cli.h"

typedef struct Options {
        bool json, watch;
} Options;

static void print_help(void) {
        (void) puts("Usage: dps-provision status [--json] [--watch]\n\n"
                    "Says how far the provisioning is, what went wrong last and what to do about it.\n\n"
                    "  --json    all the daemon's properties as one JSON object a line\n"
                    "  --watch   go on and show each change\n\n"
                    "Exit status: 0 handed-off, 3 not yet, 1 failed.");
}

static const char *colour(const char *code) {
        const char *no_color = getenv("NO_COLOR");

        return isatty(STDOUT_FILENO) && !(no_color && no_color[0]) ? code : "";
}

static void format_time(char *buffer, size_t size, uint64_t usec) {
        time_t t = (time_t) (usec / USEC_PER_SEC);
        struct tm tm;

        buffer[0] = '\0';
        if (localtime_r(&t, &tm))
                (void) strftime(buffer, size, "%a %Y-%m-%d %H:%M:%S %Z", &tm);
}

static void print_row(const char *label, const char *value) {
        if (value && value[0])
                (void) printf("  %-16s %s\n", label, value);
}

static void print_next_attempt(const Status *s) {
        uint64_t now = now_usec(CLOCK_REALTIME);
        char when[64], text[128];

        if (s->next_attempt_usec == 0)
                return;
        format_time(when, sizeof(when), s->next_attempt_usec);
        (void) snprintf(text, sizeof(text), "in %llu s (%s), attempt %u",
                        (unsigned long long) (s->next_attempt_usec > now
                                                      ? (s->next_attempt_usec - now) / USEC_PER_SEC
                                                      : 0),
                        when, s->attempts + 1);
        print_row("Next attempt:", text);
}

static void print_text(const Status *s) {
        bool good = streq(s->state, "handed-off"), bad = s->failure.kind != FAILURE_NONE;
        char when[64];

        (void) printf("%s%s%s (%s)\n",
                      colour(bad    ? "\033[1;31m"
                             : good ? "\033[1;32m"
                                    : "\033[1;33m"),
                      s->state, colour("\033[0m"), s->step);
        print_row("ID scope:",
                  s->id_scope && s->id_scope[0] ? s->id_scope : "not set: dps-provision set-scope ID");
        print_row("Endpoint:", s->endpoint);
        print_row("Registration ID:", s->registration_id);
        print_row("Hub:", s->hub);
        print_row("Device ID:", s->device_id);
        print_row("Substatus:", s->substatus);
        if (s->last_success_usec > 0) {
                format_time(when, sizeof(when), s->last_success_usec);
                print_row("Provisioned:", when);
        }
        print_next_attempt(s);
        if (bad) {
                (void) printf("  %s%-16s%s %s%s%s%s\n", colour("\033[31m"), "Last error:", colour("\033[0m"),
                              s->failure.sentence, s->failure.code[0] ? " [" : "", s->failure.code,
                              s->failure.code[0] ? "]" : "");
                print_row("What to do:", s->remedy);
        }
        for (size_t i = 0; i < s->warning_count; i++) {
                (void) printf("  %s%-16s%s %s\n", colour("\033[33m"), "Warning:", colour("\033[0m"),
                              s->warnings[i].sentence);
                print_row("What to do:", s->warnings[i].remedy);
        }
}

static void add_text(json_object *o, const char *key, const char *value) {
        (void) json_object_object_add(o, key, json_object_new_string(value ? value : ""));
}

static json_object *json_failure(const char *kind, const char *code, const char *sentence,
                                 const char *remedy) {
        json_object *o = json_object_new_object();

        add_text(o, "kind", kind);
        if (code)
                add_text(o, "code", code);
        add_text(o, "sentence", sentence);
        add_text(o, "remedy", remedy);
        return o;
}

static void print_json(const Status *s) {
        json_object *o = json_object_new_object(), *warnings = json_object_new_array();

        add_text(o, "state", s->state);
        add_text(o, "step", s->step);
        add_text(o, "idScope", s->id_scope);
        add_text(o, "globalEndpoint", s->endpoint);
        add_text(o, "registrationId", s->registration_id);
        add_text(o, "endorsementKey", s->endorsement_key);
        add_text(o, "assignedHub", s->hub);
        add_text(o, "deviceId", s->device_id);
        add_text(o, "substatus", s->substatus);
        (void) json_object_object_add(o, "attempts", json_object_new_int64(s->attempts));
        (void) json_object_object_add(o, "nextAttemptUSec", json_object_new_uint64(s->next_attempt_usec));
        (void) json_object_object_add(o, "lastError",
                                      s->failure.kind == FAILURE_NONE
                                              ? NULL
                                              : json_failure(failure_kind_to_string(s->failure.kind),
                                                             s->failure.code, s->failure.sentence,
                                                             s->remedy));
        for (size_t i = 0; i < s->warning_count; i++)
                (void) json_object_array_add(warnings,
                                             json_failure(s->warnings[i].kind, NULL, s->warnings[i].sentence,
                                                          s->warnings[i].remedy));
        (void) json_object_object_add(o, "warnings", warnings);
        (void) json_object_object_add(o, "lastSuccessUSec", json_object_new_uint64(s->last_success_usec));
        add_text(o, "version", s->version);
        (void) puts(
                json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        json_object_put(o);
}

static int show(sd_bus *bus, const Options *o, Status *status) {
        int r;

        r = client_get_status(bus, status);
        if (r < 0)
                return r;
        if (o->json)
                print_json(status);
        else {
                if (o->watch && isatty(STDOUT_FILENO))
                        (void) fputs("\033[H\033[2J", stdout);
                print_text(status);
        }
        (void) fflush(stdout);
        return 0;
}

/* Signals only note that something changed; it is read when the queue is empty, so that a burst is one
 * redraw. */
static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        *(bool *) userdata = true;
        return 0;
}

static int watch(sd_bus *bus, const Options *o) {
        bool changed = true;
        int r;

        r = client_watch(bus, on_changed, &changed);
        while (r >= 0) {
                r = sd_bus_process(bus, NULL);
                if (r != 0)
                        continue;
                if (changed) {
                        CLEANUP(status_deinit) Status status = {};

                        changed = false;
                        r = show(bus, o, &status);
                        if (r == -EHOSTDOWN)
                                r = 0; /* it may come back */
                        continue;
                }
                r = sd_bus_wait(bus, UINT64_MAX);
        }
        return report_errno(r, "The watch has ended");
}

int verb_status(int argc, char *argv[]) {
        static const struct option options[] = {
                { "json", no_argument, NULL, 'j' },
                { "watch", no_argument, NULL, 'w' },
                { "help", no_argument, NULL, 'h' },
                {},
        };
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        CLEANUP(status_deinit) Status status = {};
        Options o = {};
        int c;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case 'j':
                        o.json = true;
                        break;
                case 'w':
                        o.watch = true;
                        break;
                case 'h':
                        print_help();
                        return EXIT_OK;
                default:
                        return usage_error(argv[0], "this option is not known");
                }
        if (optind < argc)
                return usage_error(argv[0], "'%s' is not an option", argv[optind]);
        if (client_open(&bus) < 0)
                return EXIT_FAILED;
        if (o.watch)
                return watch(bus, &o);
        if (show(bus, &o, &status) < 0)
                return EXIT_FAILED;
        return streq(status.state, "handed-off") ? EXIT_OK : EXIT_NOT_PROVISIONED;
}
