#include "wait.h"

#include "dps.h"
#include "log.h"

int wait_init(Wait *w, sd_event *event, sd_event_time_handler_t on_end, void *userdata) {
        int r;

        r = sd_event_add_time(event, &w->timer, CLOCK_BOOTTIME, 0, USEC_PER_MSEC, on_end, userdata);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        (void) sd_event_source_set_description(w->timer, "wait");
        return 0;
}

void wait_deinit(Wait *w) {
        (void) sd_event_source_disable_unref(w->timer);
        *w = (Wait){};
}

usec_t wait_left(const Wait *w) {
        usec_t now = now_usec(CLOCK_BOOTTIME);

        return w->ends_usec > now ? w->ends_usec - now : 0;
}

void wait_update_local_times(Wait *w, const Machine *machine) {
        usec_t now = now_usec(CLOCK_BOOTTIME), local = now_usec(CLOCK_REALTIME);

        w->next_attempt_usec = machine_backing_off(machine) ? local + wait_left(w) : 0;
        if (w->throttled_until_usec > now)
                w->throttled_until_local_usec = local + w->throttled_until_usec - now;
}

void wait_arm(Wait *w, const Machine *machine, usec_t delay_usec) {
        usec_t now = now_usec(CLOCK_BOOTTIME);

        if (w->began_usec == 0)
                w->began_usec = now;
        w->ends_usec = now + delay_usec;
        (void) sd_event_source_set_time(w->timer, w->ends_usec);
        (void) sd_event_source_set_enabled(w->timer, SD_EVENT_ONESHOT);
        if (machine_throttled(machine))
                w->throttled_until_usec = w->ends_usec;
        wait_update_local_times(w, machine);
}

void wait_disarm(Wait *w) {
        (void) sd_event_source_set_enabled(w->timer, SD_EVENT_OFF);
        w->began_usec = w->ends_usec = w->next_attempt_usec = 0;
}

/* The rest of the wait counts also after a power cut, so that a fleet does not come back at once. A
 * clock that went backwards does not make the wait longer than it was. */
void wait_restore_throttling(Wait *w, usec_t until_usec, usec_t least_usec) {
        usec_t now = now_usec(CLOCK_REALTIME), left;

        if (now < least_usec)
                now = least_usec;
        w->throttled_until_local_usec = until_usec;
        if (until_usec <= now)
                return;
        left = until_usec - now;
        w->throttled_until_usec = now_usec(CLOCK_BOOTTIME) +
                                  (left < DPS_RETRY_AFTER_MAX_USEC ? left : DPS_RETRY_AFTER_MAX_USEC);
}

bool wait_shorten(Wait *w, Machine *machine, const Failure *failure, RetryEvent event, uint64_t random) {
        usec_t now = now_usec(CLOCK_BOOTTIME), left, shorter;

        if (!machine_backing_off(machine)) {
                w->missed |= 1u << event;
                return false;
        }
        if (w->ends_usec <= now)
                return false;
        left = w->ends_usec - now;
        shorter = retry_shorten(&machine->retry, failure, event, left, now - w->began_usec, now, random);
        if (shorter >= left)
                return false;
        log_info("The next attempt is brought forward: %s", retry_event_to_string(event));
        wait_arm(w, machine, shorter);
        return true;
}

unsigned wait_take_missed(Wait *w) {
        unsigned missed = w->missed;

        w->missed = 0;
        return missed;
}

usec_t wait_count_call(Wait *w) {
        usec_t now = now_usec(CLOCK_BOOTTIME), delay = call_limit_delay(&w->call_limit, now);

        call_limit_count_attempt(&w->call_limit, now + delay);
        return delay;
}
