/*
 * HoldBudget: for how long this helper may hold IoT Edge (Quiesce). Pure code: the time is an argument.
 *
 * A bucket of 6 hours gains 15 minutes an hour, also during a hold. A hold begins only when the bucket has
 * the 30 minutes that the hold may last. They are taken at the beginning of the hold, and what the hold did
 * not use is given back at its end. So in any 24 hours IoT Edge is held for at most the 6 hours that were in
 * the bucket and the 6 hours that it gained, 12 hours in all: a hold that began earlier has taken its time
 * out of the bucket already. A hold that lasted 30 minutes is followed by 60 seconds without a hold.
 */
#pragma once

#include "moment.h"

#define HOLD_MAX_USEC         (30 * 60 * USEC_PER_SEC)
#define HOLD_BUDGET_USEC      (6 * 3600 * USEC_PER_SEC)
#define HOLD_BUDGET_GAIN_PART 4 /* of the time that passes */
#define HOLD_PAUSE_USEC       (60 * USEC_PER_SEC)

/* Plain value; zeroed, it is a full bucket. */
typedef struct HoldBudget {
        usec_t used_usec;  /* at `since` */
        usec_t pause_usec; /* at `since`: until the next hold may begin */
        bool cut;          /* the last hold lasted HOLD_MAX_USEC, and IoT Edge does not run again yet */
        Moment since;
} HoldBudget;

void hold_budget_refill(HoldBudget *budget, const Moment *now);

/* The time until a hold may begin; 0: now. */
usec_t hold_budget_wait(const HoldBudget *budget, const Moment *now);

void hold_budget_begin(HoldBudget *budget, const Moment *now);
void hold_budget_end(HoldBudget *budget, const Moment *now, usec_t held_usec);

/* IoT Edge runs again. Returns true when that changed the value. */
bool hold_budget_resumed(HoldBudget *budget, const Moment *now);
