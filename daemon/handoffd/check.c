/* Check and Verify: what can be said without changing anything. */

#include "handoffd.h"
#include "paths.h"
#include "refusals.h"
#include "url.h"

int step_survey(Operation *op) {
        int r;

        r = situation_read_files(&op->situation, op->h->options->root, &op->h->options->config,
                                 &op->failure);
        return r < 0 ? r : situation_read_units(&op->situation, op->h->units, &op->failure);
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

int check_refusals(Operation *op) {
        const char *root = op->h->options->root;
        Situation *s = &op->situation;
        Plan *plan = &op->plan;
        bool itself;
        int r;

        if (s->config->target == TARGET_NONE)
                return failure_set(&op->failure, FAILURE_CONFIG, NULL,
                                   "Target=none is set, so IoT Edge is left alone");
        plan->wanted = situation_wanted(s, op->registration_id);
        r = refusal_of_runtime(s, op->h->units, root, &op->failure);
        if (r >= 0)
                r = refusal_of_config(s, s->config, &plan->wanted, root, &op->failure);
        if (r < 0)
                return r;
        plan->write_config = !s->text || !config_toml_matches(&s->toml, &plan->wanted);
        plan->run_apply =
                plan->write_config || s->record.applying || !config_toml_matches(&s->applied, &plan->wanted);
        if (plan->write_config)
                r = refusal_of_write(root, &op->failure);
        if (r >= 0)
                r = device_info_refusal(root, &op->failure);
        if (r >= 0 && plan->run_apply)
                r = refusal_of_apply(s, root, &op->failure);

        itself = situation_reprovisions_itself(s);
        if (itself)
                operation_warn(op, WARNING_REPROVISIONS_ITSELF,
                               "'%s%s' sets auto_reprovisioning_mode = \"AlwaysOnStartup\", so IoT Edge "
                               "registers by itself at each start",
                               root, situation_origin(s).path);
        plan->adopt = s->config->identity == IDENTITY_ADOPT && !itself;
        return r;
}

static bool names_us(const Situation *s, const Provisioning *wanted) {
        return url_same_endpoint(s->provisioning.endpoint, wanted->endpoint) &&
               streq(s->provisioning.id_scope, wanted->id_scope) &&
               strcasecmp(s->provisioning.registration_id, wanted->registration_id) == 0;
}

static int set_device(Operation *op, const char *hub, const char *device_id) {
        int r = string_replace(&op->plan.hub, hub);

        if (r >= 0)
                r = string_replace(&op->plan.device_id, device_id);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_STORAGE, r, "%s can't be answered", op->name)
                     : 0;
}

static int step_decide(Operation *op) {
        const Situation *s = &op->situation;
        int r;

        r = check_refusals(op);
        if (r >= 0)
                r = operation_disruption_wait(op, &op->disruption_wait_usec);
        if (r < 0)
                return r;
        op->result = "ready";
        if (!s->record.hub && !op->plan.run_apply && s->device.hub[0] && s->device.device_id[0] &&
            s->prev_state.text[0] && names_us(s, &op->plan.wanted)) {
                op->result = "already";
                return set_device(op, s->device.hub, s->device.device_id);
        }
        return 0;
}

const FlowStep check_steps[] = { step_survey, step_ask_device, step_decide, step_try, NULL };

/* Names what is lost, or NULL. */
static const char *what_is_lost(const Situation *s, const Assignment *a, const Provisioning *wanted) {
        if (!s->text)
                return PATH_CONFIG " does not exist";
        if (!config_toml_matches(&s->toml, wanted))
                return PATH_CONFIG " names another provisioning";
        if (!config_toml_matches(&s->applied, wanted))
                return PATH_APPLIED " names another provisioning";
        if (!s->device_info.hub)
                return PATH_IDENTITYD "/device_info does not exist";
        if (!assignment_same_device(a, s->device_info.hub, s->device_info.device_id))
                return PATH_IDENTITYD "/device_info names another device";
        return NULL;
}

static int step_verify(Operation *op) {
        const Assignment *a = &op->assignment;
        Situation *s = &op->situation;
        Provisioning wanted;
        int r;

        r = situation_read_files(s, op->h->options->root, &op->h->options->config, &op->failure);
        if (r < 0)
                return r;
        wanted = situation_wanted(s, a->target.registration_id);
        if (situation_tables_ours(s) && s->device_info.hub &&
            !assignment_same_device(a, s->device_info.hub, s->device_info.device_id)) {
                op->result = "moved";
                return set_device(op, s->device_info.hub, s->device_info.device_id);
        }
        op->detail = what_is_lost(s, a, &wanted);
        op->result = op->detail ? "lost" : "intact";
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
