/* Check and Verify, which change nothing, and the judgement that Apply begins with. */
#include <errno.h>

#include "engine.h"
#include "handoffd.h"
#include "proxies.h"

int step_survey(Operation *op) {
        int r;

        r = situation_read_files(&op->situation, op->h->options->root, &op->h->options->config,
                                 &op->failure);
        if (r >= 0)
                r = situation_read_units(&op->situation, op->h->units, &op->failure);
        if (r >= 0)
                proxies_read(&op->situation, op->situation.config, op->h->units);
        return r;
}

static void on_provisioning(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;

        op->situation.provisioning = *answer;
        operation_run(op);
}

static void on_device(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;

        op->situation.device = *answer;
        if (answer->status != 200 ||
            identityd_ask(op->h->identityd, IDENTITYD_PROVISIONING, on_provisioning, op) < 0)
                operation_run(op);
}

/* Asking would start it. */
int step_ask_device(Operation *op) {
        int r;

        if (!op->situation.identityd.active)
                return 0;
        r = identityd_ask(op->h->identityd, IDENTITYD_DEVICE, on_device, op);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_APPLY_FAILED, r, "identityd can't be asked")
                     : FLOW_WAIT;
}

static int set_wanted(Operation *op, const char *registration_id, const Assignment *assignment) {
        wanted_deinit(&op->wanted);
        return wanted_make(&op->wanted, op->situation.config, registration_id, assignment) < 0
                       ? failure_set_errno(&op->failure, FAILURE_STORAGE, -ENOMEM, "%s can't be answered",
                                           op->name)
                       : 0;
}

static bool is_warned(const Operation *op, FailureKind kind) {
        for (size_t i = 0; i < op->warning_count; i++)
                if (op->warnings[i].kind == kind)
                        return true;
        return false;
}

/* The daemon has one warning of each kind: the first, and the next when that is mended. */
static void add_warnings(Operation *op) {
        for (size_t i = 0; i < op->verdict.count; i++) {
                const Finding *f = &op->verdict.findings[i];

                if (is_warned(op, f->failure.kind))
                        continue;
                if (f->owner == OWNER_NOBODY && (failure_class(f->failure.kind) == FAILURE_CLASS_WARNING ||
                                                 f->type == FINDING_ENGINE_SILENT))
                        operation_warn_failure(op, &f->failure);
        }
}

int operation_judge(Operation *op) {
        const Verdict *v = &op->verdict;
        Situation *s = &op->situation;
        Plan *plan = &op->plan;
        int r;

        if (s->config->target == TARGET_NONE)
                return failure_set(&op->failure, FAILURE_CONFIG, NULL,
                                   "Target=none is set, so IoT Edge is left alone");
        r = set_wanted(op, op->registration_id, op->assignment.hub ? &op->assignment : NULL);
        if (r < 0)
                return r;
        judge(&op->verdict, &op->wanted, s);
        add_warnings(op);
        plan->write_config = v->mends & MEND_CONFIG;
        plan->run_apply = v->mends & MEND_APPLY;
        plan->adopt = s->config->identity == IDENTITY_ADOPT && !verdict_find(v, FINDING_REPROVISIONS_ITSELF);
        if (!verdict_refusal(v))
                return 0;
        op->failure = verdict_refusal(v)->failure;
        return failure_to_errno(op->failure.kind);
}

static int set_device(Operation *op, const char *hub, const char *device_id) {
        int r = string_replace(&op->plan.hub, hub);

        if (r >= 0)
                r = string_replace(&op->plan.device_id, device_id);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_STORAGE, r, "%s can't be answered", op->name)
                     : 0;
}

/* Without a configuration to apply the judge does not ask the engine. IoT Edge needs it all the same. */
static int check_engine(Operation *op) {
        Failure failure;

        if (op->plan.run_apply || op->situation.edgeless || engine_check(&op->situation, &failure) >= 0)
                return 0;
        if (failure.kind != FAILURE_ENGINE_UNREACHABLE) {
                op->failure = failure;
                return failure_to_errno(failure.kind);
        }
        operation_warn_failure(op, &failure);
        return 0;
}

static int step_decide(Operation *op) {
        const Situation *s = &op->situation;
        int r;

        r = operation_judge(op);
        if (r >= 0)
                r = check_engine(op);
        if (r >= 0)
                r = operation_disruption_wait(op, &op->disruption_wait_usec);
        if (r < 0)
                return r;
        op->result = "ready";
        if (!s->record.hub && !op->plan.run_apply && s->device.hub[0] && s->device.device_id[0] &&
            s->prev_state.text[0] && judge_identityd_provisioned(&op->wanted, s)) {
                op->result = "already";
                return set_device(op, s->device.hub, s->device.device_id);
        }
        return 0;
}

const FlowStep check_steps[] = { step_survey, step_ask_device, step_decide, step_try_writes, NULL };

static int step_verify(Operation *op) {
        const Assignment *a = &op->assignment;
        Situation *s = &op->situation;
        const Finding *loss;
        int r;

        handoffd_note_running(op->h);
        r = situation_read_files(s, op->h->options->root, &op->h->options->config, &op->failure);
        if (r >= 0)
                r = set_wanted(op, a->target.registration_id, a);
        if (r < 0)
                return r;
        proxies_read(s, s->config, op->h->units);
        judge(&op->verdict, &op->wanted, s);
        add_warnings(op);
        if (verdict_find(&op->verdict, FINDING_DEVICE_MOVED)) {
                op->result = "moved";
                return set_device(op, s->device_info.hub, s->device_info.device_id);
        }
        loss = verdict_loss(&op->verdict);
        op->detail = loss ? loss->failure.sentence : NULL;
        op->result = loss ? "lost" : "intact";
        return 0;
}

const FlowStep verify_steps[] = { step_verify, NULL };

/* identityd answers when it has registered, if it is about to. */
static int step_let_settle(Operation *op) {
        if (units_query(op->h->units, UNIT_IDENTITYD, &op->situation.identityd, NULL) < 0)
                return 0;
        return step_ask_device(op);
}

const FlowStep verify_settled_steps[] = { step_let_settle, step_verify, NULL };
