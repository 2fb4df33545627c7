#include "retry.h"

#include <assert.h>

#define OPERATOR_DAY_USEC (24 * 3600 * USEC_PER_SEC)
#define JITTER_USEC       (2 * USEC_PER_SEC)
#define LOCAL_MAX_USEC    (10 * USEC_PER_SEC)

/* A throttled device can't know the number of the others, but it knows for how long it has been throttled.
 * The time since the first 429 is divided into windows. Each window is THROTTLED_GROWTH times as long as the
 * one before, up to a limit, and a device makes one attempt in each. So a fleet that began together, or that
 * got the same Retry-After, is spread evenly over the window, DPS is never idle while devices wait, and the
 * number of requests is bounded. The numbers come from `./dev fleet`. */
#define THROTTLED_FIRST_USEC (300 * USEC_PER_SEC)
#define THROTTLED_GROWTH     5

static const char *const event_names[] = {
        [RETRY_EVENT_NETWORK] = "the network has changed",
        [RETRY_EVENT_ADDRESS] = "the network has changed",
        [RETRY_EVENT_CLOCK] = "the clock was set",
        [RETRY_EVENT_TPM] = "the TPM has appeared",
        [RETRY_EVENT_ENGINE] = "the container engine has started",
        [RETRY_EVENT_OPERATOR] = "an operator acted",
};
static_assert(ARRAY_SIZE(event_names) == _RETRY_EVENT_MAX, "every event has a name");

const char *retry_event_to_string(RetryEvent event) {
        assert(event < _RETRY_EVENT_MAX);
        return event_names[event];
}

void retry_reset(Retry *retry) {
        retry->attempts = retry->transient_count = retry->operator_count = 0;
        retry->throttled_waited_usec = retry->operator_waited_usec = 0;
}

static usec_t min_usec(usec_t a, usec_t b) {
        return a < b ? a : b;
}

static usec_t grown(usec_t initial, uint32_t doublings, usec_t cap) {
        for (uint32_t i = 0; i < doublings && initial < cap; i++)
                initial *= 2;
        return min_usec(initial, cap);
}

static usec_t max_usec(usec_t a, usec_t b) {
        return a > b ? a : b;
}

/* Full jitter over the upper half: [usec/2, usec]. */
static usec_t upper_half(usec_t usec, uint64_t random) {
        return usec - random % (usec / 2 + 1);
}

static usec_t operator_wait(Retry *retry, const RetryPolicy *p) {
        usec_t wait;

        if (retry->operator_waited_usec < OPERATOR_DAY_USEC) {
                wait = grown(p->operator_initial_usec, retry->operator_count, p->operator_max_usec);
                retry->operator_count++;
                if (retry->operator_waited_usec + wait >= OPERATOR_DAY_USEC)
                        retry->operator_count = 0; /* from the next wait on: doublings up to the long cap */
        } else {
                retry->operator_count++;
                wait = grown(p->operator_max_usec, retry->operator_count, p->operator_long_max_usec);
        }
        retry->operator_waited_usec += wait;
        return wait;
}

typedef struct Window {
        usec_t begin_usec, size_usec; /* since the first 429 */
} Window;

/* The longest window is shorter than the longest wait, which may begin early in the window before it. */
static usec_t longest_window(const RetryPolicy *p) {
        return p->throttled_max_usec / 5 * 4;
}

static Window window_after(Window w, const RetryPolicy *p) {
        return (Window){ w.begin_usec + w.size_usec,
                         min_usec(w.size_usec * THROTTLED_GROWTH, longest_window(p)) };
}

/* This returns the first of the windows of the longest size for all of them. */
static Window window_at(usec_t usec, const RetryPolicy *p) {
        Window w = { 0, min_usec(THROTTLED_FIRST_USEC, longest_window(p)) };

        while (usec >= w.begin_usec + w.size_usec && w.size_usec < longest_window(p))
                w = window_after(w, p);
        return w;
}

/* The spread of the devices whose Retry-After ends `usec` after the first 429: over the rest of that window,
 * and over the next window as well when little is left. */
static usec_t spread_after(usec_t usec, const RetryPolicy *p) {
        Window w = window_at(usec, p);
        usec_t rest;

        if (w.size_usec == longest_window(p))
                return w.size_usec;
        rest = w.begin_usec + w.size_usec - usec;
        return rest < w.size_usec / 2 ? rest + window_after(w, p).size_usec : rest;
}

static usec_t throttled_wait(Retry *retry, const RetryPolicy *p, usec_t retry_after_usec, uint64_t random) {
        usec_t waited = retry->throttled_waited_usec, longest = longest_window(p), least, most, wait;
        Window w = window_at(waited, p);

        if (waited > 0 && w.size_usec == longest) {
                /* The fleet is already spread over a whole window. Keep the spread. */
                least = longest - longest / 64;
                most = longest + longest / 64;
        } else {
                if (waited > 0)
                        w = window_after(w, p);
                /* Leave a gap, so that a window's late devices do not collide with the next window: a device
                 * that is refused then waits longest. */
                least = w.begin_usec + w.size_usec / 16 - waited;
                most = min_usec(w.begin_usec + w.size_usec - waited, p->throttled_max_usec);
        }
        if (retry_after_usec > least) {
                least = retry_after_usec;
                if (retry_after_usec > most / 2)
                        most = least + max_usec(spread_after(waited + least, p), least / 8);
        }
        wait = least + random % (most - least + 1);
        retry->throttled_waited_usec += wait;
        return wait;
}

usec_t retry_next(Retry *retry, const RetryPolicy *policy, FailureClass class, usec_t retry_after_usec,
                  uint64_t random) {
        usec_t wait;

        if (retry->attempts < UINT32_MAX)
                retry->attempts++;

        if (class == FAILURE_CLASS_THROTTLED)
                return throttled_wait(retry, policy, retry_after_usec, random);
        if (class == FAILURE_CLASS_OPERATOR)
                wait = operator_wait(retry, policy);
        else if (class == FAILURE_CLASS_LOCAL)
                wait = grown(policy->initial_usec, retry->transient_count++,
                             min_usec(policy->max_usec, LOCAL_MAX_USEC));
        else
                wait = grown(policy->initial_usec, retry->transient_count++, policy->max_usec);
        /* Retry-After is the minimum. The jitter comes on top, so that devices with the same Retry-After do
         * not come back together. */
        if (retry_after_usec > 0 && retry_after_usec >= wait / 2)
                return retry_after_usec + random % (max_usec(wait / 2, retry_after_usec / 8) + 1);
        return upper_half(wait, random);
}

static bool is_network(RetryEvent event) {
        return event == RETRY_EVENT_NETWORK || event == RETRY_EVENT_ADDRESS;
}

static bool event_cures(const Failure *failure, RetryEvent event) {
        switch (event) {
        case RETRY_EVENT_NETWORK:
        case RETRY_EVENT_ADDRESS:
                return failure_cures(failure->kind) & FAILURE_CURE_NETWORK;
        case RETRY_EVENT_CLOCK:
                return failure_cures(failure->kind) & FAILURE_CURE_CLOCK;
        case RETRY_EVENT_TPM:
                return failure_cures(failure->kind) & FAILURE_CURE_TPM;
        case RETRY_EVENT_ENGINE:
                return failure_cures(failure->kind) & FAILURE_CURE_ENGINE;
        case RETRY_EVENT_OPERATOR:
                return failure_class(failure->kind) != FAILURE_CLASS_THROTTLED;
        case _RETRY_EVENT_MAX:
                break;
        }
        return false;
}

/* A flapping link must not cause a request loop: allow three events, then one per refill interval. `keep`
 * events are left for other kinds. */
static bool bucket_take(Retry *retry, uint32_t keep, usec_t now_usec) {
        usec_t refills;

        if (retry->bucket_filled_usec == 0 || now_usec < retry->bucket_filled_usec) {
                retry->bucket = RETRY_BUCKET_SIZE; /* first use, or another boot */
                retry->bucket_filled_usec = now_usec;
        }
        refills = (now_usec - retry->bucket_filled_usec) / RETRY_BUCKET_REFILL_USEC;
        if (refills > 0) {
                retry->bucket_filled_usec += refills * RETRY_BUCKET_REFILL_USEC;
                retry->bucket = (uint32_t) min_usec(RETRY_BUCKET_SIZE, retry->bucket + refills);
        }
        if (retry->bucket <= keep)
                return false;
        retry->bucket--;
        return true;
}

usec_t retry_shorten(Retry *retry, const Failure *failure, RetryEvent event, usec_t remaining_usec,
                     usec_t waited_usec, usec_t now_usec, uint64_t random) {
        usec_t least = 0, wait;

        if (!event_cures(failure, event))
                return remaining_usec;
        if (failure->retry_after_usec > waited_usec)
                least = failure->retry_after_usec - waited_usec;
        if (least >= remaining_usec)
                return remaining_usec;
        if (is_network(event)) {
                /* The address may be a container's, so require a full bucket and leave the other events to
                 * the uplink. */
                const uint32_t keep = event == RETRY_EVENT_ADDRESS ? RETRY_BUCKET_SIZE - 1 : 0;

                /* One link that comes up makes several events; the first has done it. */
                if (remaining_usec <= least + JITTER_USEC || !bucket_take(retry, keep, now_usec))
                        return remaining_usec;
        }

        wait = least + (is_network(event) ? random % JITTER_USEC : 0);
        return min_usec(wait, remaining_usec);
}
