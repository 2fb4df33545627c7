#include "server-time.h"

#include "test.h"

#define MINUTE_USEC (60 * USEC_PER_SEC)
#define DAY_USEC    (24 * 60 * MINUTE_USEC)
#define DAY_SEC     86400u
#define DATE        1795000000u /* 2026-11-18 */
#define BOOT        (1000 * USEC_PER_SEC)

/* What is judged when `ahead` was the local clock's error at the Date, and the error is `now_ahead` after
 * `passed_usec`. */
static ServerTimeVerdict judge(int64_t ahead, usec_t passed_usec, int64_t now_ahead, uint64_t *ret_behind) {
        const uint64_t now = DATE + passed_usec / USEC_PER_SEC;
        ServerTime time = {};

        server_time_set(&time, DATE, BOOT, (uint64_t) (DATE + ahead));
        return server_time_judge(&time, BOOT + passed_usec, (uint64_t) ((int64_t) now + now_ahead),
                                 ret_behind);
}

static void what_is_certain_decides(void **state) {
        static const struct {
                int64_t ahead;
                usec_t passed_usec;
                int64_t now_ahead;
                ServerTimeVerdict verdict;
        } cases[] = {
                { 0, 0, 0, SERVER_TIME_FINE },
                { -20, 0, -20, SERVER_TIME_FINE },
                { -21, 0, -21, SERVER_TIME_BEHIND },
                { 3600, DAY_USEC, 3600, SERVER_TIME_FINE },
                /* set an hour back: a fresh Date counts, an older one yields */
                { 0, 9 * MINUTE_USEC, -3600, SERVER_TIME_BEHIND },
                { 0, 11 * MINUTE_USEC, -3600, SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED },
                /* an hour behind since the Date: still wrong */
                { -3600, 11 * MINUTE_USEC, -3600, SERVER_TIME_BEHIND },
                { -3600, 30 * DAY_USEC, -3600 - 100, SERVER_TIME_BEHIND },
                { -3600, 11 * MINUTE_USEC, -1800, SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED },
                { -3600, 11 * MINUTE_USEC, 0, SERVER_TIME_FINE },
                /* corrected after a drift of 200 ppm: the estimate is as wrong as the clock was */
                { 0, 7 * DAY_USEC, -121, SERVER_TIME_FINE },
                { 0, 365 * DAY_USEC, -6307, SERVER_TIME_FINE },
                { 0, DAY_USEC, -20 - 43, SERVER_TIME_FINE },
                { 0, DAY_USEC, -20 - 44, SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED },
        };
        uint64_t behind;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_int_equal(judge(cases[i].ahead, cases[i].passed_usec, cases[i].now_ahead, &behind),
                                 cases[i].verdict);
        assert_int_equal(judge(-3600, MINUTE_USEC, -3600, &behind), SERVER_TIME_BEHIND);
        assert_int_equal(behind, 3600);
}

static void a_restored_date_is_a_lower_bound(void **state) {
        ServerTime time = {};
        uint64_t behind;

        server_time_restore(&time, DATE, BOOT);
        assert_int_equal(server_time_now(&time, BOOT, DATE + DAY_SEC), DATE + DAY_SEC);
        assert_int_equal(server_time_now(&time, BOOT, DATE - DAY_SEC), DATE);
        assert_int_equal(server_time_judge(&time, BOOT, DATE + DAY_SEC, &behind), SERVER_TIME_FINE);
        assert_int_equal(server_time_judge(&time, BOOT, DATE - DAY_SEC, &behind),
                         SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED);
}

static void without_a_date_the_local_clock_counts(void **state) {
        const ServerTime time = {};
        uint64_t behind;

        assert_int_equal(server_time_now(&time, BOOT, 5), 5);
        assert_int_equal(server_time_judge(&time, BOOT, 5, &behind), SERVER_TIME_FINE);
}

static void the_estimate_follows_the_steady_clock(void **state) {
        ServerTime time = {};

        server_time_set(&time, DATE, BOOT, 5);
        assert_int_equal(server_time_now(&time, BOOT + DAY_USEC, 5), DATE + DAY_SEC);
}

static void a_late_clock_is_implausible(void **state) {
        const uint64_t built = DATE, ten_years = 3650u * DAY_SEC;
        ServerTime time = {};

        assert_int_equal(server_time_latest(&time, BOOT, built), built + ten_years);
        server_time_restore(&time, DATE + DAY_SEC, BOOT);
        assert_int_equal(server_time_latest(&time, BOOT, built), DATE + DAY_SEC + ten_years);
        server_time_restore(&time, DATE - DAY_SEC, BOOT);
        assert_int_equal(server_time_latest(&time, BOOT, built), built + ten_years);
        server_time_set(&time, DATE, BOOT, 5);
        assert_int_equal(server_time_latest(&time, BOOT + DAY_USEC, built), DATE + 2 * DAY_SEC);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_is_certain_decides),
                cmocka_unit_test(a_restored_date_is_a_lower_bound),
                cmocka_unit_test(without_a_date_the_local_clock_counts),
                cmocka_unit_test(the_estimate_follows_the_steady_clock),
                cmocka_unit_test(a_late_clock_is_implausible),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
