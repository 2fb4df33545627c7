/*
 * Retry: how long to wait after a failure. Pure code: time and randomness are arguments, so the fleet
 * simulation runs the same rules.
 *
 * There are four backoff classes. Transient: exponential, with jitter over the upper half. Local: the same
 * up to 10 seconds, because such a retry stays within this machine. Throttled: in proportion to the time for
 * which DPS has throttled this device, up to a cap of hours. Operator: capped at half an hour on the first
 * day, then growing to six hours, since DPS bills useless registrations as well. An event that may cure the
 * failure shortens a wait; a bucket limits such events.
 */
#pragma once

#include "failure.h"

typedef struct RetryPolicy {
        usec_t initial_usec, max_usec;
        usec_t throttled_max_usec;
        usec_t operator_initial_usec, operator_max_usec, operator_long_max_usec;
} RetryPolicy;

/* Plain value; the daemon persists it. Times are CLOCK_REALTIME microseconds. */
typedef struct Retry {
        uint32_t attempts; /* failures in a row, over all backoff classes: the published number */
        uint32_t transient_count, operator_count;
        usec_t throttled_waited_usec; /* sum of the throttled waits; the next wait grows with it */
        usec_t operator_waited_usec;  /* sum of the operator waits; a day of them ends the half-hour cap */
        uint32_t bucket;              /* network events that may still shorten a wait */
        usec_t bucket_filled_usec;    /* when it was last refilled (CLOCK_BOOTTIME) */
} Retry;

#define RETRY_BUCKET_SIZE        3
#define RETRY_BUCKET_REFILL_USEC (600 * USEC_PER_SEC)

void retry_reset(Retry *retry); /* success, changed configuration, Retry, Reprovision */

/* Counts a failure and returns how long to wait. The class is the failure's own, unless the step it happened
 * in makes it worse (machine.c). retry_after_usec: Retry-After, or 0. random:
 * uniform over 64 bits. */
usec_t retry_next(Retry *retry, const RetryPolicy *policy, FailureClass class, usec_t retry_after_usec,
                  uint64_t random);

typedef enum RetryEvent {
        RETRY_EVENT_NETWORK,  /* a default route appeared */
        RETRY_EVENT_ADDRESS,  /* without any default route: an address, or a route to another network */
        RETRY_EVENT_CLOCK,    /* the clock was set, or the system says that it is right */
        RETRY_EVENT_TPM,      /* the TPM's device appeared */
        RETRY_EVENT_ENGINE,   /* the container engine has started */
        RETRY_EVENT_OPERATOR, /* changed configuration, Retry() */
        _RETRY_EVENT_MAX,
} RetryEvent;

const char *retry_event_to_string(RetryEvent event); /* "the network has changed" */

/* What is left of a wait after the event: remaining_usec unchanged when the event does not cure the failure,
 * else a small jitter, but never less than what Retry-After still demands. now_usec: CLOCK_BOOTTIME, for the
 * bucket. */
usec_t retry_shorten(Retry *retry, const Failure *failure, RetryEvent event, usec_t remaining_usec,
                     usec_t waited_usec, usec_t now_usec, uint64_t random);
