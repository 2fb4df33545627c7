/* Apply: an assigned identity becomes IoT Edge's, step by step. Killed anywhere and begun again, it ends in
 * the same place. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <strings.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

#define BASE_MAX      ((size_t) 256 * 1024)
#define PATH_BACKUP   PATH_CONFIG ".before-dps-provisiond"
#define CONFIRM_PAUSE (USEC_PER_SEC / 2)

static const char *root_of(const Operation *op) {
        return op->h->options->root;
}

static bool same(const char *a, const char *b) {
        return a && b && streq(a, b);
}

static int storage_failure(Operation *op, int r, const char *path) {
        return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s%s' can't be written", root_of(op),
                                 path);
}

static int step_plan(Operation *op) {
        Situation *s = &op->situation;
        const Assignment *a = &op->assignment;
        Plan *plan = &op->plan;
        bool same_identity =
                same(s->device_info.hub, a->hub) && same(s->device_info.device_id, a->device_id);
        int r;

        r = check_refusals(op);
        if (r < 0)
                return r;
        if (!config_hub_allowed(s->config, a->hub))
                return failure_set(&op->failure, FAILURE_HUB_NOT_ALLOWED, NULL,
                                   "The hub '%s' matches none of AllowedHubs=", a->hub);
        plan->adopt = plan->adopt && a->adopt;
        plan->moved = situation_moved(s) && !a->dps_just_answered;
        plan->first = !s->record.handed_off;
        plan->write_device_info = plan->adopt && !plan->moved && !same_identity;
        plan->renew_key = plan->adopt && !plan->moved && (a->key_changed || plan->write_device_info);
        plan->restart_edged =
                plan->first || plan->run_apply || plan->write_device_info || a->force || !s->edged.active;
        plan->need_new_proof = plan->renew_key || plan->run_apply || !s->identityd.active;
        plan->proof_before = s->prev_state;
        return 0;
}

/* --- config.toml --- */

static int make_config(Operation *op, char **ret) {
        const Situation *s = &op->situation;
        CLEANUP(freep) char *path = NULL, *base = NULL;
        size_t size = 0;
        int r;

        if (s->text)
                return config_toml_edit(ret, PATH_CONFIG, s->text, s->text_size, &op->plan.wanted,
                                        &op->failure);
        r = path_under(&path, root_of(op), PATH_BASE);
        if (r >= 0)
                r = read_file(path, BASE_MAX, &base, &size);
        if (r < 0 && r != -ENOENT)
                return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s' can't be read", PATH_BASE);
        return config_toml_edit(ret, PATH_BASE, base ? base : "", size, &op->plan.wanted, &op->failure);
}

/* Recorded before it is written: whichever of the two a power cut leaves is known to be ours. */
static int record_config(Operation *op, const char *text) {
        CLEANUP(config_toml_deinit) ConfigToml config = {};
        Situation *s = &op->situation;
        Record *rec = &s->record;
        bool ours = same(s->toml.digest, rec->digest) || same(s->toml.digest, rec->previous_digest);
        int r;

        assert(text); /* make_config() went well */
        r = config_toml_read(&config, PATH_CONFIG, text, strlen(text), &op->failure);
        if (r < 0)
                return r;
        r = string_replace(&rec->previous_digest, ours ? s->toml.digest : NULL);
        if (r >= 0)
                r = string_replace(&rec->digest, config.digest);
        if (r >= 0)
                r = string_replace(&rec->registration_id, op->registration_id);
        if (r < 0)
                return storage_failure(op, r, PATH_RECORD);
        return handoff_record_save(rec, root_of(op), &op->failure);
}

int operation_write(Operation *op, const char *name, const char *text, size_t size) {
        CLEANUP(freep) char *directory = NULL;
        CLEANUP(closep) int fd = -1;
        int r;

        r = path_under(&directory, root_of(op), PATH_CONFIG_DIR);
        if (r >= 0)
                r = store_make_directory(directory, 0755);
        if (r >= 0) {
                fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                r = fd < 0 ? -errno
                           : store_write_at(fd, strrchr(name, '/') + 1, text, size,
                                            &op->situation.attributes);
        }
        return r < 0 ? storage_failure(op, r, name) : 0;
}

static int step_write_config(Operation *op) {
        Situation *s = &op->situation;
        CLEANUP(freep) char *text = NULL;
        int r;

        if (!op->plan.write_config)
                return 0;
        r = make_config(op, &text);
        if (r >= 0)
                r = record_config(op, text);
        if (r >= 0 && s->text)
                r = operation_write(op, PATH_BACKUP, s->text, s->text_size);
        if (r >= 0)
                r = operation_write(op, PATH_CONFIG, text, strlen(text));
        if (r < 0)
                return r;
        op->plan.config_written = op->changed = true;
        log_notice("The provisioning in '%s%s' was written", root_of(op), PATH_CONFIG);
        return 0;
}

/* --- the identity --- */

static void add_stop(Operation *op, UnitJob *jobs, size_t *n, const UnitState *state, const char *unit) {
        if (!state->active)
                return;
        stopped_add(&op->h->stopped, unit);
        jobs[(*n)++] = (UnitJob){ UNIT_STOP, unit };
}

/* identityd would write its old device_info back, and tpmd looks for the key only at its start. Sockets go
 * first, or a client would start the service again. */
static int step_stop(Operation *op) {
        const Situation *s = &op->situation;
        UnitJob jobs[STOPPED_MAX];
        size_t n = 0;
        int r;

        if (!op->plan.renew_key)
                return 0;
        if (op->plan.write_device_info) {
                add_stop(op, jobs, &n, &s->edged_mgmt, UNIT_EDGED_MGMT);
                add_stop(op, jobs, &n, &s->edged_workload, UNIT_EDGED_WORKLOAD);
                add_stop(op, jobs, &n, &s->edged, UNIT_EDGED);
        }
        add_stop(op, jobs, &n, &s->identityd_socket, UNIT_IDENTITYD_SOCKET);
        add_stop(op, jobs, &n, &s->identityd, UNIT_IDENTITYD);
        add_stop(op, jobs, &n, &s->tpmd_socket, UNIT_TPMD_SOCKET);
        add_stop(op, jobs, &n, &s->tpmd, UNIT_TPMD);
        if (n == 0)
                return 0;
        r = stopped_save(&op->h->stopped, root_of(op), &op->failure);
        if (r < 0)
                return r;
        op->changed = true;
        return operation_jobs(op, jobs, n);
}

static int step_write_device_info(Operation *op) {
        const Assignment *a = &op->assignment;
        const DeviceInfo *now = &op->situation.device_info;
        Record *rec = &op->situation.record;
        int r;

        if (!op->plan.write_device_info)
                return 0;
        r = string_replace(&rec->previous_hub, now->hub);
        if (r >= 0)
                r = string_replace(&rec->previous_device_id, now->device_id);
        if (r >= 0)
                r = string_replace(&rec->hub, a->hub);
        if (r >= 0)
                r = string_replace(&rec->device_id, a->device_id);
        if (r < 0)
                return storage_failure(op, r, PATH_RECORD);
        r = handoff_record_save(rec, root_of(op), &op->failure);
        if (r >= 0)
                r = device_info_write(root_of(op), a->hub, a->device_id, &op->failure);
        op->changed = op->changed || r >= 0;
        return r;
}

/* --- units --- */

static int step_apply(Operation *op) {
        const UnitJob job = { UNIT_START, UNIT_APPLY };

        if (!op->plan.run_apply)
                return 0;
        op->changed = op->plan.applied = true;
        op->plan.apply_begun = now_usec(CLOCK_MONOTONIC);
        return operation_jobs(op, &job, 1);
}

/* All of IoT Edge's sockets: where one does not listen, nobody starts its service. systemd refuses to start
 * the socket of a service that runs. */
static int step_start_sockets(Operation *op) {
        static const struct {
                const char *socket, *service;
        } all[] = {
                { UNIT_TPMD_SOCKET, UNIT_TPMD },   { UNIT_KEYD_SOCKET, UNIT_KEYD },
                { UNIT_CERTD_SOCKET, UNIT_CERTD }, { UNIT_IDENTITYD_SOCKET, UNIT_IDENTITYD },
                { UNIT_EDGED_MGMT, UNIT_EDGED },   { UNIT_EDGED_WORKLOAD, UNIT_EDGED },
        };
        UnitJob jobs[ARRAY_SIZE(all)];
        UnitState socket, service;
        size_t n = 0;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(all) && op->plan.restart_edged; i++) {
                r = units_query(op->h->units, all[i].socket, &socket, &op->failure);
                if (r >= 0)
                        r = units_query(op->h->units, all[i].service, &service, &op->failure);
                if (r < 0)
                        return r;
                if (socket.exists && !socket.active && !service.active)
                        jobs[n++] = (UnitJob){ UNIT_START, all[i].socket };
        }
        return n > 0 ? operation_jobs(op, jobs, n) : 0;
}

/* Stops every module, so it is never done without need. */
static int step_restart_edged(Operation *op) {
        const UnitJob job = { UNIT_RESTART, UNIT_EDGED };
        const Plan *plan = &op->plan;
        UnitState edged;
        int r;

        if (!plan->restart_edged)
                return 0;
        stopped_remove(&op->h->stopped, UNIT_EDGED); /* this starts it */
        r = units_query(op->h->units, UNIT_EDGED, &edged, &op->failure);
        if (r < 0)
                return r;
        if (plan->applied && !plan->first && edged.active && edged.active_enter_usec >= plan->apply_begun)
                return 0; /* `config apply` has just done it */
        op->changed = true;
        return operation_jobs(op, &job, 1);
}

static int step_check_edged(Operation *op) {
        UnitState edged;
        int r;

        r = units_query(op->h->units, UNIT_EDGED, &edged, &op->failure);
        if (r < 0)
                return r;
        if (edged.active)
                return 0;
        return failure_set(&op->failure, FAILURE_RESTART_FAILED, edged.result,
                           "'%s' was started but does not run; see 'journalctl -u %s'", UNIT_EDGED,
                           UNIT_EDGED);
}

/* --- IoT Edge's own registration --- */

static void on_reprovisioned(void *userdata, const IdentitydAnswer *answer) {
        const UnitJob job = { UNIT_RESTART, UNIT_EDGED };
        Operation *op = userdata;
        Failure failure;

        if (answer->status >= 200 && answer->status < 300) {
                op->changed = op->plan.reprovisioned = op->plan.need_new_proof = true;
                if (operation_jobs(op, &job, 1) >= 0)
                        return;
                failure = op->failure;
        } else
                (void) failure_set(&failure, FAILURE_APPLY_FAILED, NULL,
                                   "IoT Edge's identity service did not register anew (status %u): %s",
                                   answer->status, answer->message);
        operation_fail(op, &failure);
}

/* identityd forgets who it is before it asks DPS, so it is told to only when DPS has just answered. */
static int step_reprovision(Operation *op) {
        const Situation *s = &op->situation;
        const Assignment *a = &op->assignment;
        bool other = s->device_info.hub &&
                     !(same(s->device_info.hub, a->hub) && same(s->device_info.device_id, a->device_id));
        int r;

        if (op->plan.adopt || op->plan.moved || !a->dps_just_answered || !(other || a->force) ||
            !s->prev_state.exists)
                return 0;
        op->plan.proof_before = prev_state_mark(root_of(op));
        r = identityd_ask(op->h->identityd, IDENTITYD_REPROVISION, on_reprovisioned, op);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_APPLY_FAILED, r, "identityd can't be asked")
                     : FLOW_WAIT;
}

/* --- confirmation --- */

static void confirm_ask(Operation *op);

static int on_confirm_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        confirm_ask(userdata);
        return 0;
}

static void confirm_give_up(Operation *op, const IdentitydAnswer *answer) {
        Failure failure;

        if (answer->status == 200)
                (void) failure_set(&failure, FAILURE_HUB_UNREACHABLE, NULL,
                                   "IoT Edge runs as '%s' on '%s', but the hub has not accepted it yet",
                                   answer->device_id, answer->hub);
        else
                (void) failure_set(&failure, FAILURE_CONFIRM_TIMEOUT, answer->status == 0 ? "no answer" : "",
                                   "IoT Edge's identity service did not say that it is provisioned (status "
                                   "%u): %s",
                                   answer->status, answer->message);
        operation_fail(op, &failure);
}

static void confirm_again(Operation *op, const IdentitydAnswer *answer) {
        int r;

        if (now_usec(CLOCK_MONOTONIC) > op->plan.deadline) {
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
        FileMark proof = prev_state_mark(root_of(op));
        Failure failure;

        if (answer->status != 200 || !answer->hub[0] || !answer->device_id[0] ||
            !(plan->need_new_proof ? file_mark_newer(&proof, &plan->proof_before) : proof.exists)) {
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

static int step_confirm(Operation *op) {
        op->plan.deadline = now_usec(CLOCK_MONOTONIC) + op->h->options->confirm_timeout_usec;
        confirm_ask(op);
        return FLOW_WAIT;
}

static int step_compare(Operation *op) {
        const Assignment *a = &op->assignment;
        const Plan *plan = &op->plan;

        if (strcasecmp(plan->hub, a->hub) == 0 && streq(plan->device_id, a->device_id))
                return 0;
        if (plan->adopt && !plan->moved)
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

static int step_edge_agent(Operation *op) {
        return identityd_ask(op->h->identityd, IDENTITYD_EDGE_AGENT, on_edge_agent, op) < 0 ? 0 : FLOW_WAIT;
}

static int step_record_success(Operation *op) {
        Situation *s = &op->situation;
        Record *rec = &s->record;
        bool known = rec->handed_off && same(rec->hub, op->plan.hub) &&
                     same(rec->device_id, op->plan.device_id) && !rec->previous_hub &&
                     !rec->previous_digest && !op->changed;
        int r = 0;

        if (known)
                return 0;
        if (!op->plan.config_written) /* what already said the right thing is ours from now on */
                r = string_replace(&rec->digest, s->toml.digest);
        if (r >= 0)
                r = string_replace(&rec->hub, op->plan.hub);
        if (r >= 0)
                r = string_replace(&rec->device_id, op->plan.device_id);
        if (r >= 0)
                r = string_replace(&rec->registration_id, op->registration_id);
        if (r >= 0 && op->assignment.key_name)
                r = string_replace(&rec->key_name, op->assignment.key_name);
        free(TAKE(rec->previous_hub));
        free(TAKE(rec->previous_device_id));
        free(TAKE(rec->previous_digest));
        rec->handed_off = true;
        return r < 0 ? storage_failure(op, r, PATH_RECORD)
                     : handoff_record_save(rec, root_of(op), &op->failure);
}

const FlowStep apply_steps[] = { step_survey,
                                 step_ask_device,
                                 step_plan,
                                 step_write_config,
                                 step_stop,
                                 step_write_device_info,
                                 step_apply,
                                 step_start_sockets,
                                 step_restart_edged,
                                 step_start_stopped,
                                 step_check_edged,
                                 step_reprovision,
                                 step_confirm,
                                 step_compare,
                                 step_edge_agent,
                                 step_record_success,
                                 NULL };

/* --- when it went wrong --- */

/* Never across a replaced key: the old scope with the new key would be a mixture, while device_info and key
 * work together even with the old config.toml. */
static int step_restore_config(Operation *op) {
        const Situation *s = &op->situation;
        const UnitJob job = { UNIT_START, UNIT_APPLY };
        Failure first = op->failure;
        int r;

        if (!op->plan.config_written || !op->plan.applied || first.kind != FAILURE_APPLY_FAILED ||
            op->assignment.key_changed || !s->text || !s->edged.active)
                return 0;
        r = operation_write(op, PATH_CONFIG, s->text, s->text_size);
        if (r < 0) {
                log_error("The previous '%s' could not be put back: %s", PATH_CONFIG, op->failure.sentence);
                op->failure = first;
                return 0;
        }
        (void) failure_set(&op->failure, first.kind, first.code, "%s; the previous config.toml was put back",
                           first.sentence);
        return operation_jobs(op, &job, 1);
}

const FlowStep apply_recovery_steps[] = { step_restore_config, step_start_stopped, NULL };
