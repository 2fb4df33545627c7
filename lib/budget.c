#include "budget.h"

/* The debt makes budget_return() exact. Without the debt, counting a registration in an empty bucket and
 * taking it back would leave one registration more than before. */
#define SPENT_MAX (REGISTRATION_BUDGET_SIZE + 1)

void budget_refill(Budget *b, BudgetTime now) {
        usec_t gained;

        if (b->spent > SPENT_MAX)
                b->spent = SPENT_MAX; /* from a damaged record */
        if (b->spent > 0 && (b->by_date != now.by_date || now.usec < b->since_usec)) {
                b->since_usec = now.usec;
                b->by_date = now.by_date;
        }
        gained = b->spent > 0 ? (now.usec - b->since_usec) / REGISTRATION_REFILL_USEC : 0;
        if (gained >= b->spent) {
                *b = (Budget){};
                return;
        }
        b->spent -= (uint32_t) gained;
        b->since_usec += gained * REGISTRATION_REFILL_USEC;
}

usec_t budget_wait(const Budget *budget, BudgetTime now) {
        Budget b = *budget;

        budget_refill(&b, now);
        if (b.spent < REGISTRATION_BUDGET_SIZE)
                return 0;
        return (b.spent - REGISTRATION_BUDGET_SIZE + 1) * REGISTRATION_REFILL_USEC -
               (now.usec - b.since_usec);
}

void budget_spend(Budget *b, BudgetTime now) {
        budget_refill(b, now);
        if (b->spent == 0)
                *b = (Budget){ .since_usec = now.usec, .by_date = now.by_date };
        if (b->spent < SPENT_MAX)
                b->spent++;
}

void budget_return(Budget *b) {
        if (b->spent > 0)
                b->spent--;
        if (b->spent == 0)
                *b = (Budget){};
}
