#include "disruption-budget.h"

#define HOUR_USEC (3600 * USEC_PER_SEC)

/* After the n-th disruption. */
static usec_t wait_after(uint32_t count) {
        static const usec_t waits[] = { 0, HOUR_USEC, 6 * HOUR_USEC, 24 * HOUR_USEC };

        return waits[count < ARRAY_SIZE(waits) ? count : ARRAY_SIZE(waits) - 1];
}

usec_t disruption_budget_wait(const DisruptionBudget *d, const Moment *now) {
        const usec_t whole = wait_after(d->count), wait = d->wait_usec < whole ? d->wait_usec : whole,
                     elapsed = moment_elapsed(&d->since, now, whole / 4, whole / 2);

        return elapsed < wait ? wait - elapsed : 0;
}

void disruption_budget_run_down(DisruptionBudget *d, const Moment *now) {
        d->wait_usec = disruption_budget_wait(d, now);
        d->since = *now;
}

void disruption_budget_charge(DisruptionBudget *d, const Moment *now) {
        if (d->count < UINT32_MAX)
                d->count++;
        d->confirmed = false;
        d->wait_usec = wait_after(d->count);
        d->since = *now;
}

bool disruption_budget_confirm(DisruptionBudget *d) {
        const bool changes = d->count > 0 && !d->confirmed;

        d->confirmed = d->count > 0;
        return changes;
}

bool disruption_budget_note_running(DisruptionBudget *d, usec_t running_usec) {
        if (!d->confirmed || running_usec < DISRUPTION_CLEAR_USEC)
                return false;
        *d = (DisruptionBudget){};
        return true;
}
