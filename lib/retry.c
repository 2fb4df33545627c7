#include "retry.h"

#include <assert.h>

#define OPERATOR_DAY_USEC (24 * 3600 * USEC_PER_SEC)
#define JITTER_USEC       (2 * USEC_PER_SEC)

static const char *const event_names[] = {
        [RETRY_EVENT_NETWORK] = "the network has changed", [RETRY_EVENT_ADDRESS] = "the network has changed",
        [RETRY_EVENT_CLOCK] = "the clock was set",         [RETRY_EVENT_TPM] = "the TPM has appeared",
        [RETRY_EVENT_OPERATOR] = "an operator acted",
};
static_assert(ARRAY_SIZE(event_names) == _RETRY_EVENT_MAX, "every event has a name");

const char *retry_event_to_string(RetryEvent event) {
        assert(event < _RETRY_EVENT_MAX);
        return event_names[event];
}

void retry_reset(Retry *retry) {
        retry->attempts = retry->transient_count = retry->throttled_count = retry->operator_count = 0;
        retry->operator_waited_usec = 0;
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
                        retry->operator_count = 0; /* from the next one on: doublings of the long lane */
        } else {
                retry->operator_count++;
                wait = grown(p->operator_max_usec, retry->operator_count, p->operator_long_max_usec);
        }
        retry->operator_waited_usec += wait;
        return wait;
}

usec_t retry_next(Retry *retry, const RetryPolicy *policy, FailureClass class, usec_t retry_after_usec,
                  uint64_t random) {
        usec_t wait;

        if (retry->attempts < UINT32_MAX)
                retry->attempts++;

        switch (class) {
        case FAILURE_CLASS_THROTTLED:
                wait = grown(policy->initial_usec, retry->throttled_count++, policy->throttled_max_usec);
                break;
        case FAILURE_CLASS_OPERATOR:
                wait = operator_wait(retry, policy);
                break;
        default:
                wait = grown(policy->initial_usec, retry->transient_count++, policy->max_usec);
                break;
        }

        /* What the service asked for is the least; the jitter comes on top of it, so that those who were all
         * told "an hour" do not come back together. */
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
        case RETRY_EVENT_OPERATOR:
                return failure_class(failure->kind) != FAILURE_CLASS_THROTTLED;
        case _RETRY_EVENT_MAX:
                break;
        }
        return false;
}

/* A flapping link may not turn into a request loop: three events, then one per refill interval. `keep` are
 * left for others. */
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
                /* An address may be a container's, so it needs a full bucket: the rest is for the uplink. */
                const uint32_t keep = event == RETRY_EVENT_ADDRESS ? RETRY_BUCKET_SIZE - 1 : 0;

                /* One link that comes up makes several events; the first has done it. */
                if (remaining_usec <= least + JITTER_USEC || !bucket_take(retry, keep, now_usec))
                        return remaining_usec;
        }

        wait = least + (is_network(event) ? random % JITTER_USEC : 0);
        return min_usec(wait, remaining_usec);
}
