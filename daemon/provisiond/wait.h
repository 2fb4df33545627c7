/*
 * Wait: the time until the next step begins. Owns the timer, and limits the calls (CallLimit) and the
 * outside events (RetryEvent) that begin an attempt early.
 *
 * Times are CLOCK_BOOTTIME, except next_attempt_usec, which is for people and is adjusted when the local
 * clock is set.
 */
#pragma once

#include <systemd/sd-event.h>

#include "call-limit.h"
#include "machine.h"

typedef struct Wait {
        sd_event_source *timer;
        usec_t began_usec, ends_usec; /* 0: none */
        usec_t next_attempt_usec;     /* CLOCK_REALTIME; 0: no attempt is due */
        unsigned missed;              /* a bit for each RetryEvent that came while a step was under way */
        usec_t throttled_until_usec;  /* the end of the wait after a 429; no event ends it earlier */
        CallLimit call_limit;         /* of Retry and Reprovision */
} Wait;

/* on_end() is called from the loop. */
int wait_init(Wait *wait, sd_event *event, sd_event_time_handler_t on_end, void *userdata);
void wait_deinit(Wait *wait);

/* Begins a wait, or changes the end of the wait under way. */
void wait_arm(Wait *wait, const Machine *machine, usec_t delay_usec);
void wait_disarm(Wait *wait);
usec_t wait_left(const Wait *wait);
/* True for a wait after a failure and before a call's attempt, not for the one between two polls. */
bool wait_is_for_attempt(const Wait *wait, const Machine *machine);

/* Call this when the local clock was set. */
void wait_update_local_time(Wait *wait, const Machine *machine);

usec_t wait_throttled(const Wait *wait);          /* the rest of the wait after a 429 */
void wait_throttle(Wait *wait, usec_t left_usec); /* continues a wait from before the daemon's start */

/* Ends the wait earlier when the event may cure the failure. Returns true when it does. An event while a
 * step is under way is kept for wait_take_missed(). */
bool wait_shorten(Wait *wait, Machine *machine, const Failure *failure, RetryEvent event, uint64_t random);
unsigned wait_take_missed(Wait *wait); /* a bit for each RetryEvent */

/* Counts the attempt of a Retry() or Reprovision(), and returns the delay after which it may begin. */
usec_t wait_count_call(Wait *wait);
