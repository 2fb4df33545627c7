/*
 * Budgets: those of disruptions and holds, on disk. They have a separate file, because Forget removes the
 * record, and a caller must not fill a budget with Forget.
 */
#pragma once

#include "disruption-budget.h"
#include "failure.h"
#include "hold-budget.h"

typedef struct Budgets {
        DisruptionBudget disruptions;
        HoldBudget holds;
} Budgets;

/* Both budgets are full when there is no file, or when it can't be understood; the latter is logged. */
void budgets_load(Budgets *ret, const char *root);
int budgets_save(const Budgets *budgets, const char *root, Failure *reterr);

/* Logs a failure. The stricter value then stays on disk, because each use is charged there first. */
void budgets_try_save(const Budgets *budgets, const char *root);

/* Fills a failure with the time from which `what` is allowed again, and returns its errno. */
int budgets_refuse(Failure *reterr, usec_t wait_usec, const char *what);
