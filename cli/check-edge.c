/* IoT Edge: its configuration, whom it runs as, and whether it can reach its hub. By the hand-off
 * helper's own eyes, so that both see the same. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "check-edge.h"
#include "check-net.h"
#include "identityd.h"
#include "paths.h"
#include "proxies.h"

#define HUB_TIMEOUT_USEC (5 * USEC_PER_SEC)

/* A value that was refused, or that this user can't read, is not known, and its default is not meant. */
static int make_wanted(Check *c, Wanted *ret) {
        Provisioning *p = &ret->provisioning;
        int r;

        r = wanted_make(ret, c->config, c->registration_id, NULL);
        if (r < 0)
                return r;
        p->id_scope = c->id_scope; /* as the daemon has it, where no file says it */
        if (check_key_refused(c, "GlobalEndpoint"))
                p->endpoint = NULL;
        if (check_key_refused(c, "RegistrationId") || check_key_refused(c, "RegistrationIdFormat"))
                p->registration_id = NULL;
        p->payload_unknown = check_key_refused(c, "Payload");
        if (check_is_handed_off(c)) {
                ret->hub = c->status.hub;
                ret->device_id = c->status.device_id;
        }
        return 0;
}

const Verdict *check_edge_judge(Check *c) {
        CheckEdge *e = c->edge;

        wanted_deinit(&e->wanted);
        e->verdict = (Verdict){};
        if (make_wanted(c, &e->wanted) >= 0)
                judge(&e->verdict, &e->wanted, &e->situation);
        return &e->verdict;
}

/* A file that is closed to this user is not broken. */
static void tell_failure(Check *c, CheckResult result, const Failure *failure) {
        if (geteuid() != 0 && streq(failure->code, "EACCES"))
                check_skip(c, CHECK_AS_ROOT, "%s", failure->sentence);
        else
                check_bad(c, result, failure->kind, failure_advice(failure), "%s", failure->sentence);
}

/* The daemon's warnings come from the same judge, so their messages are equal. */
static bool daemon_tells(const Check *c, const Failure *failure) {
        for (size_t i = 0; c->daemon_runs && i < c->status.warning_count; i++)
                if (streq(c->status.warnings[i].sentence, failure->sentence))
                        return true;
        return false;
}

bool check_edge_tell_findings(Check *c, const Verdict *v, FindingSubject subject) {
        const Finding *first = NULL;
        bool told = false;

        for (size_t i = 0; i < v->count && !first; i++)
                if (v->findings[i].subject == subject && v->findings[i].owner == OWNER_OPERATOR)
                        first = &v->findings[i];
        if (first) {
                tell_failure(c, CHECK_FAIL, &first->failure);
                return true;
        }
        for (size_t i = 0; i < v->count; i++)
                if (v->findings[i].subject == subject && v->findings[i].owner == OWNER_NOBODY &&
                    !daemon_tells(c, &v->findings[i].failure)) {
                        tell_failure(c, CHECK_WARN, &v->findings[i].failure);
                        told = true;
                }
        return told;
}

static bool has_auth(const Check *c, const char *credential) {
        ConfigPaths paths = {};

        return find_credential(&c->paths, credential, &paths.credentials_dir) > 0 &&
               situation_has_auth(&paths, credential);
}

void check_edge_read_files(const Check *c) {
        if (c->edge->files_read)
                return;
        c->edge->files_read = true;
        (void) situation_read_iotedge(&c->edge->situation, c->root, &c->edge->failure);
        c->edge->situation.owner_auth = has_auth(c, "dps.tpm_owner_auth");
        c->edge->situation.endorsement_auth = has_auth(c, "dps.tpm_endorsement_auth");
}

const char *check_hub(const Check *c) {
        if (c->daemon_runs && c->status.hub[0])
                return c->status.hub;
        check_edge_read_files(c);
        return c->edge->situation.device_info.hub;
}

/* --- files --- */

static bool only_root_sees(Check *c) {
        CLEANUP(freep) char *path = NULL;

        if (path_under(&path, c->root, PATH_CONFIG) < 0 || access(path, F_OK) < 0 || access(path, R_OK) == 0)
                return false;
        check_skip(c, CHECK_AS_ROOT, "'%s' is for root's eyes only", path);
        return true;
}

/* A gateway that was handed off has lost its config.toml, or the provisioning in it. */
static bool tell_lost_config(Check *c, const Verdict *v) {
        bool missing = verdict_find(v, FINDING_CONFIG_MISSING);

        if (!check_is_handed_off(c) || !(missing || verdict_find(v, FINDING_CONFIG_UNPROVISIONED)))
                return false;
        check_bad(c, CHECK_FAIL, FAILURE_NONE, CHECK_RESTART_DAEMON,
                  missing ? "'" PATH_CONFIG "' is gone" : "The provisioning is gone from '" PATH_CONFIG "'");
        return true;
}

static void probe_config(Check *c) {
        const Verdict *v;
        bool lost;

        if (c->config->target == TARGET_NONE || only_root_sees(c))
                return;
        check_edge_read_files(c);
        if (c->edge->failure.kind != FAILURE_NONE) {
                tell_failure(c, CHECK_FAIL, &c->edge->failure);
                return;
        }
        v = check_edge_judge(c);
        lost = tell_lost_config(c, v);
        if (check_edge_tell_findings(c, v, SUBJECT_CONFIG) || lost)
                return;
        if (verdict_find(v, FINDING_CONFIG_MISSING))
                check_ok(c, "None yet");
        else if (verdict_find(v, FINDING_CONFIG_UNPROVISIONED))
                check_ok(c, "Not provisioned by anybody yet");
        else
                check_ok(c, verdict_find(v, FINDING_CONFIG_OUTDATED)
                                    ? "Provisioned by dps-provisiond, for an earlier configuration"
                                    : "Provisioned as this device is configured");
}

/* A gateway that was handed off has lost what `iotedge config apply` made, or its device. */
static bool tell_lost(Check *c, const Verdict *v) {
        static const FindingType types[] = { FINDING_APPLIED_OUTDATED, FINDING_DEVICE_MISSING,
                                             FINDING_DEVICE_OTHER, FINDING_DEVICE_MOVED };
        const size_t first = geteuid() == 0 ? 0 : 1; /* the copy is for root's eyes only */
        const Finding *lost = NULL;

        for (size_t i = first; check_is_handed_off(c) && i < ARRAY_SIZE(types) && !lost; i++)
                lost = verdict_find(v, types[i]);
        if (lost)
                check_bad(c, CHECK_FAIL, FAILURE_NONE, CHECK_RESTART_DAEMON, "%s", lost->failure.sentence);
        return lost;
}

/* Could the hand-off write it, and have it applied? */
static void probe_apply(Check *c) {
        const Verdict *v = &c->edge->verdict;
        bool lost;

        if (!c->edge->installed || !c->edge->files_read || c->edge->failure.kind != FAILURE_NONE)
                return;
        lost = tell_lost(c, v);
        if (v->mends & MEND_APPLY && geteuid() != 0)
                check_skip(c, CHECK_AS_ROOT, "Whether it can be written and applied only root can see");
        else if (!check_edge_tell_findings(c, v, SUBJECT_APPLIED) && !lost)
                check_ok(c,
                         v->mends & MEND_APPLY ? "It can be written and applied" : "Nothing is left to do");
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

/* Before the hand-off a missing identity is harmless. */
static void tell_identity(Check *c) {
        const Verdict *v = check_edge_judge(c);
        const Finding *silent = verdict_find(v, FINDING_IDENTITYD_SILENT),
                      *none = verdict_find(v, FINDING_IDENTITY_MISSING);

        if (silent)
                tell_failure(c, CHECK_FAIL, &silent->failure);
        else if (none && check_is_handed_off(c))
                tell_failure(c, CHECK_FAIL, &none->failure);
        else if (!check_edge_tell_findings(c, v, SUBJECT_IDENTITY))
                check_ok(c, "'%s' on '%s'", c->edge->situation.device.device_id,
                         c->edge->situation.device.hub);
}

static void probe_identity(Check *c) {
        CLEANUP(freep) char *path = NULL;

        if (!c->edge->installed)
                return;
        if (!c->edge->situation.identityd.active) {
                check_skip(c, "Nothing to do: asking would start it", "aziot-identityd does not run");
                return;
        }
        if (path_under(&path, c->root, PATH_SOCKET) >= 0 && access(path, W_OK) < 0 && errno == EACCES)
                check_skip(c, CHECK_AS_ROOT, "'%s' is closed to this user", path);
        else if (ask(c, &c->edge->situation.device) < 0)
                check_skip(c, "Try again", "aziot-identityd can't be asked");
        else {
                c->edge->situation.device_asked = true;
                tell_identity(c);
        }
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
        if (edge) {
                wanted_deinit(&edge->wanted);
                situation_deinit(&edge->situation);
        }
        free(edge);
        return NULL;
}

const Probe check_edge_probes[] = {
        { "iotedge", "Installation", check_edge_installed },
        { "iotedge-units", "Units", check_edge_units },
        { "boot-clock", "Clock at boot", check_edge_boot_clock },
        { "iotedge-config", "Configuration", probe_config },
        { "iotedge-apply", "Applying it", probe_apply },
        { "iotedge-proxy", "Proxy", check_site_proxy },
        { "identityd", "Identity", probe_identity },
        { "hub-allowed", "Hub", probe_hub_allowed },
        { "iotedge-engine", "Container engine", check_site_engine },
        { "registry", "Registry", check_site_registry },
        { "hub-443", "Hub, port 443", probe_https, true },
        { "hub-5671", "Hub, port 5671", probe_amqps, true },
        { "hub-8883", "Hub, port 8883", probe_mqtts, true },
        {},
};
