/*
 * Budgets: those of disruptions and holds, on disk. They have a separate file, because Forget
 * removes the record, and a caller must not get a full budget by that.
 */
#pragma once

#include "disruption.h"
#include "failure.h"
#include "hold-budget.h"

typedef struct Budgets {
        Disruptions disruptions;
        HoldBudget holds;
} Budgets;

/* Full budgets when there is no file, or one that can't be understood; the latter is logged. */
void budgets_load(Budgets *ret, const char *root);
int budgets_save(const Budgets *budgets, const char *root, Failure *reterr);

/* Fills a failure that tells when `what` is allowed again, and returns its errno. */
int budgets_refuse(Failure *reterr, usec_t wait_usec, const char *what);
