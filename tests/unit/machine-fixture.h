/* A machine with the facts that a daemon would derive for it. Include test.h first. */
#pragma once

#include "machine-policy.h"

typedef struct Gateway {
        Machine machine;
        Facts facts;
} Gateway;

#define ATTESTING     .configured = true
#define ASSIGNED(KEY) ATTESTING, .intended = true, .key = HUB_KEY_##KEY
#define HANDED_OFF    ASSIGNED(ADOPTED), .confirmed = true, .key_in_place = true

static inline Facts facts_of(State state) {
        static const Facts facts[] = {
                [STATE_UNPROVISIONED] = {},
                [STATE_ATTESTING] = { ATTESTING },
                [STATE_ASSIGNED] = { ASSIGNED(WRAPPED) },
                [STATE_HANDED_OFF] = { HANDED_OFF },
        };

        return facts[state];
}

/* A machine that waits for the result of a step. */
static inline Gateway gateway_at(State state, Step step) {
        Gateway g = { .facts = facts_of(state), .machine.step = step };

        machine_begin(&g.machine);
        return g;
}

/* A machine that has nothing to do. */
static inline Gateway gateway_at_rest(State state) {
        return (Gateway){ .facts = facts_of(state), .machine.step = STEP_IDLE };
}

static inline Action feed(Gateway *g, Event event) {
        if (event.type < EVENT_START)
                machine_begin(&g->machine); /* a result is one of a step that was under way */
        return machine_feed(&g->machine, &g->facts, &event, &policy, 0);
}

static inline Action start(Gateway *g) {
        return feed(g, (Event){ .type = EVENT_START });
}

static inline Action done(Gateway *g) {
        return feed(g, (Event){ .type = EVENT_DONE });
}

static inline Action failed(Gateway *g, FailureKind kind) {
        const Failure f = { .kind = kind };

        return feed(g, (Event){ .type = EVENT_FAILED, .failure = &f });
}

#define assert_at(g, s, p)                                                                                  \
        do {                                                                                                \
                assert_string_equal(state_to_string(facts_state(&(g).facts)), state_to_string(s));          \
                assert_string_equal(step_to_string((g).machine.step), step_to_string(p));                   \
        } while (0)
