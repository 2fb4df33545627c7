#include "test.h"

#include "budget.h"

#define MINUTE_USEC (60 * USEC_PER_SEC)
#define YEAR_USEC   (365 * 24 * 60 * MINUTE_USEC)
#define DATE_2026   (56 * YEAR_USEC)
#define DATE_2066   (96 * YEAR_USEC)

static BudgetTime boot(usec_t usec) {
        return (BudgetTime){ .usec = usec };
}

static BudgetTime date(usec_t usec) {
        return (BudgetTime){ .usec = usec, .by_date = true };
}

static Budget empty_at(BudgetTime now) {
        Budget b = {};

        for (int i = 0; i < REGISTRATION_BUDGET_SIZE; i++) {
                assert_int_equal(budget_wait(&b, now), 0);
                budget_spend(&b, now);
        }
        return b;
}

/* As the daemon does it: refill, then look. */
static usec_t wait_at(Budget *b, BudgetTime now) {
        budget_refill(b, now);
        return budget_wait(b, now);
}

/* How many registrations begin when one is asked for each second until then. */
static unsigned begun(Budget *b, BudgetTime from, usec_t usec) {
        unsigned n = 0;

        for (BudgetTime now = from; now.usec < from.usec + usec; now.usec += USEC_PER_SEC)
                if (wait_at(b, now) == 0) {
                        budget_spend(b, now);
                        n++;
                }
        return n;
}

static void a_zeroed_value_is_a_full_bucket(void **state) {
        Budget b = {};

        budget_refill(&b, date(DATE_2026));
        assert_memory_equal(&b, &(Budget){}, sizeof(b));
        b = empty_at(boot(0));
        assert_int_equal(b.spent, REGISTRATION_BUDGET_SIZE);
}

static void an_empty_bucket_waits_for_the_next_interval(void **state) {
        Budget b = empty_at(boot(MINUTE_USEC));

        assert_int_equal(budget_wait(&b, boot(MINUTE_USEC)), 15 * MINUTE_USEC);
        assert_int_equal(budget_wait(&b, boot(2 * MINUTE_USEC)), 14 * MINUTE_USEC);
        assert_int_equal(budget_wait(&b, boot(16 * MINUTE_USEC)), 0);
}

static void the_rate_is_bounded(void **state) {
        Budget b = {};

        assert_int_equal(begun(&b, boot(0), 60 * MINUTE_USEC), REGISTRATION_BUDGET_SIZE + 3);
        assert_int_equal(begun(&b, boot(60 * MINUTE_USEC), 24 * 60 * MINUTE_USEC), 96);
}

static void a_part_of_an_interval_is_kept(void **state) {
        Budget b = empty_at(boot(0));

        budget_refill(&b, boot(20 * MINUTE_USEC));
        budget_spend(&b, boot(20 * MINUTE_USEC));
        assert_int_equal(budget_wait(&b, boot(20 * MINUTE_USEC)), 10 * MINUTE_USEC);
}

static void time_in_a_full_bucket_is_not_saved_up(void **state) {
        Budget b = {};

        budget_spend(&b, boot(0));
        budget_refill(&b, boot(1000 * MINUTE_USEC));
        budget_spend(&b, boot(1000 * MINUTE_USEC));
        budget_refill(&b, boot(1014 * MINUTE_USEC));
        assert_int_equal(b.spent, 1);
        budget_refill(&b, boot(1015 * MINUTE_USEC));
        assert_int_equal(b.spent, 0);
}

/* Root, an administrator or a changed target are not held back. */
static void a_registration_from_an_empty_bucket_is_counted(void **state) {
        Budget b = empty_at(boot(0));

        budget_spend(&b, boot(5 * MINUTE_USEC));
        assert_int_equal(wait_at(&b, boot(5 * MINUTE_USEC)), 25 * MINUTE_USEC);
        for (int i = 0; i < 1000; i++)
                budget_spend(&b, boot(6 * MINUTE_USEC));
        assert_int_equal(wait_at(&b, boot(6 * MINUTE_USEC)), 24 * MINUTE_USEC);
        assert_int_equal(wait_at(&b, boot(16 * MINUTE_USEC)), 14 * MINUTE_USEC);
        assert_int_equal(wait_at(&b, boot(30 * MINUTE_USEC)), 0);
}

static void what_is_returned_may_be_spent_again(void **state) {
        Budget b = {};

        for (int i = 0; i < 100; i++) {
                budget_spend(&b, boot(0));
                budget_return(&b);
        }
        assert_memory_equal(&b, &(Budget){}, sizeof(b));
        b = empty_at(boot(0));
        budget_return(&b);
        assert_int_equal(budget_wait(&b, boot(0)), 0);
}

/* A loop of Reprovision by root against a scope that DPS does not know. */
static void returning_never_fills(void **state) {
        Budget b = empty_at(boot(0));

        for (int i = 0; i < 100; i++) {
                budget_spend(&b, boot(MINUTE_USEC));
                budget_return(&b);
                assert_int_equal(wait_at(&b, boot(MINUTE_USEC)), 14 * MINUTE_USEC);
        }
        b = (Budget){};
        budget_return(&b);
        assert_memory_equal(&b, &(Budget){}, sizeof(b));
}

/* Each row: the bucket is emptied at `from`; what is waited at `to`, and one interval later in that source.
 */
static void a_new_base_neither_fills_nor_blocks(void **state) {
        const struct {
                BudgetTime from, to;
        } cases[] = {
                { boot(MINUTE_USEC), date(DATE_2026) },         /* DPS answered */
                { date(DATE_2026), boot(MINUTE_USEC) },         /* a reboot; DPS has not answered yet */
                { boot(100 * MINUTE_USEC), boot(MINUTE_USEC) }, /* another boot, without DPS in both */
                { boot(100 * YEAR_USEC), date(DATE_2026) }, /* in doubt, not the numbers but the source */
                { date(DATE_2066), date(DATE_2026) },       /* a broken server, and then a right one */
                { date(DATE_2026), date(DATE_2026 - YEAR_USEC) },
                { date(DATE_2066), date(0) },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Budget b = empty_at(cases[i].from);
                BudgetTime later = cases[i].to;

                assert_int_equal(wait_at(&b, cases[i].to), 15 * MINUTE_USEC);
                later.usec += 14 * MINUTE_USEC;
                assert_int_equal(wait_at(&b, later), MINUTE_USEC);
                later.usec += MINUTE_USEC;
                assert_int_equal(wait_at(&b, later), 0);
                budget_spend(&b, later);
                assert_int_equal(wait_at(&b, later), 15 * MINUTE_USEC);
        }
}

/* A gateway without RTC. Its clock says 1970 at each boot, then 2026; a wrong time server makes that 2066,
 * then 2026 again. DPS says 2026 all along. Each boot lasts ten minutes. */
static void reboots_without_a_right_clock_add_nothing(void **state) {
        Budget b = empty_at(boot(20 * MINUTE_USEC));

        for (usec_t round = 0; round < 10; round++) {
                assert_true(wait_at(&b, boot(10 * USEC_PER_SEC)) > 0);
                for (usec_t s = 0; s < 600; s++)
                        assert_true(wait_at(&b, date(DATE_2026 + round * 10 * MINUTE_USEC +
                                                     s * USEC_PER_SEC)) > 0);
        }
        assert_in_range(wait_at(&b, date(DATE_2026 + 100 * MINUTE_USEC)), 1, 15 * MINUTE_USEC);
}

/* CLOCK_BOOTTIME of a longer boot is larger than the base of the one before. What it says has passed since.
 */
static void a_longer_boot_adds_no_more_than_its_own_time(void **state) {
        Budget b = empty_at(boot(MINUTE_USEC));

        budget_refill(&b, boot(46 * MINUTE_USEC)); /* of the next boot */
        assert_int_equal(b.spent, REGISTRATION_BUDGET_SIZE - 3);
}

static void a_leap_forward_fills_once(void **state) {
        Budget b = empty_at(date(DATE_2026));

        assert_int_equal(wait_at(&b, date(DATE_2066)), 0);
        assert_int_equal(begun(&b, date(DATE_2066), 10 * MINUTE_USEC), REGISTRATION_BUDGET_SIZE);
        /* and back */
        assert_int_equal(begun(&b, date(DATE_2026), 14 * MINUTE_USEC), 0);
        assert_int_equal(begun(&b, date(DATE_2026 + 14 * MINUTE_USEC), 2 * MINUTE_USEC), 1);
}

/* A Date counts seconds, and a reply may be late: the estimate moves by a second in both directions. */
static void a_trembling_date_costs_seconds(void **state) {
        Budget b = empty_at(date(DATE_2026));
        unsigned n = 0;

        for (usec_t s = 0; s < 24 * 3600; s++) {
                BudgetTime now = date(DATE_2026 + (s + (s % 3)) * USEC_PER_SEC);

                if (wait_at(&b, now) == 0) {
                        budget_spend(&b, now);
                        n++;
                }
        }
        assert_in_range(n, 95, 96);
}

static void any_record_is_usable(void **state) {
        static const uint32_t spent[] = { 1, REGISTRATION_BUDGET_SIZE, REGISTRATION_BUDGET_SIZE + 1,
                                          REGISTRATION_BUDGET_SIZE + 2, UINT32_MAX };
        static const usec_t since[] = { 0, 1, DATE_2026, USEC_INFINITY - 1, USEC_INFINITY };

        for (size_t i = 0; i < ARRAY_SIZE(spent); i++)
                for (size_t j = 0; j < ARRAY_SIZE(since); j++)
                        for (int by_date = 0; by_date < 2; by_date++) {
                                Budget b = { spent[i], since[j], by_date };

                                assert_in_range(wait_at(&b, date(DATE_2026)), 0, 30 * MINUTE_USEC);
                                assert_int_equal(wait_at(&b, date(DATE_2026 + 30 * MINUTE_USEC)), 0);
                                budget_spend(&b, boot(0));
                                assert_in_range(wait_at(&b, boot(0)), 0, 30 * MINUTE_USEC);
                        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_zeroed_value_is_a_full_bucket),
                cmocka_unit_test(an_empty_bucket_waits_for_the_next_interval),
                cmocka_unit_test(the_rate_is_bounded),
                cmocka_unit_test(a_part_of_an_interval_is_kept),
                cmocka_unit_test(time_in_a_full_bucket_is_not_saved_up),
                cmocka_unit_test(a_registration_from_an_empty_bucket_is_counted),
                cmocka_unit_test(what_is_returned_may_be_spent_again),
                cmocka_unit_test(returning_never_fills),
                cmocka_unit_test(a_new_base_neither_fills_nor_blocks),
                cmocka_unit_test(reboots_without_a_right_clock_add_nothing),
                cmocka_unit_test(a_longer_boot_adds_no_more_than_its_own_time),
                cmocka_unit_test(a_leap_forward_fills_once),
                cmocka_unit_test(a_trembling_date_costs_seconds),
                cmocka_unit_test(any_record_is_usable),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
