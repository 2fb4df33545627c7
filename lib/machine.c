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

/* An attempt that failed in POLL begins anew, so a poll never waits for that reason. */
bool machine_backing_off(const Machine *m) {
        return m->waiting && m->step != STEP_POLL;
}

bool machine_throttled(const Machine *m) {
        return machine_backing_off(m) && m->failure != FAILURE_NONE &&
               failure_class(m->failure) == FAILURE_CLASS_THROTTLED;
}

void machine_begin(Machine *m) {
        m->waiting = false;
        m->begun = true;
}

static Action go(Machine *m, State state, Step step) {
        m->state = state;
        m->step = step;
        m->waiting = m->begun = false;
        return (Action){ .start = true, .step = step };
}

static Action rest(Machine *m, State state) {
        m->failure = FAILURE_NONE;
        m->fresh = m->live = m->quiesced = false;
        /* asked for just now: not answered by this success */
        m->forced = m->forced && m->restart && m->configured;
        retry_reset(&m->retry);
        return go(m, state, STEP_IDLE);
}

/* A hand-off that has nobody to hand over to succeeds at once. */
static Action go_handoff(Machine *m) {
        return m->target_none ? rest(m, STATE_HANDED_OFF) : go(m, STATE_ASSIGNED, STEP_HANDOFF);
}

static Action go_adopt(Machine *m) {
        return m->adopt && m->has_hub_key ? go(m, STATE_ASSIGNED, STEP_ADOPT) : go_handoff(m);
}

/* Without IoT Edge there is nothing to prepare; what the configuration says about the key stands. */
static Action after_identity(Machine *m) {
        if (m->state == STATE_HANDED_OFF)
                return m->target_none ? rest(m, STATE_HANDED_OFF) : go(m, STATE_HANDED_OFF, STEP_VERIFY);
        if (!m->target_none)
                return go(m, m->state, STEP_PREPARE);
        return m->state == STATE_ASSIGNED ? go_adopt(m) : go(m, STATE_ATTESTING, STEP_REGISTER);
}

static Action after_prepare(Machine *m, const Event *event) {
        m->live = event->live;
        m->adopt = event->adopt;

        if (event->type == EVENT_ALREADY && m->state == STATE_ATTESTING && !m->has_assignment &&
            !m->forced) {
                m->has_assignment = true;
                return rest(m, STATE_HANDED_OFF);
        }
        if (m->state == STATE_ATTESTING)
                return go(m, STATE_ATTESTING, STEP_REGISTER);

        if (event->type == EVENT_MOVED) {
                m->has_hub_key = false; /* IoT Edge has a newer one */
                return go_handoff(m);
        }
        if (m->live && m->adopt && m->has_hub_key)
                return go(m, STATE_ASSIGNED, STEP_QUIESCE);
        return go_adopt(m);
}

static Action after_assigned(Machine *m, const Event *event) {
        m->fresh = true;
        if (event->hub_key && m->adopt)
                return go(m, STATE_ATTESTING, STEP_IMPORT);
        m->has_assignment = true;
        m->has_hub_key = false;
        return go_handoff(m);
}

static Action after_verify(Machine *m, const Event *event) {
        if (event->type == EVENT_LOST)
                return go(m, STATE_ASSIGNED, m->target_none ? STEP_IDENTITY : STEP_PREPARE);
        if (event->type == EVENT_MOVED)
                m->has_hub_key = false; /* IoT Edge has a newer one */
        return rest(m, STATE_HANDED_OFF);
}

static Action after_success(Machine *m, const Event *event) {
        switch (m->step) {
        case STEP_IDENTITY:
                if (event->type == EVENT_OTHER)
                        m->state = STATE_ATTESTING;
                else if (event->type == EVENT_LOST && m->state == STATE_HANDED_OFF)
                        m->state = STATE_ASSIGNED;
                return after_identity(m);
        case STEP_PREPARE:
                return after_prepare(m, event);
        case STEP_REGISTER:
                return go(m, STATE_ATTESTING, STEP_ACTIVATE);
        case STEP_ACTIVATE:
                return go(m, STATE_ATTESTING, m->live ? STEP_QUIESCE : STEP_CONFIRM);
        case STEP_QUIESCE:
                m->quiesced = true;
                return m->state == STATE_ASSIGNED ? go_adopt(m) : go(m, STATE_ATTESTING, STEP_CONFIRM);
        case STEP_IMPORT:
                m->has_assignment = m->has_hub_key = true;
                return go(m, STATE_ASSIGNED, STEP_ADOPT);
        case STEP_ADOPT:
                return go_handoff(m);
        case STEP_HANDOFF:
                return rest(m, STATE_HANDED_OFF);
        case STEP_VERIFY:
                return after_verify(m, event);
        case STEP_FORGET:
                m->reset = m->has_assignment = m->has_hub_key = false;
                return rest(m, STATE_UNPROVISIONED);
        default:
                assert(false);
                return (Action){};
        }
}

/* Each IMPORT costs a registration that is billed, so its failures are never retried quickly. */
static FailureClass step_failure_class(Step step, FailureKind kind) {
        FailureClass class = failure_class(kind);

        return step == STEP_IMPORT && class == FAILURE_CLASS_TRANSIENT ? FAILURE_CLASS_OPERATOR : class;
}

static Step step_after_failure(const Machine *m) {
        /* What the TPM refused may have been made for keys that it has no more. */
        if (m->step == STEP_IDENTITY || m->step == STEP_ACTIVATE || m->step == STEP_IMPORT)
                return STEP_IDENTITY;
        if (m->state == STATE_ATTESTING)
                return m->target_none ? STEP_IDENTITY : STEP_PREPARE;
        /* IoT Edge may register by itself while we wait, so the key is not touched again without a look. */
        if (m->step == STEP_ADOPT || m->step == STEP_QUIESCE)
                return m->target_none ? STEP_ADOPT : STEP_PREPARE;
        return m->step;
}

static Action after_failure(Machine *m, const Event *event, const RetryPolicy *policy, uint64_t random) {
        FailureKind kind = event->failure->kind;
        Action action = { .start = true, .resume = m->quiesced };

        /* A TPM that can't be read is not another one: what was handed off stays handed off. */
        if (m->state == STATE_HANDED_OFF && m->step == STEP_IDENTITY) {
                action = after_identity(m);
                m->failure = kind;
                return action;
        }
        /* The wrapped key is dead, because the TPM was cleared: only a new registration brings another. That
         * need not wait, unless something else is wrong as well: each registration is billed. */
        if (m->state == STATE_ASSIGNED && m->step == STEP_ADOPT && kind == FAILURE_IDENTITY_MISMATCH) {
                bool wait = m->fresh || m->retry.attempts > 0;

                m->has_hub_key = false;
                m->state = STATE_ATTESTING;
                m->step = STEP_IDENTITY;
                if (!wait) {
                        m->failure = FAILURE_NONE;
                        m->begun = m->live = m->quiesced = false;
                        action.step = STEP_IDENTITY;
                        return action;
                }
        }
        action.delay_usec = retry_next(&m->retry, policy, step_failure_class(m->step, kind),
                                       event->failure->retry_after_usec, random);
        action.step = m->step = step_after_failure(m);
        m->failure = kind;
        m->waiting = true;
        m->begun = m->live = m->quiesced = m->fresh = false;
        return action;
}

/* A helper's call can't be taken back, so it has to end. One that has not been made need not be. */
static bool busy(const Machine *m) {
        return m->begun && step_deadline_usec(m->step) != USEC_INFINITY;
}

static Action reattest(Machine *m, usec_t delay_usec) {
        bool throttled = machine_throttled(m) || (m->state == STATE_UNPROVISIONED && delay_usec > 0);
        Action action = { .start = true, .cancel = true, .resume = m->quiesced, .step = STEP_IDENTITY };

        if (!throttled)
                retry_reset(&m->retry);
        m->failure = throttled ? FAILURE_HTTP_THROTTLED : FAILURE_NONE;
        m->state = STATE_ATTESTING;
        m->step = STEP_IDENTITY;
        m->restart = m->retarget = m->begun = m->live = m->quiesced = m->fresh = false;
        m->waiting = throttled;
        action.delay_usec = throttled ? delay_usec : 0;
        return action;
}

static Action retarget(Machine *m) {
        Action action = { .start = true, .cancel = true, .resume = m->quiesced, .step = STEP_IDENTITY };

        m->retarget = false;
        retry_reset(&m->retry);
        m->failure = FAILURE_NONE;
        m->state = STATE_ASSIGNED;
        m->step = STEP_IDENTITY;
        m->waiting = m->begun = m->live = m->quiesced = m->fresh = false;
        return action;
}

static Action unconfigure(Machine *m) {
        Action action = { .start = true, .cancel = true, .resume = m->quiesced, .step = STEP_IDLE };

        m->restart = m->retarget = false;
        m->live = m->quiesced = m->fresh = m->waiting = m->begun = false;
        m->failure = FAILURE_NONE;
        m->state = STATE_UNPROVISIONED;
        m->step = STEP_IDLE;
        return action;
}

/* Until it is complete, also after a restart, the step is FORGET: what is half forgotten is neither handed
 * off nor may it be attested anew. Afterwards the machine rests, even with a scope: only the next start,
 * another configuration or Reprovision() begins anew. */
static Action reset(Machine *m) {
        Action action = { .start = true, .cancel = true, .resume = m->quiesced, .step = STEP_FORGET };

        m->restart = m->retarget = m->forced = false;
        m->live = m->quiesced = m->fresh = m->waiting = m->begun = false;
        retry_reset(&m->retry);
        m->failure = FAILURE_NONE;
        m->state = STATE_UNPROVISIONED;
        m->step = STEP_FORGET;
        return action;
}

/* What came from outside and had to wait for the helper's call to end. */
static bool deferred(Machine *m, Action *ret) {
        bool restart = m->restart && m->configured,
             retarget_due = m->retarget && m->configured && m->has_assignment;

        m->restart = m->retarget = false;
        if (m->reset && m->step != STEP_FORGET)
                *ret = reset(m);
        else if (m->state == STATE_ATTESTING && !m->configured)
                *ret = unconfigure(m);
        else if (restart)
                *ret = reattest(m, 0);
        else if (retarget_due)
                *ret = retarget(m);
        else
                return false;
        return true;
}

/* The service's wait goes on, whatever happened meanwhile. */
static Action attest(Machine *m, usec_t throttled_usec) {
        Action action = go(m, STATE_ATTESTING, STEP_IDENTITY);

        if (throttled_usec > 0) {
                m->waiting = true;
                m->failure = FAILURE_HTTP_THROTTLED;
                action.delay_usec = throttled_usec;
        }
        return action;
}

static Action on_configured(Machine *m, usec_t throttled_usec) {
        bool was = m->configured;

        m->configured = true;
        if (m->step != STEP_IDLE)
                return (Action){};
        if (m->state == STATE_UNPROVISIONED)
                return attest(m, throttled_usec);
        if (was)
                return (Action){};
        /* without a configuration nothing could be looked at; now it is as after a start */
        return go(m, m->state, STEP_IDENTITY);
}

static Action outside_event(Machine *m, const Event *event) {
        if (event->type == EVENT_CONFIGURED)
                return on_configured(m, event->delay_usec);
        if (event->type != EVENT_RESET)
                m->configured = event->type != EVENT_UNCONFIGURED;
        if (m->reset && event->type != EVENT_RESET)
                return (Action){};
        switch (event->type) {
        case EVENT_UNCONFIGURED:
                if (busy(m) || m->state != STATE_ATTESTING)
                        return (Action){};
                return unconfigure(m);
        case EVENT_RESET:
                m->reset = true;
                if (busy(m))
                        return (Action){};
                return reset(m);
        case EVENT_REATTEST:
                m->forced = m->forced || event->forced;
                m->restart = busy(m);
                if (busy(m))
                        return (Action){};
                return reattest(m, event->delay_usec);
        case EVENT_RETARGET:
                /* While attesting what there is to hand over is not decided yet: it is, anew. */
                m->restart = m->restart || (busy(m) && m->state == STATE_ATTESTING);
                m->retarget = busy(m) && m->state != STATE_ATTESTING;
                if (busy(m))
                        return (Action){};
                if (m->state == STATE_ATTESTING)
                        return reattest(m, event->delay_usec);
                return retarget(m);
        default:
                assert(false);
                return (Action){};
        }
}

Action machine_start(Machine *m, State state, bool configured, usec_t throttled_usec) {
        m->state = state;
        m->step = STEP_IDLE;
        m->failure = FAILURE_NONE;
        m->configured = configured;

        if (m->reset)
                return go(m, STATE_UNPROVISIONED, STEP_FORGET);
        if (state == STATE_ASSIGNED || state == STATE_HANDED_OFF)
                return configured ? go(m, state, STEP_IDENTITY) : go(m, state, STEP_IDLE);
        m->state = STATE_UNPROVISIONED;
        return configured ? attest(m, throttled_usec) : go(m, STATE_UNPROVISIONED, STEP_IDLE);
}

Action machine_feed(Machine *m, const Event *event, const RetryPolicy *policy, uint64_t random) {
        Action action, instead;

        assert(event->type >= 0 && event->type < _EVENT_MAX);

        if (event->type >= EVENT_CONFIGURED)
                return outside_event(m, event);

        assert(m->step != STEP_IDLE && m->begun);
        switch (event->type) {
        case EVENT_FAILED:
                action = after_failure(m, event, policy, random);
                break;
        case EVENT_PENDING:
                assert(m->step == STEP_CONFIRM || m->step == STEP_POLL);
                m->step = STEP_POLL;
                m->waiting = true;
                m->begun = false;
                action = (Action){ .start = true, .step = STEP_POLL, .delay_usec = event->delay_usec };
                break;
        case EVENT_ASSIGNED:
                action = after_assigned(m, event);
                break;
        default:
                action = after_success(m, event);
                break;
        }
        if (!deferred(m, &instead))
                return action;
        instead.resume = instead.resume || action.resume; /* the step that ended may have had to */
        return instead;
}
