/* Has it worked? identityd has to name a device, and its hub has to have accepted the token. */
#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "engine.h"
#include "handoffd.h"
#include "paths.h"

#define CONFIRM_PAUSE  (USEC_PER_SEC / 2)
#define IDENTITY_PAUSE (USEC_PER_SEC / 50) /* aziot-edged asks identityd at once */
#define SETTLE_USEC    (10 * USEC_PER_SEC) /* twice the time after which its unit starts it again */
#define SETTLE_MAX     (60 * USEC_PER_SEC)

/* aziot-edged ends without the container engine, and systemd starts it again. */
static int main_unit_down(Operation *op, const UnitState *state) {
        const char *unit = situation_main_unit(&op->situation);
        int r = op->situation.edgeless ? 0 : engine_check(&op->situation, &op->failure);

        if (r < 0)
                return r;
        return failure_set(&op->failure, FAILURE_RESTART_FAILED, state->result,
                           "'%s' was started but does not run; see 'journalctl -u %s'", unit, unit);
}

int step_check_main_unit(Operation *op) {
        UnitState state;
        int r;

        r = units_query(op->h->units, situation_main_unit(&op->situation), &state, &op->failure);
        if (r < 0)
                return r;
        return state.active ? 0 : main_unit_down(op, &state);
}

static void confirm_ask(Operation *op);

static int on_confirm_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        confirm_ask(userdata);
        return 0;
}

/* What identityd means with a status, for people; NULL: a reply that says nothing to anybody. */
static const struct {
        unsigned status;
        bool final; /* asking again does not change it */
        const char *meaning;
} statuses[] = {
        { 0, false, "gives no answer" },
        { 400, false, "has no identity yet" },
        { 401, true, "refuses the question of root" },
        { 404, false, "got no identity from the provisioning service or its hub" },
        { 422, true, "does not understand the question, so it is of a release that is not supported" },
        { 500, false, "has an internal error" },
};

static size_t find_status(unsigned status) {
        size_t i = 0;

        while (i < ARRAY_SIZE(statuses) && statuses[i].status != status)
                i++;
        return i;
}

static bool names_device(const IdentitydAnswer *answer) {
        return answer->status == 200 && answer->hub[0] && answer->device_id[0];
}

/* Without the site's proxy identityd does not reach its hub, whatever the firewall lets through. */
static void set_hub_unreachable(const Operation *op, const IdentitydAnswer *answer, Failure *ret) {
        (void) failure_set(ret, FAILURE_HUB_UNREACHABLE, NULL,
                           "IoT Edge runs as '%s' on '%s', but the hub has not accepted it yet",
                           answer->device_id, answer->hub);
        if (op->situation.proxy_lacking & PROXY_IDENTITYD)
                ret->remedy = failure_remedy(WARNING_PROXY_MISSING);
}

static void confirm_give_up(Operation *op, const IdentitydAnswer *answer) {
        const Assignment *a = &op->assignment;
        size_t i = find_status(answer->status);
        UnitState identityd = {};
        Failure failure;
        char code[16];

        (void) units_query(op->h->units, UNIT_IDENTITYD, &identityd, NULL);
        (void) snprintf(code, sizeof(code), answer->status == 0 ? "no answer" : "HTTP %u", answer->status);
        if (names_device(answer))
                set_hub_unreachable(op, answer, &failure);
        else if (identityd.masked || identityd.failed || identityd.failing)
                (void) failure_set(&failure, FAILURE_RESTART_FAILED, identityd.result,
                                   "IoT Edge does not run as '%s' on '%s': '%s' %s; see 'journalctl -u %s'",
                                   a->device_id, a->hub, UNIT_IDENTITYD,
                                   identityd.masked ? "is masked" : "ends with an error", UNIT_IDENTITYD);
        else
                (void) failure_set(&failure, FAILURE_CONFIRM_TIMEOUT, code,
                                   "IoT Edge does not run as '%s' on '%s': its identity service %s%s%s",
                                   a->device_id, a->hub,
                                   i < ARRAY_SIZE(statuses) ? statuses[i].meaning
                                                            : "answers what is not understood",
                                   answer->message[0] ? ": " : "", answer->message);
        operation_fail(op, &failure);
}

/* identityd asks its hub before it answers, and not again before its next start. If there is no new
 * prev_state by then, the hub was out of reach, and only a restart helps. Without device_info a restart
 * would be another registration, so then Apply goes on asking until its deadline. */
static bool went_offline(const Operation *op, const IdentitydAnswer *answer) {
        CLEANUP(device_info_deinit) DeviceInfo now = {};

        return names_device(answer) && device_info_read(&now, operation_root(op)) >= 0 && now.hub &&
               streq(now.hub, answer->hub) && streq(now.device_id, answer->device_id);
}

static bool is_final(const Operation *op, const IdentitydAnswer *answer) {
        size_t i = find_status(answer->status);

        return (i < ARRAY_SIZE(statuses) && statuses[i].final) || went_offline(op, answer);
}

static void confirm_again(Operation *op, const IdentitydAnswer *answer) {
        int r;

        if (now_usec(CLOCK_MONOTONIC) > op->plan.deadline || is_final(op, answer)) {
                confirm_give_up(op, answer);
                return;
        }
        op->timer = sd_event_source_disable_unref(op->timer);
        r = sd_event_add_time_relative(op->h->event, &op->timer, CLOCK_MONOTONIC, CONFIRM_PAUSE,
                                       USEC_PER_SEC / 10, on_confirm_timer, op);
        if (r < 0)
                confirm_give_up(op, answer);
}

static void on_confirmed(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;
        Plan *plan = &op->plan;
        FileMark proof = prev_state_mark(operation_root(op));
        Failure failure;

        if (!names_device(answer) ||
            !(plan->need_new_proof ? file_mark_newer(&proof, &plan->proof_before) : proof.text[0] != '\0')) {
                confirm_again(op, answer);
                return;
        }
        if (string_replace(&plan->hub, answer->hub) < 0 ||
            string_replace(&plan->device_id, answer->device_id) < 0) {
                (void) failure_set_errno(&failure, FAILURE_STORAGE, -ENOMEM, "Apply can't be answered");
                operation_fail(op, &failure);
                return;
        }
        operation_run(op);
}

static void confirm_ask(Operation *op) {
        Failure failure;
        int r;

        r = identityd_ask(op->h->identityd, IDENTITYD_DEVICE, on_confirmed, op);
        if (r < 0) {
                (void) failure_set_errno(&failure, FAILURE_CONFIRM_TIMEOUT, r, "identityd can't be asked");
                operation_fail(op, &failure);
        }
}

static void set_patience(Operation *op, usec_t usec) {
        usec_t now = now_usec(CLOCK_MONOTONIC);

        op->plan.deadline = now + usec;
        if (op->plan.deadline > op->deadline)
                op->plan.deadline =
                        op->deadline > now + CONFIRM_LEAST_USEC ? op->deadline : now + CONFIRM_LEAST_USEC;
}

int step_confirm(Operation *op) {
        set_patience(op, op->h->options->confirm_timeout_usec);
        confirm_ask(op);
        return FLOW_WAIT;
}

/* --- it has to stay up --- */

static int on_settle_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Operation *op = userdata;

        op->steps--; /* step_settle once more */
        operation_run(op);
        return 0;
}

/* aziot-edged writes this file when it has its identity and its engine, unless the content stays the same.
 */
static bool has_written_state(const Operation *op) {
        CLEANUP(freep) char *path = NULL;
        struct stat st;
        usec_t written;

        if (path_under(&path, operation_root(op), PATH_EDGED_STATE) < 0 || stat(path, &st) < 0)
                return false;
        written = (usec_t) st.st_mtim.tv_sec * USEC_PER_SEC + (usec_t) st.st_mtim.tv_nsec / 1000;
        return written >= units_entered_real(op->h->units, UNIT_EDGED) &&
               written <= now_usec(CLOCK_REALTIME);
}

static bool has_stayed_up(const Operation *op, const UnitState *edged) {
        if (edged->failing)
                return false;
        return has_written_state(op) ||
               (edged_had_identity(operation_root(op)) &&
                now_usec(CLOCK_MONOTONIC) >= edged->active_enter_usec + SETTLE_USEC);
}

static int edged_silent(Operation *op) {
        int r = failure_set(&op->failure, FAILURE_RESTART_FAILED, "no identity",
                            "'%s' runs, but has not got its identity", UNIT_EDGED);

        op->failure.remedy = HINT_RESTART_IOTEDGE;
        return r;
}

static int settle_again(Operation *op, usec_t pause) {
        op->timer = sd_event_source_disable_unref(op->timer);
        return sd_event_add_time_relative(op->h->event, &op->timer, CLOCK_MONOTONIC, pause, pause / 4,
                                          on_settle_timer, op);
}

/* An aziot-edged that waits to be started again may have ended because there was no identity yet. It counts
 * as up when it has its identity, and has run for SETTLE_USEC or has written its state since its start. */
int step_settle(Operation *op) {
        usec_t patience = op->h->options->confirm_timeout_usec;
        Plan *plan = &op->plan;
        UnitState edged;
        bool waits;
        int r;

        if (op->situation.edgeless)
                return 0; /* identityd has just answered */
        r = units_query(op->h->units, UNIT_EDGED, &edged, &op->failure);
        if (r < 0)
                return r;
        if (!edged.active)
                return main_unit_down(op, &edged);
        if (has_stayed_up(op, &edged))
                return 0;
        r = engine_check(&op->situation, &op->failure);
        if (r < 0)
                return r;
        waits = edged.failing || !edged_had_identity(operation_root(op));
        if (waits && !plan->unsteady) {
                plan->unsteady = true;
                set_patience(op, patience < SETTLE_MAX ? patience : SETTLE_MAX);
        }
        if (!plan->unsteady)
                return 0;
        if (now_usec(CLOCK_MONOTONIC) <= plan->deadline &&
            settle_again(op, edged.failing ? CONFIRM_PAUSE : IDENTITY_PAUSE) >= 0)
                return FLOW_WAIT;
        return edged.failing ? main_unit_down(op, &edged) : edged_silent(op);
}

int step_compare(Operation *op) {
        const Assignment *a = &op->assignment;
        const Plan *plan = &op->plan;

        if (strcasecmp(plan->hub, a->hub) == 0 && streq(plan->device_id, a->device_id))
                return 0;
        /* It has to register, and has not been told to: its identity had not been accepted yet. */
        if (a->hand_over == HAND_OVER_REGISTER && !plan->keep && !plan->reprovision && a->snapshot.hub &&
            strcasecmp(plan->hub, a->snapshot.hub) == 0 && streq(plan->device_id, a->snapshot.device_id))
                return failure_set(&op->failure, FAILURE_APPLY_FAILED, "register",
                                   "IoT Edge still runs as '%s' on '%s'", plan->device_id, plan->hub);
        if (plan->adopt && !plan->keep)
                operation_warn(op, WARNING_ADOPTION_REFUSED,
                               "IoT Edge did not keep the assigned identity '%s' on '%s' and registered by "
                               "itself as '%s' on '%s'",
                               a->device_id, a->hub, plan->device_id, plan->hub);
        return 0;
}

static void on_edge_agent(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;

        if (answer->status == 404 && strstr(answer->message, "not found"))
                operation_warn(
                        op, WARNING_EDGE_FLAG_MISSING,
                        "The device '%s' has no $edgeAgent on '%s': its enrolment is not marked as an "
                        "IoT Edge device",
                        op->plan.device_id, op->plan.hub);
        operation_run(op);
}

int step_edge_agent(Operation *op) {
        if (op->situation.edgeless)
                return 0;
        return identityd_ask(op->h->identityd, IDENTITYD_EDGE_AGENT, on_edge_agent, op) < 0 ? 0 : FLOW_WAIT;
}
