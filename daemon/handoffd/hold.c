/* Quiesce, and the hold that it begins: identityd and tpmd stay stopped, within hold-budget.h. */
#include <errno.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

#define RENEWAL_USEC (300 * USEC_PER_SEC)

static usec_t held_usec(const Hold *hold) {
        return now_usec(CLOCK_BOOTTIME) - hold->began_usec;
}

void hold_deinit(Hold *hold) {
        (void) sd_bus_track_unref(hold->caller);
        (void) sd_event_source_disable_unref(hold->expiry);
        *hold = (Hold){};
}

void hold_end(Handoffd *h) {
        const bool held = h->hold.began_usec > 0;
        const usec_t usec = held_usec(&h->hold);
        Moment now;

        hold_deinit(&h->hold);
        if (!held)
                return;
        moment_now(&now);
        hold_budget_end(&h->budgets.holds, &now, usec);
        budgets_try_save(&h->budgets, h->options->root);
}

void hold_resumed(Handoffd *h) {
        Moment now;

        moment_now(&now);
        if (hold_budget_resumed(&h->budgets.holds, &now))
                budgets_try_save(&h->budgets, h->options->root);
}

/* --- the caller and the time --- */

/* sd-bus calls this again before each message while the track has no names, so the track is freed. */
static int on_caller_gone(sd_bus_track *track, void *userdata) {
        Handoffd *h = userdata;

        h->hold.caller = sd_bus_track_unref(h->hold.caller);
        handoffd_resume(h, "the caller of Quiesce has left the bus");
        return 1;
}

static int on_expired(sd_event_source *source, uint64_t usec, void *userdata) {
        Handoffd *h = userdata;

        handoffd_resume(h, held_usec(&h->hold) < HOLD_MAX_USEC ? "Quiesce was not renewed in time"
                                                               : "IoT Edge was held for 30 minutes");
        return 0;
}

/* Charges a new hold, on disk, before a unit is stopped. A renewal does not move the last end of a hold. */
static int begin_hold(Operation *op) {
        Handoffd *h = op->h;
        usec_t wait;
        Moment now;
        int r;

        if (h->hold.began_usec > 0)
                return 0;
        moment_now(&now);
        wait = hold_budget_wait(&h->budgets.holds, &now);
        if (wait > 0)
                return budgets_refuse(&op->failure, wait, "Another hold of IoT Edge");
        hold_budget_begin(&h->budgets.holds, &now);
        r = budgets_save(&h->budgets, h->options->root, &op->failure);
        if (r >= 0)
                h->hold.began_usec = now.boottime_usec;
        else
                hold_budget_end(&h->budgets.holds, &now, 0);
        return r;
}

static int watch_hold(Operation *op) {
        Handoffd *h = op->h;
        Hold *hold = &h->hold;
        usec_t held = held_usec(hold), left = held < HOLD_MAX_USEC ? HOLD_MAX_USEC - held : 0;
        int r;

        hold->caller = sd_bus_track_unref(hold->caller);
        hold->expiry = sd_event_source_disable_unref(hold->expiry);
        r = sd_bus_track_new(h->bus, &hold->caller, on_caller_gone, h);
        if (r >= 0)
                r = sd_bus_track_add_sender(hold->caller, op->message);
        if (r >= 0)
                r = sd_event_add_time_relative(h->event, &hold->expiry, CLOCK_BOOTTIME,
                                               left < RENEWAL_USEC ? left : RENEWAL_USEC, USEC_PER_SEC,
                                               on_expired, h);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_APPLY_FAILED, r, "Quiesce can't be watched")
                     : 0;
}

static int step_hold(Operation *op) {
        Handoffd *h = op->h;
        int r;

        r = begin_hold(op);
        if (r >= 0) {
                /* Units that could not be started again before stay stopped during this hold. */
                h->again = sd_event_source_disable_unref(h->again);
                r = watch_hold(op);
        }
        return r;
}

/* --- the units --- */

static int step_quiesce(Operation *op) {
        Handoffd *h = op->h;
        Situation *s = &op->situation;
        const struct {
                const char *unit;
                const UnitState *state;
        } all[] = { { UNIT_IDENTITYD_SOCKET, &s->identityd_socket },
                    { UNIT_IDENTITYD, &s->identityd },
                    { UNIT_TPMD_SOCKET, &s->tpmd_socket },
                    { UNIT_TPMD, &s->tpmd } };
        UnitJob jobs[ARRAY_SIZE(all)];
        size_t n = 0;
        int r;

        r = situation_read_units(s, h->units, &op->failure);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                if (all[i].state->active) {
                        stopped_add(&h->stopped, all[i].unit);
                        jobs[n++] = (UnitJob){ UNIT_STOP, all[i].unit };
                }
        if (n == 0)
                return 0;
        r = stopped_save(&h->stopped, h->options->root, &op->failure);
        return r < 0 ? r : operation_jobs(op, jobs, n);
}

/* IoT Edge is quiesced, so from now on only we change its files. */
static int step_quiesced(Operation *op) {
        Situation *s = &op->situation;

        op->h->hold.quiesced = true;
        (void) device_info_read(&s->device_info, op->h->options->root);
        s->prev_state = prev_state_mark(op->h->options->root);
        return 0;
}

/* A renewal that fails does not end the hold, because the caller relies on the last one that succeeded. */
static int step_let_go(Operation *op) {
        const Hold *hold = &op->h->hold;

        return hold->quiesced && hold->caller && hold->expiry ? 0 : step_start_stopped(op);
}

const FlowStep quiesce_steps[] = { step_hold, step_quiesce, step_quiesced, NULL };

const FlowStep quiesce_recovery_steps[] = { step_let_go, NULL };
