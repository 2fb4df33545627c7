/*
 * Budget: how many registrations a gateway may cause. Pure code: the time is an argument, so the fleet
 * simulation runs the same rules.
 *
 * A bucket holds REGISTRATION_BUDGET_SIZE registrations and gains one per REGISTRATION_REFILL_USEC. The
 * daemon keeps the bucket in its record. The local CLOCK_REALTIME plays no part, since it may be wrong by
 * decades and anybody may set it.
 */
#pragma once

#include "util.h"

#define REGISTRATION_BUDGET_SIZE 10
#define REGISTRATION_REFILL_USEC (900 * USEC_PER_SEC)

/* A time from one of two sources: the Date of the last reply of DPS plus CLOCK_BOOTTIME since then, or
 * CLOCK_BOOTTIME of this boot while DPS has not answered. Times of different sources are not comparable. */
typedef struct BudgetTime {
        usec_t usec;
        bool by_date;
} BudgetTime;

/* Plain value; zeroed, it is a full bucket. */
typedef struct Budget {
        uint32_t spent;    /* REGISTRATION_BUDGET_SIZE: empty. One more is a debt (budget_spend()). */
        usec_t since_usec; /* the next one is gained REGISTRATION_REFILL_USEC after this; 0 when full */
        bool by_date;      /* the source of since_usec */
} Budget;

/* Adds the registrations gained until now. When the source differs from the last call's or the time went
 * backwards (another boot, a wrong Date of a server), the bucket gains nothing and the next interval begins
 * now. Call this before budget_wait(), and save the result: an unsaved base moves along with the time. */
void budget_refill(Budget *budget, BudgetTime now);

/* How long until a registration may begin; 0: at once. At most two intervals of the refill. */
usec_t budget_wait(const Budget *budget, BudgetTime now);

/* Counts a registration, even when the bucket is empty: a registration that root or an administrator asked
 * for, or of a changed target, is counted but not held back. The debt is one registration at most, so the
 * next automatic registration waits for two intervals at most. */
void budget_spend(Budget *budget, BudgetTime now);

/* Takes back the last budget_spend(): DPS answered 401, 404 or 429, or the request was never sent. */
void budget_return(Budget *budget);
