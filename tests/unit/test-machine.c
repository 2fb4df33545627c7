/* The order of the steps, and what a failed step leads to. test-machine-events.c has what comes from
 * outside. */
#include "test.h"

#include "machine-fixture.h"

static void the_whole_way(void **state) {
        static const Step way[] = { STEP_IDENTITY, STEP_PREPARE, STEP_REGISTER, STEP_ACTIVATE,
                                    STEP_CONFIRM };
        Gateway g = { .facts = { ATTESTING } };
        Action a = start(&g);

        for (size_t i = 0; i < ARRAY_SIZE(way); i++) {
                assert_true(a.start);
                assert_int_equal(a.step, way[i]);
                assert_at(g, STATE_ATTESTING, way[i]);
                assert_int_equal(g.machine.progress, PROGRESS_DUE);
                if (way[i] != STEP_CONFIRM)
                        a = done(&g);
        }
        a = feed(&g, (Event){ .type = EVENT_PENDING, .delay_usec = 3 * USEC_PER_SEC });
        assert_at(g, STATE_ATTESTING, STEP_POLL);
        assert_int_equal(g.machine.progress, PROGRESS_DUE);
        assert_int_equal(a.delay_usec, 3 * USEC_PER_SEC);
        g.facts.intended = g.facts.fresh = true;
        g.facts.key = HUB_KEY_RECEIVED;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_IMPORT);
        g.facts.key = HUB_KEY_WRAPPED;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_ADOPT);
        g.facts.key = HUB_KEY_ADOPTED;
        g.facts.key_in_place = true;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_HANDOFF);
        g.facts.confirmed = true;
        (void) done(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
        assert_int_equal(g.machine.progress, PROGRESS_IDLE);
        assert_int_equal(g.machine.retry.attempts, 0);
}

static void the_state_follows_from_the_facts(void **state) {
        for (unsigned bits = 0; bits < 32; bits++) {
                const Facts f = { .reset = bits & 1,
                                  .resting = bits & 2,
                                  .intended = bits & 4,
                                  .confirmed = bits & 8,
                                  .configured = bits & 16 };
                State expected = bits & 3            ? STATE_UNPROVISIONED
                                 : (bits & 12) == 12 ? STATE_HANDED_OFF
                                 : bits & 4          ? STATE_ASSIGNED
                                 : bits & 16         ? STATE_ATTESTING
                                                     : STATE_UNPROVISIONED;

                assert_string_equal(state_to_string(facts_state(&f)), state_to_string(expected));
        }
}

#define REGISTERS ATTESTING, .intended = true, .hand_over = HAND_OVER_REGISTER

/* Every row of the table in machine.c, and every pair of rows in which the first has to win. */
static void each_step_leads_to_the_next(void **state) {
        static const struct {
                Step after, next;
                Facts facts;
        } cases[] = {
                { STEP_IDENTITY, STEP_PREPARE, { ATTESTING } },
                { STEP_IDENTITY, STEP_REGISTER, { ATTESTING, .no_edge = true } },
                { STEP_IDENTITY, STEP_PREPARE, { ASSIGNED(WRAPPED) } },
                { STEP_IDENTITY, STEP_ADOPT, { ASSIGNED(WRAPPED), .no_edge = true } },
                { STEP_IDENTITY, STEP_VERIFY, { HANDED_OFF } },
                { STEP_IDENTITY, STEP_IDLE, { HANDED_OFF, .no_edge = true } },
                { STEP_IDENTITY, STEP_VERIFY, { HANDED_OFF, .key_questioned = true } },
                { STEP_IDENTITY, STEP_ADOPT, { HANDED_OFF, .key_questioned = true, .no_edge = true } },
                { STEP_IDENTITY, STEP_PREPARE, { ASSIGNED(WRAPPED), .key_questioned = true } },

                { STEP_PREPARE, STEP_REGISTER, { ATTESTING } },
                { STEP_PREPARE, STEP_REGISTER, { ATTESTING, .live = true } },
                { STEP_PREPARE, STEP_IDLE, { HANDED_OFF, .live = true } },
                { STEP_PREPARE, STEP_ADOPT, { ASSIGNED(WRAPPED) } },
                { STEP_PREPARE, STEP_QUIESCE, { ASSIGNED(WRAPPED), .live = true } },

                { STEP_REGISTER, STEP_ACTIVATE, { ATTESTING } },
                { STEP_REGISTER, STEP_HANDOFF, { REGISTERS, .ask_dps = true } },
                { STEP_REGISTER, STEP_HANDOFF, { REGISTERS } },

                { STEP_ACTIVATE, STEP_CONFIRM, { ATTESTING } },
                { STEP_ACTIVATE, STEP_QUIESCE, { ATTESTING, .live = true } },

                { STEP_QUIESCE, STEP_CONFIRM, { ATTESTING, .live = true, .quiesced = true } },
                { STEP_QUIESCE, STEP_ADOPT, { ASSIGNED(WRAPPED), .live = true, .quiesced = true } },

                { STEP_CONFIRM, STEP_IMPORT, { ASSIGNED(RECEIVED) } },
                { STEP_POLL, STEP_IMPORT, { ASSIGNED(RECEIVED) } },
                { STEP_POLL, STEP_PREPARE, { ASSIGNED(RECEIVED), .look_is_old = true } },
                { STEP_POLL, STEP_IMPORT, { ASSIGNED(RECEIVED), .look_is_old = true, .quiesced = true } },
                { STEP_POLL, STEP_IMPORT, { ASSIGNED(RECEIVED), .look_is_old = true, .no_edge = true } },
                { STEP_IMPORT, STEP_ADOPT, { ASSIGNED(WRAPPED) } },
                { STEP_IMPORT, STEP_HANDOFF, { REGISTERS } },

                { STEP_ADOPT, STEP_HANDOFF, { ASSIGNED(ADOPTED), .key_in_place = true } },
                { STEP_ADOPT, STEP_HANDOFF, { REGISTERS } },
                { STEP_ADOPT, STEP_REGISTER, { REGISTERS, .ask_dps = true } },
                { STEP_ADOPT, STEP_IDLE, { HANDED_OFF } },
                { STEP_ADOPT, STEP_IDLE, { HANDED_OFF, .no_edge = true } },

                { STEP_HANDOFF, STEP_IDLE, { HANDED_OFF } },
                { STEP_VERIFY, STEP_IDLE, { HANDED_OFF } },
                { STEP_VERIFY, STEP_ADOPT, { HANDED_OFF, .key_questioned = true } },
                { STEP_VERIFY, STEP_PREPARE, { ASSIGNED(WRAPPED) } },
                { STEP_VERIFY, STEP_ADOPT, { ASSIGNED(WRAPPED), .no_edge = true } },

                /* whatever the assignment still needs */
                { STEP_CONFIRM, STEP_IDLE, { HANDED_OFF } },
                /* an import needs no quiesced IoT Edge */
                { STEP_CONFIRM, STEP_IMPORT, { ASSIGNED(RECEIVED), .live = true } },
                { STEP_IMPORT, STEP_QUIESCE, { ASSIGNED(WRAPPED), .live = true } },
                { STEP_CONFIRM, STEP_IMPORT, { ASSIGNED(RECEIVED), .live = true, .quiesced = true } },
                { STEP_CONFIRM, STEP_ADOPT, { ASSIGNED(ADOPTED) } },
                { STEP_CONFIRM, STEP_HANDOFF, { ASSIGNED(ADOPTED), .key_in_place = true, .live = true } },
                { STEP_CONFIRM, STEP_HANDOFF, { ASSIGNED(ABSENT), .live = true } },
                { STEP_CONFIRM, STEP_HANDOFF, { REGISTERS, .live = true } },
                { STEP_CONFIRM, STEP_HANDOFF, { REGISTERS, .key = HUB_KEY_WRAPPED, .live = true } },
                { STEP_CONFIRM, STEP_REGISTER, { REGISTERS, .live = true, .ask_dps = true } },
                { STEP_CONFIRM,
                  STEP_HANDOFF,
                  { ASSIGNED(WRAPPED), .hand_over = HAND_OVER_KEEP, .live = true } },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Gateway g = { .facts = cases[i].facts, .machine.step = cases[i].after };
                Action a = done(&g);

                if (!a.start || a.step != cases[i].next)
                        fail_msg("case %zu: after %s comes %s, not %s", i, step_to_string(cases[i].after),
                                 step_to_string(a.step), step_to_string(cases[i].next));
                assert_false(a.resume);
                assert_int_equal(a.delay_usec, 0);
                assert_int_equal(g.machine.step, a.step);
                assert_int_equal(g.machine.progress, a.step == STEP_IDLE ? PROGRESS_IDLE : PROGRESS_DUE);
        }
}

static void facts_from_bits(Facts *ret, unsigned bits) {
        bool *const flags[] = { &ret->reset,          &ret->resting,   &ret->configured, &ret->no_edge,
                                &ret->intended,       &ret->confirmed, &ret->fresh,      &ret->key_in_place,
                                &ret->key_questioned, &ret->live,      &ret->quiesced,   &ret->ask_dps };

        *ret = (Facts){};
        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                *flags[i] = bits >> i & 1;
        ret->hand_over = (HandOver) ((bits >> 12) % _HAND_OVER_MAX);
        ret->key = (HubKeyState) ((bits >> 12) / _HAND_OVER_MAX);
}

#define FACTS_COUNT (_HAND_OVER_MAX * _HUB_KEY_STATE_MAX << 12)

/* All combinations of facts, for each result of each step. */
static void no_result_leads_astray(void **state) {
        for (unsigned bits = 0; bits < FACTS_COUNT; bits++)
                for (int step = STEP_IDENTITY; step < _STEP_MAX; step++)
                        for (int fails = 0; fails < 2; fails++) {
                                Gateway g = { .machine.step = (Step) step };
                                Action a;
                                State s;

                                facts_from_bits(&g.facts, bits);
                                s = facts_state(&g.facts);
                                a = fails ? failed(&g, FAILURE_TPM_BUSY) : done(&g);
                                assert_true(a.start);
                                assert_int_equal(a.step, g.machine.step);
                                if (g.facts.reset && (fails || step != STEP_FORGET))
                                        assert_int_equal(a.step, STEP_FORGET);
                                else if (s == STATE_UNPROVISIONED && step != STEP_FORGET)
                                        assert_int_equal(a.step, STEP_IDLE);
                                if (s != STATE_ATTESTING && (step < STEP_REGISTER || step > STEP_QUIESCE))
                                        assert_true(a.step != STEP_ACTIVATE && a.step != STEP_CONFIRM);
                                assert_true(a.resume == (g.facts.quiesced && !step_holds(a.step)));
                                assert_true((a.delay_usec > 0) == (g.machine.progress == PROGRESS_WAITING));
                        }
}

static void a_live_iot_edge_is_quiesced_before_the_token_is_used(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_PREPARE);

        g.facts.live = true;
        (void) done(&g);
        (void) done(&g);
        (void) done(&g);
        assert_at(g, STATE_ATTESTING, STEP_QUIESCE);
        g.facts.quiesced = true;
        (void) done(&g);
        assert_at(g, STATE_ATTESTING, STEP_CONFIRM);
        assert_true(failed(&g, FAILURE_HTTP_SERVER).resume);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
}

static void failures_come_back_to_where_a_new_attempt_begins(void **state) {
        static const struct {
                State state;
                Step failed, next;
                FailureKind kind;
                double delay;
        } cases[] = {
                { STATE_ATTESTING, STEP_IDENTITY, STEP_IDENTITY, FAILURE_TPM_MISSING, 5 },
                { STATE_ATTESTING, STEP_PREPARE, STEP_IDENTITY, FAILURE_RUNTIME_MISSING, 60 },
                { STATE_ATTESTING, STEP_REGISTER, STEP_IDENTITY, FAILURE_DNS, 5 },
                { STATE_ATTESTING, STEP_ACTIVATE, STEP_IDENTITY, FAILURE_IDENTITY_MISMATCH, 60 },
                { STATE_ATTESTING, STEP_CONFIRM, STEP_IDENTITY, FAILURE_HTTP_THROTTLED, 18.75 },
                { STATE_ATTESTING, STEP_POLL, STEP_IDENTITY, FAILURE_ASSIGNMENT_FAILED, 60 },
                { STATE_ASSIGNED, STEP_REGISTER, STEP_IDENTITY, FAILURE_DNS, 5 },
                /* the received key is on disk, so trying again costs no registration */
                { STATE_ASSIGNED, STEP_IMPORT, STEP_IDENTITY, FAILURE_TPM_BUSY, 5 },
                { STATE_ASSIGNED, STEP_PREPARE, STEP_IDENTITY, FAILURE_CONFIG_CONFLICT, 60 },
                { STATE_ASSIGNED, STEP_QUIESCE, STEP_IDENTITY, FAILURE_APPLY_FAILED, 5 },
                { STATE_ASSIGNED, STEP_ADOPT, STEP_IDENTITY, FAILURE_TPM_FAILED, 5 },
                { STATE_ASSIGNED, STEP_HANDOFF, STEP_IDENTITY, FAILURE_APPLY_FAILED, 5 },
                { STATE_HANDED_OFF, STEP_VERIFY, STEP_VERIFY, FAILURE_APPLY_FAILED, 5 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Gateway g = gateway_at(cases[i].state, cases[i].failed);
                Action a = failed(&g, cases[i].kind);

                assert_at(g, cases[i].state, cases[i].next);
                assert_int_equal(g.machine.progress, PROGRESS_WAITING);
                assert_true(machine_backing_off(&g.machine));
                assert_int_equal(a.delay_usec, (usec_t) (cases[i].delay * (double) USEC_PER_SEC));
                assert_int_equal(g.machine.retry.attempts, 1);
        }
}

static void a_dead_hub_key_is_replaced_at_once_but_only_once(void **state) {
        Gateway g = gateway_at(STATE_ASSIGNED, STEP_ADOPT);
        Action a;

        g.facts = facts_of(STATE_ATTESTING); /* the daemon has discarded it */
        a = failed(&g, FAILURE_IDENTITY_MISMATCH);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        assert_true(a.start && g.machine.progress == PROGRESS_DUE);
        assert_int_equal(a.delay_usec, 0);

        /* the new one is just as dead */
        g = gateway_at(STATE_ASSIGNED, STEP_ADOPT);
        g.facts = facts_of(STATE_ATTESTING);
        g.facts.fresh = true;
        a = failed(&g, FAILURE_IDENTITY_MISMATCH);
        assert_at(g, STATE_ATTESTING, STEP_IDENTITY);
        assert_int_equal(a.delay_usec, 60 * USEC_PER_SEC);

        /* it took several tries to find that out */
        g = gateway_at(STATE_ASSIGNED, STEP_ADOPT);
        (void) failed(&g, FAILURE_TPM_BUSY);
        (void) done(&g);
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_ADOPT);
        g.facts = facts_of(STATE_ATTESTING);
        assert_int_equal(failed(&g, FAILURE_IDENTITY_MISMATCH).delay_usec, 60 * USEC_PER_SEC);
}

static void what_was_quiesced_goes_on_when_a_hub_key_is_dead(void **state) {
        Gateway g = gateway_at(STATE_ASSIGNED, STEP_ADOPT);

        g.facts = facts_of(STATE_ATTESTING);
        g.facts.quiesced = true;
        assert_true(failed(&g, FAILURE_IDENTITY_MISMATCH).resume);
}

/* The wait between two polls is the service's word, not a failure's, whatever failed before. */
static void a_poll_is_no_backing_off(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_REGISTER);

        (void) failed(&g, FAILURE_HTTP_THROTTLED);
        g.machine.step = STEP_CONFIRM;
        (void) feed(&g, (Event){ .type = EVENT_PENDING, .delay_usec = 3 * USEC_PER_SEC });
        assert_int_equal(g.machine.progress, PROGRESS_DUE);
        assert_false(machine_backing_off(&g.machine) || machine_throttled(&g.machine));
        assert_int_equal(feed(&g, (Event){ .type = EVENT_REATTEST }).delay_usec, 0);
}

static void assigned_looks_before_it_touches_the_key(void **state) {
        Gateway g = { .facts = { ASSIGNED(WRAPPED) } };

        (void) start(&g);
        assert_at(g, STATE_ASSIGNED, STEP_IDENTITY);
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_PREPARE);
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_ADOPT);

        g = gateway_at(STATE_ASSIGNED, STEP_PREPARE); /* IoT Edge has a newer one */
        g.facts.hand_over = HAND_OVER_KEEP;
        g.facts.key = HUB_KEY_ABSENT;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_HANDOFF);
}

static void already_provisioned_costs_no_registration(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_PREPARE);

        g.facts.live = g.facts.intended = g.facts.confirmed = true; /* the daemon takes IoT Edge's own */
        g.facts.hand_over = HAND_OVER_KEEP;
        (void) done(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
}

static void handed_off_verifies_at_start(void **state) {
        Gateway g = { .facts = { HANDED_OFF } };

        (void) start(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDENTITY);
        (void) failed(&g, FAILURE_TPM_MISSING); /* not another TPM */
        assert_at(g, STATE_HANDED_OFF, STEP_VERIFY);
        assert_int_equal(g.machine.failure, FAILURE_TPM_MISSING);
        (void) done(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
        assert_int_equal(g.machine.failure, FAILURE_NONE);

        g = gateway_at(STATE_HANDED_OFF, STEP_IDENTITY); /* another TPM */
        g.facts = facts_of(STATE_ATTESTING);
        (void) done(&g);
        assert_at(g, STATE_ATTESTING, STEP_PREPARE);

        g = gateway_at(STATE_HANDED_OFF, STEP_VERIFY); /* what was handed over is lost */
        g.facts = facts_of(STATE_ASSIGNED);
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_PREPARE);

        g = gateway_at(STATE_HANDED_OFF, STEP_VERIFY); /* IoT Edge has a newer one */
        g.facts.hand_over = HAND_OVER_KEEP;
        g.facts.key = HUB_KEY_ABSENT;
        (void) done(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
}

/* Looks again later, and the wait grows. */
static void an_unreadable_tpm_leaves_a_gateway_handed_off(void **state) {
        for (int step = STEP_IDENTITY; step <= STEP_ADOPT; step += STEP_ADOPT - STEP_IDENTITY)
                for (int no_edge = 0; no_edge <= 1; no_edge++) {
                        Gateway g = gateway_at(STATE_HANDED_OFF, (Step) step);
                        usec_t last = 0;

                        g.facts.unread = FAILURE_TPM_BUSY;
                        g.facts.key_questioned = step == STEP_ADOPT;
                        g.facts.key_in_place = step != STEP_ADOPT;
                        g.facts.no_edge = no_edge;
                        for (int i = 0; i < 4; i++) {
                                Action a;

                                g.machine.step = (Step) step;
                                a = failed(&g, FAILURE_TPM_BUSY);
                                if (a.step == STEP_VERIFY) {
                                        g.facts.key_questioned = false;
                                        a = done(&g);
                                }
                                assert_at(g, STATE_HANDED_OFF, STEP_IDENTITY);
                                assert_true(machine_backing_off(&g.machine) && a.delay_usec > last);
                                last = a.delay_usec;
                        }
                        g.facts.unread = FAILURE_NONE;
                        g.facts.key_questioned = false;
                        (void) done(&g);
                        if (!no_edge)
                                (void) done(&g);
                        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
                        assert_int_equal(g.machine.retry.attempts, 0);
                }
}

/* From seconds to hours, also when VERIFY has failed in between with a failure of another class. */
static void a_tpm_that_is_gone_is_looked_at_ever_less_often(void **state) {
        Gateway g = gateway_at(STATE_HANDED_OFF, STEP_IDENTITY);
        usec_t last = 0;

        g.facts.unread = FAILURE_TPM_MISSING;
        g.facts.key_in_place = true;
        for (int i = 0; i < 30; i++) {
                Action a;

                g.machine.step = STEP_IDENTITY;
                a = failed(&g, FAILURE_TPM_MISSING);
                assert_int_equal(a.step, STEP_VERIFY);
                if (i == 20)
                        assert_int_equal(failed(&g, FAILURE_CONFIG_CONFLICT).step, STEP_VERIFY);
                a = done(&g);
                assert_at(g, STATE_HANDED_OFF, STEP_IDENTITY);
                assert_int_equal(g.machine.failure, FAILURE_TPM_MISSING);
                assert_true(a.delay_usec >= last / 2);
                last = a.delay_usec;
        }
        assert_true(last >= policy.operator_long_max_usec / 2);
}

static void no_target_means_no_handoff(void **state) {
        Gateway g = { .facts = { ATTESTING, .no_edge = true } };

        (void) start(&g);
        (void) done(&g);
        assert_at(g, STATE_ATTESTING, STEP_REGISTER);
        (void) done(&g);
        (void) done(&g);
        assert_at(g, STATE_ATTESTING, STEP_CONFIRM);
        g.facts.intended = true;
        g.facts.key = HUB_KEY_RECEIVED;
        (void) done(&g);
        g.facts.key = HUB_KEY_WRAPPED;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_ADOPT);
        g.facts.key = HUB_KEY_ADOPTED;
        g.facts.key_in_place = g.facts.confirmed = true;
        (void) done(&g);
        assert_at(g, STATE_HANDED_OFF, STEP_IDLE);
}

static void register_mode_skips_the_key(void **state) {
        Gateway g = gateway_at(STATE_ATTESTING, STEP_CONFIRM);

        g.facts.intended = true;
        g.facts.hand_over = HAND_OVER_REGISTER;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_HANDOFF);
}

/* IoT Edge gives up its identity to register. Without DPS it would be left without one. */
static void dps_has_to_answer_before_iot_edge_registers_anew(void **state) {
        Gateway g = gateway_at(STATE_ASSIGNED, STEP_PREPARE);

        g.facts = (Facts){ REGISTERS, .live = true, .ask_dps = true };
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_REGISTER);
        assert_true(failed(&g, FAILURE_DNS).delay_usec > 0);
        assert_at(g, STATE_ASSIGNED, STEP_IDENTITY);
        (void) done(&g);
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_REGISTER);
        g.facts.ask_dps = false;
        (void) done(&g);
        assert_at(g, STATE_ASSIGNED, STEP_HANDOFF);
}

/* Requests have a time limit of their own. */
static void helpers_have_a_limit(void **state) {
        for (int step = STEP_IDENTITY; step < _STEP_MAX; step++) {
                bool tpm = step == STEP_IDENTITY || step == STEP_ACTIVATE || step == STEP_IMPORT ||
                           step == STEP_ADOPT;

                assert_true(step_deadline_usec((Step) step) == (is_request((Step) step) ? USEC_INFINITY
                                                                : tpm                   ? 360 * USEC_PER_SEC
                                                                      : 720 * USEC_PER_SEC));
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
                cmocka_unit_test(the_state_follows_from_the_facts),
                cmocka_unit_test(each_step_leads_to_the_next),
                cmocka_unit_test(no_result_leads_astray),
                cmocka_unit_test(a_live_iot_edge_is_quiesced_before_the_token_is_used),
                cmocka_unit_test(failures_come_back_to_where_a_new_attempt_begins),
                cmocka_unit_test(a_dead_hub_key_is_replaced_at_once_but_only_once),
                cmocka_unit_test(what_was_quiesced_goes_on_when_a_hub_key_is_dead),
                cmocka_unit_test(a_poll_is_no_backing_off),
                cmocka_unit_test(assigned_looks_before_it_touches_the_key),
                cmocka_unit_test(already_provisioned_costs_no_registration),
                cmocka_unit_test(handed_off_verifies_at_start),
                cmocka_unit_test(an_unreadable_tpm_leaves_a_gateway_handed_off),
                cmocka_unit_test(a_tpm_that_is_gone_is_looked_at_ever_less_often),
                cmocka_unit_test(no_target_means_no_handoff),
                cmocka_unit_test(register_mode_skips_the_key),
                cmocka_unit_test(dps_has_to_answer_before_iot_edge_registers_anew),
                cmocka_unit_test(helpers_have_a_limit),
                cmocka_unit_test(names_are_unique_and_come_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
