#include "test.h"

#include "machine.h"

static const RetryPolicy policy = {
        .initial_usec = 5 * USEC_PER_SEC,
        .max_usec = 600 * USEC_PER_SEC,
        .throttled_max_usec = 14400 * USEC_PER_SEC,
        .operator_initial_usec = 60 * USEC_PER_SEC,
        .operator_max_usec = 1800 * USEC_PER_SEC,
        .operator_long_max_usec = 21600 * USEC_PER_SEC,
};

static Action feed(Machine *m, Event event) {
        if (event.type < EVENT_CONFIGURED)
                machine_begin(m); /* a result is one of a step that was under way */
        return machine_feed(m, &event, &policy, 0);
}

static Action failed(Machine *m, FailureKind kind) {
        const Failure f = { .kind = kind };

        return feed(m, (Event){ .type = EVENT_FAILED, .failure = &f });
}

static Action done(Machine *m) {
        return feed(m, (Event){ .type = EVENT_DONE, .adopt = true });
}

#define assert_at(m, s, p)                                                                                  \
        do {                                                                                                \
                assert_string_equal(state_to_string((m).state), state_to_string(s));                        \
                assert_string_equal(step_to_string((m).step), step_to_string(p));                           \
        } while (0)

/* A machine that waits for the result of a step, reached the way the daemon reaches it. */
static Machine machine_at(State state, Step step) {
        Machine m = { .adopt = true };

        (void) machine_start(&m, STATE_UNPROVISIONED, true, 0);
        m.state = state;
        m.step = step;
        m.has_assignment = m.has_hub_key = state == STATE_ASSIGNED || state == STATE_HANDED_OFF;
        machine_begin(&m);
        return m;
}

static void the_whole_way(void **state) {
        static const Step way[] = { STEP_IDENTITY, STEP_PREPARE, STEP_REGISTER, STEP_ACTIVATE,
                                    STEP_CONFIRM };
        Machine m = {};
        Action a = machine_start(&m, STATE_UNPROVISIONED, true, 0);

        for (size_t i = 0; i < ARRAY_SIZE(way); i++) {
                assert_true(a.start);
                assert_int_equal(a.step, way[i]);
                assert_at(m, STATE_ATTESTING, way[i]);
                if (way[i] != STEP_CONFIRM)
                        a = done(&m);
        }
        a = feed(&m, (Event){ .type = EVENT_PENDING, .delay_usec = 3 * USEC_PER_SEC });
        assert_at(m, STATE_ATTESTING, STEP_POLL);
        assert_int_equal(a.delay_usec, 3 * USEC_PER_SEC);
        machine_begin(&m);
        (void) feed(&m, (Event){ .type = EVENT_ASSIGNED, .hub_key = true });
        assert_at(m, STATE_ATTESTING, STEP_IMPORT);
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_ADOPT);
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_HANDOFF);
        (void) done(&m);
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);
        assert_int_equal(m.retry.attempts, 0);
}

static void a_live_runtime_is_quiesced_before_the_token_is_used(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_PREPARE);

        (void) feed(&m, (Event){ .type = EVENT_DONE, .adopt = true, .live = true });
        (void) done(&m);
        (void) done(&m);
        assert_at(m, STATE_ATTESTING, STEP_QUIESCE);
        (void) done(&m);
        assert_at(m, STATE_ATTESTING, STEP_CONFIRM);
        assert_true(failed(&m, FAILURE_HTTP_SERVER).resume);
        assert_at(m, STATE_ATTESTING, STEP_PREPARE);
}

static void without_a_scope_nothing_happens(void **state) {
        Machine m = {};

        assert_int_equal(machine_start(&m, STATE_UNPROVISIONED, false, 0).step, STEP_IDLE);
        assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
        (void) feed(&m, (Event){ .type = EVENT_CONFIGURED });
        assert_at(m, STATE_ATTESTING, STEP_IDENTITY);
        (void) done(&m);
        (void) done(&m);
        assert_true(feed(&m, (Event){ .type = EVENT_UNCONFIGURED }).cancel);
        assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
}

static void failures_come_back_to_where_a_new_attempt_begins(void **state) {
        static const struct {
                State state;
                Step failed, next;
                FailureKind kind;
                usec_t delay;
        } cases[] = {
                { STATE_ATTESTING, STEP_IDENTITY, STEP_IDENTITY, FAILURE_TPM_MISSING, 5 },
                { STATE_ATTESTING, STEP_PREPARE, STEP_PREPARE, FAILURE_RUNTIME_MISSING, 60 },
                { STATE_ATTESTING, STEP_REGISTER, STEP_PREPARE, FAILURE_DNS, 5 },
                { STATE_ATTESTING, STEP_ACTIVATE, STEP_IDENTITY, FAILURE_IDENTITY_MISMATCH, 60 },
                { STATE_ATTESTING, STEP_CONFIRM, STEP_PREPARE, FAILURE_HTTP_THROTTLED, 5 },
                { STATE_ATTESTING, STEP_POLL, STEP_PREPARE, FAILURE_ASSIGNMENT_FAILED, 60 },
                { STATE_ATTESTING, STEP_IMPORT, STEP_IDENTITY, FAILURE_TPM_BUSY,
                  60 }, /* it cost a registration */
                { STATE_ASSIGNED, STEP_PREPARE, STEP_PREPARE, FAILURE_CONFIG_CONFLICT, 60 },
                { STATE_ASSIGNED, STEP_ADOPT, STEP_PREPARE, FAILURE_TPM_FAILED, 5 },
                { STATE_ASSIGNED, STEP_HANDOFF, STEP_HANDOFF, FAILURE_APPLY_FAILED, 5 },
                { STATE_HANDED_OFF, STEP_VERIFY, STEP_VERIFY, FAILURE_APPLY_FAILED, 5 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Machine m = machine_at(cases[i].state, cases[i].failed);
                Action a = failed(&m, cases[i].kind);

                assert_at(m, cases[i].state, cases[i].next);
                assert_true(m.waiting && machine_backing_off(&m));
                assert_int_equal(a.delay_usec, cases[i].delay * USEC_PER_SEC);
                assert_int_equal(m.retry.attempts, 1);
        }
}

static void a_dead_hub_key_is_replaced_at_once_but_only_once(void **state) {
        Machine m = machine_at(STATE_ASSIGNED, STEP_ADOPT);
        Action a = failed(&m, FAILURE_IDENTITY_MISMATCH);

        assert_at(m, STATE_ATTESTING, STEP_IDENTITY);
        assert_true(a.start && !m.waiting && !m.has_hub_key);
        assert_int_equal(a.delay_usec, 0);

        /* the new one is just as dead */
        m = machine_at(STATE_ATTESTING, STEP_CONFIRM);
        (void) feed(&m, (Event){ .type = EVENT_ASSIGNED, .hub_key = true });
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_ADOPT);
        a = failed(&m, FAILURE_IDENTITY_MISMATCH);
        assert_at(m, STATE_ATTESTING, STEP_IDENTITY);
        assert_int_equal(a.delay_usec, 60 * USEC_PER_SEC);

        /* it took several tries to find that out */
        m = machine_at(STATE_ASSIGNED, STEP_ADOPT);
        (void) failed(&m, FAILURE_TPM_BUSY);
        machine_begin(&m);
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_ADOPT);
        assert_int_equal(failed(&m, FAILURE_IDENTITY_MISMATCH).delay_usec, 60 * USEC_PER_SEC);
}

/* The wait between two polls is the service's word, not a failure's, whatever failed before. */
static void a_poll_is_no_backing_off(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_REGISTER);

        (void) failed(&m, FAILURE_HTTP_THROTTLED);
        machine_begin(&m);
        m.step = STEP_CONFIRM;
        (void) feed(&m, (Event){ .type = EVENT_PENDING, .delay_usec = 3 * USEC_PER_SEC });
        assert_true(m.waiting);
        assert_false(machine_backing_off(&m) || machine_throttled(&m));
        assert_int_equal(feed(&m, (Event){ .type = EVENT_REATTEST, .delay_usec = 1234 }).delay_usec, 0);
}

static void assigned_looks_before_it_touches_the_key(void **state) {
        Machine m = {};

        m.has_assignment = m.has_hub_key = true;
        (void) machine_start(&m, STATE_ASSIGNED, true, 0);
        assert_at(m, STATE_ASSIGNED, STEP_IDENTITY);
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_PREPARE);
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_ADOPT);

        m = machine_at(STATE_ASSIGNED, STEP_PREPARE);
        (void) feed(&m, (Event){ .type = EVENT_MOVED, .adopt = true });
        assert_at(m, STATE_ASSIGNED, STEP_HANDOFF);
        assert_false(m.has_hub_key);
}

static void already_provisioned_costs_no_registration(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_PREPARE);

        (void) feed(&m, (Event){ .type = EVENT_ALREADY, .adopt = true, .live = true });
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);

        m = machine_at(STATE_ATTESTING, STEP_PREPARE);
        m.forced = true; /* but somebody asked for it */
        (void) feed(&m, (Event){ .type = EVENT_ALREADY, .adopt = true, .live = true });
        assert_at(m, STATE_ATTESTING, STEP_REGISTER);
}

static void handed_off_verifies_at_start(void **state) {
        Machine m = { .has_assignment = true, .has_hub_key = true };

        (void) machine_start(&m, STATE_HANDED_OFF, true, 0);
        assert_at(m, STATE_HANDED_OFF, STEP_IDENTITY);
        (void) failed(&m, FAILURE_TPM_MISSING); /* not another TPM */
        assert_at(m, STATE_HANDED_OFF, STEP_VERIFY);
        (void) done(&m);
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);

        m = machine_at(STATE_HANDED_OFF, STEP_IDENTITY);
        (void) feed(&m, (Event){ .type = EVENT_OTHER });
        assert_at(m, STATE_ATTESTING, STEP_PREPARE);

        m = machine_at(STATE_HANDED_OFF, STEP_VERIFY);
        (void) feed(&m, (Event){ .type = EVENT_LOST });
        assert_at(m, STATE_ASSIGNED, STEP_PREPARE);

        m = machine_at(STATE_HANDED_OFF, STEP_VERIFY);
        m.has_hub_key = true;
        (void) feed(&m, (Event){ .type = EVENT_MOVED });
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);
        assert_false(m.has_hub_key);
}

static void no_target_means_no_handoff(void **state) {
        Machine m = { .target_none = true, .adopt = true };

        (void) machine_start(&m, STATE_UNPROVISIONED, true, 0);
        (void) done(&m);
        assert_at(m, STATE_ATTESTING, STEP_REGISTER);
        (void) done(&m);
        (void) done(&m);
        assert_at(m, STATE_ATTESTING, STEP_CONFIRM);
        (void) feed(&m, (Event){ .type = EVENT_ASSIGNED, .hub_key = true });
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_ADOPT);
        (void) done(&m);
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);
}

static void register_mode_skips_the_key(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_CONFIRM);

        m.adopt = false;
        (void) feed(&m, (Event){ .type = EVENT_ASSIGNED, .hub_key = true });
        assert_at(m, STATE_ASSIGNED, STEP_HANDOFF);

        m = machine_at(STATE_ATTESTING, STEP_CONFIRM);
        (void) feed(&m, (Event){ .type = EVENT_ASSIGNED });
        assert_at(m, STATE_ASSIGNED, STEP_HANDOFF);
        assert_false(m.has_hub_key);
}

static void reprovision_interrupts_requests_but_not_helpers(void **state) {
        for (int step = STEP_IDENTITY; step < _STEP_MAX; step++) {
                State in = step <= STEP_IMPORT   ? STATE_ATTESTING
                           : step == STEP_VERIFY ? STATE_HANDED_OFF
                                                 : STATE_ASSIGNED;
                Machine m = machine_at(in, (Step) step);
                bool http = step == STEP_REGISTER || step == STEP_CONFIRM || step == STEP_POLL;
                Action a = feed(&m, (Event){ .type = EVENT_REATTEST, .forced = true });

                if (!http) {
                        assert_false(a.start);
                        assert_int_equal(m.step, step);
                        a = done(&m);
                }
                assert_true(a.start && a.cancel);
                assert_at(m, STATE_ATTESTING, STEP_IDENTITY);
                assert_int_equal(a.delay_usec, 0);
                assert_true(m.forced);
        }
}

/* Between the end of a step and the start of the next one there is nothing that would have to be waited for.
 */
static void what_has_not_begun_does_not_hold_anything_up(void **state) {
        static const EventType outside[] = { EVENT_REATTEST, EVENT_RETARGET, EVENT_RESET,
                                             EVENT_UNCONFIGURED };

        for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
                Machine m = machine_at(STATE_ATTESTING, STEP_REGISTER);
                Action a;

                (void) done(&m);
                assert_at(m, STATE_ATTESTING, STEP_ACTIVATE);
                a = feed(&m, (Event){ .type = outside[i] });
                assert_true(a.start && a.cancel);
                assert_int_not_equal(m.step, STEP_ACTIVATE);
        }

        for (int step = STEP_IMPORT; step <= STEP_ADOPT; step++) {
                Machine m = machine_at(step == STEP_IMPORT ? STATE_ATTESTING : STATE_ASSIGNED, (Step) step);

                m.quiesced = true;
                (void) done(&m); /* ADOPT or HANDOFF is next */
                assert_int_equal(m.step, step == STEP_IMPORT ? STEP_ADOPT : STEP_HANDOFF);
                assert_true(feed(&m, (Event){ .type = EVENT_REATTEST, .forced = true }).resume);
                assert_at(m, STATE_ATTESTING, STEP_IDENTITY);
                assert_true(m.has_assignment); /* the old one stays stored */
        }
}

static void what_was_quiesced_goes_on_whatever_comes_next(void **state) {
        static const EventType outside[] = { EVENT_REATTEST, EVENT_RETARGET, EVENT_RESET,
                                             EVENT_UNCONFIGURED };

        for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
                Machine m = machine_at(STATE_ATTESTING, STEP_IMPORT);

                m.quiesced = true;
                assert_false(feed(&m, (Event){ .type = outside[i] }).start);
                assert_true(failed(&m, FAILURE_TPM_BUSY).resume);
                assert_false(m.quiesced);
        }
}

static void throttling_outlives_a_configuration_that_comes_and_goes(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_REGISTER);
        Action a;

        (void) failed(&m, FAILURE_HTTP_THROTTLED);
        (void) feed(&m, (Event){ .type = EVENT_UNCONFIGURED });
        assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
        a = feed(&m, (Event){ .type = EVENT_CONFIGURED, .delay_usec = 1234 });
        assert_true(a.start && a.step == STEP_IDENTITY && machine_throttled(&m));
        assert_int_equal(a.delay_usec, 1234);

        m = (Machine){};
        assert_int_equal(machine_start(&m, STATE_ATTESTING, true, 1234).delay_usec, 1234);
        assert_true(machine_throttled(&m));
        m = (Machine){};
        assert_int_equal(machine_start(&m, STATE_ATTESTING, true, 0).delay_usec, 0);
        assert_false(machine_throttled(&m));
}

static void only_throttling_holds_reprovision_back(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_REGISTER);
        Action a;

        (void) failed(&m, FAILURE_HTTP_THROTTLED);
        assert_true(machine_throttled(&m));
        a = feed(&m, (Event){ .type = EVENT_REATTEST, .delay_usec = 1234 });
        assert_int_equal(a.delay_usec, 1234);
        assert_at(m, STATE_ATTESTING, STEP_IDENTITY);

        m = machine_at(STATE_UNPROVISIONED, STEP_IDLE); /* after a factory reset */
        a = feed(&m, (Event){ .type = EVENT_REATTEST, .delay_usec = 1234 });
        assert_int_equal(a.delay_usec, 1234);
        assert_true(machine_throttled(&m));

        m = machine_at(STATE_ATTESTING, STEP_REGISTER);
        (void) failed(&m, FAILURE_ENROLLMENT_MISSING);
        a = feed(&m, (Event){ .type = EVENT_REATTEST, .delay_usec = 1234 });
        assert_int_equal(a.delay_usec, 0);
        assert_int_equal(m.retry.attempts, 0);
}

static void retargeting_hands_off_again_without_a_registration(void **state) {
        Machine m = machine_at(STATE_HANDED_OFF, STEP_IDLE);

        (void) feed(&m, (Event){ .type = EVENT_RETARGET });
        assert_at(m, STATE_ASSIGNED, STEP_IDENTITY);

        m = machine_at(STATE_ASSIGNED, STEP_HANDOFF);
        assert_false(feed(&m, (Event){ .type = EVENT_RETARGET }).start);
        (void) done(&m);
        assert_at(m, STATE_ASSIGNED, STEP_IDENTITY);
}

static void a_reset_waits_for_helpers_and_ends_at_rest(void **state) {
        for (int step = STEP_IDENTITY; step < STEP_FORGET; step++) {
                Machine m = machine_at(step <= STEP_IMPORT ? STATE_ATTESTING : STATE_ASSIGNED, (Step) step);
                bool http = step == STEP_REGISTER || step == STEP_CONFIRM || step == STEP_POLL;
                Action a = feed(&m, (Event){ .type = EVENT_RESET });

                if (!http) {
                        assert_false(a.start);
                        a = done(&m);
                }
                assert_true(a.start && a.cancel);
                assert_at(m, STATE_UNPROVISIONED, STEP_FORGET);

                /* nothing else gets in between, whatever comes */
                assert_false(feed(&m, (Event){ .type = EVENT_REATTEST, .forced = true }).start);
                assert_false(feed(&m, (Event){ .type = EVENT_CONFIGURED }).start);
                a = failed(&m, FAILURE_TPM_MISSING);
                assert_at(m, STATE_UNPROVISIONED, STEP_FORGET);
                assert_true(m.waiting && a.delay_usec > 0);
                assert_false(feed(&m, (Event){ .type = EVENT_UNCONFIGURED }).start);
                a = feed(&m, (Event){ .type = EVENT_RESET });
                assert_true(a.start && a.step == STEP_FORGET && a.delay_usec == 0);
                a = done(&m);
                assert_true(a.start && a.step == STEP_IDLE);
                assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
                assert_false(m.reset || m.has_assignment || m.has_hub_key);
                assert_true(feed(&m, (Event){ .type = EVENT_CONFIGURED }).start);
        }
}

static void a_reset_goes_on_after_a_restart(void **state) {
        for (int configured = 0; configured < 2; configured++) {
                Machine m = { .reset = true, .has_assignment = true };
                Action a = machine_start(&m, STATE_UNPROVISIONED, configured, 0);

                assert_true(a.start && a.step == STEP_FORGET);
                (void) done(&m);
                assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
        }
}

/* Attesting would decide for the old target, which may be what keeps it from going on. */
static void retargeting_while_attesting_begins_anew(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_PREPARE);

        (void) failed(&m, FAILURE_RUNTIME_MISSING);
        (void) feed(&m, (Event){ .type = EVENT_RETARGET });
        assert_at(m, STATE_ATTESTING, STEP_IDENTITY);
        assert_false(m.waiting);

        m = machine_at(STATE_ATTESTING, STEP_PREPARE);
        assert_false(feed(&m, (Event){ .type = EVENT_RETARGET }).start);
        (void) done(&m);
        assert_at(m, STATE_ATTESTING, STEP_IDENTITY);

        m = machine_at(STATE_ATTESTING, STEP_REGISTER); /* the service's word stands */
        (void) failed(&m, FAILURE_HTTP_THROTTLED);
        assert_int_equal(feed(&m, (Event){ .type = EVENT_RETARGET, .delay_usec = 1234 }).delay_usec, 1234);
}

static void nothing_attests_without_a_configuration(void **state) {
        Machine m = machine_at(STATE_ATTESTING, STEP_ACTIVATE);
        Action a;

        /* asked to attest anew, then the scope goes, both in the middle of a helper's call */
        (void) feed(&m, (Event){ .type = EVENT_REATTEST, .forced = true });
        assert_false(feed(&m, (Event){ .type = EVENT_UNCONFIGURED }).start);
        a = done(&m);
        assert_true(a.start && a.cancel && a.step == STEP_IDLE);
        assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);

        m = machine_at(STATE_HANDED_OFF, STEP_VERIFY);
        (void) feed(&m, (Event){ .type = EVENT_REATTEST, .forced = true });
        (void) feed(&m, (Event){ .type = EVENT_UNCONFIGURED });
        (void) done(&m);
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);
        assert_false(m.forced); /* who asked was told no; a later attempt is not theirs */

        /* a dead hub key, another TPM: only attesting would help */
        m = machine_at(STATE_ASSIGNED, STEP_ADOPT);
        (void) feed(&m, (Event){ .type = EVENT_UNCONFIGURED });
        (void) failed(&m, FAILURE_IDENTITY_MISMATCH);
        assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
        m = machine_at(STATE_HANDED_OFF, STEP_IDENTITY);
        (void) feed(&m, (Event){ .type = EVENT_UNCONFIGURED });
        (void) feed(&m, (Event){ .type = EVENT_OTHER });
        assert_at(m, STATE_UNPROVISIONED, STEP_IDLE);
}

static void a_configuration_that_comes_late_is_like_a_start(void **state) {
        Machine m = { .has_assignment = true, .has_hub_key = true };

        (void) machine_start(&m, STATE_HANDED_OFF, false, 0);
        assert_at(m, STATE_HANDED_OFF, STEP_IDLE);
        (void) feed(&m, (Event){ .type = EVENT_CONFIGURED });
        assert_at(m, STATE_HANDED_OFF, STEP_IDENTITY);

        m = machine_at(STATE_HANDED_OFF, STEP_IDLE);
        assert_false(feed(&m, (Event){ .type = EVENT_CONFIGURED }).start);
}

/* Requests have a time limit of their own. */
static void helpers_have_a_limit(void **state) {
        for (int step = STEP_IDENTITY; step < _STEP_MAX; step++) {
                bool http = step == STEP_REGISTER || step == STEP_CONFIRM || step == STEP_POLL,
                     tpm = step == STEP_IDENTITY || step == STEP_ACTIVATE || step == STEP_IMPORT ||
                           step == STEP_ADOPT;

                assert_true(step_deadline_usec((Step) step) == (http  ? USEC_INFINITY
                                                                : tpm ? 360 * USEC_PER_SEC
                                                                      : 600 * USEC_PER_SEC));
        }
}

static void names_are_unique_and_come_back(void **state) {
        for (int s = 0; s < _STATE_MAX; s++)
                assert_int_equal(state_from_string(state_to_string(s)), s);
        assert_int_equal(state_from_string("failed"), _STATE_INVALID);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_whole_way),
                cmocka_unit_test(a_live_runtime_is_quiesced_before_the_token_is_used),
                cmocka_unit_test(without_a_scope_nothing_happens),
                cmocka_unit_test(failures_come_back_to_where_a_new_attempt_begins),
                cmocka_unit_test(a_dead_hub_key_is_replaced_at_once_but_only_once),
                cmocka_unit_test(a_poll_is_no_backing_off),
                cmocka_unit_test(assigned_looks_before_it_touches_the_key),
                cmocka_unit_test(already_provisioned_costs_no_registration),
                cmocka_unit_test(handed_off_verifies_at_start),
                cmocka_unit_test(no_target_means_no_handoff),
                cmocka_unit_test(register_mode_skips_the_key),
                cmocka_unit_test(reprovision_interrupts_requests_but_not_helpers),
                cmocka_unit_test(what_has_not_begun_does_not_hold_anything_up),
                cmocka_unit_test(what_was_quiesced_goes_on_whatever_comes_next),
                cmocka_unit_test(throttling_outlives_a_configuration_that_comes_and_goes),
                cmocka_unit_test(only_throttling_holds_reprovision_back),
                cmocka_unit_test(retargeting_hands_off_again_without_a_registration),
                cmocka_unit_test(a_reset_waits_for_helpers_and_ends_at_rest),
                cmocka_unit_test(a_reset_goes_on_after_a_restart),
                cmocka_unit_test(retargeting_while_attesting_begins_anew),
                cmocka_unit_test(nothing_attests_without_a_configuration),
                cmocka_unit_test(a_configuration_that_comes_late_is_like_a_start),
                cmocka_unit_test(helpers_have_a_limit),
                cmocka_unit_test(names_are_unique_and_come_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
