/* Outside events: the daemon's start, configuration changes, requests of people, a factory reset. */
#include "test.h"

#include "machine-fixture.h"

static const EventType interrupting[] = { EVENT_RETARGET, EVENT_REATTEST, EVENT_REPROVISION, EVENT_RESET,
                                          EVENT_UNCONFIGURED };

/* What the daemon has changed before it feeds the event. */
static Action from_outside(Gateway *g, EventType type) {
        if (type == EVENT_RESET)
                g->facts.reset = true;
        else if (type == EVENT_UNCONFIGURED)
                g->facts.configured = false;
        return feed(g, (Event){ .type = type });
}

/* What the daemon does when Action.change says that the intended assignment is void. */
static void discard(Gateway *g) {
        g->facts = (Facts){ .configured = g->facts.configured, .no_edge = g->facts.no_edge };
}

static void without_a_scope_nothing_happens(void **state) {
        Gateway g = {};

        assert_int_equal(start(&g).step, STEP_IDLE);
        assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
        g.facts.configured = true;
        (void) feed(&g, (Event){ .type = EVENT_CONFIGURED, .newly_usable = true });
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        (void) done(&g);
        (void) done(&g);
        assert_true(from_outside(&g, EVENT_UNCONFIGURED).start);
        assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
}

static void an_assignment_survives_a_configuration_that_goes(void **state) {
        for (int s = STATE_ASSIGNED; s <= STATE_HANDED_OFF; s++) {
                Gateway g = gateway_at((State) s, s == STATE_ASSIGNED ? STEP_HANDOFF : STEP_VERIFY);

                assert_false(from_outside(&g, EVENT_UNCONFIGURED).start);
                g.facts.confirmed = true;
                (void) done(&g);
                assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
        }
}

static void reprovision_interrupts_requests_but_not_helpers(void **state) {
        for (int step = STEP_IDENTITY; step < _STEP_MAX; step++) {
                State in = step < STEP_IMPORT    ? STATE_ATTESTING
                           : step == STEP_VERIFY ? STATE_HANDED_OFF
                                                 : STATE_ASSIGNED;
                Gateway g = gateway_at(in, (Step) step);
                Action a = feed(&g, (Event){ .type = EVENT_REPROVISION });

                if (!is_request((Step) step)) {
                        assert_false(a.start);
                        assert_int_equal(g.machine.step, step);
                        a = done(&g);
                }
                assert_true(a.start);
                assert_int_equal(a.change, PENDING_REPROVISION);
                discard(&g);
                assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
                assert_int_equal(a.delay_usec, 0);
                assert_int_equal(g.machine.pending, PENDING_NONE);
        }
}

/* Between two steps no call is under way, so the event takes effect at once. */
static void what_has_not_begun_does_not_hold_anything_up(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(interrupting); i++) {
                Gateway g = gateway_at(STATE_ATTESTING, STEP_REGISTER);
                Action a;

                (void) done(&g);
                assert_at(g, STATE_ATTESTING, STEP_ACTIVATE);
                a = from_outside(&g, interrupting[i]);
                assert_true(a.start);
                assert_int_not_equal(g.machine.step, STEP_ACTIVATE);
        }

        for (int step = STEP_IMPORT; step <= STEP_ADOPT; step++) {
                Gateway g = gateway_at(STATE_ASSIGNED, (Step) step);
                Action a;

                g.facts.quiesced = true;
                if (step == STEP_ADOPT) {
                        g.facts.key = HUB_KEY_ADOPTED;
                        g.facts.key_in_place = true;
                }
                (void) done(&g);
                assert_int_equal(g.machine.step, step == STEP_IMPORT ? STEP_ADOPT : STEP_HANDOFF);
                a = feed(&g, (Event){ .type = EVENT_REPROVISION });
                assert_true(a.resume);
                assert_int_equal(a.change, PENDING_REPROVISION);
                assert_int_equal(g.machine.step, STEP_IDENTITY);
        }
}

static void what_was_quiesced_goes_on_whatever_comes_next(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(interrupting); i++) {
                Gateway g = gateway_at(STATE_ASSIGNED, STEP_IMPORT);

                g.facts.quiesced = true;
                assert_false(from_outside(&g, interrupting[i]).start);
                /* An assignment outlives the configuration, so the import begins again. */
                assert_true(failed(&g, FAILURE_TPM_BUSY).resume == (interrupting[i] != EVENT_UNCONFIGURED));
        }
}

/* Each configuration is compared with the intended assignment, so the last event counts. */
static void the_last_configuration_during_a_helper_s_call_counts(void **state) {
        static const EventType events[] = { EVENT_CONFIGURED, EVENT_RETARGET, EVENT_REATTEST };

        for (size_t first = 0; first < ARRAY_SIZE(events); first++)
                for (size_t second = 0; second < ARRAY_SIZE(events); second++) {
                        Gateway g = gateway_at(STATE_ASSIGNED, STEP_HANDOFF);

                        (void) from_outside(&g, events[first]);
                        (void) from_outside(&g, events[second]);
                        g.facts.confirmed = true;
                        assert_int_equal(done(&g).change, PENDING_NONE + second);
                        assert_at(g, STATE_HANDED_OFF, second > 0 ? STEP_IDENTITY : STEP_IDLE);
                }
}

static void a_reprovision_during_a_helper_s_call_stays(void **state) {
        for (EventType type = EVENT_CONFIGURED; type <= EVENT_REPROVISION; type++)
                for (int order = 0; order < 2; order++) {
                        Gateway g = gateway_at(STATE_ASSIGNED, STEP_HANDOFF);

                        if (type == EVENT_UNCONFIGURED)
                                continue;
                        (void) from_outside(&g, order ? type : EVENT_REPROVISION);
                        (void) from_outside(&g, order ? EVENT_REPROVISION : type);
                        assert_int_equal(done(&g).change, PENDING_REPROVISION);
                        assert_int_equal(g.machine.step, STEP_IDENTITY);
                }
}

static void throttling_outlives_a_configuration_that_comes_and_goes(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_REGISTER);
        Action a;

        (void) failed(&g, FAILURE_HTTP_THROTTLED);
        (void) from_outside(&g, EVENT_UNCONFIGURED);
        assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
        g.facts.configured = true;
        g.facts.throttled_usec = 1234;
        a = feed(&g, (Event){ .type = EVENT_CONFIGURED, .newly_usable = true });
        assert_true(a.start && a.step == STEP_IDENTITY && machine_throttled(&g.machine));
        assert_int_equal(a.delay_usec, 1234);

        g = (Gateway){ .facts = { ATTESTING, .throttled_usec = 1234 } };
        assert_int_equal(start(&g).delay_usec, 1234);
        assert_true(machine_throttled(&g.machine));
        g = (Gateway){ .facts = { ATTESTING } };
        assert_int_equal(start(&g).delay_usec, 0);
        assert_false(machine_throttled(&g.machine));
}

/* The wait was over for a handed-off gateway, which does not ask DPS. */
static void a_target_that_turns_out_to_be_another_waits_too(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_IDENTITY);

        g.facts.throttled_usec = 1234;
        g.facts.no_edge = true;
        assert_int_equal(done(&g).delay_usec, 1234);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        assert_true(machine_throttled(&g.machine));

        g = gateway_at(STATE_ASSIGNED, STEP_PREPARE);
        g.facts.hand_over = HAND_OVER_REGISTER;
        g.facts.ask_dps = true;
        g.facts.throttled_usec = 1234;
        assert_int_equal(done(&g).delay_usec, 1234);
        assert_at(g, STATE_ASSIGNED, STEP_IDENTITY);
}

static void only_throttling_holds_reprovision_back(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_REGISTER);
        Action a;

        (void) failed(&g, FAILURE_HTTP_THROTTLED);
        assert_true(machine_throttled(&g.machine));
        g.facts.throttled_usec = 1234;
        a = feed(&g, (Event){ .type = EVENT_REPROVISION });
        assert_int_equal(a.delay_usec, 1234);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        assert_true(machine_throttled(&g.machine));

        g = gateway_at_rest(STATE_UNPROVISIONED); /* after a factory reset */
        g.facts.configured = g.facts.resting = true;
        g.facts.throttled_usec = 1234;
        a = feed(&g, (Event){ .type = EVENT_REPROVISION });
        assert_int_equal(a.change, PENDING_REPROVISION);
        assert_int_equal(a.delay_usec, 1234);
        assert_true(machine_throttled(&g.machine));

        g = gateway_at_rest(STATE_HANDED_OFF);
        a = feed(&g, (Event){ .type = EVENT_REPROVISION });
        assert_int_equal(a.delay_usec, 0);

        g = gateway_at(STATE_ATTESTING, STEP_REGISTER);
        (void) failed(&g, FAILURE_ENROLLMENT_MISSING);
        a = feed(&g, (Event){ .type = EVENT_REPROVISION });
        assert_int_equal(a.delay_usec, 0);
        assert_int_equal(g.machine.retry.attempts, 0);
}

static void retargeting_hands_off_again_without_a_registration(void **state) {
        Gateway g = gateway_at_rest(STATE_HANDED_OFF);
        Action a = feed(&g, (Event){ .type = EVENT_RETARGET });

        assert_int_equal(a.change, PENDING_RETARGET);
        g.facts.confirmed = false; /* so the daemon has opened it again */
        assert_at(g, STATE_ASSIGNED, STEP_IDENTITY);

        g = gateway_at(STATE_ASSIGNED, STEP_HANDOFF);
        assert_false(feed(&g, (Event){ .type = EVENT_RETARGET }).start);
        g.facts.confirmed = true;
        a = done(&g);
        assert_int_equal(a.change, PENDING_RETARGET);
        assert_int_equal(g.machine.step, STEP_IDENTITY);
}

/* The attempt would register for the old settings, which may be the reason why it fails. */
static void retargeting_while_attesting_begins_anew(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_PREPARE);

        (void) failed(&g, FAILURE_RUNTIME_MISSING);
        assert_int_equal(feed(&g, (Event){ .type = EVENT_RETARGET }).change, PENDING_REATTEST);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        assert_int_equal(g.machine.progress, PROGRESS_DUE);

        g = gateway_at(STATE_ATTESTING, STEP_PREPARE);
        assert_false(feed(&g, (Event){ .type = EVENT_RETARGET }).start);
        (void) done(&g);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);

        g = gateway_at(STATE_ATTESTING, STEP_REGISTER); /* the service's word stands */
        (void) failed(&g, FAILURE_HTTP_THROTTLED);
        g.facts.throttled_usec = 1234;
        assert_int_equal(feed(&g, (Event){ .type = EVENT_RETARGET }).delay_usec, 1234);
}

static void a_reset_waits_for_helpers_and_ends_at_rest(void **state) {
        for (int step = STEP_IDENTITY; step < STEP_FORGET; step++) {
                Gateway g = gateway_at(step < STEP_IMPORT ? STATE_ATTESTING : STATE_ASSIGNED, (Step) step);
                Action a = from_outside(&g, EVENT_RESET);

                if (!is_request((Step) step)) {
                        assert_false(a.start);
                        a = done(&g);
                }
                assert_true(a.start);
                assert_at(g, STATE_UNPROVISIONED, STEP_FORGET);

                /* nothing else gets in between, whatever comes */
                assert_false(feed(&g, (Event){ .type = EVENT_REPROVISION }).start);
                assert_false(feed(&g, (Event){ .type = EVENT_CONFIGURED }).start);
                a = failed(&g, FAILURE_TPM_MISSING);
                assert_at(g, STATE_UNPROVISIONED, STEP_FORGET);
                assert_true(g.machine.progress == PROGRESS_WAITING && a.delay_usec > 0);
                assert_false(feed(&g, (Event){ .type = EVENT_UNCONFIGURED }).start);
                a = feed(&g, (Event){ .type = EVENT_RESET });
                assert_true(a.start && a.step == STEP_FORGET && a.delay_usec == 0);

                /* the daemon has recorded that it is complete */
                g.facts = (Facts){ .configured = true, .resting = true };
                a = done(&g);
                assert_true(a.start && a.step == STEP_IDLE);
                assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
                assert_false(feed(&g, (Event){ .type = EVENT_CONFIGURED }).start);
                g.facts.resting = false; /* another configuration ends the rest */
                assert_true(feed(&g, (Event){ .type = EVENT_CONFIGURED }).start);
                assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        }
}

static void a_reset_goes_on_after_a_restart(void **state) {
        for (int configured = 0; configured < 2; configured++) {
                Gateway g = { .facts = { HANDED_OFF, .reset = true } };
                Action a;

                g.facts.configured = configured;
                a = start(&g);
                assert_true(a.start && a.step == STEP_FORGET);
                (void) failed(&g, FAILURE_TPM_BUSY);
                g.facts = (Facts){ .configured = configured, .resting = true };
                (void) done(&g);
                assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
                assert_int_equal(g.machine.retry.attempts, 0);
        }
}

static void a_reset_drops_what_was_asked_for_before(void **state) {
        Gateway g = gateway_at(STATE_ASSIGNED, STEP_HANDOFF);

        (void) from_outside(&g, EVENT_REPROVISION);
        (void) from_outside(&g, EVENT_RESET);
        assert_int_equal(done(&g).change, PENDING_NONE);
        assert_at(g, STATE_UNPROVISIONED, STEP_FORGET);
        g.facts = (Facts){ .configured = true, .resting = true };
        assert_int_equal(done(&g).step, STEP_IDLE);
}

static void nothing_attests_without_a_configuration(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_ACTIVATE);
        Action a;

        /* asked to attest anew, then the scope goes, both in the middle of a helper's call */
        (void) from_outside(&g, EVENT_REPROVISION);
        assert_false(from_outside(&g, EVENT_UNCONFIGURED).start);
        a = done(&g);
        assert_true(a.start && a.step == STEP_IDLE);
        assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);

        g = gateway_at(STATE_HANDED_OFF, STEP_VERIFY);
        (void) from_outside(&g, EVENT_REPROVISION);
        (void) from_outside(&g, EVENT_UNCONFIGURED);
        a = done(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
        assert_int_equal(a.change, PENDING_NONE); /* a later attempt is not theirs */
        assert_int_equal(g.machine.pending, PENDING_NONE);

        /* a dead hub key, another TPM: only attesting would help */
        g = gateway_at(STATE_ASSIGNED, STEP_ADOPT);
        (void) from_outside(&g, EVENT_UNCONFIGURED);
        discard(&g);
        (void) failed(&g, FAILURE_IDENTITY_MISMATCH);
        assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
        g = gateway_at(STATE_HANDED_OFF, STEP_IDENTITY);
        (void) from_outside(&g, EVENT_UNCONFIGURED);
        discard(&g);
        (void) done(&g);
        assert_at(g, STATE_UNPROVISIONED, STEP_IDLE);
}

static void a_configuration_that_comes_late_is_like_a_start(void **state) {
        for (int s = STATE_ASSIGNED; s <= STATE_HANDED_OFF; s++) {
                Gateway g = { .facts = facts_of((State) s) };

                g.facts.configured = false;
                (void) start(&g);
                assert_at(g, (State) s, STEP_IDLE);
                g.facts.configured = true;
                (void) feed(&g, (Event){ .type = EVENT_CONFIGURED, .newly_usable = true });
                assert_at(g, (State) s, STEP_IDENTITY);

                g = gateway_at_rest((State) s);
                assert_false(feed(&g, (Event){ .type = EVENT_CONFIGURED }).start);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(without_a_scope_nothing_happens),
                cmocka_unit_test(an_assignment_survives_a_configuration_that_goes),
                cmocka_unit_test(reprovision_interrupts_requests_but_not_helpers),
                cmocka_unit_test(what_has_not_begun_does_not_hold_anything_up),
                cmocka_unit_test(what_was_quiesced_goes_on_whatever_comes_next),
                cmocka_unit_test(the_last_configuration_during_a_helper_s_call_counts),
                cmocka_unit_test(a_reprovision_during_a_helper_s_call_stays),
                cmocka_unit_test(throttling_outlives_a_configuration_that_comes_and_goes),
                cmocka_unit_test(a_target_that_turns_out_to_be_another_waits_too),
                cmocka_unit_test(only_throttling_holds_reprovision_back),
                cmocka_unit_test(retargeting_hands_off_again_without_a_registration),
                cmocka_unit_test(retargeting_while_attesting_begins_anew),
                cmocka_unit_test(a_reset_waits_for_helpers_and_ends_at_rest),
                cmocka_unit_test(a_reset_goes_on_after_a_restart),
                cmocka_unit_test(a_reset_drops_what_was_asked_for_before),
                cmocka_unit_test(nothing_attests_without_a_configuration),
                cmocka_unit_test(a_configuration_that_comes_late_is_like_a_start),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
