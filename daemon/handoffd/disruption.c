#include "disruption.h"

#define HOUR_USEC (3600 * USEC_PER_SEC)

/* After the n-th disruption. */
static usec_t wait_after(uint32_t count) {
        static const usec_t waits[] = { 0, HOUR_USEC, 6 * HOUR_USEC, 24 * HOUR_USEC };

        return waits[count < ARRAY_SIZE(waits) ? count : ARRAY_SIZE(waits) - 1];
}

usec_t disruptions_wait(const Disruptions *d, const Moment *now) {
        const usec_t whole = wait_after(d->count), wait = d->wait_usec < whole ? d->wait_usec : whole,
                     elapsed = moment_elapsed(&d->since, now, whole / 4, whole / 2);

        return elapsed < wait ? wait - elapsed : 0;
}

void disruptions_run_down(Disruptions *d, const Moment *now) {
        d->wait_usec = disruptions_wait(d, now);
        d->since = *now;
}

void disruptions_count(Disruptions *d, const Moment *now) {
        if (d->count < UINT32_MAX)
                d->count++;
        d->confirmed = false;
        d->wait_usec = wait_after(d->count);
        d->since = *now;
}

bool disruptions_confirm(Disruptions *d) {
        const bool changes = d->count > 0 && !d->confirmed;

        d->confirmed = d->count > 0;
        return changes;
}

bool disruptions_note_running(Disruptions *d, usec_t running_usec) {
        if (!d->confirmed || running_usec < DISRUPTION_CLEAR_USEC)
                return false;
        *d = (Disruptions){};
        return true;
}
