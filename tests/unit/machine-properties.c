#include "machine-properties.h"

#include "machine-policy.h"

static const char *const properties[] = {
#define NAME(property) [property] = #property
        NAME(HANDED_OFF), NAME(INTENT),   NAME(CHANGE_MADE), NAME(ONE),   NAME(RESUMED), NAME(WAIT),
        NAME(BUDGET),     NAME(IN_ORDER), NAME(SPARED),      NAME(RESTS), NAME(GOES_ON), NAME(KEYLESS),
#undef NAME
};
static_assert(ARRAY_SIZE(properties) == _PROPERTY_MAX, "every property has a name");

const char *property_to_string(Property property) {
        return properties[property];
}

static bool is_result(const Fed *f) {
        return f->move->event < EVENT_START;
}

static bool starts(const Fed *f, Step step) {
        return f->action.start && f->after.step == step;
}

static bool is_idle(const Machine *m) {
        return m->step == STEP_IDLE || m->progress == PROGRESS_IDLE;
}

static bool may_hold(Step step) {
        return step == STEP_REGISTER || step == STEP_ACTIVATE || step == STEP_QUIESCE ||
               step == STEP_CONFIRM || step == STEP_POLL || step == STEP_IMPORT || step == STEP_ADOPT ||
               step == STEP_HANDOFF;
}

static bool keeps_intent(const Fed *f) {
        const Pending asked = (Pending) f->move->model.asked, change = f->action.change;

        if (starts(f, STEP_FORGET) && !f->facts->reset)
                return false;
        if (f->facts->intended && starts(f, STEP_CONFIRM)) /* would be replaced by what DPS says */
                return false;
        return change == PENDING_NONE || change == asked ||
               (!f->facts->intended && asked == PENDING_RETARGET && change == PENDING_REATTEST);
}

static bool keeps_change(const Fed *f) {
        const bool asked = f->move->model.asked != PENDING_NONE && f->facts->configured && !f->facts->reset;

        if (!asked)
                return true;
        return f->action.change != PENDING_NONE || (!is_result(f) && f->after.progress == PROGRESS_RUNNING &&
                                                    f->after.pending == f->move->model.asked);
}

static bool one_at_a_time(const Fed *f) {
        if (is_result(f) || f->before.progress != PROGRESS_RUNNING)
                return f->after.progress != PROGRESS_RUNNING;
        if (!is_request(f->before.step) || !f->action.start)
                return !f->action.start && !f->action.resume && f->after.step == f->before.step &&
                       f->after.progress == PROGRESS_RUNNING;
        /* A request is cancelled where the attempt ends. */
        return f->after.step == STEP_IDENTITY || f->after.step == STEP_IDLE || f->after.step == STEP_FORGET;
}

static bool resumes(const Fed *f) {
        const bool at_limit = f->facts->hold_spent && f->after.progress == PROGRESS_WAITING,
                   told = f->move->event == EVENT_HOLD_SPENT && f->before.progress != PROGRESS_RUNNING &&
                          (f->before.step == STEP_POLL || f->before.progress == PROGRESS_WAITING);

        if (!f->facts->quiesced)
                return !f->action.resume;
        return f->action.resume || (may_hold(f->after.step) && !at_limit && !told);
}

static bool waits(const Fed *f) {
        const usec_t delay = f->action.delay_usec;

        if (f->move->event == EVENT_PENDING && starts(f, STEP_POLL))
                return delay == POLL_USEC;
        if (f->move->event == EVENT_FAILED && f->after.progress == PROGRESS_WAITING &&
            is_request(f->before.step))
                return delay >= RETRY_AFTER_USEC;
        if (f->move->event == EVENT_FAILED && f->move->failure == FAILURE_HTTP_THROTTLED)
                return f->facts->reset || !f->facts->configured;
        return !f->action.start || !is_request(f->after.step) || delay >= f->facts->throttled_usec;
}

static bool keeps_budget(const Fed *f) {
        const bool asks = !f->facts->intended && (starts(f, STEP_REGISTER) || starts(f, STEP_CONFIRM));

        if (f->action.held_back && f->action.delay_usec < f->facts->budget_usec)
                return false;
        return !asks || f->facts->budget_usec == 0;
}

static bool begins_in_order(const Fed *f) {
        const Facts *facts = f->facts;
        const bool held = facts->quiesced || !facts->live,
                   placed = facts->key == HUB_KEY_ADOPTED && facts->key_in_place,
                   unconfirmed = facts->intended && !facts->confirmed;

        if (f->action.resume && may_hold(f->after.step) && f->after.step != STEP_POLL)
                return false;
        if (!f->action.start)
                return true;
        switch (f->after.step) {
        case STEP_PREPARE:
        case STEP_VERIFY:
                return !facts->no_edge;
        case STEP_QUIESCE:
                return facts->live && !facts->quiesced &&
                       (!facts->intended || (facts->hand_over == HAND_OVER_ADOPT && !placed));
        case STEP_CONFIRM:
                return held;
        case STEP_IMPORT:
                return unconfirmed && facts->key == HUB_KEY_RECEIVED;
        case STEP_ADOPT:
                return facts->confirmed || (facts->intended && held && facts->key >= HUB_KEY_WRAPPED);
        case STEP_HANDOFF:
                return unconfirmed && !facts->ask_dps && (facts->hand_over != HAND_OVER_ADOPT || placed);
        default:
                return true;
        }
}

static bool spares_edge(const Fed *f) {
        const Facts *facts = f->facts;
        const Step next = f->after.step;

        if (facts->disruption_usec == 0 || facts->confirmed || !f->action.start)
                return !is_result(f) || f->after.failure != FAILURE_DISRUPTION_BUDGET;
        /* Before a registration another budget may hold the gateway back as well. */
        if (f->move->event == EVENT_DONE && next == STEP_IDENTITY && f->action.change == PENDING_NONE)
                return (f->action.delay_usec >= facts->disruption_usec ||
                        (!facts->intended && f->action.delay_usec > 0)) &&
                       f->action.resume == facts->quiesced;
        return (next != STEP_REGISTER || f->before.step != STEP_PREPARE) && next != STEP_IMPORT &&
               next != STEP_QUIESCE && next != STEP_ADOPT && next != STEP_HANDOFF;
}

static bool rests(const Fed *f) {
        const State state = facts_state(f->facts);

        if (!is_idle(&f->after))
                return true;
        if (f->after.step != STEP_IDLE || f->after.progress != PROGRESS_IDLE)
                return false;
        switch (state) {
        case STATE_UNPROVISIONED:
                return !f->facts->reset;
        case STATE_ATTESTING:
                return false;
        case STATE_ASSIGNED:
                return !f->facts->configured;
        default:
                return f->facts->unread == FAILURE_NONE;
        }
}

static bool goes_on(const Fed *f) {
        return !is_result(f) || (f->action.start && (f->move->event != EVENT_FAILED || !is_idle(&f->after) ||
                                                     facts_state(f->facts) == STATE_UNPROVISIONED));
}

static bool is_transient(FailureKind kind) {
        return kind == FAILURE_TPM_BUSY || kind == FAILURE_HTTP_SERVER || kind == FAILURE_HTTP_THROTTLED;
}

/* An IoT Edge without a key would register itself, which is another registration. */
static bool holds_without_key(const Fed *f) {
        const Facts *facts = f->facts;
        const bool dead = f->before.step == STEP_ADOPT && f->move->failure == FAILURE_IDENTITY_MISMATCH,
                   goes_on = f->move->event != EVENT_FAILED || dead || is_transient(f->move->failure),
                   may = !facts->hold_spent && facts->throttled_usec == 0 && facts->budget_usec == 0 &&
                         facts->disruption_usec == 0,
                   adopts = !facts->intended || facts->hand_over == HAND_OVER_ADOPT,
                   other = f->action.change != PENDING_NONE || facts->reset || !facts->configured;

        return !f->action.resume || !facts->keyless || !is_result(f) || other || !adopts || !may || !goes_on;
}

static bool (*const checks[])(const Fed *f) = {
        [INTENT] = keeps_intent,
        [CHANGE_MADE] = keeps_change,
        [ONE] = one_at_a_time,
        [RESUMED] = resumes,
        [WAIT] = waits,
        [BUDGET] = keeps_budget,
        [SPARED] = spares_edge,
        [RESTS] = rests,
        [GOES_ON] = goes_on,
        [IN_ORDER] = begins_in_order,
        [KEYLESS] = holds_without_key,
};

bool property_holds(Property property, const Fed *fed) {
        return !checks[property] || checks[property](fed);
}
