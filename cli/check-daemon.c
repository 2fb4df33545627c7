/* What the daemon says itself. */
#include <errno.h>

#include "bus.h"
#include "check.h"

bool check_is_provisioned(const Check *c) {
        return c->daemon_runs &&
               (streq(c->status.state, "assigned") || streq(c->status.state, "handed-off"));
}

bool check_is_handed_off(const Check *c) {
        return c->daemon_runs && streq(c->status.state, "handed-off");
}

/* It is there, but does not tell. */
static bool is_silent(const sd_bus_error *error) {
        return !sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN) &&
               !sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER);
}

static void probe_daemon(Check *c) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r;

        r = sd_bus_open_system(&c->bus);
        if (r < 0) {
                c->bus = NULL;
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Start the system bus (dbus.service); without it nothing is provisioned",
                          "The system bus can't be reached (%s), so the daemon can't be asked",
                          strerror(-r));
                return;
        }
        r = client_read_status(c->bus, &c->status, &error);
        if (r < 0 && is_silent(&error)) {
                check_bad(c, CHECK_FAIL, FAILURE_NONE,
                          "See 'systemctl status dps-provisiond' and 'journalctl -u dps-provisiond'; "
                          "restart it",
                          "The daemon can't be asked: %s", error.message ? error.message : strerror(-r));
                return;
        }
        if (r < 0) {
                DaemonDown down = client_why_down(c->bus);

                check_bad(c, CHECK_WARN, FAILURE_NONE, down.remedy, "%s", down.sentence);
                return;
        }
        c->daemon_runs = true;
        if (check_is_provisioned(c) && c->status.hub[0])
                check_ok(c, "%s, as '%s' on '%s'", c->status.state, c->status.device_id, c->status.hub);
        else
                check_ok(c, "%s (%s)", c->status.state, c->status.step);
}

static void probe_error(Check *c) {
        const Status *s = &c->status;

        if (!c->daemon_runs)
                return;
        if (s->failure.kind != FAILURE_NONE)
                check_failure(c, &s->failure);
        for (size_t i = 0; i < s->warning_count; i++) {
                FailureKind kind = failure_kind_from_string(s->warnings[i].kind);

                check_bad(c, CHECK_WARN, kind > FAILURE_NONE ? kind : FAILURE_NONE, s->warnings[i].remedy,
                          "%s", s->warnings[i].sentence);
        }
        if (s->failure.kind == FAILURE_NONE && s->warning_count == 0)
                check_ok(c, "None");
}

const Probe check_daemon_probes[] = {
        { "daemon", "Daemon", probe_daemon },
        { "daemon-error", "Its last error", probe_error },
        {},
};
