/* Forget: the hand-off undone, for another owner. Only what this helper has put there is taken away; the
 * rest is named and stays. Killed anywhere and begun again, it ends in the same place: the record goes last.
 */
#include <stdlib.h>
#include <strings.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

typedef struct Ours {
        bool any, tables, device, applied;
} Ours;

static bool same_id(const char *a, const char *b) {
        return a && b && strcasecmp(a, b) == 0;
}

static bool recorded_device(const Record *rec, const DeviceInfo *info) {
        return (str_set_and_equal(info->hub, rec->hub) &&
                str_set_and_equal(info->device_id, rec->device_id)) ||
               (str_set_and_equal(info->hub, rec->previous_hub) &&
                str_set_and_equal(info->device_id, rec->previous_device_id));
}

/* A device that IoT Edge got by itself with our provisioning is ours as well. */
static Ours what_is_ours(const Operation *op) {
        const Situation *s = &op->situation;
        const Record *rec = &s->record;
        Ours ours = { .tables = situation_tables_ours(s) };

        ours.device = s->device_info.hub && (recorded_device(rec, &s->device_info) ||
                                             (ours.tables && (rec->hub || op->forget_provisioning)));
        ours.tables = ours.tables && op->forget_provisioning;
        ours.applied = op->forget_provisioning && str_set_and_equal(s->applied.source, "dps") &&
                       (same_id(s->applied.registration_id, rec->registration_id) ||
                        (ours.tables && same_id(s->applied.registration_id, s->toml.registration_id)));
        ours.any = ours.device || ours.tables || ours.applied;
        return ours;
}

static int step_forget_survey(Operation *op) {
        Situation *s = &op->situation;
        int r;

        r = situation_read_iotedge(s, op->h->options->root, &op->failure);
        if (r < 0)
                return r;
        op->plan.forget = what_is_ours(op).any || s->record.hub;
        return op->plan.forget ? situation_read_units(s, op->h->units, &op->failure) : 0;
}

static int step_forget_stop(Operation *op) {
        const Situation *s = &op->situation;
        const struct {
                const char *unit;
                const UnitState *state;
        } all[] = {
                { UNIT_EDGED_MGMT, &s->edged_mgmt },
                { UNIT_EDGED_WORKLOAD, &s->edged_workload },
                { UNIT_EDGED, &s->edged },
                { UNIT_IDENTITYD_SOCKET, &s->identityd_socket },
                { UNIT_IDENTITYD, &s->identityd },
                { UNIT_TPMD_SOCKET, &s->tpmd_socket },
                { UNIT_TPMD, &s->tpmd },
        };
        UnitJob jobs[ARRAY_SIZE(all)];
        size_t n = 0;
        int r;

        r = op->plan.forget ? operation_permit_disruption(op) : 0;
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(all) && op->plan.forget; i++)
                if (all[i].state->active) {
                        stopped_add(&op->h->stopped, all[i].unit);
                        jobs[n++] = (UnitJob){ UNIT_STOP, all[i].unit };
                }
        if (n == 0)
                return 0;
        r = stopped_save(&op->h->stopped, op->h->options->root, &op->failure);
        return r < 0 ? r : operation_jobs(op, jobs, n);
}

/* Again, now that nobody else writes: identityd writes in place, and may have become somebody else
 * meanwhile. */
static int step_forget_look(Operation *op) {
        Situation *s = &op->situation;
        Ours ours;
        int r;

        situation_deinit(s);
        r = situation_read_iotedge(s, op->h->options->root, &op->failure);
        if (r < 0)
                return r;
        ours = what_is_ours(op);
        if (s->device_info.hub && !ours.device)
                operation_warn(op, FAILURE_NONE,
                               "'" PATH_IDENTITYD
                               "/device_info' names '%s' on '%s', which is not ours, and stays",
                               s->device_info.device_id, s->device_info.hub);
        if (s->toml.has_provisioning && op->forget_provisioning && !ours.tables)
                operation_warn(op, FAILURE_NONE,
                               "The provisioning in '" PATH_CONFIG "' is not ours and stays");
        return 0;
}

/* Without a provisioning IoT Edge can't start; what is left then is as after its installation: its sockets.
 */
static int step_forget_services(Operation *op) {
        const Ours ours = what_is_ours(op);
        Stopped *stopped = &op->h->stopped;

        if (!ours.applied && !(ours.tables && !op->situation.applied_exists))
                return 0;
        stopped_remove(stopped, UNIT_EDGED);
        stopped_remove(stopped, UNIT_IDENTITYD);
        stopped_remove(stopped, UNIT_TPMD);
        return stopped_save(stopped, op->h->options->root, &op->failure);
}

static int remove_below(Operation *op, const char *name) {
        CLEANUP(freep) char *path = NULL;
        int r;

        r = path_under(&path, op->h->options->root, name);
        if (r >= 0)
                r = store_remove(path);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s%s' can't be removed",
                                         op->h->options->root, name)
                     : 0;
}

/* The copy that identityd reads. It goes before the identity: a reboot in between must not let IoT Edge
 * register by itself. */
static int step_forget_applied(Operation *op) {
        return what_is_ours(op).applied ? remove_below(op, PATH_APPLIED) : 0;
}

static int step_forget_device_info(Operation *op) {
        if (!what_is_ours(op).device)
                return 0;
        log_notice("IoT Edge forgets that it is '%s' on '%s'", op->situation.device_info.device_id,
                   op->situation.device_info.hub);
        return device_info_remove(op->h->options->root, &op->failure);
}

static int step_forget_tables(Operation *op) {
        CLEANUP(freep) char *text = NULL;
        const Situation *s = &op->situation;
        int r;

        if (!what_is_ours(op).tables)
                return 0;
        r = config_toml_edit(&text, PATH_CONFIG, s->text, s->text_size, NULL, &op->failure);
        if (r < 0)
                return r;
        log_notice("The provisioning in '" PATH_CONFIG "' is removed");
        return text[strspn(text, " \t\r\n")] ? operation_write_config(op, text)
                                             : remove_below(op, PATH_CONFIG);
}

/* Tables that stay are still known as ours, so that the next owner's may take their place. */
static int step_forget_record(Operation *op) {
        const Record *rec = &op->situation.record;
        const Record left = { .digest = rec->digest, .previous_digest = rec->previous_digest };

        return op->forget_provisioning || (!left.digest && !left.previous_digest)
                       ? remove_below(op, PATH_RECORD)
                       : handoff_record_save(&left, op->h->options->root, &op->failure);
}

const FlowStep forget_steps[] = { step_forget_survey,  step_forget_stop,
                                  step_forget_look,    step_forget_services,
                                  step_forget_applied, step_forget_device_info,
                                  step_forget_tables,  step_forget_record,
                                  step_start_stopped,  NULL };
