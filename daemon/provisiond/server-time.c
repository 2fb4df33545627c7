#include "server-time.h"

#include <stdlib.h>

#define TOLERANCE_SEC 20u
#define FRESH_SEC     600u
#define DRIFT_PPM     500u /* the most that NTP corrects; usual oscillators are within 100 */
#define ROUNDING_SEC  2    /* Date and the local clock are cut to seconds */
#define DAY_SEC       86400u

/* A program without an update for so long has no valid root certificates either. The error of a real-time
 * clock that was never set, or has lost a bit, is larger. */
#define YEARS_MAX_SEC (10u * 365u * DAY_SEC)

void server_time_set(ServerTime *time, uint64_t date, usec_t steady_usec, uint64_t local) {
        *time = (ServerTime){ .date = date,
                              .seen_usec = steady_usec,
                              .ahead_sec = (int64_t) local - (int64_t) date };
}

void server_time_restore(ServerTime *time, uint64_t date, usec_t steady_usec) {
        *time = (ServerTime){ .date = date, .seen_usec = steady_usec, .restored = true };
}

static uint64_t age(const ServerTime *time, usec_t steady_usec) {
        return steady_usec > time->seen_usec ? (steady_usec - time->seen_usec) / USEC_PER_SEC : 0;
}

static uint64_t drift(const ServerTime *time, usec_t steady_usec) {
        return age(time, steady_usec) * DRIFT_PPM / 1000000;
}

uint64_t server_time_now(const ServerTime *time, usec_t steady_usec, uint64_t local) {
        uint64_t server = time->date + age(time, steady_usec);

        if (time->date == 0)
                return local;
        /* The restored Date is too old by the time for which the device was off. */
        return time->restored && local > server ? local : server;
}

static bool was_set_since(const ServerTime *time, usec_t steady_usec, uint64_t local) {
        int64_t ahead = (int64_t) local - (int64_t) (time->date + age(time, steady_usec)),
                change = ahead - time->ahead_sec;

        return time->restored || llabs(change) > ROUNDING_SEC + (int64_t) drift(time, steady_usec);
}

ServerTimeVerdict server_time_judge(const ServerTime *time, usec_t steady_usec, uint64_t local,
                                    uint64_t *ret_behind) {
        uint64_t server = server_time_now(time, steady_usec, local);

        if (local + TOLERANCE_SEC + drift(time, steady_usec) >= server)
                return SERVER_TIME_FINE;
        *ret_behind = server - local;
        if (!time->restored && age(time, steady_usec) <= FRESH_SEC)
                return SERVER_TIME_BEHIND;
        return was_set_since(time, steady_usec, local) ? SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED
                                                       : SERVER_TIME_BEHIND;
}

uint64_t server_time_latest(const ServerTime *time, usec_t steady_usec, uint64_t build_time) {
        if (time->date > 0 && !time->restored)
                return time->date + age(time, steady_usec) + DAY_SEC;
        return (time->date > build_time ? time->date : build_time) + YEARS_MAX_SEC;
}
