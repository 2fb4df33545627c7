/* Apply: an assigned identity becomes IoT Edge's, step by step. Killed anywhere and begun again, it ends in
 * the same place. */
#include <errno.h>
#include <stdlib.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

static int name_pending(Operation *op) {
        const Assignment *a = &op->assignment;
        CLEANUP(freep) char *name = NULL;

        if (hex_encode(&name, a->key.name.data, a->key.name.size) >= 0 &&
            asprintf(&op->plan.pending, "%s %s %s", a->hub, a->device_id, name[0] ? name : "-") >= 0)
                return 0;
        op->plan.pending = NULL;
        return operation_fail_write(op, -ENOMEM, PATH_RECORD);
}

/* What was begun before, by an attempt that failed or a process that ended; not, when IoT Edge has not even
 * the identity yet: then a proof of the meantime is one of the old identity. */
static void resume_pending(Operation *op, bool same_identity) {
        const Record *rec = &op->situation.record;
        Plan *plan = &op->plan;

        plan->proof_before = op->situation.prev_state;
        plan->begun = str_set_and_equal(rec->pending, plan->pending) && (same_identity || !plan->adopt);
        plan->started = plan->begun && str_set_and_equal(rec->started, plan->pending);
        if (plan->begun)
                (void) snprintf(plan->proof_before.text, sizeof(plan->proof_before.text), "%s",
                                rec->pending_proof ? rec->pending_proof : "");
}

/* The daemon has compared before, but identityd may have registered since then. */
static bool is_newer(const Operation *op) {
        const Bytes none = {};
        const DeviceInfo *now = &op->situation.device_info;

        return assignment_superseded(&op->assignment, &(Found){ .key_name = &none,
                                                                .same_key = true,
                                                                .hub = now->hub,
                                                                .device_id = now->device_id });
}

/* identityd has registered another device than the one that was handed over last, or written since.
 * aziot-edged reads it at its next start. */
static bool became_another(const Operation *op) {
        const Record *rec = &op->situation.record;
        const DeviceInfo *now = &op->situation.device_info;

        return rec->handed_off && rec->hub && now->hub &&
               !(str_set_and_equal(rec->hub, now->hub) && str_set_and_equal(rec->device_id, now->device_id));
}

static void plan_steps(Operation *op) {
        const Situation *s = &op->situation;
        const Assignment *a = &op->assignment;
        Plan *plan = &op->plan;
        bool same_identity = assignment_same_device(a, s->device_info.hub, s->device_info.device_id);
        const UnitState *main_unit = situation_main(s);
        bool adopt, first, became_other;

        plan->adopt = plan->adopt && a->hand_over == HAND_OVER_ADOPT;
        plan->keep = a->hand_over == HAND_OVER_KEEP || is_newer(op);
        resume_pending(op, same_identity);
        adopt = plan->adopt && !plan->keep;
        first = !s->record.handed_off && !plan->started;

        plan->write_device_info = adopt && op->verdict.mends & MEND_DEVICE_INFO;
        plan->renew_key = adopt && ((a->key.changed && !plan->started) || plan->write_device_info);
        plan->reprovision = !plan->keep && s->prev_state.text[0] &&
                            assignment_needs_registration(a, s->device_info.hub, s->device_info.device_id);
        became_other = became_another(op) && !plan->started;
        plan->restart_main =
                plan->run_apply || !main_unit->active || (main_unit->failing && !plan->started) ||
                ((first || plan->write_device_info || became_other || (plan->begun && !plan->started)) &&
                 !plan->reprovision);
        /* identityd asks its hub only when it starts. */
        plan->restart_identityd = plan->started && s->identityd.active && !plan->renew_key &&
                                  !plan->run_apply && !file_mark_newer(&s->prev_state, &plan->proof_before);
        plan->need_new_proof = plan->begun || plan->renew_key || plan->run_apply || !s->identityd.active;
}

static int step_plan(Operation *op) {
        const Assignment *a = &op->assignment;
        int r;

        r = operation_judge(op);
        if (r < 0)
                return r;
        if (!config_hub_allowed(op->situation.config, a->hub))
                return failure_set(&op->failure, FAILURE_HUB_NOT_ALLOWED, NULL,
                                   "The hub '%s' matches none of AllowedHubs=", a->hub);
        r = name_pending(op);
        if (r < 0)
                return r;
        plan_steps(op);
        if (op->plan.reprovision && !op->dps_answers)
                return failure_set(&op->failure, FAILURE_APPLY_FAILED, "dps",
                                   "IoT Edge can't register as '%s' on '%s': DPS does not answer",
                                   a->device_id, a->hub);
        return 0;
}

/* --- the disruption --- */

static bool disrupts_edged(const Plan *plan) {
        return plan->write_device_info || plan->run_apply || plan->restart_main || plan->reprovision;
}

/* Comes once in each Apply: after every other check, and before the first job that stops or restarts
 * aziot-edged. */
static int step_permit_disruption(Operation *op) {
        return disrupts_edged(&op->plan) ? operation_permit_disruption(op) : 0;
}

/* --- the identity --- */

static void add_stop(Operation *op, UnitJob *jobs, size_t *n, const UnitState *state, const char *unit) {
        if (!state->active)
                return;
        stopped_add(&op->h->stopped, unit);
        jobs[(*n)++] = (UnitJob){ UNIT_STOP, unit };
}

/* identityd would write its old device_info back, and tpmd looks for the key only at its start. Sockets go
 * first, or a client would start the service again. `iotedge config apply` stops all units itself, so the
 * list of stopped units contains all that run now. */
static int step_stop(Operation *op) {
        const Situation *s = &op->situation;
        Plan *plan = &op->plan;
        UnitJob jobs[STOPPED_MAX];
        size_t n = 0;
        int r;

        if (!plan->renew_key && !plan->run_apply)
                return 0;
        r = running_read(&plan->running, op->h->units, &op->failure);
        if (r < 0)
                return r;
        if (plan->run_apply)
                stopped_add_running(&op->h->stopped, &plan->running);
        if (plan->write_device_info) {
                add_stop(op, jobs, &n, &s->edged_mgmt, UNIT_EDGED_MGMT);
                add_stop(op, jobs, &n, &s->edged_workload, UNIT_EDGED_WORKLOAD);
                add_stop(op, jobs, &n, &s->edged, UNIT_EDGED);
        }
        if (plan->renew_key) {
                add_stop(op, jobs, &n, &s->identityd_socket, UNIT_IDENTITYD_SOCKET);
                add_stop(op, jobs, &n, &s->identityd, UNIT_IDENTITYD);
                add_stop(op, jobs, &n, &s->tpmd_socket, UNIT_TPMD_SOCKET);
                add_stop(op, jobs, &n, &s->tpmd, UNIT_TPMD);
        }
        if (stopped_any(&op->h->stopped)) {
                r = stopped_save(&op->h->stopped, operation_root(op), &op->failure);
                if (r < 0)
                        return r;
        }
        if (n == 0)
                return 0;
        op->changed = true;
        return operation_jobs(op, jobs, n);
}

/* --- units --- */

static int step_apply(Operation *op) {
        const UnitJob job = { UNIT_START, UNIT_APPLY };

        if (!op->plan.run_apply)
                return 0;
        op->changed = op->plan.applying = true;
        return operation_jobs(op, &job, 1);
}

/* IoT Edge 1.3 ignores the payload, and applying the same bytes again would not change that. The record
 * keeps their digest, so that they are not applied again. */
static bool note_ignored_payload(Operation *op, const ConfigToml *applied) {
        Record *rec = &op->situation.record;
        Failure warning;

        if (!judge_payload_ignored(&op->wanted, applied, &warning) ||
            string_replace(&rec->ignored_digest,
                           op->plan.write_config ? rec->digest : op->situation.toml.digest) < 0)
                return false;
        operation_warn_failure(op, &warning);
        return true;
}

/* Its success is not enough: `iotedge config apply` knows failures that it only prints, and a drop-in may
 * have another idea of what to run. */
static int step_check_applied(Operation *op) {
        CLEANUP(situation_deinit) Situation now = {};
        Record *rec = &op->situation.record;
        Plan *plan = &op->plan;

        /* An aziot-edged that ran before still has to start with the new configuration. */
        plan->settled =
                !plan->run_apply || !situation_main(&op->situation)->active || operation_keeps_new_set(op);
        if (!plan->run_apply)
                return 0;
        situation_read_applied(&now, operation_root(op));
        if (applied_whole(&plan->applied, operation_root(op)) &&
            (config_toml_matches(&now.applied, &op->wanted.provisioning) ||
             note_ignored_payload(op, &now.applied))) {
                rec->applying = false;
                return handoff_record_save(rec, operation_root(op), &op->failure);
        }
        plan->settled = false;
        return failure_set(&op->failure, FAILURE_APPLY_FAILED, NULL,
                           "'%s' ended well, but '%s%s' does not say what config.toml says; see "
                           "'journalctl -u %s'",
                           UNIT_APPLY, operation_root(op), PATH_APPLIED, UNIT_APPLY);
}

/* All of IoT Edge's sockets: where one does not listen, nobody starts its service. systemd refuses to start
 * the socket of a service that runs. */
static int step_start_sockets(Operation *op) {
        static const char *const names[] = {
                /* each socket and its service */
                UNIT_TPMD_SOCKET,  UNIT_TPMD,  UNIT_KEYD_SOCKET,      UNIT_KEYD,
                UNIT_CERTD_SOCKET, UNIT_CERTD, UNIT_IDENTITYD_SOCKET, UNIT_IDENTITYD,
                UNIT_EDGED_MGMT,   UNIT_EDGED, UNIT_EDGED_WORKLOAD,   UNIT_EDGED,
        };
        UnitState states[ARRAY_SIZE(names)];
        UnitJob jobs[ARRAY_SIZE(names) / 2];
        size_t n = 0;
        int r;

        if (!op->plan.restart_main)
                return 0;
        r = units_query_all(op->h->units, names, ARRAY_SIZE(names), states, &op->failure);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(names); i += 2)
                if (states[i].exists && !states[i].active && !states[i + 1].active)
                        jobs[n++] = (UnitJob){ UNIT_START, names[i] };
        return n > 0 ? operation_jobs(op, jobs, n) : 0;
}

/* Stops every module, so it is never done without need. */
static int step_restart_main_unit(Operation *op) {
        const UnitJob job = { UNIT_RESTART, situation_main_unit(&op->situation) };
        const Plan *plan = &op->plan;
        UnitState state;
        int r;

        if (!plan->restart_main)
                return 0;
        r = units_query(op->h->units, job.unit, &state, &op->failure);
        if (r < 0)
                return r;
        if (plan->applying && state.active &&
            state.active_enter_usec != situation_main(&op->situation)->active_enter_usec)
                return 0; /* `iotedge config apply` has started it */
        op->changed = true;
        return operation_jobs(op, &job, 1);
}

/* Clear this last. If this process dies earlier, the next instance starts the unit. */
static int step_main_unit_started(Operation *op) {
        op->plan.settled = true;
        operation_discard_files(op);
        if (op->plan.restart_main)
                stopped_remove(&op->h->stopped, situation_main_unit(&op->situation));
        return 0;
}

static int step_restart_identityd(Operation *op) {
        const UnitJob job = { UNIT_RESTART, UNIT_IDENTITYD };

        if (!op->plan.restart_identityd)
                return 0;
        op->changed = true;
        return operation_jobs(op, &job, 1);
}

/* A retry does not have to do it again. */
static int step_record_started(Operation *op) {
        Record *rec = &op->situation.record;

        if (!str_set_and_equal(rec->pending, op->plan.pending) ||
            str_set_and_equal(rec->started, op->plan.pending) || op->plan.reprovision)
                return 0;
        if (string_replace(&rec->started, op->plan.pending) < 0)
                return operation_fail_write(op, -ENOMEM, PATH_RECORD);
        return handoff_record_save(rec, operation_root(op), &op->failure);
}

/* --- IoT Edge's own registration --- */

static void restart_as_new(Operation *op) {
        const UnitJob job = { UNIT_RESTART, UNIT_EDGED };

        op->changed = op->plan.need_new_proof = true;
        if (op->situation.edgeless)
                operation_run(op);
        else if (operation_jobs(op, &job, 1) < 0) {
                const Failure failure = op->failure;

                operation_fail(op, &failure);
        }
}

static void on_reprovisioned(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;
        Failure failure;

        if (answer->status >= 200 && answer->status < 300) {
                restart_as_new(op);
                return;
        }
        (void) failure_set(&failure, FAILURE_APPLY_FAILED, NULL,
                           "IoT Edge's identity service did not register anew (status %u): %s",
                           answer->status, answer->message);
        operation_fail(op, &failure);
}

/* identityd forgets who it is before it asks DPS, so it is told to only when DPS has just answered. */
static int tell_to_reprovision(Operation *op) {
        int r;

        op->plan.proof_before = prev_state_mark(operation_root(op));
        r = identityd_ask(op->h->identityd, IDENTITYD_REPROVISION, on_reprovisioned, op);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_APPLY_FAILED, r, "identityd can't be asked")
                     : FLOW_WAIT;
}

static void on_settled(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;

        if (answer->status == 200 && assignment_same_device(&op->assignment, answer->hub, answer->device_id))
                restart_as_new(op);
        else if (tell_to_reprovision(op) < 0) {
                const Failure failure = op->failure;

                operation_fail(op, &failure);
        }
}

/* A hub refuses a device that DPS has moved away, and then identityd has already registered when it answers:
 * registering is billed. */
static int step_reprovision(Operation *op) {
        const DeviceInfo *was = &op->situation.device_info;
        bool same_identity = assignment_same_device(&op->assignment, was->hub, was->device_id);

        if (!op->plan.reprovision)
                return 0;
        if (!same_identity && identityd_ask(op->h->identityd, IDENTITYD_SETTLED, on_settled, op) >= 0)
                return FLOW_WAIT;
        return tell_to_reprovision(op);
}

/* --- the end --- */

static int step_record_success(Operation *op) {
        Situation *s = &op->situation;
        Record *rec = &s->record;
        bool known = rec->handed_off && str_set_and_equal(rec->hub, op->plan.hub) &&
                     str_set_and_equal(rec->device_id, op->plan.device_id) && !rec->previous_hub &&
                     !rec->previous_digest && !rec->pending && !op->changed;
        CLEANUP(freep) char *name = NULL;
        int r = 0;

        if (known)
                return 0;
        if (!op->plan.write_config) /* an operator wrote the tables that we want: they count as ours now */
                r = string_replace(&rec->digest, s->toml.digest);
        if (r >= 0)
                r = string_replace(&rec->hub, op->plan.hub);
        if (r >= 0)
                r = string_replace(&rec->device_id, op->plan.device_id);
        if (r >= 0)
                r = string_replace(&rec->registration_id, op->registration_id);
        if (r >= 0)
                r = hex_encode(&name, op->assignment.key.name.data, op->assignment.key.name.size);
        if (r >= 0 && name[0])
                r = string_replace(&rec->key_name, name);
        free(TAKE(rec->previous_hub));
        free(TAKE(rec->previous_device_id));
        free(TAKE(rec->previous_digest));
        free(TAKE(rec->pending));
        free(TAKE(rec->pending_proof));
        free(TAKE(rec->started));
        rec->handed_off = true;
        return r < 0 ? operation_fail_write(op, r, PATH_RECORD)
                     : handoff_record_save(rec, operation_root(op), &op->failure);
}

const FlowStep apply_steps[] = {
        step_survey,
        step_ask_device,
        step_plan,
        step_prepare,
        step_permit_disruption,
        step_record_pending,
        step_keep_backup,
        step_stop,
        step_place_files,
        step_apply,
        step_check_applied,
        step_start_sockets,
        step_restart_main_unit,
        step_check_main_unit,
        step_main_unit_started,
        step_start_stopped,
        step_restart_identityd,
        step_record_started,
        step_reprovision,
        step_confirm,
        step_settle,
        step_compare,
        step_edge_agent,
        step_record_success,
        step_confirm_disruption,
        NULL,
};

const FlowStep apply_recovery_steps[] = { step_end_apply, step_stop_newer, step_put_back_files,
                                          step_start_stopped, NULL };
