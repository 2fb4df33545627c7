/* The names of the states and the steps, and the limits of each step. */
#include <assert.h>

#include "machine.h"

#define TPM_DEADLINE_USEC (360 * USEC_PER_SEC)

static const struct {
        const char *name, *message_id;
} states[] = {
        [STATE_UNPROVISIONED] = { "unprovisioned", "3426cd45e1824030952da4dc0250a901" },
        [STATE_ATTESTING] = { "attesting", "3426cd45e1824030952da4dc0250a902" },
        [STATE_ASSIGNED] = { "assigned", "3426cd45e1824030952da4dc0250a903" },
        [STATE_HANDED_OFF] = { "handed-off", "3426cd45e1824030952da4dc0250a904" },
};
static_assert(ARRAY_SIZE(states) == _STATE_MAX, "every state has a name");

static const struct {
        const char *name;
        usec_t deadline_usec;
        bool holds;
} steps[] = {
        [STEP_IDLE] = { "idle", USEC_INFINITY },
        [STEP_IDENTITY] = { "identity", TPM_DEADLINE_USEC },
        [STEP_PREPARE] = { "prepare", HANDOFF_DEADLINE_USEC },
        [STEP_REGISTER] = { "register", USEC_INFINITY, .holds = true },
        [STEP_ACTIVATE] = { "activate", TPM_DEADLINE_USEC, .holds = true },
        [STEP_QUIESCE] = { "quiesce", HANDOFF_DEADLINE_USEC, .holds = true },
        [STEP_CONFIRM] = { "confirm", USEC_INFINITY, .holds = true },
        [STEP_POLL] = { "poll", USEC_INFINITY, .holds = true },
        [STEP_IMPORT] = { "import", TPM_DEADLINE_USEC, .holds = true },
        [STEP_ADOPT] = { "adopt", TPM_DEADLINE_USEC, .holds = true },
        [STEP_HANDOFF] = { "handoff", HANDOFF_DEADLINE_USEC, .holds = true },
        [STEP_VERIFY] = { "verify", HANDOFF_DEADLINE_USEC },
        [STEP_FORGET] = { "forget", HANDOFF_DEADLINE_USEC },
};
static_assert(ARRAY_SIZE(steps) == _STEP_MAX, "every step has a name");

const char *state_to_string(State state) {
        assert(state >= 0 && state < _STATE_MAX);
        return states[state].name;
}

const char *state_message_id(State state) {
        assert(state >= 0 && state < _STATE_MAX);
        return states[state].message_id;
}

State state_from_string(const char *name) {
        for (int s = 0; s < _STATE_MAX; s++)
                if (streq(states[s].name, name))
                        return (State) s;
        return _STATE_INVALID;
}

const char *step_to_string(Step step) {
        assert(step >= 0 && step < _STEP_MAX);
        return steps[step].name;
}

usec_t step_deadline_usec(Step step) {
        assert(step >= 0 && step < _STEP_MAX);
        return steps[step].deadline_usec;
}

bool step_holds(Step step) {
        assert(step >= 0 && step < _STEP_MAX);
        return steps[step].holds;
}
