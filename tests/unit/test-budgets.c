/* The budgets of disruptions and holds, and their file. */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "budgets.h"
#include "paths.h"
#include "project.h"
#include "store.h"
#include "test.h"

#define MINUTE  (60 * USEC_PER_SEC)
#define HOUR    (60 * MINUTE)
#define DAY     (24 * HOUR)
#define WEEK    (7 * DAY)
#define NOW_SEC (BUILD_TIME + 86400)
#define BOOT    10 /* seconds after a boot */

/* Some time after the boot with this ID. The local clock is right. */
static Moment at(const char *boot_id, usec_t usec) {
        Moment m = { .boottime_usec = BOOT * USEC_PER_SEC + usec,
                     .realtime_usec = NOW_SEC * USEC_PER_SEC + usec };

        (void) snprintf(m.boot_id, sizeof(m.boot_id), "%s", boot_id);
        return m;
}

/* --- disruptions --- */

/* Takes every disruption that is allowed until the end; returns how many those are. */
static unsigned take_all(DisruptionBudget *d, usec_t begin, usec_t end, usec_t times[], size_t size) {
        unsigned n = 0;

        for (usec_t usec = begin; usec < end;) {
                const Moment now = at("a", usec);
                const usec_t wait = disruption_budget_wait(d, &now);

                if (wait == 0) {
                        assert_true(n < size);
                        times[n++] = usec;
                        disruption_budget_charge(d, &now);
                }
                usec += wait > 0 ? wait : 1;
        }
        return n;
}

static void the_gaps_grow_to_a_day(void **state) {
        static const unsigned hours[] = { 0, 1, 7, 31, 55, 79, 103, 127, 151 };
        DisruptionBudget d = {};
        usec_t times[20];

        assert_int_equal(take_all(&d, 0, WEEK, times, ARRAY_SIZE(times)), ARRAY_SIZE(hours));
        for (size_t i = 0; i < ARRAY_SIZE(hours); i++)
                assert_int_equal(times[i] / HOUR, hours[i]);
}

static void a_day_of_running_fills_it_when_the_hub_has_accepted(void **state) {
        DisruptionBudget d = {};
        usec_t times[20];

        (void) take_all(&d, 0, 8 * HOUR, times, ARRAY_SIZE(times));
        assert_int_equal(d.count, 3);
        assert_false(disruption_budget_note_running(&d, 2 * DAY));
        assert_true(disruption_budget_confirm(&d));
        assert_false(disruption_budget_confirm(&d));
        assert_false(disruption_budget_note_running(&d, DAY - 1));
        assert_true(disruption_budget_note_running(&d, DAY));
        assert_int_equal(disruption_budget_wait(&d, &(Moment){}), 0);
        (void) take_all(&d, 40 * HOUR, 41 * HOUR, times, ARRAY_SIZE(times));
        assert_int_equal(d.count, 1);
        assert_false(disruption_budget_note_running(&d, DAY)); /* the next one has to be accepted as well */
        d = (DisruptionBudget){};
        assert_false(disruption_budget_confirm(&d));
}

static void the_wait_runs_down_within_a_boot(void **state) {
        DisruptionBudget d = {};
        Moment now = at("a", 0);

        disruption_budget_charge(&d, &now);
        now = at("a", 20 * MINUTE);
        now.realtime_usec = 0; /* whatever the local clock says */
        assert_int_equal(disruption_budget_wait(&d, &now), 40 * MINUTE);
        disruption_budget_run_down(&d, &now);
        disruption_budget_run_down(&d, &now);
        now.boottime_usec += 39 * MINUTE;
        now.realtime_usec = UINT64_MAX;
        assert_int_equal(disruption_budget_wait(&d, &now), MINUTE);
}

static DisruptionBudget spent(unsigned count, const Moment *now) {
        DisruptionBudget d = {};

        for (unsigned i = 0; i < count; i++)
                disruption_budget_charge(&d, now);
        return d;
}

static void a_leaping_clock_takes_half_of_the_wait_at_most(void **state) {
        const usec_t whole[] = { HOUR, 6 * HOUR, DAY, DAY };

        for (unsigned count = 1; count <= ARRAY_SIZE(whole); count++) {
                const usec_t times[] = { 0,
                                         3600 * USEC_PER_SEC,
                                         BUILD_TIME * USEC_PER_SEC - 1,
                                         NOW_SEC * USEC_PER_SEC,
                                         4000000000 * USEC_PER_SEC,
                                         UINT64_MAX };

                for (size_t i = 0; i < ARRAY_SIZE(times); i++)
                        for (size_t j = 0; j < ARRAY_SIZE(times); j++) {
                                Moment before = at("a", 0), after = at("b", 0);
                                DisruptionBudget d;
                                usec_t wait;

                                before.realtime_usec = times[i];
                                after.realtime_usec = times[j];
                                d = spent(count, &before);
                                wait = disruption_budget_wait(&d, &after);
                                assert_in_range(wait, whole[count - 1] / 2, whole[count - 1] / 4 * 3);
                        }
        }
}

/* What one commissioning costs, with a hub that accepted IoT Edge at the end. */
static DisruptionBudget confirmed(unsigned count, const Moment *now) {
        DisruptionBudget d = spent(count, now);

        (void) disruption_budget_confirm(&d);
        return d;
}

static void a_day_across_a_reboot_fills_it_when_the_hub_has_accepted(void **state) {
        const Moment before = at("a", 0);

        for (unsigned count = 1; count <= 4; count++) {
                Moment after = at("b", 0);
                DisruptionBudget d = confirmed(count, &before);

                after.realtime_usec += DAY - 1;
                disruption_budget_run_down(&d, &after);
                assert_int_equal(d.count, count);
                assert_in_range(disruption_budget_wait(&d, &after), 0,
                                1); /* all of the difference has counted */

                d = confirmed(count, &before);
                after.realtime_usec++;
                disruption_budget_run_down(&d, &after);
                assert_int_equal(d.count, 0);
                assert_int_equal(disruption_budget_wait(&d, &after), 0);

                d = spent(count, &before);
                disruption_budget_run_down(&d, &after);
                assert_int_equal(d.count, count);
        }
}

/* Only readings that can be right count in whole. */
static void an_implausible_clock_fills_nothing(void **state) {
        const usec_t wrong = 3600 * USEC_PER_SEC, right = at("", 0).realtime_usec;
        const usec_t times[][2] = {
                { wrong, right }, { right, wrong }, { wrong, wrong + WEEK }, { right, 0 }
        };

        for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
                Moment before = at("a", 0), after = at("b", 0);
                DisruptionBudget d;

                before.realtime_usec = times[i][0];
                after.realtime_usec = times[i][1];
                d = confirmed(3, &before);
                disruption_budget_run_down(&d, &after);
                assert_int_equal(d.count, 3);
                assert_int_equal(disruption_budget_wait(&d, &after), DAY / 4 * 3);
        }
}

/* A look at each boot leaves less than a day between two of them. */
static void a_boot_every_twelve_hours_fills_it(void **state) {
        Moment now = at("a", 0);
        DisruptionBudget d = confirmed(3, &now);
        unsigned boots = 0;

        while (d.count > 0) {
                (void) snprintf(now.boot_id, sizeof(now.boot_id), "%u", boots++);
                now.realtime_usec += 12 * HOUR;
                disruption_budget_run_down(&d, &now);
                assert_true(boots <= 4);
        }
}

static void four_reboots_end_any_wait(void **state) {
        Moment now = at("a", 0);
        DisruptionBudget d;

        now.realtime_usec = 0;
        d = spent(5, &now);
        for (int i = 0; i < 4; i++) {
                assert_true(disruption_budget_wait(&d, &now) > 0);
                (void) snprintf(now.boot_id, sizeof(now.boot_id), "%d", i);
                disruption_budget_run_down(&d, &now);
        }
        assert_int_equal(disruption_budget_wait(&d, &now), 0);
}

static void the_uptime_counts_whatever_the_clock_says(void **state) {
        Moment before = at("a", 0), after = at("b", 23 * HOUR);
        DisruptionBudget d;

        before.realtime_usec = after.realtime_usec = 0;
        d = spent(3, &before);
        assert_true(disruption_budget_wait(&d, &after) < HOUR);
        after.boottime_usec += HOUR;
        assert_int_equal(disruption_budget_wait(&d, &after), 0);
}

static void a_reboot_is_seen_without_its_id(void **state) {
        const Moment before = at("", 2 * HOUR), after = at("", HOUR);

        assert_false(moment_same_boot(&before, &after));
        assert_true(moment_same_boot(&after, &before));
}

/* --- holds --- */

static void a_renewed_hold_is_charged_once_and_given_back(void **state) {
        HoldBudget b = {};
        Moment now = at("a", 0);

        hold_budget_begin(&b, &now);
        assert_int_equal(b.used_usec, HOLD_MAX_USEC);
        now = at("a", 20 * MINUTE);
        hold_budget_end(&b, &now, 20 * MINUTE);
        assert_int_equal(b.used_usec, 15 * MINUTE);
        assert_int_equal(hold_budget_wait(&b, &now), 0);
        assert_false(hold_budget_resumed(&b, &now));
        now = at("a", 80 * MINUTE);
        hold_budget_refill(&b, &now);
        assert_int_equal(b.used_usec, 0);
}

static void a_hold_that_was_cut_is_followed_by_a_pause(void **state) {
        HoldBudget b = {};
        Moment now = at("a", 0);

        hold_budget_begin(&b, &now);
        now = at("a", 30 * MINUTE);
        hold_budget_end(&b, &now, 30 * MINUTE);
        now = at("a", 40 * MINUTE); /* IoT Edge could not be started */
        assert_int_equal(hold_budget_wait(&b, &now), HOLD_PAUSE_USEC);
        assert_true(hold_budget_resumed(&b, &now));
        assert_int_equal(hold_budget_wait(&b, &now), HOLD_PAUSE_USEC);
        now = at("a", 40 * MINUTE + HOLD_PAUSE_USEC);
        assert_int_equal(hold_budget_wait(&b, &now), 0);
}

/* Holds as long and as often as possible for ten days; how much of any 24 hours is held? */
static void half_of_any_day_is_held_at_most(void **state) {
        static const usec_t lengths[] = { 30 * MINUTE, 29 * MINUTE, 10 * MINUTE, MINUTE };

        for (size_t l = 0; l < ARRAY_SIZE(lengths); l++) {
                enum {
                        SLOTS = 10 * 24 * 60
                };
                static bool held[SLOTS];
                HoldBudget b = {};
                unsigned sum = 0;

                memset(held, 0, sizeof(held));
                for (usec_t minute = 0; minute < SLOTS;) {
                        Moment now = at("a", minute * MINUTE);

                        if (hold_budget_wait(&b, &now) > 0) {
                                minute++;
                                continue;
                        }
                        hold_budget_begin(&b, &now);
                        for (usec_t i = 0; i < lengths[l] / MINUTE && minute < SLOTS; i++)
                                held[minute++] = true;
                        now = at("a", minute * MINUTE);
                        hold_budget_end(&b, &now, lengths[l]);
                        (void) hold_budget_resumed(&b, &now);
                }
                for (unsigned i = 0; i < SLOTS; i++) {
                        sum += held[i];
                        sum -= i >= 24 * 60 && held[i - 24 * 60];
                        assert_true(sum <= 12 * 60);
                }
                assert_true(sum > 5 * 60); /* which it may be for ever */
        }
}

/* --- the file --- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static void the_file_keeps_everything(void **state) {
        char root[] = "/tmp/test-budgets-XXXXXX";
        CLEANUP(freep) char *path = NULL, *directory = NULL;
        const Moment now = at("0123456789abcdef0123456789abcdef", 5);
        const Budgets before = {
                .disruptions = { .count = 3, .confirmed = true, .wait_usec = 7, .since = now },
                .holds = { .used_usec = 8, .pause_usec = 9, .cut = true, .since = now }
        };
        Budgets after;

        assert_non_null(mkdtemp(root));
        assert_true(path_under(&directory, root, PATH_STATE) >= 0 &&
                    path_under(&path, root, PATH_BUDGETS) >= 0);
        assert_int_equal(store_make_directory(directory, 0700), 0);
        budgets_load(&after, root);
        assert_int_equal(after.disruptions.count, 0);
        assert_int_equal(budgets_save(&before, root, NULL), 0);
        budgets_load(&after, root);
        assert_int_equal(after.disruptions.count, 3);
        assert_true(after.disruptions.confirmed && after.holds.cut);
        assert_int_equal(after.disruptions.wait_usec, 7);
        assert_int_equal(after.holds.used_usec, 8);
        assert_int_equal(after.holds.pause_usec, 9);
        assert_true(moment_same_boot(&after.disruptions.since, &now));
        assert_int_equal(after.holds.since.realtime_usec, now.realtime_usec);
        assert_int_equal(after.holds.since.boottime_usec, now.boottime_usec);

        assert_int_equal(store_write(path, "{\"disruptions\": 7, \"holds\": {\"usedUSec\": -1}}", 45, 0600),
                         0);
        budgets_load(&after, root);
        assert_int_equal(after.disruptions.count, 0);
        assert_true(after.holds.used_usec <= HOLD_BUDGET_USEC);
        assert_int_equal(store_write(path, "{", 1, 0600), 0);
        budgets_load(&after, root);
        assert_int_equal(after.disruptions.count, 0);
        assert_int_equal(nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_gaps_grow_to_a_day),
                cmocka_unit_test(a_day_of_running_fills_it_when_the_hub_has_accepted),
                cmocka_unit_test(the_wait_runs_down_within_a_boot),
                cmocka_unit_test(a_leaping_clock_takes_half_of_the_wait_at_most),
                cmocka_unit_test(a_day_across_a_reboot_fills_it_when_the_hub_has_accepted),
                cmocka_unit_test(an_implausible_clock_fills_nothing),
                cmocka_unit_test(a_boot_every_twelve_hours_fills_it),
                cmocka_unit_test(four_reboots_end_any_wait),
                cmocka_unit_test(the_uptime_counts_whatever_the_clock_says),
                cmocka_unit_test(a_reboot_is_seen_without_its_id),
                cmocka_unit_test(a_renewed_hold_is_charged_once_and_given_back),
                cmocka_unit_test(a_hold_that_was_cut_is_followed_by_a_pause),
                cmocka_unit_test(half_of_any_day_is_held_at_most),
                cmocka_unit_test(the_file_keeps_everything),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
