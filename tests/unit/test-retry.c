#include "test.h"

#include "retry.h"

#define HOUR_USEC   (3600 * USEC_PER_SEC)
#define MINUTE_USEC (60 * USEC_PER_SEC)

static const RetryPolicy policy = {
        .initial_usec = 5 * USEC_PER_SEC,
        .max_usec = 600 * USEC_PER_SEC,
        .throttled_max_usec = 10 * HOUR_USEC,
        .operator_initial_usec = 60 * USEC_PER_SEC,
        .operator_max_usec = HOUR_USEC / 2,
        .operator_long_max_usec = 6 * HOUR_USEC,
};

/* The longest wait of the jitter's range is what random = 0 gives. */
static void transient_doubles_to_its_cap_with_jitter(void **state) {
        const Failure f = { .kind = FAILURE_DNS };
        Retry retry = {};
        usec_t expected = 5 * USEC_PER_SEC;

        for (int i = 0; i < 1000; i++) {
                Retry other = retry;

                assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                                 expected);
                for (uint64_t random = 1; random < UINT64_MAX / 7; random = random * 7 + 13) {
                        Retry again = other;
                        usec_t wait = retry_next(&again, &policy, failure_class(f.kind), f.retry_after_usec,
                                                 random);

                        assert_in_range(wait, expected / 2, expected);
                }
                expected = expected * 2 > policy.max_usec ? policy.max_usec : expected * 2;
        }
        assert_int_equal(retry.attempts, 1000);
}

/* No retry asks anybody outside the machine. */
static void local_waits_ten_seconds_at_most(void **state) {
        static const usec_t expected[] = { 5, 10, 10, 10 };
        const RetryPolicy quick = { .initial_usec = USEC_PER_SEC, .max_usec = 2 * USEC_PER_SEC };
        Retry retry = {}, other = { .transient_count = 20 };

        assert_int_equal(failure_class(FAILURE_ENGINE_UNREACHABLE), FAILURE_CLASS_LOCAL);
        for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
                assert_int_equal(retry_next(&retry, &policy, FAILURE_CLASS_LOCAL, 0, 0),
                                 expected[i] * USEC_PER_SEC);
        assert_int_equal(retry_next(&other, &policy, FAILURE_CLASS_LOCAL, 0, 0), 10 * USEC_PER_SEC);
        assert_int_equal(retry_next(&other, &quick, FAILURE_CLASS_LOCAL, 0, 0), 2 * USEC_PER_SEC);

        for (int i = 0; i < 10000; i++)
                assert_int_equal(retry_next(&retry, &policy, FAILURE_CLASS_LOCAL, 0, 0), 10 * USEC_PER_SEC);
        assert_int_equal(retry_next(&retry, &quick, FAILURE_CLASS_LOCAL, 0, 0), 2 * USEC_PER_SEC);
        retry_reset(&retry);
        assert_int_equal(retry_next(&retry, &policy, FAILURE_CLASS_LOCAL, 0, 0), 5 * USEC_PER_SEC);
}

/* Uniform over 64 bits for i = 0, 1, … */
static uint64_t nth_random(uint64_t i) {
        return i * 0x9e3779b97f4a7c15U + 1;
}

/* The windows since the first 429 end after 5, 30, 155 and 635 minutes. */
static void throttled_makes_one_attempt_in_each_window(void **state) {
        static const usec_t ends[] = { 5, 30, 155, 635 };

        for (uint64_t i = 0; i < 1000; i++) {
                Retry retry = {};
                usec_t begin = 0, wait;

                for (size_t w = 0; w < ARRAY_SIZE(ends); w++) {
                        usec_t end = ends[w] * MINUTE_USEC;

                        (void) retry_next(&retry, &policy, FAILURE_CLASS_THROTTLED, 0,
                                          nth_random(5 * i + w));
                        assert_in_range(retry.throttled_waited_usec, begin + (end - begin) / 16, end);
                        begin = end;
                }
                for (int later = 0; later < 5; later++) {
                        wait = retry_next(&retry, &policy, FAILURE_CLASS_THROTTLED, 0,
                                          nth_random(5 * i + 4));
                        assert_in_range(wait, 472 * MINUTE_USEC, 488 * MINUTE_USEC);
                }
                assert_int_equal(retry.attempts, 9);
        }
}

static void throttled_has_a_cap_of_its_own(void **state) {
        static const usec_t caps[] = { 1, 2, 59, 300, 600, 3600, 14400, 36000, 604800 };

        for (size_t c = 0; c < ARRAY_SIZE(caps); c++) {
                RetryPolicy p = policy;
                Retry retry = {};
                usec_t wait = 0;

                p.throttled_max_usec = caps[c] * USEC_PER_SEC;
                for (uint64_t i = 0; i < 200; i++) {
                        wait = retry_next(&retry, &p, FAILURE_CLASS_THROTTLED, 0, nth_random(i));
                        assert_in_range(wait, 1, p.throttled_max_usec);
                }
                assert_true(wait > p.throttled_max_usec / 2);
        }
}

static void throttled_is_bounded_whatever_the_record_says(void **state) {
        static const usec_t waited[] = { 1, 10 * HOUR_USEC, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX };

        for (size_t i = 0; i < ARRAY_SIZE(waited); i++) {
                Retry retry = { .throttled_waited_usec = waited[i] };

                assert_in_range(retry_next(&retry, &policy, FAILURE_CLASS_THROTTLED, 0, nth_random(i)), 1,
                                10 * HOUR_USEC);
                assert_in_range(retry_next(&retry, &policy, FAILURE_CLASS_THROTTLED, 60 * USEC_PER_SEC,
                                           nth_random(i)),
                                60 * USEC_PER_SEC, 10 * HOUR_USEC);
        }
}

/* A fleet that was told the same by its first 429s comes back evenly, whatever it was told. */
static void retry_after_spreads_a_fleet(void **state) {
        static const struct {
                usec_t retry_after_usec, most_usec;
        } cases[] = {
                { USEC_PER_SEC, 5 * MINUTE_USEC },     { MINUTE_USEC, 5 * MINUTE_USEC },
                { 4 * MINUTE_USEC, 30 * MINUTE_USEC }, { HOUR_USEC, 155 * MINUTE_USEC },
                { 2 * HOUR_USEC, 635 * MINUTE_USEC },  { 24 * HOUR_USEC, 32 * HOUR_USEC },
        };

        for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
                usec_t least = cases[c].retry_after_usec, seen = 0;
                unsigned early = 0;

                for (uint64_t i = 0; i < 1000; i++) {
                        Retry retry = {};
                        usec_t wait =
                                retry_next(&retry, &policy, FAILURE_CLASS_THROTTLED, least, nth_random(i));

                        assert_in_range(wait, least, cases[c].most_usec);
                        early += wait < (least + cases[c].most_usec) / 2;
                        seen = wait > seen ? wait : seen;
                }
                assert_in_range(early, 400, 600);
                assert_true(seen > least + (cases[c].most_usec - least) / 10 * 9);
        }
}

static void retry_after_is_the_least_with_jitter_on_top(void **state) {
        const Failure f = { .kind = FAILURE_HTTP_SERVER, .retry_after_usec = 30 * USEC_PER_SEC };
        Retry retry = {};

        for (int i = 0; i < 50; i++) {
                usec_t wait = retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec,
                                         (uint64_t) i * 7919 * USEC_PER_SEC / 3);

                assert_true(wait >= f.retry_after_usec);
        }
}

static void operator_lane_slows_down_after_a_day(void **state) {
        const Failure f = { .kind = FAILURE_ENROLLMENT_MISSING };
        Retry retry = {};
        usec_t waited = 0, wait, previous = 0;

        while (waited < 24 * HOUR_USEC) {
                wait = retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0);
                assert_in_range(wait, 60 * USEC_PER_SEC, HOUR_USEC / 2);
                assert_true(wait >= previous);
                previous = wait;
                waited += wait;
        }
        assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                         HOUR_USEC);
        assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                         2 * HOUR_USEC);
        assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                         4 * HOUR_USEC);
        assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                         6 * HOUR_USEC);
        assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                         6 * HOUR_USEC);
        retry_reset(&retry);
        assert_int_equal(retry_next(&retry, &policy, failure_class(f.kind), f.retry_after_usec, 0),
                         60 * USEC_PER_SEC);
}

static void only_what_cures_shortens(void **state) {
        static const struct {
                FailureKind kind;
                RetryEvent event;
                bool shortened;
        } cases[] = {
                { FAILURE_DNS, RETRY_EVENT_NETWORK, true },
                { FAILURE_TIMEOUT, RETRY_EVENT_NETWORK, true },
                { FAILURE_DNS, RETRY_EVENT_ADDRESS, true },
                { FAILURE_DNS, RETRY_EVENT_CLOCK, false },
                { FAILURE_DNS, RETRY_EVENT_TPM, false },
                { FAILURE_TLS_CLOCK, RETRY_EVENT_CLOCK, true },
                { FAILURE_CLOCK_BEHIND, RETRY_EVENT_CLOCK, true },
                { FAILURE_HTTP_SERVER, RETRY_EVENT_NETWORK, false },
                { FAILURE_HTTP_THROTTLED, RETRY_EVENT_NETWORK, false },
                { FAILURE_HTTP_THROTTLED, RETRY_EVENT_OPERATOR, false },
                { FAILURE_ENROLLMENT_MISSING, RETRY_EVENT_OPERATOR, true },
                { FAILURE_TLS_TRUST, RETRY_EVENT_CLOCK, true },
                { FAILURE_TPM_MISSING, RETRY_EVENT_TPM, true },
                { FAILURE_TPM_FAILED, RETRY_EVENT_TPM, true },
                { FAILURE_TPM_LOCKOUT, RETRY_EVENT_TPM, false },
                { FAILURE_ENGINE_UNREACHABLE, RETRY_EVENT_ENGINE, true },
                { FAILURE_ENGINE_UNSUITABLE, RETRY_EVENT_ENGINE, true },
                { FAILURE_RUNTIME_MISSING, RETRY_EVENT_ENGINE, true },
                { FAILURE_DNS, RETRY_EVENT_ENGINE, false },
                { FAILURE_TPM_MISSING, RETRY_EVENT_ADDRESS, false },
                { FAILURE_TPM_MISSING, RETRY_EVENT_OPERATOR, true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const Failure f = { .kind = cases[i].kind };
                Retry retry = {};
                usec_t left = retry_shorten(&retry, &f, cases[i].event, HOUR_USEC, 0, HOUR_USEC, 1);

                assert_int_equal(left < HOUR_USEC, cases[i].shortened);
        }
}

static void shortening_respects_retry_after(void **state) {
        const Failure f = { .kind = FAILURE_HTTP_SERVER, .retry_after_usec = 60 * USEC_PER_SEC };
        Retry retry = {};

        assert_int_equal(retry_shorten(&retry, &f, RETRY_EVENT_OPERATOR, HOUR_USEC, 20 * USEC_PER_SEC, 1, 0),
                         40 * USEC_PER_SEC);
}

static void a_flapping_link_is_kept_in_check(void **state) {
        const Failure f = { .kind = FAILURE_DNS };
        Retry retry = {};
        int shortened = 0;

        /* an hour of a link that comes back every second */
        for (usec_t now = HOUR_USEC; now < 2 * HOUR_USEC; now += USEC_PER_SEC)
                shortened +=
                        retry_shorten(&retry, &f, RETRY_EVENT_NETWORK, HOUR_USEC, 0, now, now) < HOUR_USEC;
        assert_in_range(shortened, 8, 9); /* 3 at once, then 1 per 10 minutes */
}

static void one_link_that_comes_up_counts_once(void **state) {
        const Failure f = { .kind = FAILURE_CONNECT };
        Retry retry = {};
        usec_t left = HOUR_USEC;

        for (usec_t now = HOUR_USEC; now < HOUR_USEC + USEC_PER_SEC; now += USEC_PER_SEC / 10)
                left = retry_shorten(&retry, &f, RETRY_EVENT_NETWORK, left, 0, now, now);
        assert_true(left < 3 * USEC_PER_SEC);
        assert_int_equal(retry.bucket, RETRY_BUCKET_SIZE - 1);
}

static void addresses_leave_the_bucket_to_a_default_route(void **state) {
        const Failure f = { .kind = FAILURE_CONNECT };
        const usec_t now = HOUR_USEC;
        Retry retry = {};

        assert_true(retry_shorten(&retry, &f, RETRY_EVENT_ADDRESS, HOUR_USEC, 0, now, now) < HOUR_USEC);
        for (int i = 0; i < 10; i++)
                assert_int_equal(retry_shorten(&retry, &f, RETRY_EVENT_ADDRESS, HOUR_USEC, 0, now, now),
                                 HOUR_USEC);
        for (int i = 0; i < RETRY_BUCKET_SIZE - 1; i++)
                assert_true(retry_shorten(&retry, &f, RETRY_EVENT_NETWORK, HOUR_USEC, 0, now, now) <
                            HOUR_USEC);
        assert_int_equal(retry_shorten(&retry, &f, RETRY_EVENT_NETWORK, HOUR_USEC, 0, now, now), HOUR_USEC);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(transient_doubles_to_its_cap_with_jitter),
                cmocka_unit_test(local_waits_ten_seconds_at_most),
                cmocka_unit_test(throttled_makes_one_attempt_in_each_window),
                cmocka_unit_test(throttled_has_a_cap_of_its_own),
                cmocka_unit_test(throttled_is_bounded_whatever_the_record_says),
                cmocka_unit_test(retry_after_spreads_a_fleet),
                cmocka_unit_test(retry_after_is_the_least_with_jitter_on_top),
                cmocka_unit_test(operator_lane_slows_down_after_a_day),
                cmocka_unit_test(only_what_cures_shortens),
                cmocka_unit_test(shortening_respects_retry_after),
                cmocka_unit_test(a_flapping_link_is_kept_in_check),
                cmocka_unit_test(one_link_that_comes_up_counts_once),
                cmocka_unit_test(addresses_leave_the_bucket_to_a_default_route),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
