/* Disruptions: an aziot-edged that works is stopped or restarted, within disruption-budget.h. */
#include "handoffd.h"
#include "log.h"

/* 1: aziot-edged works, and has been running for *ret_running. 0: it is down, or waits to be started again,
 * or never had its identity, so stopping it costs nothing. */
static int edged_works(Handoffd *h, usec_t *ret_running, Failure *reterr) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        UnitState edged;
        int r;

        r = units_query(h->units, UNIT_EDGED, &edged, reterr);
        if (r < 0)
                return r;
        if (!edged.active || edged.failing || !edged_had_identity(h->options->root))
                return 0;
        *ret_running = edged.active_enter_usec > 0 && edged.active_enter_usec < now
                               ? now - edged.active_enter_usec
                               : 0;
        return 1;
}

/* Returns as edged_works(). */
static int note_running(Handoffd *h, Failure *reterr) {
        usec_t running;
        int r;

        r = edged_works(h, &running, reterr);
        if (r > 0 && disruption_budget_note_running(&h->budgets.disruptions, running))
                budgets_try_save(&h->budgets, h->options->root);
        return r;
}

void handoffd_note_running(Handoffd *h) {
        Failure ignored;

        if (h->budgets.disruptions.confirmed)
                (void) note_running(h, &ignored);
}

int operation_disruption_wait(Operation *op, usec_t *ret) {
        Moment now;
        int r;

        r = note_running(op->h, &op->failure);
        if (r > 0) {
                moment_now(&now);
                *ret = disruption_budget_wait(&op->h->budgets.disruptions, &now);
        } else if (r == 0)
                *ret = 0;
        return r;
}

static int charge_disruption(Handoffd *h, Failure *reterr) {
        DisruptionBudget *d = &h->budgets.disruptions;
        const DisruptionBudget before = *d;
        Moment now;
        int r;

        moment_now(&now);
        disruption_budget_charge(d, &now);
        r = budgets_save(&h->budgets, h->options->root, reterr);
        if (r < 0) {
                *d = before; /* aziot-edged is not stopped then */
                return r;
        }
        log_info("Stopping aziot-edged: disruption %u since its budget was full", d->count);
        return 0;
}

/* The answer does not depend on anything that the caller says. */
int operation_permit_disruption(Operation *op) {
        usec_t wait;
        int r;

        if (op->disruption_permitted)
                return 0;
        r = operation_disruption_wait(op, &wait);
        if (r < 0)
                return r;
        if (wait > 0)
                return budgets_refuse(&op->failure, wait, "Another disruption of IoT Edge");
        if (r > 0)
                r = charge_disruption(op->h, &op->failure);
        op->disruption_permitted = r >= 0;
        return r;
}

/* The hub has accepted IoT Edge. */
int step_confirm_disruption(Operation *op) {
        Handoffd *h = op->h;

        if (disruption_budget_confirm(&h->budgets.disruptions))
                budgets_try_save(&h->budgets, h->options->root);
        return 0;
}

static int step_allow(Operation *op) {
        Handoffd *h = op->h;

        if (h->budgets.disruptions.count == 0 && h->budgets.holds.used_usec == 0 && !h->budgets.holds.cut)
                return 0;
        log_notice("The budgets of IoT Edge's disruptions and holds are full again: root called Allow()");
        h->budgets = (Budgets){};
        return budgets_save(&h->budgets, h->options->root, &op->failure);
}

const FlowStep allow_steps[] = { step_allow, NULL };

/* After a reboot only the time since the last saved moment counts, so each boot begins with a new one. */
void handoffd_load_budgets(Handoffd *h) {
        DisruptionBudget *d = &h->budgets.disruptions;
        Moment now;

        budgets_load(&h->budgets, h->options->root);
        moment_now(&now);
        if (!moment_same_boot(&d->since, &now) && disruption_budget_run_down(d, &now))
                budgets_try_save(&h->budgets, h->options->root);
        handoffd_note_running(h);
}
