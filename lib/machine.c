#include "machine.h"

#include <assert.h>

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
} steps[] = {
        [STEP_IDLE] = { "idle", USEC_INFINITY },
        [STEP_IDENTITY] = { "identity", TPM_DEADLINE_USEC },
        [STEP_PREPARE] = { "prepare", HANDOFF_DEADLINE_USEC },
        [STEP_REGISTER] = { "register", USEC_INFINITY },
        [STEP_ACTIVATE] = { "activate", TPM_DEADLINE_USEC },
        [STEP_QUIESCE] = { "quiesce", HANDOFF_DEADLINE_USEC },
        [STEP_CONFIRM] = { "confirm", USEC_INFINITY },
        [STEP_POLL] = { "poll", USEC_INFINITY },
        [STEP_IMPORT] = { "import", TPM_DEADLINE_USEC },
        [STEP_ADOPT] = { "adopt", TPM_DEADLINE_USEC },
        [STEP_HANDOFF] = { "handoff", HANDOFF_DEADLINE_USEC },
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

bool machine_backing_off(const Machine *m) {
        return m->progress == PROGRESS_WAITING && m->step != STEP_POLL;
}

bool machine_throttled(const Machine *m) {
        return machine_backing_off(m) && m->failure != FAILURE_NONE &&
               failure_class(m->failure) == FAILURE_CLASS_THROTTLED;
}

void machine_begin(Machine *m) {
        m->progress = PROGRESS_RUNNING;
}

State facts_state(const Facts *f) {
        if (f->reset || f->resting)
                return STATE_UNPROVISIONED;
        if (f->intended)
                return f->confirmed ? STATE_HANDED_OFF : STATE_ASSIGNED;
        return f->configured ? STATE_ATTESTING : STATE_UNPROVISIONED;
}

/* --- the order of the steps --- */

static bool always(const Facts *f) {
        return true;
}

static bool is_handed_off(const Facts *f) {
        return facts_state(f) == STATE_HANDED_OFF;
}

static bool is_assigned(const Facts *f) {
        return facts_state(f) == STATE_ASSIGNED;
}

static bool has_to_compare_keys(const Facts *f) {
        return is_handed_off(f) && f->key_questioned;
}

static bool has_to_compare_at_once(const Facts *f) {
        return has_to_compare_keys(f) && f->no_edge;
}

static bool stays_handed_off(const Facts *f) {
        return is_handed_off(f) && f->no_edge;
}

static bool has_edge(const Facts *f) {
        return !f->no_edge;
}

static bool is_live(const Facts *f) {
        return f->live;
}

static bool adopts(const Facts *f) {
        return f->hand_over == HAND_OVER_ADOPT && f->key != HUB_KEY_ABSENT;
}

static bool is_adopted(const Facts *f) {
        return f->key == HUB_KEY_ADOPTED && f->key_in_place;
}

static bool has_to_quiesce(const Facts *f) {
        return adopts(f) && !is_adopted(f) && f->live && !f->quiesced;
}

static bool has_to_import(const Facts *f) {
        return adopts(f) && f->key == HUB_KEY_RECEIVED;
}

static bool has_to_adopt(const Facts *f) {
        return adopts(f) && !is_adopted(f);
}

static bool has_to_ask_dps(const Facts *f) {
        return f->ask_dps;
}

/* Not a step: selects the rows for what the assignment still needs. */
#define HAND_OVER_STEP _STEP_MAX

typedef struct Row {
        Step after, next;
        bool (*when)(const Facts *facts);
} Row;

/* The first matching row counts. */
static const Row rows[] = {
        { STEP_IDENTITY, STEP_ADOPT, has_to_compare_at_once },
        { STEP_IDENTITY, STEP_IDLE, stays_handed_off },
        { STEP_IDENTITY, STEP_VERIFY, is_handed_off },
        { STEP_IDENTITY, STEP_PREPARE, has_edge },
        { STEP_IDENTITY, HAND_OVER_STEP, is_assigned },
        { STEP_IDENTITY, STEP_REGISTER, always },
        { STEP_PREPARE, STEP_IDLE, is_handed_off },
        { STEP_PREPARE, HAND_OVER_STEP, is_assigned },
        { STEP_PREPARE, STEP_REGISTER, always },
        { STEP_REGISTER, STEP_HANDOFF, is_assigned },
        { STEP_REGISTER, STEP_ACTIVATE, always },
        { STEP_ACTIVATE, STEP_QUIESCE, is_live },
        { STEP_ACTIVATE, STEP_CONFIRM, always },
        { STEP_QUIESCE, HAND_OVER_STEP, is_assigned },
        { STEP_QUIESCE, STEP_CONFIRM, always },
        { STEP_CONFIRM, HAND_OVER_STEP, always },
        { STEP_POLL, HAND_OVER_STEP, always },
        { STEP_IMPORT, HAND_OVER_STEP, always },
        { STEP_ADOPT, STEP_IDLE, is_handed_off },
        { STEP_ADOPT, STEP_HANDOFF, always },
        { STEP_HANDOFF, STEP_IDLE, always },
        /* Only now: VERIFY waits for an identityd that registers. */
        { STEP_VERIFY, STEP_ADOPT, has_to_compare_keys },
        { STEP_VERIFY, STEP_IDLE, is_handed_off },
        { STEP_VERIFY, STEP_PREPARE, always },
        { STEP_FORGET, STEP_IDLE, always },
        /* what the assignment still needs */
        { HAND_OVER_STEP, STEP_IDLE, is_handed_off },
        { HAND_OVER_STEP, STEP_QUIESCE, has_to_quiesce },
        { HAND_OVER_STEP, STEP_IMPORT, has_to_import },
        { HAND_OVER_STEP, STEP_ADOPT, has_to_adopt },
        { HAND_OVER_STEP, STEP_REGISTER, has_to_ask_dps },
        { HAND_OVER_STEP, STEP_HANDOFF, always },
};

static Step next_step(Step after, const Facts *f) {
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (rows[i].after == after && rows[i].when(f))
                        return rows[i].next == HAND_OVER_STEP ? next_step(HAND_OVER_STEP, f) : rows[i].next;
        assert(false);
        return STEP_IDLE;
}

static Action go(Machine *m, Step step) {
        m->step = step;
        m->progress = step == STEP_IDLE ? PROGRESS_IDLE : PROGRESS_DUE;
        if (step == STEP_IDLE) {
                m->failure = FAILURE_NONE;
                retry_reset(&m->retry);
        }
        return (Action){ .start = true, .step = step };
}

/* --- failures --- */

/* Each attempt begins with a look at the TPM and at IoT Edge: the TPM may have been cleared, and IoT Edge
 * may register itself during the wait. */
static Step step_after_failure(Step step) {
        return step == STEP_VERIFY || step == STEP_FORGET ? step : STEP_IDENTITY;
}

static Action after_failure(Machine *m, const Facts *f, const Event *event, const RetryPolicy *policy,
                            uint64_t random) {
        FailureKind kind = event->failure->kind;
        Action action = { .start = true, .resume = f->quiesced };

        /* An unreadable TPM does not prove that the TPM was replaced, so the gateway stays handed off. */
        if (is_handed_off(f) && (m->step == STEP_IDENTITY || m->step == STEP_ADOPT)) {
                action = go(m, next_step(m->step, f));
                action.resume = f->quiesced;
                m->failure = kind;
                return action;
        }
        /* The TPM was cleared, so the wrapped key is useless and DPS has to assign another. Begin at once,
         * unless earlier attempts failed: each registration is billed. */
        if (m->step == STEP_ADOPT && kind == FAILURE_IDENTITY_MISMATCH && !f->fresh &&
            m->retry.attempts == 0) {
                action = go(m, STEP_IDENTITY);
                action.resume = f->quiesced;
                m->failure = FAILURE_NONE;
                return action;
        }
        action.delay_usec =
                retry_next(&m->retry, policy, failure_class(kind), event->failure->retry_after_usec, random);
        action.step = m->step = step_after_failure(m->step);
        m->failure = kind;
        m->progress = PROGRESS_WAITING;
        return action;
}

/* --- from outside --- */

/* A helper's call can't be cancelled. A step that is only due can. */
static bool busy(const Machine *m) {
        return m->progress == PROGRESS_RUNNING && step_deadline_usec(m->step) != USEC_INFINITY;
}

/* Ends the step under way. A 429's wait goes on. */
static Action interrupt(Machine *m, const Facts *f, Step step, Pending change, usec_t throttled_usec) {
        Action action = {
                .start = true, .cancel = true, .resume = f->quiesced, .change = change, .step = step
        };

        m->pending = PENDING_NONE;
        m->step = step;
        m->failure = FAILURE_NONE;
        m->progress = step == STEP_IDLE ? PROGRESS_IDLE : PROGRESS_DUE;
        if (throttled_usec > 0) {
                m->failure = FAILURE_HTTP_THROTTLED;
                m->progress = PROGRESS_WAITING;
                action.delay_usec = throttled_usec;
        } else if (step != STEP_IDLE)
                retry_reset(&m->retry);
        return action;
}

static Action begin_change(Machine *m, const Facts *f, Pending change, usec_t delay_usec) {
        bool throttled = machine_throttled(m) || (m->progress == PROGRESS_IDLE && !f->intended);

        /* While attesting there is no assignment yet that could be handed over in another way. */
        if (change == PENDING_RETARGET && !f->intended)
                change = PENDING_REATTEST;
        return interrupt(m, f, STEP_IDENTITY, change, throttled ? delay_usec : 0);
}

/* A factory reset, a pending change and the loss of the configuration overrule the result of a step. */
static bool is_overruled(Machine *m, const Facts *f, Action *ret) {
        Pending pending = f->configured ? m->pending : PENDING_NONE;

        m->pending = PENDING_NONE;
        if (m->step == STEP_FORGET && f->reset)
                return false;
        if (f->reset)
                *ret = interrupt(m, f, STEP_FORGET, PENDING_NONE, 0);
        else if (pending > PENDING_NONE)
                *ret = begin_change(m, f, pending, 0);
        else if (facts_state(f) == STATE_UNPROVISIONED && m->step != STEP_FORGET)
                *ret = interrupt(m, f, STEP_IDLE, PENDING_NONE, 0);
        else
                return false;
        return true;
}

static Action begin(Machine *m, usec_t throttled_usec) {
        Action action = go(m, STEP_IDENTITY);

        if (throttled_usec > 0) {
                m->progress = PROGRESS_WAITING;
                m->failure = FAILURE_HTTP_THROTTLED;
                action.delay_usec = throttled_usec;
        }
        return action;
}

static Action on_configured(Machine *m, const Facts *f, const Event *event) {
        if (m->step != STEP_IDLE)
                return (Action){};
        if (facts_state(f) == STATE_ATTESTING)
                return begin(m, event->delay_usec);
        /* The daemon could not look at the gateway without a usable configuration. Begin as after a start.
         */
        return event->anew && facts_state(f) != STATE_UNPROVISIONED ? go(m, STEP_IDENTITY) : (Action){};
}

static Action outside_event(Machine *m, const Facts *f, const Event *event) {
        static const Pending pending[_EVENT_MAX] = {
                [EVENT_RETARGET] = PENDING_RETARGET,
                [EVENT_REATTEST] = PENDING_REATTEST,
                [EVENT_REPROVISION] = PENDING_REPROVISION,
        };

        if (event->type == EVENT_CONFIGURED && !f->reset)
                return on_configured(m, f, event);
        if (busy(m)) {
                if (!f->reset && pending[event->type] > m->pending)
                        m->pending = pending[event->type];
                return (Action){};
        }
        if (f->reset)
                return event->type == EVENT_RESET ? interrupt(m, f, STEP_FORGET, PENDING_NONE, 0)
                                                  : (Action){};
        if (event->type == EVENT_UNCONFIGURED)
                return facts_state(f) == STATE_UNPROVISIONED ? interrupt(m, f, STEP_IDLE, PENDING_NONE, 0)
                                                             : (Action){};
        return begin_change(m, f, pending[event->type], event->delay_usec);
}

Action machine_start(Machine *m, const Facts *f, usec_t throttled_usec) {
        State state = facts_state(f);

        if (f->reset)
                return go(m, STEP_FORGET);
        if (f->configured && (state == STATE_ATTESTING || state == STATE_ASSIGNED))
                return begin(m, throttled_usec);
        return go(m, state == STATE_HANDED_OFF && f->configured ? STEP_IDENTITY : STEP_IDLE);
}

Action machine_feed(Machine *m, const Facts *f, const Event *event, const RetryPolicy *policy,
                    uint64_t random) {
        Action action, instead;

        assert(event->type >= 0 && event->type < _EVENT_MAX);

        if (event->type >= EVENT_CONFIGURED)
                return outside_event(m, f, event);

        assert(m->progress == PROGRESS_RUNNING);
        if (event->type == EVENT_FAILED)
                action = after_failure(m, f, event, policy, random);
        else if (event->type == EVENT_PENDING) {
                assert(m->step == STEP_CONFIRM || m->step == STEP_POLL);
                m->step = STEP_POLL;
                m->progress = PROGRESS_WAITING;
                action = (Action){ .start = true, .step = STEP_POLL, .delay_usec = event->delay_usec };
        } else {
                action = go(m, next_step(m->step, f));
                action.resume = action.step == STEP_IDLE && f->quiesced;
        }
        return is_overruled(m, f, &instead) ? instead : action;
}
