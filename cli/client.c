/* The daemon's bus interface, from the outside. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bus.h"
#include "cli.h"
#include "machine.h"
#include "units.h"

#define UNIT_DAEMON        "dps-provisiond.service"
#define ALLOW_TIMEOUT_USEC (5 * USEC_PER_SEC)
#define SCOPE_USEC         (5 * USEC_PER_SEC)
/* A call of the hand-off helper that is in progress ends first. */
#define REPROVISION_TIMEOUT_USEC (HANDOFF_DEADLINE_USEC + 60 * USEC_PER_SEC)

int client_open(sd_bus **ret) {
        int r;

        r = sd_bus_open_system(ret);
        if (r < 0) {
                (void) report_errno(r, "The daemon can't be asked, because the system bus can't be reached");
                (void) fputs("Start both with 'systemctl start dbus.socket dps-provisiond'.\n", stderr);
        }
        return r;
}

static bool is_disabled(sd_bus *bus) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *state;

        return sd_bus_call_method(bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                  "org.freedesktop.systemd1.Manager", "GetUnitFileState", NULL, &reply, "s",
                                  UNIT_DAEMON) >= 0 &&
               sd_bus_message_read(reply, "s", &state) >= 0 && streq(state, "disabled");
}

/* -errno: systemd does not tell. */
static int query_unit(sd_bus *bus, UnitState *ret) {
        CLEANUP(sd_event_unrefp) sd_event *event = NULL;
        CLEANUP(units_freep) Units *units = NULL;
        int r;

        if (!bus)
                return -ENOTCONN;
        r = sd_event_new(&event);
        if (r >= 0)
                r = units_new(&units, bus, event);
        return r < 0 ? r : units_query(units, UNIT_DAEMON, ret, NULL);
}

DaemonDown client_why_down(sd_bus *bus) {
        UnitState state = {};
        int r = query_unit(bus, &state);

        if (r >= 0 && state.masked)
                return (DaemonDown){ "The daemon does not run: " UNIT_DAEMON " is masked",
                                     "Run 'systemctl unmask dps-provisiond', then start it with 'systemctl "
                                     "start dps-provisiond'" };
        if (r >= 0 && !state.exists)
                return (DaemonDown){
                        "The daemon does not run: there is no unit " UNIT_DAEMON,
                        "Install the package dps-provisiond, then start it with 'systemctl start "
                        "dps-provisiond'"
                };
        if (r >= 0 && (state.failed || state.failing))
                return (DaemonDown){ "The daemon does not run: " UNIT_DAEMON " has failed",
                                     "See 'journalctl -u dps-provisiond' for why, then start it with "
                                     "'systemctl start dps-provisiond'" };
        if (r >= 0 && state.active)
                return (DaemonDown){ "The daemon is just being started",
                                     "Try again; if that does not help, see 'systemctl status "
                                     "dps-provisiond'" };
        if (r >= 0 && is_disabled(bus))
                return (DaemonDown){ "The daemon does not run: " UNIT_DAEMON
                                     " is disabled, so no boot starts it",
                                     "Start it now and at each boot with 'systemctl enable --now "
                                     "dps-provisiond', or once with 'systemctl start dps-provisiond'" };
        return (DaemonDown){ "The daemon does not run",
                             "Start it with 'systemctl start dps-provisiond'; 'systemctl status "
                             "dps-provisiond' says why it ended" };
}

/* Not the daemon's own words. */
static bool is_silence(const sd_bus_error *error) {
        return sd_bus_error_has_name(error, SD_BUS_ERROR_NO_REPLY) ||
               sd_bus_error_has_name(error, SD_BUS_ERROR_TIMEOUT) ||
               sd_bus_error_has_name(error, SD_BUS_ERROR_DISCONNECTED) ||
               (error->name && strncmp(error->name, "System.Error.", strlen("System.Error.")) == 0);
}

/* The daemon speaks with the network, and who asks it may be root. */
static int keep_text(char **target, const char *value) {
        int r = string_replace(target, value);

        if (r >= 0)
                make_showable(*target);
        return r;
}

int client_report_error(sd_bus *bus, const sd_bus_error *error, int r) {
        CLEANUP(freep) char *message = NULL;

        (void) keep_text(&message, error->message ? error->message : strerror(-r));
        if (sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
            sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER)) {
                DaemonDown down = client_why_down(bus);

                (void) fprintf(stderr, "dps-provision: %s.\n%s.\n", down.sentence, down.remedy);
                return -EHOSTDOWN;
        }
        if (is_silence(error))
                (void) fprintf(
                        stderr,
                        "dps-provision: The daemon did not answer: %s\n"
                        "See 'systemctl status dps-provisiond' and 'journalctl -u dps-provisiond', then "
                        "try again.\n",
                        message ? message : "?");
        else
                (void) fprintf(stderr, "dps-provision: %s%s\n", message ? message : "?",
                               sd_bus_error_has_name(error, SD_BUS_ERROR_ACCESS_DENIED) && geteuid() != 0
                                       ? ".\nRun it as root."
                                       : "");
        return r < 0 ? r : -EIO;
}

static int read_texts(sd_bus_message *m, const char *key, Status *s) {
        const struct {
                const char *key;
                char **target;
        } texts[] = {
                { "State", &s->state },
                { "Step", &s->step },
                { "IdScope", &s->id_scope },
                { "GlobalEndpoint", &s->endpoint },
                { "RegistrationId", &s->registration_id },
                { "EndorsementKey", &s->endorsement_key },
                { "AssignedHub", &s->hub },
                { "DeviceId", &s->device_id },
                { "Substatus", &s->substatus },
                { "Version", &s->version },
        };
        const char *value;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (streq(texts[i].key, key)) {
                        r = sd_bus_message_read(m, "v", "s", &value);
                        if (r >= 0)
                                r = keep_text(texts[i].target, value);
                        return r < 0 ? r : 1;
                }
        return 0;
}

static int read_last_error(sd_bus_message *m, Status *s) {
        const char *kind, *code, *sentence, *remedy;
        CLEANUP(freep) char *shown = NULL;
        FailureKind k;
        int r;

        r = sd_bus_message_read(m, "v", "(ssss)", &kind, &code, &sentence, &remedy);
        if (r < 0)
                return r;
        k = kind[0] ? failure_kind_from_string(kind) : FAILURE_NONE;
        s->failure = (Failure){};
        if (k > FAILURE_NONE)
                (void) failure_set(&s->failure, k, code, "%s", sentence);
        r = keep_text(&shown, remedy);
        if (r >= 0)
                s->failure.remedy = failure_keep_hint(shown);
        return r;
}

static int add_warning(Status *s, const char *kind, const char *sentence, const char *remedy) {
        struct StatusWarning *w = reallocarray(s->warnings, s->warning_count + 1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        s->warnings = w;
        w += s->warning_count++;
        *w = (struct StatusWarning){};
        r = keep_text(&w->kind, kind);
        if (r >= 0)
                r = keep_text(&w->sentence, sentence);
        return r < 0 ? r : keep_text(&w->remedy, remedy);
}

static int read_warnings(sd_bus_message *m, Status *s) {
        const char *kind, *sentence, *remedy;
        int r;

        r = sd_bus_message_enter_container(m, 'v', "a(sss)");
        if (r >= 0)
                r = sd_bus_message_enter_container(m, 'a', "(sss)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(m, "(sss)", &kind, &sentence, &remedy)) > 0) {
                r = add_warning(s, kind, sentence, remedy);
                if (r < 0)
                        return r;
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_property(sd_bus_message *m, const char *key, void *userdata) {
        Status *s = userdata;
        int r = read_texts(m, key, s);

        if (r != 0)
                return r;
        if (streq(key, "Attempts"))
                return sd_bus_message_read(m, "v", "u", &s->attempts);
        if (streq(key, "StateChangedUSec"))
                return sd_bus_message_read(m, "v", "t", &s->state_changed_usec);
        if (streq(key, "NextAttemptUSec"))
                return sd_bus_message_read(m, "v", "t", &s->next_attempt_usec);
        if (streq(key, "LastSuccessUSec"))
                return sd_bus_message_read(m, "v", "t", &s->last_success_usec);
        if (streq(key, "LastError"))
                return read_last_error(m, s);
        if (streq(key, "Warnings"))
                return read_warnings(m, s);
        return sd_bus_message_skip(m, "v");
}

static int read_properties(sd_bus_message *m, Status *s) {
        int r = bus_read_entries(m, read_property, s);

        return r < 0 ? r : s->state && s->step && s->hub && s->device_id && s->version ? 0 : -EBADMSG;
}

int client_read_status(sd_bus *bus, Status *ret, sd_bus_error *error) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        CLEANUP(status_deinit) Status status = {};
        int r;

        r = sd_bus_call_method(bus, PROVISIONING_NAME, PROVISIONING_PATH, "org.freedesktop.DBus.Properties",
                               "GetAll", error, &reply, "s", PROVISIONING_NAME);
        if (r >= 0)
                r = read_properties(reply, &status);
        if (r < 0)
                return r;
        *ret = status;
        status = (Status){};
        return 0;
}

int client_get_status(sd_bus *bus, Status *ret) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = client_read_status(bus, ret, &error);

        if (r >= 0)
                return 0;
        if (sd_bus_error_is_set(&error))
                return client_report_error(bus, &error, r);
        (void) report_errno(r, "The daemon's answer can't be understood");
        return r;
}

void status_deinit(Status *s) {
        free(s->state);
        free(s->step);
        free(s->id_scope);
        free(s->endpoint);
        free(s->registration_id);
        free(s->endorsement_key);
        free(s->hub);
        free(s->device_id);
        free(s->substatus);
        free(s->version);
        for (size_t i = 0; i < s->warning_count; i++) {
                free(s->warnings[i].kind);
                free(s->warnings[i].sentence);
                free(s->warnings[i].remedy);
        }
        free(s->warnings);
        *s = (Status){};
}

int client_new_call(sd_bus *bus, sd_bus_message **ret, const char *method) {
        int r;

        r = sd_bus_message_new_method_call(bus, ret, PROVISIONING_NAME, PROVISIONING_PATH, PROVISIONING_NAME,
                                           method);
        return r < 0 ? r : sd_bus_message_set_allow_interactive_authorization(*ret, true);
}

int client_call(sd_bus *bus, const char *method) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r;

        r = client_new_call(bus, &call, method);
        if (r >= 0)
                r = sd_bus_call(bus, call, REPROVISION_TIMEOUT_USEC, &error, NULL);
        if (r >= 0)
                return EXIT_OK;
        (void) client_report_error(bus, &error, r);
        return EXIT_FAILED;
}

static int allow(sd_bus *bus, sd_bus_error *error) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *call = NULL;
        int r;

        r = sd_bus_message_new_method_call(bus, &call, HANDOFF_NAME, HANDOFF_PATH, HANDOFF_NAME, "Allow");
        return r < 0 ? r : sd_bus_call(bus, call, ALLOW_TIMEOUT_USEC, error, NULL);
}

/* Without IoT Edge there is no helper. A busy helper answers later, but before the next attempt. An older
 * helper that still runs ends after its reply, and the next call starts the installed one. */
static bool is_harmless(const sd_bus_error *error) {
        return sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
               sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER) ||
               sd_bus_error_has_name(error, SD_BUS_ERROR_UNKNOWN_METHOD) || is_silence(error);
}

void client_allow_disruption(sd_bus *bus) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL, again = SD_BUS_ERROR_NULL;
        CLEANUP(config_freep) Config *config = NULL;
        const sd_bus_error *last = &error;
        int r;

        if (geteuid() != 0 ||
            config_load(&config, &(ConfigPaths){ .credentials_dir = getenv("CREDENTIALS_DIRECTORY") }) < 0 ||
            config->target == TARGET_NONE)
                return;
        r = allow(bus, &error);
        if (r < 0 && sd_bus_error_has_name(&error, SD_BUS_ERROR_UNKNOWN_METHOD)) {
                last = &again;
                r = allow(bus, &again);
        }
        if (r < 0 && !is_harmless(last))
                (void) fprintf(stderr,
                               "dps-provision: The hand-off helper did not fill its disruption budget: %s\n",
                               last->message ? last->message : strerror(-r));
}

static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        *(bool *) userdata = true;
        return 0;
}

int client_watch(sd_bus *bus, bool *changed) {
        int r;

        r = sd_bus_match_signal(bus, NULL, PROVISIONING_NAME, PROVISIONING_PATH,
                                "org.freedesktop.DBus.Properties", "PropertiesChanged", on_changed, changed);
        if (r >= 0)
                r = sd_bus_add_match(bus, NULL,
                                     "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',"
                                     "arg0='" PROVISIONING_NAME "'",
                                     on_changed, changed);
        if (r < 0)
                (void) report_errno(r, "The daemon can't be watched");
        return r;
}

int client_wait_for_change(sd_bus *bus, bool *changed, usec_t deadline_usec) {
        for (;;) {
                usec_t now;
                int r;

                r = sd_bus_process(bus, NULL);
                if (r < 0)
                        return r;
                if (r > 0)
                        continue;
                if (*changed) {
                        *changed = false;
                        return 1;
                }
                now = now_usec(CLOCK_MONOTONIC);
                if (now >= deadline_usec)
                        return 0;
                r = sd_bus_wait(bus, deadline_usec == USEC_INFINITY ? UINT64_MAX : deadline_usec - now);
                if (r < 0)
                        return r;
        }
}

/* 1: the daemon has the scope, 0: another one, -errno: nobody is there. */
static int has_scope(sd_bus *bus, const char *scope) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(status_deinit) Status status = {};
        int r;

        r = client_read_status(bus, &status, &error);
        return r < 0 ? r : status.id_scope && streq(status.id_scope, scope);
}

int client_wait_for_scope(const char *scope) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        usec_t deadline = now_usec(CLOCK_MONOTONIC) + SCOPE_USEC;
        bool changed = true;
        int r;

        r = sd_bus_open_system(&bus);
        if (r >= 0)
                r = client_watch(bus, &changed);
        while (r >= 0 && (r = client_wait_for_change(bus, &changed, deadline)) > 0) {
                r = has_scope(bus, scope);
                if (r > 0)
                        return 1;
        }
        return r;
}
