/* What of IoT Edge is installed, what of it runs, and what its start waits for. */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "check-edge.h"
#include "engine.h"
#include "paths.h"
#include "proxies.h"

static bool no_target(Check *c) {
        if (c->config->target != TARGET_NONE)
                return check_key_hidden(c, "Target");
        check_skip(c, "Nothing to do", "Target=none: there is nothing to hand over to");
        return true;
}

/* Each needs the identity service. */
static bool find_unit_file(void) {
        return access("/usr/lib/systemd/system/" UNIT_IDENTITYD, F_OK) == 0 ||
               access("/lib/systemd/system/" UNIT_IDENTITYD, F_OK) == 0;
}

void check_edge_installed(Check *c) {
        CLEANUP(units_freep) Units *units = NULL;
        Failure failure = {};

        if (no_target(c))
                return;
        check_edge_read_files(c);
        if (!c->bus || units_new(&units, c->bus, c->event) < 0 ||
            situation_read_units(&c->edge->situation, units, &failure) < 0) {
                if (find_unit_file())
                        check_skip(c, "Start systemd and its bus",
                                   "Installed; its units can't be asked for");
                else
                        check_bad(c, CHECK_FAIL, FAILURE_RUNTIME_MISSING, NULL,
                                  "Azure IoT Edge is not installed");
                return;
        }
        if (!check_key_refused(c, "Proxy"))
                proxies_read(&c->edge->situation, c->config, units);
        if (check_edge_tell_findings(c, check_edge_judge(c), SUBJECT_INSTALLATION))
                return;
        c->edge->installed = true;
        check_ok(c, "Installed");
}

/* --- what runs --- */

/* In the order in which they need each other. */
static const char *const unit_names[] = {
        UNIT_KEYD_SOCKET, UNIT_CERTD_SOCKET,   UNIT_TPMD_SOCKET, UNIT_IDENTITYD_SOCKET,
        UNIT_EDGED_MGMT,  UNIT_EDGED_WORKLOAD, UNIT_KEYD,        UNIT_CERTD,
        UNIT_TPMD,        UNIT_IDENTITYD,      UNIT_EDGED,
};

/* Sockets start their services. identityd is in use as soon as aziot-edged runs, and without the IoT Edge
 * runtime it is what runs. */
static bool is_needed(const Situation *s, const char *unit) {
        return strstr(unit, ".socket") || streq(unit, situation_main_unit(s));
}

/* Before anything was applied, IoT Edge's services end with the status 153, and that is as it should be. */
static bool is_down(Check *c, const char *unit, const UnitState *state) {
        const Situation *s = &c->edge->situation;

        if (!state->exists)
                return false;
        if (check_is_handed_off(c))
                return state->failed || state->failing || (!state->active && is_needed(s, unit));
        return state->failed && s->applied_exists;
}

static const char *condition(const UnitState *state) {
        return state->masked    ? "is masked"
               : state->failing ? "ends again and again"
               : state->failed  ? "has failed"
                                : "does not run";
}

/* aziot-edged ends without its container engine. */
static bool tell_engine(Check *c, const char *unit) {
        Failure failure;

        if (!streq(unit, UNIT_EDGED) || geteuid() != 0 || engine_check(&c->edge->situation, &failure) >= 0)
                return false;
        check_bad(c, CHECK_FAIL, failure.kind, failure_advice(&failure), "'%s' does not stay up: %s", unit,
                  failure.sentence);
        return true;
}

/* One line for all of them: what is down takes others with it. */
static void tell_down(Check *c, const char *first, const UnitState *state, const char *others) {
        char text[512], hint[512];

        (void) snprintf(text, sizeof(text), "'%s' %s%s%s%s%s", first, condition(state),
                        state->result[0] ? ": " : "", state->result, others[0] ? "; also down: " : "",
                        others);
        (void) snprintf(hint, sizeof(hint),
                        "Run %s%s%s'%s system restart', which starts all services and sockets. If that does "
                        "not help, 'journalctl -u %s' says why",
                        state->masked ? "'systemctl unmask " : "", state->masked ? first : "",
                        state->masked ? "' and " : "", c->edge->situation.edgeless ? "aziotctl" : "iotedge",
                        first);
        check_bad(c, CHECK_FAIL, FAILURE_RESTART_FAILED, hint, "%s", text);
}

static void tell_running(Check *c) {
        const Situation *s = &c->edge->situation;
        bool identity = s->edgeless || edged_had_identity(c->root);

        if (!situation_main(s)->active || situation_main(s)->failing)
                check_ok(c, "'%s' does not run yet", situation_main_unit(s));
        else if (!check_is_handed_off(c))
                check_ok(c, "'%s' runs", situation_main_unit(s));
        else if (identity)
                check_ok(c, "All of them run");
        else
                check_bad(c, CHECK_FAIL, FAILURE_RESTART_FAILED, HINT_RESTART_IOTEDGE,
                          "'%s' runs, but has not got its identity", UNIT_EDGED);
}

void check_edge_units(Check *c) {
        UnitState states[ARRAY_SIZE(unit_names)];
        CLEANUP(units_freep) Units *units = NULL;
        char others[256] = "";
        size_t first = ARRAY_SIZE(unit_names), used = 0;
        Failure failure;

        if (!c->edge->installed)
                return;
        if (units_new(&units, c->bus, c->event) < 0 ||
            units_query_all(units, unit_names, ARRAY_SIZE(unit_names), states, &failure) < 0) {
                check_skip(c, "Start systemd and its bus", "The units can't be asked for");
                return;
        }
        for (size_t i = 0; i < ARRAY_SIZE(unit_names); i++) {
                if (!is_down(c, unit_names[i], &states[i]))
                        continue;
                if (first == ARRAY_SIZE(unit_names))
                        first = i;
                else if (used < sizeof(others))
                        used += (size_t) snprintf(others + used, sizeof(others) - used, "%s%s",
                                                  used > 0 ? ", " : "", unit_names[i]);
        }
        if (first < ARRAY_SIZE(unit_names) && tell_engine(c, unit_names[first]))
                return;
        if (first < ARRAY_SIZE(unit_names))
                tell_down(c, unit_names[first], &states[first], others);
        else
                tell_running(c);
}

/* --- the clock at boot --- */

/* "rtc0"; NULL: there is none. The caller frees. */
static char *find_rtc(const Check *c) {
        CLEANUP(freep) char *path = NULL;
        char *found = NULL;
        DIR *d;

        if (path_under(&path, c->root, "/sys/class/rtc") < 0)
                return NULL;
        d = opendir(path);
        for (struct dirent *entry; d && !found && (entry = readdir(d));)
                if (strncmp(entry->d_name, "rtc", 3) == 0)
                        found = strdup(entry->d_name);
        if (d)
                (void) closedir(d);
        return found;
}

/* Of those that hold time-sync.target, which our drop-in lets aziot-identityd wait for. */
static const char *find_time_wait(const Check *c) {
        static const char *const units[] = { "systemd-time-wait-sync.service", "chrony-wait.service",
                                             "ntp-wait.service", "ntpsec-wait.service" };

        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
                CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
                const char *state;

                if (sd_bus_call_method(c->bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                       "org.freedesktop.systemd1.Manager", "GetUnitFileState", NULL, &reply,
                                       "s", units[i]) >= 0 &&
                    sd_bus_message_read(reply, "s", &state) >= 0 && strncmp(state, "enabled", 7) == 0)
                        return units[i];
        }
        return NULL;
}

/* identityd's tokens live 30 s by the local clock: one that is behind costs it the identity that it has
 * adopted. */
void check_edge_boot_clock(Check *c) {
        CLEANUP(freep) char *rtc = NULL;
        const char *unit;

        if (!c->edge->installed)
                return;
        rtc = find_rtc(c);
        unit = rtc ? NULL : find_time_wait(c);
        if (rtc)
                check_ok(c, "'%s' keeps the time without power, if its battery is good", rtc);
        else if (unit)
                check_ok(c, "This machine has no clock that runs without power; IoT Edge waits for '%s'",
                         unit);
        else
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Enable systemd-time-wait-sync.service (with systemd-timesyncd), "
                          "chrony-wait.service or "
                          "ntp-wait.service; without a time server IoT Edge does not start then",
                          "This machine has no clock that runs without power, and no service is enabled "
                          "that lets "
                          "IoT Edge wait for the time: started with a clock that is behind, it throws its "
                          "identity "
                          "away and registers again");
}
