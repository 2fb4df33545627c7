/*
 * Budget: how many registrations a gateway may cause, whatever the cause. Pure code: the time comes in as an
 * argument, so that the fleet simulation runs the very same rules.
 *
 * A bucket holds REGISTRATION_BUDGET_SIZE registrations and gains one per REGISTRATION_REFILL_USEC. The
 * daemon keeps it in its record. The local CLOCK_REALTIME plays no part, since it may be wrong by decades
 * and is set at will.
 */
#pragma once

#include "util.h"

#define REGISTRATION_BUDGET_SIZE 10
#define REGISTRATION_REFILL_USEC (900 * USEC_PER_SEC)

/* A time from one of two sources: the Date of a reply of DPS plus CLOCK_BOOTTIME since, or, while DPS has
 * not answered, CLOCK_BOOTTIME of this boot. Times of different sources are not comparable. */
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

/* Adds what was gained until now. When the source differs from the last call's or the time went backwards
 * (another boot, a server's wrong Date), nothing is gained and the next one counts from now. Call this
 * before budget_wait(), and keep the result: a base that isn't kept moves along with the time. */
void budget_refill(Budget *budget, BudgetTime now);

/* How long until a registration may begin; 0: at once. Never more than two intervals of the refill. */
usec_t budget_wait(const Budget *budget, BudgetTime now);

/* Counts a registration, also when the bucket is empty: one that root or an administrator asked for, or a
 * changed target, is counted but not held back. All of these together leave a debt of at most one, so the
 * next automatic registration waits for two intervals at most. */
void budget_spend(Budget *budget, BudgetTime now);

/* Takes the last budget_spend() back: DPS answered 401, 404 or 429, or the request was never sent. */
void budget_return(Budget *budget);
