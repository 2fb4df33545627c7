#include "disruption-budget.h"

#define HOUR_USEC (3600 * USEC_PER_SEC)

/* After the n-th disruption. */
static usec_t wait_after(uint32_t count) {
        static const usec_t waits[] = { 0, HOUR_USEC, 6 * HOUR_USEC, 24 * HOUR_USEC };

        return waits[count < ARRAY_SIZE(waits) ? count : ARRAY_SIZE(waits) - 1];
}

static usec_t elapsed_since(const DisruptionBudget *d, const Moment *now) {
        const usec_t whole = wait_after(d->count);

        return moment_elapsed(&d->since, now, whole / 4, d->confirmed ? USEC_INFINITY : whole / 2);
}

usec_t disruption_budget_wait(const DisruptionBudget *d, const Moment *now) {
        const usec_t whole = wait_after(d->count), wait = d->wait_usec < whole ? d->wait_usec : whole,
                     elapsed = elapsed_since(d, now);

        return elapsed < wait ? wait - elapsed : 0;
}

bool disruption_budget_run_down(DisruptionBudget *d, const Moment *now) {
        if (d->confirmed && !moment_same_boot(&d->since, now) &&
            elapsed_since(d, now) >= DISRUPTION_CLEAR_USEC) {
                *d = (DisruptionBudget){};
                return true;
        }
        /* When the wait is over, `since` stays: shorter boots than a day may follow. */
        if (d->wait_usec == 0)
                return false;
        d->wait_usec = disruption_budget_wait(d, now);
        d->since = *now;
        return true;
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
