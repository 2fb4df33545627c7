/*
 * CallLimit: how often Retry() and Reprovision() may begin an attempt. Pure code.
 *
 * All callers together begin at most one attempt in CALL_INTERVAL_USEC; an earlier call begins its attempt
 * later. Callers that are not root begin at most CALLS_PER_HOUR attempts, and the daemon refuses further
 * calls. Times are CLOCK_BOOTTIME.
 */
#pragma once

#include "util.h"

#define CALL_INTERVAL_USEC (10 * USEC_PER_SEC)
#define CALLS_PER_HOUR     10

/* Plain value; zeroed, no caller has called. */
typedef struct CallLimit {
        usec_t attempt_usec;                /* when the last attempt began, or will begin; 0: never */
        usec_t others_usec[CALLS_PER_HOUR]; /* a ring of the attempts of callers that are not root */
        unsigned next;                      /* the oldest of them */
} CallLimit;

/* How long an attempt has to wait; 0: it may begin. */
usec_t call_limit_delay(const CallLimit *limit, usec_t now);

/* How long a caller that is not root is refused; 0: it may call. */
usec_t call_limit_refused(const CallLimit *limit, usec_t now);

void call_limit_count_attempt(CallLimit *limit, usec_t begins_usec);
void call_limit_count_other(CallLimit *limit, usec_t now); /* counts a call of another caller than root */
