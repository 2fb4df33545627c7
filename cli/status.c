#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"

#define LINE_SIZE 1024

typedef struct Options {
        bool json, watch;
} Options;

static void print_help(void) {
        (void) puts("Usage: dps-provision status [--json] [--watch]\n\n"
                    "Says how far the provisioning is, what went wrong last and what to do about it.\n\n"
                    "  --json    all the daemon's properties as one JSON object a line\n"
                    "  --watch   go on and show each change, in place on a terminal, else one line each\n\n"
                    "Exit status: 0 handed-off, 3 not yet, 1 failed.");
}

static bool on_terminal(void) {
        return isatty(STDOUT_FILENO);
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

/* "42 s", "3 min 20 s", "5 h 12 min", "9 days" */
static void format_span(char *buffer, size_t size, uint64_t usec) {
        unsigned long long s = usec / USEC_PER_SEC;

        if (s < 60)
                (void) snprintf(buffer, size, "%llu s", s);
        else if (s < 3600)
                (void) snprintf(buffer, size, "%llu min %llu s", s / 60, s % 60);
        else if (s < 2 * 24 * 3600)
                (void) snprintf(buffer, size, "%llu h %llu min", s / 3600, s / 60 % 60);
        else
                (void) snprintf(buffer, size, "%llu days", s / (24 * 3600));
}

static void format_since(char *buffer, size_t size, const Status *s) {
        uint64_t now = now_usec(CLOCK_REALTIME);
        char when[64], span[32];

        buffer[0] = '\0';
        if (s->state_changed_usec == 0)
                return;
        format_time(when, sizeof(when), s->state_changed_usec);
        format_span(span, sizeof(span), now > s->state_changed_usec ? now - s->state_changed_usec : 0);
        (void) snprintf(buffer, size, "%s; %s ago", when, span);
}

static void format_wait(char *buffer, size_t size, const Status *s) {
        uint64_t now = now_usec(CLOCK_REALTIME);

        format_span(buffer, size,
                    s->next_attempt_usec > now ? s->next_attempt_usec - now + USEC_PER_SEC / 2 : 0);
}

static void print_next_attempt(const Status *s) {
        char when[64], span[32], text[128];

        if (s->next_attempt_usec == 0)
                return;
        format_time(when, sizeof(when), s->next_attempt_usec);
        format_wait(span, sizeof(span), s);
        (void) snprintf(text, sizeof(text), "in %s (%s), attempt %u", span, when, s->attempts + 1);
        print_row("Next attempt:", text);
}

static void print_text(const Status *s) {
        bool good = streq(s->state, "handed-off"), bad = s->failure.kind != FAILURE_NONE;
        char when[128];

        (void) printf("%s%s%s (%s)\n",
                      colour(bad    ? "\033[1;31m"
                             : good ? "\033[1;32m"
                                    : "\033[1;33m"),
                      s->state, colour("\033[0m"), s->step);
        format_since(when, sizeof(when), s);
        print_row("Since:", when);
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
                print_row("What to do:", failure_advice(&s->failure));
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
        (void) json_object_object_add(o, "stateChangedUSec", json_object_new_uint64(s->state_changed_usec));
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
                                                             failure_advice(&s->failure)));
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

/* For a log: one line for each state, step or failure; other properties change as well. */
static void print_line(const Status *s, char *last, size_t size) {
        char when[64], span[32], line[LINE_SIZE];

        if (s->failure.kind != FAILURE_NONE)
                (void) snprintf(line, sizeof(line), "%s (%s): %s", s->state, s->step, s->failure.sentence);
        else if (streq(s->state, "handed-off"))
                (void) snprintf(line, sizeof(line), "%s (%s): '%s' on '%s'", s->state, s->step, s->device_id,
                                s->hub);
        else
                (void) snprintf(line, sizeof(line), "%s (%s)", s->state, s->step);
        if (streq(line, last))
                return;
        (void) snprintf(last, size, "%s", line);
        format_time(when, sizeof(when), now_usec(CLOCK_REALTIME));
        (void) printf("%s  %s", when, line);
        if (s->next_attempt_usec > 0) {
                format_wait(span, sizeof(span), s);
                (void) printf("; next attempt in %s", span);
        }
        (void) fputc('\n', stdout);
}

static void show(const Options *o, const Status *s, char last[static LINE_SIZE]) {
        if (o->json)
                print_json(s);
        else if (o->watch && !on_terminal())
                print_line(s, last, LINE_SIZE);
        else {
                if (o->watch)
                        (void) fputs("\033[H\033[2J", stdout);
                print_text(s);
        }
        (void) fflush(stdout);
}

typedef struct Watch {
        sd_bus *bus;
        const Options *options;
        Status status;
        bool known, changed;
        char last[LINE_SIZE]; /* that was printed */
} Watch;

static void watch_deinit(Watch *w) {
        status_deinit(&w->status);
}

static int refresh(Watch *w) {
        CLEANUP(status_deinit) Status status = {};
        int r;

        r = client_get_status(w->bus, &status);
        status_deinit(&w->status);
        w->known = r >= 0;
        if (r < 0)
                return r == -EHOSTDOWN || r == -ETIMEDOUT ? 0
                                                          : r; /* it may come back, or has died over it */
        w->status = status;
        status = (Status){};
        show(w->options, &w->status, w->last);
        return 0;
}

/* The clock on the screen goes on without asking the daemon. */
static usec_t next_tick(const Watch *w) {
        return w->known && on_terminal() && !w->options->json ? now_usec(CLOCK_MONOTONIC) + USEC_PER_SEC
                                                              : USEC_INFINITY;
}

static int watch(sd_bus *bus, const Options *o) {
        CLEANUP(watch_deinit) Watch w = { .bus = bus, .options = o, .changed = true };
        int r;

        r = client_watch(bus, &w.changed);
        while (r >= 0) {
                r = client_wait_for_change(bus, &w.changed, next_tick(&w));
                if (r > 0)
                        r = refresh(&w);
                else if (r == 0)
                        show(o, &w.status, w.last);
                if (ferror(stdout))
                        return EXIT_FAILED; /* which main() reports */
        }
        return report_errno(r, "The watch has ended");
}

int verb_status(int argc, char *argv[]) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        CLEANUP(status_deinit) Status status = {};
        char last[LINE_SIZE] = "";
        Options o = {};
        const VerbOption options[] = { { "json", .flag = &o.json }, { "watch", .flag = &o.watch }, {} };
        int r;

        r = parse_options(argc, argv, options, 0, print_help);
        if (r != GO_ON)
                return r;
        if (client_open(&bus) < 0)
                return EXIT_FAILED;
        if (o.watch)
                return watch(bus, &o);
        if (client_get_status(bus, &status) < 0)
                return EXIT_FAILED;
        show(&o, &status, last);
        return streq(status.state, "handed-off") ? EXIT_OK : EXIT_NOT_PROVISIONED;
}
