#include "fleet.h"

/* The limit applies to whole minutes, as DPS' documentation says: requests after the thousandth are refused
 * until the minute is over. */
static bool is_throttled(Fleet *f, Counted counted, usec_t now) {
        uint64_t minute = now / MINUTE_USEC;

        if (!(f->scenario->counted & counted))
                return false;
        if (minute > f->minute) {
                f->minute = minute;
                f->used = 0;
        }
        if (f->used >= f->limit)
                return true;
        f->used++;
        return false;
}

static Answer throttled(const Fleet *f, usec_t now) {
        usec_t retry_after = f->scenario->retry_after_usec;

        if (retry_after == RETRY_AFTER_NEXT_MINUTE)
                retry_after = MINUTE_USEC - now % MINUTE_USEC + USEC_PER_SEC;
        return (Answer){ FAILURE_HTTP_THROTTLED, retry_after };
}

static bool is_enrolled(const Fleet *f, uint32_t id, usec_t now) {
        const Scenario *s = f->scenario;
        usec_t span = s->enrolling_usec > 0 ? s->opens_usec - s->enrolling_usec : 0;

        return s->enrolling_usec == 0 || now >= s->enrolling_usec + span * id / f->n_devices;
}

usec_t scenario_begin_usec(const Scenario *s) {
        return s->hub == FAILURE_NONE ? s->opens_usec : 0;
}

Answer instance_answer(Fleet *f, uint32_t id, usec_t now) {
        const Scenario *s = f->scenario;
        Step step = f->devices[id].machine.step;
        Counted counted = step == STEP_REGISTER  ? COUNTED_REGISTER
                          : step == STEP_CONFIRM ? COUNTED_CONFIRM
                                                 : 0;

        if (now < s->opens_usec && !(s->outage_later && step == STEP_REGISTER) && s->outage != FAILURE_NONE)
                return (Answer){ .failure = s->outage };
        /* A wrong scope belongs to another instance, or to none. */
        if (f->devices[id].lost)
                return (Answer){ .failure = FAILURE_SCOPE_UNKNOWN };
        if (is_throttled(f, counted, now))
                return throttled(f, now);
        return (Answer){ .failure = is_enrolled(f, id, now) ? FAILURE_NONE : FAILURE_ENROLLMENT_MISSING };
}
