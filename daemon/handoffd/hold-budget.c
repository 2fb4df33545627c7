#include "hold-budget.h"

static usec_t minus(usec_t a, usec_t b) {
        return a > b ? a - b : 0;
}

void hold_budget_refill(HoldBudget *b, const Moment *now) {
        const usec_t elapsed = moment_elapsed(&b->since, now, 0, HOLD_BUDGET_USEC);

        b->used_usec = minus(b->used_usec, elapsed / HOLD_BUDGET_GAIN_PART);
        b->pause_usec = minus(b->pause_usec, elapsed);
        b->since = *now;
}

usec_t hold_budget_wait(const HoldBudget *budget, const Moment *now) {
        HoldBudget b = *budget;
        usec_t pause, refill;

        hold_budget_refill(&b, now);
        pause = b.cut ? HOLD_PAUSE_USEC : b.pause_usec;
        refill = minus(b.used_usec + HOLD_MAX_USEC, HOLD_BUDGET_USEC) * HOLD_BUDGET_GAIN_PART;
        return refill > pause ? refill : pause;
}

void hold_budget_begin(HoldBudget *b, const Moment *now) {
        hold_budget_refill(b, now);
        b->used_usec += HOLD_MAX_USEC;
}

void hold_budget_end(HoldBudget *b, const Moment *now, usec_t held_usec) {
        hold_budget_refill(b, now);
        b->used_usec = minus(b->used_usec + held_usec, HOLD_MAX_USEC);
        b->cut = b->cut || held_usec >= HOLD_MAX_USEC;
}

bool hold_budget_resumed(HoldBudget *b, const Moment *now) {
        if (!b->cut)
                return false;
        hold_budget_refill(b, now);
        b->cut = false;
        b->pause_usec = HOLD_PAUSE_USEC;
        return true;
}
