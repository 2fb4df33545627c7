/* The default retry policy, and which steps ask DPS. */
#pragma once

#include "machine.h"

static const RetryPolicy policy = {
        .initial_usec = 5 * USEC_PER_SEC,
        .max_usec = 600 * USEC_PER_SEC,
        .throttled_max_usec = 36000 * USEC_PER_SEC,
        .operator_initial_usec = 60 * USEC_PER_SEC,
        .operator_max_usec = 1800 * USEC_PER_SEC,
        .operator_long_max_usec = 21600 * USEC_PER_SEC,
};

static inline bool is_request(Step step) {
        return step == STEP_REGISTER || step == STEP_CONFIRM || step == STEP_POLL;
}
