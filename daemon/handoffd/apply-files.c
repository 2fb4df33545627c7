/* The files of a hand-off: recorded, put into their places, and put back when `iotedge config apply` fails.
 * The old set or the new set is what remains, never a mixture. */
#include <assert.h>
#include <stdlib.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

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

/* --- the record --- */

static int record_config(Operation *op) {
        CLEANUP(config_toml_deinit) ConfigToml config = {};
        const Situation *s = &op->situation;
        Record *rec = &op->situation.record;
        const char *text = op->plan.written;
        bool ours = same(s->toml.digest, rec->digest) || same(s->toml.digest, rec->previous_digest);
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
        return r < 0 ? storage_failure(op, r, PATH_RECORD) : 0;
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
        return r < 0 ? storage_failure(op, r, PATH_RECORD) : 0;
}

static int record_proof(Operation *op) {
        Record *rec = &op->situation.record;
        int r;

        free(TAKE(rec->started));
        r = string_replace(&rec->pending, op->plan.pending);
        if (r >= 0)
                r = string_replace(&rec->pending_proof, op->plan.proof_before.text);
        return r < 0 ? storage_failure(op, r, PATH_RECORD) : 0;
}

/* Recorded before it is done: whichever of old and new a power cut leaves is known to be ours, and `iotedge
 * config apply` is run again when it did not end well. From here on until the hub has accepted it, only a
 * prev_state that is newer than this counts: also for another instance of this process. */
int step_record_pending(Operation *op) {
        const Plan *plan = &op->plan;
        Record *rec = &op->situation.record;
        bool proof = !plan->begun && (plan->renew_key || plan->restart_edged || plan->reprovision);
        int r;

        if (!proof && !plan->write_config && !plan->write_device_info && !plan->run_apply)
                return 0;
        r = handoff_record_load(&op->plan.record, root_of(op), &op->failure);
        if (r >= 0 && proof)
                r = record_proof(op);
        if (r >= 0 && plan->write_config)
                r = record_config(op);
        if (r >= 0 && plan->write_device_info)
                r = record_device(op);
        if (r < 0)
                return r;
        rec->applying = plan->run_apply;
        return handoff_record_save(rec, root_of(op), &op->failure);
}

/* --- into their places --- */

static int place(Operation *op, StoreFile *file, const char *path) {
        int r = store_exchange(file);

        op->changed = true;
        return r < 0 ? storage_failure(op, r, path) : 0;
}

/* identityd has ended, and writes no more. */
static int renew_proof(Operation *op) {
        const FileMark now = prev_state_mark(root_of(op));
        Record *rec = &op->situation.record;

        if (streq(now.text, op->plan.proof_before.text))
                return 0;
        op->plan.proof_before = now;
        if (string_replace(&rec->pending_proof, now.text) < 0)
                return storage_failure(op, -ENOMEM, PATH_RECORD);
        return handoff_record_save(rec, root_of(op), &op->failure);
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
                log_notice("The provisioning in '%s%s' was written", root_of(op), PATH_CONFIG);
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

/* What was started since the files were changed may have read them. */
int step_stop_newer(Operation *op) {
        UnitJob jobs[STOPPED_MAX];
        size_t n = must_undo(op) ? running_stop_newer_jobs(&op->plan.running, op->h->units, jobs) : 0;

        return n > 0 ? operation_jobs(op, jobs, n) : 0;
}

/* The key that the applied provisioning signs with was replaced, so the old identity can't come back. IoT
 * Edge runs as the new device, by device_info, whatever provisioning is applied. */
bool operation_keeps_new_set(const Operation *op) {
        const ConfigToml *applied = &op->situation.applied;
        const Plan *plan = &op->plan;

        return op->assignment.key.changed && same(applied->source, "dps") && same(applied->method, "tpm") &&
               (!plan->write_device_info || is_placed(&plan->info_file));
}

static int put_back(Operation *op, StoreFile *file, const char *path) {
        int r = store_put_back(file);

        return r < 0 ? failure_set_errno(&op->failure, FAILURE_STORAGE, r,
                                         "The previous '%s%s' can't be put back", root_of(op), path)
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
        return r < 0 ? r : handoff_record_save(&plan->record, root_of(op), &op->failure);
}

static int keep_new_set(Operation *op) {
        op->situation.record.applying = false;
        return handoff_record_save(&op->situation.record, root_of(op), &op->failure);
}

int step_put_back_files(Operation *op) {
        const Failure first = op->failure;
        bool keep = operation_keeps_new_set(op);
        int r;

        if (!must_undo(op))
                return 0;
        r = op->plan.applying ? applied_put_back(&op->plan.applied, root_of(op), &op->failure) : 0;
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
