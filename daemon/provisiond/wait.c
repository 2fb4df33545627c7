#include "wait.h"

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

/* A call's attempt may wait for the CallLimit without a failure. */
bool wait_is_for_attempt(const Wait *w, const Machine *machine) {
        return machine_backing_off(machine) ||
               (machine->progress == PROGRESS_DUE && machine->step == STEP_IDENTITY && wait_left(w) > 0);
}

void wait_update_local_time(Wait *w, const Machine *machine) {
        w->next_attempt_usec = wait_is_for_attempt(w, machine) ? now_usec(CLOCK_REALTIME) + wait_left(w) : 0;
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
        wait_update_local_time(w, machine);
}

void wait_disarm(Wait *w) {
        (void) sd_event_source_set_enabled(w->timer, SD_EVENT_OFF);
        w->began_usec = w->ends_usec = w->next_attempt_usec = 0;
}

usec_t wait_throttled(const Wait *w) {
        usec_t now = now_usec(CLOCK_BOOTTIME);

        return w->throttled_until_usec > now ? w->throttled_until_usec - now : 0;
}

void wait_throttle(Wait *w, usec_t left_usec) {
        w->throttled_until_usec = left_usec > 0 ? now_usec(CLOCK_BOOTTIME) + left_usec : 0;
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
