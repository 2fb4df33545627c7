/*
 * Facts: the input of the machine's decisions (machine.h), derived from the record, the configuration and
 * the attempt. Pure code, so the walk over all of them (tests/unit) uses the same function as the daemon.
 */
#pragma once

#include "record.h"

/* The inputs that the record does not hold. Borrowed. Times are CLOCK_BOOTTIME. */
typedef struct FactsInput {
        usec_t now_usec;
        BudgetTime budget_time;
        /* the configuration */
        bool configured, no_edge, adopts;
        uint32_t hub_key_handle;
        /* the TPM at its last reading */
        FailureKind unread; /* see Facts */
        bool hmac_at_handle;
        const Bytes *name_at_handle;
        /* the attempt */
        bool fresh, live, quiesced, hold_spent, keyless, dps_answers, token_expired;
        usec_t looked_usec; /* the time of the last look at IoT Edge; 0: none */
        const Snapshot *snapshot;
        /* limits */
        usec_t throttled_until_usec;
        usec_t disruption_until_usec; /* until then no disruption is allowed */
        bool unbudgeted;              /* the next registration is counted, but not held back */
} FactsInput;

void facts_derive(Facts *ret, const Record *record, const FactsInput *input);
