/* The daemon's readings of the clocks, with a pause before and after each reading of the local one. */
#include "daemon.h"

#include "test.h"

#define PAUSE_USEC (30 * USEC_PER_SEC) /* longer than the tolerance for a clock that is behind */
#define DATE       1795000000u         /* 2026-11-18 */

static usec_t passed_usec;

usec_t __wrap_now_usec(clockid_t clock);

usec_t __wrap_now_usec(clockid_t clock) {
        usec_t local;

        if (clock != CLOCK_REALTIME)
                return passed_usec;
        passed_usec += PAUSE_USEC;
        local = DATE * USEC_PER_SEC + passed_usec;
        passed_usec += PAUSE_USEC;
        return local;
}

bool watch_clock_synchronized(Watch *watch) {
        return false;
}

static void a_pause_does_not_make_the_clock_look_behind(void **state) {
        Daemon d = {};
        Failure failure;

        passed_usec = 0;
        server_time_set(&d.server_time, DATE, 0, DATE);
        assert_false(daemon_clock_behind(&d, &failure));
}

static void a_pause_while_the_date_is_noted_is_no_error_of_the_clock(void **state) {
        Daemon d = {};
        Failure failure;

        passed_usec = 0;
        daemon_set_server_time(&d, DATE);
        assert_int_equal(d.server_time.seen_usec, 0);
        assert_false(daemon_clock_behind(&d, &failure));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_pause_does_not_make_the_clock_look_behind),
                cmocka_unit_test(a_pause_while_the_date_is_noted_is_no_error_of_the_clock),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
