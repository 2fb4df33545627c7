/* IoT Edge: its units, its configuration, whom it runs as, and whether it can reach its hub. By the hand-off
 * helper's own eyes, so that both see the same. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "assignment.h"
#include "check-net.h"
#include "check.h"
#include "identityd.h"
#include "paths.h"
#include "refusals.h"
#include "situation.h"

#define UNIT_FILE        "/usr/lib/systemd/system/" UNIT_EDGED
#define UNIT_FILE_LIB    "/lib/systemd/system/" UNIT_EDGED
#define HUB_TIMEOUT_USEC (5 * USEC_PER_SEC)

/* What these probes know of IoT Edge. */
struct CheckEdge {
        Situation situation;
        Failure failure; /* of reading the files */
        bool files_read, installed;
};

static bool no_target(Check *c) {
        if (c->config->target != TARGET_NONE)
                return check_key_hidden(c, "Target");
        check_skip(c, "Nothing to do", "Target=none: there is nothing to hand over to");
        return true;
}

static void read_files(const Check *c) {
        if (c->edge->files_read)
                return;
        c->edge->files_read = true;
        (void) situation_read_iotedge(&c->edge->situation, c->root, &c->edge->failure);
}

const char *check_hub(const Check *c) {
        if (c->daemon_runs && c->status.hub[0])
                return c->status.hub;
        read_files(c);
        return c->edge->situation.device_info.hub;
}

/* --- units --- */

static bool find_unit_file(void) {
        return access(UNIT_FILE, F_OK) == 0 || access(UNIT_FILE_LIB, F_OK) == 0;
}

static void probe_installed(Check *c) {
        CLEANUP(units_freep) Units *units = NULL;
        Failure failure = {};

        if (no_target(c))
                return;
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
        if (refusal_of_runtime(&c->edge->situation, units, c->root, &failure) < 0)
                check_failure(c, &failure);
        else if (!c->edge->situation.apply.exists || c->edge->situation.apply.masked)
                check_bad(c, CHECK_FAIL, FAILURE_RUNTIME_MISSING,
                          "Install the package dps-provisiond anew, or unmask the unit",
                          "The unit '" UNIT_APPLY "', which applies IoT Edge's configuration, is %s",
                          c->edge->situation.apply.masked ? "masked" : "not installed");
        else {
                c->edge->installed = true;
                check_ok(c, "Installed");
        }
}

static void probe_units(Check *c) {
        const struct {
                const char *name;
                const UnitState *state;
                bool needed; /* once it is handed over to */
        } units[] = {
                { UNIT_EDGED, &c->edge->situation.edged, true },
                { UNIT_IDENTITYD, &c->edge->situation.identityd, false },
                { UNIT_TPMD, &c->edge->situation.tpmd, false },
                { UNIT_IDENTITYD_SOCKET, &c->edge->situation.identityd_socket, true },
                { UNIT_TPMD_SOCKET, &c->edge->situation.tpmd_socket, true },
                { UNIT_EDGED_MGMT, &c->edge->situation.edged_mgmt, true },
                { UNIT_EDGED_WORKLOAD, &c->edge->situation.edged_workload, true },
        };
        bool handed_off = check_is_handed_off(c), good = true;

        if (!c->edge->installed)
                return;
        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
                const UnitState *s = units[i].state;
                char start[128];

                if (!s->failed && !(handed_off && units[i].needed && s->exists && !s->active))
                        continue;
                good = false;
                (void) snprintf(start, sizeof(start), "Start it with 'systemctl start %s'", units[i].name);
                if (s->failed)
                        check_bad(c, CHECK_FAIL, FAILURE_RESTART_FAILED, NULL, "'%s' has failed%s%s",
                                  units[i].name, s->result[0] ? ": " : "", s->result);
                else
                        check_bad(c, CHECK_FAIL, FAILURE_RESTART_FAILED, start, "'%s' does not run",
                                  units[i].name);
        }
        if (good)
                check_ok(c, c->edge->situation.edged.active ? "aziot-edged runs"
                                                            : "aziot-edged does not run yet");
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
static void probe_boot_clock(Check *c) {
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

/* --- files --- */

static Provisioning wanted(const Check *c) {
        return (Provisioning){ .endpoint = c->config->global_endpoint,
                               .id_scope = c->id_scope ? c->id_scope : "",
                               .registration_id = c->registration_id ? c->registration_id : "" };
}

static bool only_root_sees(Check *c) {
        CLEANUP(freep) char *path = NULL;

        if (path_under(&path, c->root, PATH_CONFIG) < 0 || access(path, F_OK) < 0 || access(path, R_OK) == 0)
                return false;
        check_skip(c, CHECK_AS_ROOT, "'%s' is for root's eyes only", path);
        return true;
}

/* A file that is closed to this user is not broken. */
static void tell_file_failure(Check *c, const Failure *failure) {
        if (geteuid() != 0 && streq(failure->code, "EACCES"))
                check_skip(c, CHECK_AS_ROOT, "%s", failure->sentence);
        else
                check_failure(c, failure);
}

/* What the hand-off does without a refusal, but somebody should know. Returns whether there was something.
 */
static bool warn_of_config(Check *c, const Provisioning *p) {
        const Situation *s = &c->edge->situation;
        const ConfigToml *toml = &s->toml;
        bool replaced = !situation_provisioning_ours(s, p), itself = situation_reprovisions_itself(s);
        bool base_replaced = !s->text && s->base_toml.has_provisioning;

        if (replaced)
                check_bad(c, CHECK_WARN, FAILURE_CONFIG_CONFLICT, NULL,
                          "'%s" PATH_CONFIG "' is provisioned by somebody else (source \"%s\"%s%s), and is "
                          "replaced: ReplaceProvisioning=yes",
                          c->root, toml->source ? toml->source : "?", toml->id_scope ? ", scope " : "",
                          toml->id_scope ? toml->id_scope : "");
        if (base_replaced)
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Remove [provisioning] from it: scope and registration ID come from "
                          "provisiond.conf",
                          "'%s" PATH_BASE "' has a provisioning of its own, which is replaced in the "
                          "config.toml that is made from it",
                          c->root);
        if (itself)
                check_bad(
                        c, CHECK_WARN, WARNING_REPROVISIONS_ITSELF, NULL,
                        "'%s%s' sets auto_reprovisioning_mode = \"AlwaysOnStartup\": IoT Edge registers by "
                        "itself at each start, as with Identity=register",
                        c->root, situation_origin(s).path);
        return replaced || base_replaced || itself;
}

static void probe_config(Check *c) {
        Situation *s = &c->edge->situation;
        Provisioning p = wanted(c);
        Failure failure = {};
        bool lost;

        if (c->config->target == TARGET_NONE || only_root_sees(c))
                return;
        read_files(c);
        if (c->edge->failure.kind != FAILURE_NONE) {
                tell_file_failure(c, &c->edge->failure);
                return;
        }
        lost = !s->toml.has_provisioning && check_is_handed_off(c);
        if (lost)
                check_bad(c, CHECK_FAIL, FAILURE_NONE,
                          "Restart dps-provisiond, which writes it again from what is stored",
                          s->text ? "The provisioning is gone from '" PATH_CONFIG "'"
                                  : "'" PATH_CONFIG "' is gone");
        if (refusal_of_config(s, c->config, &p, c->root, &failure) < 0)
                tell_file_failure(c, &failure);
        else if (warn_of_config(c, &p) || lost)
                return;
        else if (!s->toml.has_provisioning)
                check_ok(c, s->text ? "Not provisioned by anybody yet" : "None yet");
        else
                check_ok(c, config_toml_matches(&s->toml, &p)
                                    ? "Provisioned as this device is configured"
                                    : "Provisioned by dps-provisiond, for an earlier configuration");
}

/* Could the hand-off write it, and have it applied? */
static void probe_apply(Check *c) {
        const Situation *s = &c->edge->situation;
        Provisioning p = wanted(c);
        Failure failure = {};
        int r = 0;

        if (!c->edge->installed || !c->edge->files_read || c->edge->failure.kind != FAILURE_NONE)
                return;
        if (config_toml_matches(&s->toml, &p) && config_toml_matches(&s->applied, &p)) {
                check_ok(c, "Nothing is left to do");
                return;
        }
        if (geteuid() != 0) {
                check_skip(c, CHECK_AS_ROOT, "Whether it can be written and applied only root can see");
                return;
        }
        if (!config_toml_matches(&s->toml, &p))
                r = refusal_of_write(c->root, &failure);
        if (r >= 0)
                r = device_info_refusal(c->root, &failure);
        if (r >= 0)
                r = refusal_of_apply(s, c->root, &failure);
        if (r < 0)
                check_failure(c, &failure);
        else
                check_ok(c, "It can be written and applied");
}

/* --- identityd --- */

typedef struct Question {
        IdentitydAnswer answer;
        bool done;
} Question;

static void on_answer(void *userdata, const IdentitydAnswer *answer) {
        Question *q = userdata;

        q->answer = *answer;
        q->done = true;
}

static int ask(Check *c, IdentitydAnswer *ret) {
        Identityd *identityd = NULL;
        Question q = {};
        int r;

        r = identityd_new(&identityd, c->event, c->root);
        if (r >= 0)
                r = identityd_ask(identityd, IDENTITYD_DEVICE, on_answer, &q);
        while (r >= 0 && !q.done)
                r = sd_event_run(c->event, UINT64_MAX);
        identityd = identityd_free(identityd);
        if (r >= 0)
                *ret = q.answer;
        return r;
}

static void judge_identity(Check *c, const IdentitydAnswer *a) {
        const Assignment assigned = { .hub = c->status.hub, .device_id = c->status.device_id };
        bool handed_off = check_is_handed_off(c);

        if (a->status == 0)
                check_bad(c, CHECK_FAIL, FAILURE_CONFIRM_TIMEOUT, NULL,
                          "aziot-identityd does not answer: %s", a->message);
        else if (a->status != 200)
                check_bad(c, handed_off ? CHECK_FAIL : CHECK_WARN, FAILURE_CONFIRM_TIMEOUT, NULL,
                          "aziot-identityd has no identity (status %u): %s", a->status, a->message);
        else if (handed_off && !assignment_same_device(&assigned, a->hub, a->device_id))
                check_bad(c, CHECK_WARN, WARNING_ADOPTION_REFUSED, NULL,
                          "IoT Edge runs as '%s' on '%s', which is not what the daemon has handed over",
                          a->device_id, a->hub);
        else
                check_ok(c, "'%s' on '%s'", a->device_id, a->hub);
}

static void probe_identity(Check *c) {
        CLEANUP(freep) char *path = NULL;
        IdentitydAnswer answer;

        if (!c->edge->installed)
                return;
        if (!c->edge->situation.identityd.active) {
                check_skip(c, "Nothing to do: asking would start it", "aziot-identityd does not run");
                return;
        }
        if (path_under(&path, c->root, PATH_SOCKET) >= 0 && access(path, W_OK) < 0 && errno == EACCES)
                check_skip(c, CHECK_AS_ROOT, "'%s' is closed to this user", path);
        else if (ask(c, &answer) < 0)
                check_skip(c, "Try again", "aziot-identityd can't be asked");
        else
                judge_identity(c, &answer);
}

/* --- the hub --- */

/* Does the daemon already say that AllowedHubs= does not allow the hub? */
static bool daemon_refuses_hub(const Check *c) {
        const char *kind = failure_kind_to_string(FAILURE_HUB_NOT_ALLOWED);

        if (!c->daemon_runs)
                return false;
        for (size_t i = 0; i < c->status.warning_count; i++)
                if (streq(c->status.warnings[i].kind, kind))
                        return true;
        return c->status.failure.kind == FAILURE_HUB_NOT_ALLOWED;
}

/* AllowedHubs= counts when a hub is assigned and handed over: narrowed since, it shows with the next one. */
static void probe_hub_allowed(Check *c) {
        const char *hub = c->daemon_runs ? c->status.hub : c->edge->situation.record.hub;

        if (!hub || !hub[0] || daemon_refuses_hub(c) || check_key_refused(c, "AllowedHubs"))
                return;
        if (config_hub_allowed(c->config, hub))
                check_ok(c, "'%s', as AllowedHubs= allows", hub);
        else
                check_bad(
                        c, CHECK_WARN, FAILURE_HUB_NOT_ALLOWED,
                        "Add it to AllowedHubs= if it is right; else let the enrolment name another one, "
                        "and run 'dps-provision reprovision'",
                        "The assigned hub '%s' matches none of AllowedHubs=: it is used as before, but the "
                        "next hand-off is refused",
                        hub);
}

/* A firewall that lets DPS through but not the hub is the commonest problem of a site. */
static void probe_port(Check *c, unsigned port, CheckResult result, const char *use, const char *remedy) {
        const char *hub = check_hub(c);
        CLEANUP(freep) char *host = NULL;
        char text[NET_TEXT_MAX];

        if (c->config->target == TARGET_NONE)
                return;
        if (!hub && !c->daemon_runs) {
                check_skip(c, "Start the daemon, which knows the hub", "No hub is known");
                return;
        }
        if (!hub) {
                check_skip(c, "Look again when a hub is assigned", "No hub is assigned yet");
                return;
        }
        /* a port of its own is that of HTTPS */
        host = port == 443 ? strdup(hub) : strndup(hub, strcspn(hub, ":"));
        if (!host)
                return;
        if (net_connect(host, port, HUB_TIMEOUT_USEC, text) >= 0)
                check_ok(c, "%s", text);
        else if (c->proxy)
                check_skip(c, "Check the proxy in IoT Edge's own configuration",
                           "'%s' is not reached directly (%s), but there is a proxy", host, text);
        else
                check_bad(c, result, FAILURE_HUB_UNREACHABLE, remedy,
                          "'%s' is not reached on port %u, %s: %s", host, port, use, text);
}

static void probe_https(Check *c) {
        probe_port(c, 443, CHECK_FAIL, "for IoT Edge's identity", NULL);
}

static void probe_amqps(Check *c) {
        probe_port(c, 5671, CHECK_WARN, "AMQP, what edgeAgent and edgeHub use by default",
                   "Open TCP port 5671 to the hub, or let edgeAgent and edgeHub use port 443: "
                   "UpstreamProtocol=AmqpWs");
}

static void probe_mqtts(Check *c) {
        probe_port(c, 8883, CHECK_WARN, "MQTT",
                   "Open TCP port 8883 to the hub if a module uses it (UpstreamProtocol=Mqtt); else nothing "
                   "has to be done");
}

int check_edge_new(CheckEdge **ret) {
        CheckEdge *edge = calloc(1, sizeof(*edge));

        if (!edge)
                return -ENOMEM;
        *ret = edge;
        return 0;
}

CheckEdge *check_edge_free(CheckEdge *edge) {
        if (edge)
                situation_deinit(&edge->situation);
        free(edge);
        return NULL;
}

const Probe check_edge_probes[] = {
        { "iotedge", "Installation", probe_installed },
        { "iotedge-units", "Units", probe_units },
        { "boot-clock", "Clock at boot", probe_boot_clock },
        { "iotedge-config", "Configuration", probe_config },
        { "iotedge-apply", "Applying it", probe_apply },
        { "identityd", "Identity", probe_identity },
        { "hub-allowed", "Hub", probe_hub_allowed },
        { "hub-443", "Hub, port 443", probe_https, true },
        { "hub-5671", "Hub, port 5671", probe_amqps, true },
        { "hub-8883", "Hub, port 8883", probe_mqtts, true },
        {},
};
