/*
 * ServerTime: the time by the Date headers of DPS, and a verdict on the local clock. A plain value; pure
 * code, the clocks are arguments:
 *
 * steady_usec: a clock that counts suspends and that nothing sets or slews (steady_usec() in clock.c).
 * local: CLOCK_REALTIME in seconds.
 *
 * The rules for the verdict, the first that applies:
 * 1. A Date of the last 10 minutes decides.
 * 2. A clock that was wrong when the Date was seen, and that has not been set or slewed since, is still
 *    wrong, however old the Date is. A time server of the site that is an hour off can't change that.
 * 3. A system that says that its clock is synchronized overrides an older estimate.
 * 4. Otherwise the estimate decides. Its tolerance grows with its age, since a local oscillator drifts.
 */
#pragma once

#include "util.h"

typedef struct ServerTime {
        uint64_t date;     /* the last Date, seconds since the epoch; 0: never seen */
        usec_t seen_usec;  /* steady, when it was seen or restored */
        bool restored;     /* from the state file: a lower bound of the time */
        int64_t ahead_sec; /* by how much the local clock was ahead when the Date was seen */
} ServerTime;

typedef enum ServerTimeVerdict {
        SERVER_TIME_FINE,
        SERVER_TIME_BEHIND,
        SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED,
} ServerTimeVerdict;

void server_time_set(ServerTime *time, uint64_t date, usec_t steady_usec, uint64_t local);
void server_time_restore(ServerTime *time, uint64_t date, usec_t steady_usec);

/* The best estimate, seconds since the epoch: DPS' time, else the local one. */
uint64_t server_time_now(const ServerTime *time, usec_t steady_usec, uint64_t local);

/* Whether the local clock is more than 20 seconds behind, so that a hub refuses IoT Edge's tokens.
 * ret_behind: seconds. */
ServerTimeVerdict server_time_judge(const ServerTime *time, usec_t steady_usec, uint64_t local,
                                    uint64_t *ret_behind);

/* The latest plausible local time. When a certificate has expired and the local clock is later, the clock is
 * the likelier cause. */
uint64_t server_time_latest(const ServerTime *time, usec_t steady_usec, uint64_t build_time);
