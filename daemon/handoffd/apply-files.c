/* The files of a hand-off: recorded, put into their places, and put back when a later step fails. The old
 * set or the new set remains, never a mixture. */
#include <assert.h>
#include <stdlib.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

/* --- the record --- */

static int record_config(Operation *op) {
        CLEANUP(config_toml_deinit) ConfigToml config = {};
        const Situation *s = &op->situation;
        Record *rec = &op->situation.record;
        const char *text = op->plan.written;
        bool ours = situation_tables_ours(s);
        int r;

        assert(text); /* step_prepare() has edited it */
        r = config_toml_read(&config, PATH_CONFIG, text, strlen(text), &op->failure);
        if (r < 0)
                return r;
        r = string_replace(&rec->previous_digest, ours ? s->toml.digest : NULL);
        if (r >= 0)
                r = string_replace(&rec->digest, config.digest);
        if (r >= 0)
                r = string_replace(&rec->registration_id, op->registration_id);
        return r < 0 ? operation_fail_write(op, r, PATH_RECORD) : 0;
}

static int record_device(Operation *op) {
        const DeviceInfo *now = &op->situation.device_info;
        Record *rec = &op->situation.record;
        int r;

        r = string_replace(&rec->previous_hub, now->hub);
        if (r >= 0)
                r = string_replace(&rec->previous_device_id, now->device_id);
        if (r >= 0)
                r = string_replace(&rec->hub, op->assignment.hub);
        if (r >= 0)
                r = string_replace(&rec->device_id, op->assignment.device_id);
        return r < 0 ? operation_fail_write(op, r, PATH_RECORD) : 0;
}

static int record_proof(Operation *op) {
        Record *rec = &op->situation.record;
        int r;

        free(TAKE(rec->started));
        r = string_replace(&rec->pending, op->plan.pending);
        if (r >= 0)
                r = string_replace(&rec->pending_proof, op->plan.proof_before.text);
        return r < 0 ? operation_fail_write(op, r, PATH_RECORD) : 0;
}

/* Saves the record before the files change. After a power cut the next instance then knows both the old and
 * the new files as ours, and runs `iotedge config apply` again unless that has succeeded. Until the hub has
 * accepted IoT Edge, only a prev_state newer than the recorded one counts. */
int step_record_pending(Operation *op) {
        const Plan *plan = &op->plan;
        Record *rec = &op->situation.record;
        bool proof = !plan->begun && (plan->renew_key || plan->restart_main || plan->reprovision);
        int r;

        if (!proof && !plan->write_config && !plan->write_device_info && !plan->run_apply)
                return 0;
        r = handoff_record_load(&op->plan.record, operation_root(op), &op->failure);
        if (r < 0)
                return r;
        op->plan.recorded = true;
        if (proof)
                r = record_proof(op);
        if (r >= 0 && plan->write_config)
                r = record_config(op);
        if (r >= 0 && plan->write_device_info)
                r = record_device(op);
        if (r < 0)
                return r;
        rec->applying = plan->run_apply;
        return handoff_record_save(rec, operation_root(op), &op->failure);
}

/* --- into their places --- */

static int place(Operation *op, StoreFile *file, const char *path) {
        int r = store_exchange(file);

        op->changed = true;
        return r < 0 ? operation_fail_write(op, r, path) : 0;
}

/* identityd was stopped, so this prev_state is its last one as the old device. */
static int renew_proof(Operation *op) {
        const FileMark now = prev_state_mark(operation_root(op));
        Record *rec = &op->situation.record;

        if (streq(now.text, op->plan.proof_before.text))
                return 0;
        op->plan.proof_before = now;
        if (string_replace(&rec->pending_proof, now.text) < 0)
                return operation_fail_write(op, -ENOMEM, PATH_RECORD);
        return handoff_record_save(rec, operation_root(op), &op->failure);
}

int step_place_files(Operation *op) {
        const Situation *s = &op->situation;
        Plan *plan = &op->plan;
        int r = 0;

        if (plan->write_config)
                r = config_check_unchanged(op, s->text, s->text_size);
        if (r >= 0 && plan->write_device_info)
                r = renew_proof(op);
        if (r >= 0 && plan->write_config)
                r = place(op, &plan->config_file, PATH_CONFIG);
        if (r >= 0 && plan->write_config)
                log_notice("The provisioning in '%s%s' was written", operation_root(op), PATH_CONFIG);
        if (r >= 0 && plan->write_device_info)
                r = place(op, &plan->info_file, PATH_IDENTITYD "/device_info");
        return r;
}

void operation_discard_files(Operation *op) {
        store_discard(&op->plan.config_file);
        store_discard(&op->plan.info_file);
}

/* --- and back --- */

static bool is_placed(const StoreFile *file) {
        return file->state == STORE_EXCHANGED || file->state == STORE_PLACED;
}

static bool must_undo(const Operation *op) {
        const Plan *plan = &op->plan;

        return !plan->settled &&
               (plan->applying || is_placed(&plan->config_file) || is_placed(&plan->info_file));
}

/* True also when systemd does not say. */
static bool apply_goes_on(const Operation *op) {
        UnitState state;

        return must_undo(op) && op->plan.applying &&
               (units_query(op->h->units, UNIT_APPLY, &state, NULL) < 0 || state.active);
}

/* Its job may have ended before it: the job took too long, or systemd has left the bus. */
int step_end_apply(Operation *op) {
        const UnitJob job = { UNIT_STOP, UNIT_APPLY };

        return apply_goes_on(op) ? operation_jobs(op, &job, 1) : 0;
}

/* Units that were started since the files were changed may have read them. `iotedge config apply` has read
 * the new config.toml. If it can't be ended, the new files stay, and so does the record that it was begun.
 */
int step_stop_newer(Operation *op) {
        UnitJob jobs[STOPPED_MAX];
        size_t n;

        if (apply_goes_on(op))
                op->plan.settled = true;
        n = must_undo(op) ? running_stop_newer_jobs(&op->plan.running, op->h->units, jobs) : 0;

        return n > 0 ? operation_jobs(op, jobs, n) : 0;
}

/* The old identity can't come back when the key was replaced and the applied provisioning signs with that
 * key. IoT Edge runs as the new device, by device_info, whatever provisioning is applied. */
bool operation_keeps_new_set(const Operation *op) {
        const ConfigToml *applied = &op->situation.applied;
        const Plan *plan = &op->plan;

        return op->assignment.key.changed && str_set_and_equal(applied->source, "dps") &&
               str_set_and_equal(applied->method, "tpm") &&
               (!plan->write_device_info || is_placed(&plan->info_file));
}

static int put_back(Operation *op, StoreFile *file, const char *path) {
        int r = store_put_back(file);

        return r < 0 ? failure_set_errno(&op->failure, FAILURE_STORAGE, r,
                                         "The previous '%s%s' can't be put back", operation_root(op), path)
                     : 0;
}

/* In the opposite order: a power cut leaves no old config.toml with a new device_info. */
static int put_back_old_set(Operation *op) {
        Plan *plan = &op->plan;
        int r;

        r = put_back(op, &plan->info_file, PATH_IDENTITYD "/device_info");
        if (r >= 0 && is_placed(&plan->config_file))
                r = config_check_unchanged(op, plan->written, strlen(plan->written));
        if (r >= 0)
                r = put_back(op, &plan->config_file, PATH_CONFIG);
        return r < 0 ? r : handoff_record_save(&plan->record, operation_root(op), &op->failure);
}

/* No file was placed, so the next attempt begins as this one did. */
static void restore_record(Operation *op) {
        Failure failure;

        if (op->plan.recorded && !op->plan.settled &&
            handoff_record_save(&op->plan.record, operation_root(op), &failure) < 0)
                log_error("%s", failure.sentence);
}

static int keep_new_set(Operation *op) {
        op->situation.record.applying = false;
        return handoff_record_save(&op->situation.record, operation_root(op), &op->failure);
}

int step_put_back_files(Operation *op) {
        const Failure first = op->failure;
        bool keep = operation_keeps_new_set(op);
        int r;

        if (!must_undo(op)) {
                restore_record(op);
                return 0;
        }
        r = op->plan.applying ? applied_put_back(&op->plan.applied, operation_root(op), &op->failure) : 0;
        if (r >= 0)
                r = keep ? keep_new_set(op) : put_back_old_set(op);
        if (r < 0) {
                log_error("%s", op->failure.sentence);
                op->failure = first;
                return 0;
        }
        (void) failure_set(&op->failure, first.kind, first.code, "%s; %s", first.sentence,
                           keep ? "IoT Edge runs as the assigned device with its previous configuration"
                                : "the previous files were put back");
        return 0;
}
