#include "machine.h"

#include <assert.h>

bool machine_backing_off(const Machine *m) {
        return m->progress == PROGRESS_WAITING;
}

bool machine_throttled(const Machine *m) {
        return machine_backing_off(m) && m->failure == FAILURE_HTTP_THROTTLED;
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

/* --- the guards of the table; their names are printed --- */

typedef struct Input {
        const Machine *machine;
        const Facts *facts;
        const Event *event;
} Input;

static bool always(const Input *in) {
        return true;
}

static bool reset_due(const Input *in) {
        return in->facts->reset;
}

static bool configured(const Input *in) {
        return in->facts->configured;
}

static bool newly_usable(const Input *in) {
        return in->event->newly_usable;
}

static bool without_edge(const Input *in) {
        return in->facts->no_edge;
}

static bool with_edge(const Input *in) {
        return !in->facts->no_edge;
}

/* A request or a due step can be cancelled, a helper's call can't. */
static bool helper_busy(const Input *in) {
        return in->machine->progress == PROGRESS_RUNNING &&
               step_deadline_usec(in->machine->step) != USEC_INFINITY;
}

static bool waiting(const Input *in) {
        return in->machine->progress != PROGRESS_RUNNING;
}

static bool change_pending(const Input *in) {
        return in->machine->pending != PENDING_NONE && in->facts->configured;
}

static bool budget_spent(const Input *in) {
        return in->facts->budget_usec > 0;
}

/* The wait was interrupted, or a handed-off gateway continued during the wait. */
static bool throttled(const Input *in) {
        return in->facts->throttled_usec > 0;
}

static bool disruption_must_wait(const Input *in) {
        return in->facts->disruption_usec > 0;
}

static bool edge_runs(const Input *in) {
        return in->facts->live && !in->facts->quiesced;
}

static bool tpm_unread(const Input *in) {
        return in->facts->unread != FAILURE_NONE;
}

static bool key_questioned(const Input *in) {
        return in->facts->key_questioned;
}

static bool key_questioned_without_edge(const Input *in) {
        return in->facts->key_questioned && in->facts->no_edge;
}

/* IoT Edge ran on since PREPARE. */
static bool look_is_old(const Input *in) {
        return !in->facts->no_edge && !in->facts->quiesced && in->facts->look_is_old;
}

static bool needs_adoption(const Input *in) {
        const Facts *f = in->facts;

        return f->hand_over == HAND_OVER_ADOPT && f->key != HUB_KEY_ABSENT &&
               !(f->key == HUB_KEY_ADOPTED && f->key_in_place);
}

static bool needs_import(const Input *in) {
        return needs_adoption(in) && in->facts->key == HUB_KEY_RECEIVED;
}

static bool needs_quiesce(const Input *in) {
        return needs_adoption(in) && in->facts->live && !in->facts->quiesced;
}

static bool needs_dps(const Input *in) {
        return in->facts->ask_dps;
}

static bool needs_dps_throttled(const Input *in) {
        return in->facts->ask_dps && throttled(in);
}

static FailureKind failure_of(const Input *in) {
        return in->event->failure->kind;
}

static bool request_failed_in_passing(const Input *in) {
        switch (failure_of(in)) {
        case FAILURE_DNS:
        case FAILURE_CONNECT:
        case FAILURE_PROXY:
        case FAILURE_TIMEOUT:
        case FAILURE_HTTP_SERVER:
        case FAILURE_HTTP_THROTTLED:
                return true;
        default:
                return false;
        }
}

static bool tpm_failed_in_passing(const Input *in) {
        FailureKind kind = failure_of(in);

        return kind == FAILURE_TPM_BUSY || kind == FAILURE_TPM_FAILED || kind == FAILURE_TPM_MISSING;
}

/* DPS may still work on the operation, although this reply was lost. */
static bool poll_failed_in_passing(const Input *in) {
        return request_failed_in_passing(in) && !in->facts->token_expired;
}

static bool may_hold_on(const Input *in) {
        return in->facts->quiesced && !in->facts->hold_spent;
}

/* While IoT Edge is quiesced, the snapshot stays right, so the step begins again without another look. */
static bool tpm_failed_while_held(const Input *in) {
        return may_hold_on(in) && tpm_failed_in_passing(in);
}

static bool may_register(const Input *in) {
        return in->facts->throttled_usec == 0 && in->facts->budget_usec == 0;
}

/* The TPM was cleared, so the wrapped key is useless and DPS has to assign another. Begin at once, unless
 * earlier attempts failed: each registration is billed. */
static bool key_is_dead(const Input *in) {
        return failure_of(in) == FAILURE_IDENTITY_MISMATCH && !in->facts->fresh &&
               in->machine->retry.attempts == 0;
}

/* A resumed IoT Edge without a key would register itself, which would be a second registration. So IoT Edge
 * stays quiesced until it has the next key. */
static bool key_is_dead_while_held(const Input *in) {
        return key_is_dead(in) && in->facts->keyless && may_hold_on(in) && may_register(in);
}

static bool failed_while_held_without_key(const Input *in) {
        return in->facts->keyless && may_hold_on(in) && may_register(in) &&
               (request_failed_in_passing(in) || tpm_failed_in_passing(in) ||
                (in->machine->step == STEP_ADOPT && failure_of(in) == FAILURE_IDENTITY_MISMATCH));
}

/* --- the table --- */

/* What a row does, and how the printed table explains it. */
#define HOWS                                                                                                \
        HOW(STAY, "leave everything as it is")                                                              \
        HOW(REMEMBER, "make the change when the helper's call ends")                                        \
        HOW(LET_GO, "resume IoT Edge; the wait goes on")                                                    \
        HOW(INTERRUPT, "drop what is under way and pending, then begin")                                    \
        HOW(CHANGE, "interrupt, and make the change; wait while DPS is throttling requests")                \
        HOW(BEGIN, "begin; wait while DPS is throttling requests")                                          \
        HOW(NOW, "begin at once")                                                                           \
        HOW(GO_ON, "begin in spite of the failure, which decides how long to wait at the end")              \
        HOW(ASK_AGAIN, "wait as DPS asked")                                                                 \
        HOW(BACK_OFF, "count a failure, and wait")                                                          \
        HOW(HOLD_BACK, "wait for the registration budget")                                                  \
        HOW(SPARE_EDGE, "resume IoT Edge; wait for the disruption budget")

typedef enum How {
#define HOW(name, text) HOW_##name,
        HOWS
#undef HOW
                _HOW_MAX,
} How;

/* Not steps. They select the rows for the needs of the assignment and for the end of the work, or repeat the
 * row's own step. */
#define NEXT_HAND_OVER ((Step) (_STEP_MAX + 0))
#define NEXT_REST      ((Step) (_STEP_MAX + 1))
#define NEXT_SAME      ((Step) (_STEP_MAX + 2))

typedef struct Guard {
        bool (*holds)(const Input *in);
        const char *name;
} Guard;

#define IF(guard)                                                                                           \
        { guard, #guard }

typedef struct Row {
        unsigned states, steps, events;
        Guard when;
        Step next;
        How how;
} Row;

#define ANY     (~0u)
#define UN      (1u << STATE_UNPROVISIONED)
#define AT      (1u << STATE_ATTESTING)
#define AS      (1u << STATE_ASSIGNED)
#define HO      (1u << STATE_HANDED_OFF)
#define ON(x)   (1u << STEP_##x)
#define AFTER   (1u << NEXT_HAND_OVER)
#define REST    (1u << NEXT_REST)
#define EV(x)   (1u << EVENT_##x)
#define BUT(x)  (ON(x) ^ ((1u << _STEP_MAX) - 1))
#define RESULT  (EV(DONE) | EV(FAILED)) /* of a helper's call; a request is cancelled at once */
#define CHANGES (EV(RETARGET) | EV(REATTEST) | EV(REPROVISION))

/* The walk over the table changes rows in memory, to see that its properties can fail. */
#ifndef TABLE
#define TABLE static const
#endif

/* The first matching row counts. */
TABLE Row rows[] = {
        /* the daemon's start */
        { ANY, ANY, EV(START), IF(reset_due), STEP_FORGET, HOW_NOW },
        { AT | AS, ANY, EV(START), IF(configured), STEP_IDENTITY, HOW_BEGIN },
        { HO, ANY, EV(START), IF(configured), STEP_IDENTITY, HOW_NOW },
        { ANY, ANY, EV(START), IF(always), STEP_IDLE, HOW_NOW },

        /* from outside */
        { AT, ON(IDLE), EV(CONFIGURED), IF(always), STEP_IDENTITY, HOW_BEGIN },
        { AS, ON(IDLE), EV(CONFIGURED), IF(newly_usable), STEP_IDENTITY, HOW_BEGIN },
        { HO, ON(IDLE), EV(CONFIGURED), IF(newly_usable), STEP_IDENTITY, HOW_NOW },
        { ANY, ANY, EV(CONFIGURED), IF(helper_busy), NEXT_SAME, HOW_REMEMBER },
        { ANY, ANY, EV(CONFIGURED), IF(always), NEXT_SAME, HOW_STAY },
        { ANY, ANY, CHANGES | EV(UNCONFIGURED) | EV(RESET), IF(helper_busy), NEXT_SAME, HOW_REMEMBER },
        { ANY, ANY, EV(RESET), IF(always), STEP_FORGET, HOW_INTERRUPT },
        { ANY, ANY, CHANGES | EV(UNCONFIGURED), IF(reset_due), NEXT_SAME, HOW_STAY },
        { UN, ANY, EV(UNCONFIGURED), IF(always), STEP_IDLE, HOW_INTERRUPT },
        { ANY, ANY, EV(UNCONFIGURED), IF(always), NEXT_SAME, HOW_STAY },
        { ANY, ANY, CHANGES, IF(always), STEP_IDENTITY, HOW_CHANGE },
        { ANY, ON(POLL), EV(HOLD_SPENT), IF(waiting), NEXT_SAME, HOW_LET_GO },
        { ANY, ON(REGISTER) | ON(IMPORT) | ON(ADOPT), EV(HOLD_SPENT), IF(waiting), STEP_IDENTITY,
          HOW_LET_GO },
        { ANY, ANY, EV(HOLD_SPENT), IF(always), NEXT_SAME, HOW_STAY },

        /* A reset, a pending change and the loss of the configuration overrule the result of a step. */
        { ANY, BUT(FORGET), RESULT, IF(reset_due), STEP_FORGET, HOW_INTERRUPT },
        { ANY, ON(FORGET), EV(FAILED), IF(always), NEXT_SAME, HOW_BACK_OFF },
        { ANY, ANY, RESULT, IF(change_pending), STEP_IDENTITY, HOW_CHANGE },
        { UN, BUT(FORGET), RESULT, IF(always), STEP_IDLE, HOW_INTERRUPT },

        /* A failure. Each attempt begins with a look at the TPM and at IoT Edge: the TPM may have been
         * cleared, and IoT Edge may register itself during the wait. */
        { AT, ON(POLL), EV(FAILED), IF(poll_failed_in_passing), NEXT_SAME, HOW_BACK_OFF },
        { AS, ON(IMPORT) | ON(ADOPT), EV(FAILED), IF(tpm_failed_while_held), NEXT_SAME, HOW_BACK_OFF },
        { AT, ON(ADOPT), EV(FAILED), IF(key_is_dead_while_held), STEP_REGISTER, HOW_NOW },
        { AT, ON(REGISTER) | ON(ACTIVATE) | ON(CONFIRM) | ON(POLL) | ON(ADOPT), EV(FAILED),
          IF(failed_while_held_without_key), STEP_REGISTER, HOW_BACK_OFF },
        { AT, ON(ADOPT), EV(FAILED), IF(key_is_dead), STEP_IDENTITY, HOW_NOW },
        { ANY, ON(VERIFY), EV(FAILED), IF(with_edge), NEXT_SAME, HOW_BACK_OFF },
        /* An unreadable TPM does not prove that the TPM was replaced, so the gateway stays handed off. */
        { HO, ON(IDENTITY), EV(FAILED), IF(with_edge), STEP_VERIFY, HOW_GO_ON },
        { ANY, ANY, EV(FAILED), IF(always), STEP_IDENTITY, HOW_BACK_OFF },

        { ANY, ON(CONFIRM) | ON(POLL), EV(PENDING), IF(always), STEP_POLL, HOW_ASK_AGAIN },

        /* a step that is done */
        { HO, ON(IDENTITY), EV(DONE), IF(key_questioned_without_edge), STEP_ADOPT, HOW_NOW },
        { HO, ON(IDENTITY), EV(DONE), IF(without_edge), NEXT_REST, HOW_NOW },
        { HO, ON(IDENTITY), EV(DONE), IF(always), STEP_VERIFY, HOW_NOW },
        /* VERIFY waits for an identityd that registers, so the keys are compared after it. */
        { HO, ON(VERIFY), EV(DONE), IF(key_questioned), STEP_ADOPT, HOW_NOW },
        { HO, ON(VERIFY), EV(DONE), IF(always), NEXT_REST, HOW_NOW },
        { ANY, ON(IDENTITY) | ON(VERIFY), EV(DONE), IF(with_edge), STEP_PREPARE, HOW_NOW },
        { AT, ON(IDENTITY) | ON(PREPARE), EV(DONE), IF(throttled), STEP_IDENTITY, HOW_BEGIN },
        { AT, ON(IDENTITY) | ON(PREPARE), EV(DONE), IF(budget_spent), STEP_IDENTITY, HOW_HOLD_BACK },
        /* DPS may move the device, and the old hub then refuses the one that IoT Edge goes on as. */
        { AT, ON(PREPARE), EV(DONE), IF(disruption_must_wait), STEP_IDENTITY, HOW_SPARE_EDGE },
        { AT, ON(IDENTITY) | ON(PREPARE), EV(DONE), IF(always), STEP_REGISTER, HOW_NOW },
        { AS, ON(REGISTER), EV(DONE), IF(always), STEP_HANDOFF, HOW_NOW },
        { AT, ON(REGISTER), EV(DONE), IF(always), STEP_ACTIVATE, HOW_NOW },
        { AT, ON(ACTIVATE), EV(DONE), IF(edge_runs), STEP_QUIESCE, HOW_NOW },
        { AT, ON(ACTIVATE) | ON(QUIESCE), EV(DONE), IF(always), STEP_CONFIRM, HOW_NOW },
        { AS, ON(POLL), EV(DONE), IF(look_is_old), STEP_PREPARE, HOW_NOW },
        { ANY, ON(HANDOFF) | ON(FORGET), EV(DONE), IF(always), NEXT_REST, HOW_NOW },
        { ANY, BUT(IDLE), EV(DONE), IF(always), NEXT_HAND_OVER, HOW_NOW },

        /* what the assignment still needs */
        { HO, AFTER, ANY, IF(always), NEXT_REST, HOW_NOW },
        /* Apply would fail, and with the key replaced IoT Edge could not continue as the old device. */
        { ANY, AFTER, ANY, IF(disruption_must_wait), STEP_IDENTITY, HOW_SPARE_EDGE },
        { ANY, AFTER, ANY, IF(needs_import), STEP_IMPORT, HOW_NOW },
        { ANY, AFTER, ANY, IF(needs_quiesce), STEP_QUIESCE, HOW_NOW },
        { ANY, AFTER, ANY, IF(needs_adoption), STEP_ADOPT, HOW_NOW },
        { ANY, AFTER, ANY, IF(needs_dps_throttled), STEP_IDENTITY, HOW_BEGIN },
        { ANY, AFTER, ANY, IF(needs_dps), STEP_REGISTER, HOW_NOW },
        { ANY, AFTER, ANY, IF(always), STEP_HANDOFF, HOW_NOW },

        /* the end of the work */
        { HO, REST, ANY, IF(tpm_unread), STEP_IDENTITY, HOW_BACK_OFF },
        { ANY, REST, ANY, IF(always), STEP_IDLE, HOW_NOW },
};

static const Row *find_row(unsigned step, const Input *in) {
        const unsigned state = 1u << facts_state(in->facts), event = 1u << in->event->type;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const Row *row = &rows[i];

                if (!(row->events & event) || !(row->steps & 1u << step) || !(row->states & state) ||
                    !row->when.holds(in))
                        continue;
                return row->next == NEXT_HAND_OVER || row->next == NEXT_REST ? find_row(row->next, in) : row;
        }
        return NULL;
}

/* --- what a row does --- */

static void go(Machine *m, Step step, Action *action) {
        m->step = step;
        m->progress = step == STEP_IDLE ? PROGRESS_IDLE : PROGRESS_DUE;
        *action = (Action){ .start = true, .step = step };
}

static void wait_for(Machine *m, FailureKind failure, usec_t delay_usec, Action *action) {
        m->failure = failure;
        m->progress = PROGRESS_WAITING;
        action->delay_usec = delay_usec;
}

static void begin(Machine *m, const Facts *f, Step step, Action *action) {
        go(m, step, action);
        if (f->throttled_usec > 0)
                wait_for(m, FAILURE_HTTP_THROTTLED, f->throttled_usec, action);
}

/* This is the one place that clears what was under way. */
static void interrupt(Machine *m, const Facts *f, Step step, Pending change, Action *action) {
        m->pending = PENDING_NONE;
        m->failure = FAILURE_NONE;
        if (step == STEP_IDENTITY)
                begin(m, f, step, action);
        else
                go(m, step, action);
        action->change = change;
        if (step != STEP_IDLE && m->failure == FAILURE_NONE)
                retry_reset(&m->retry);
}

static Pending pending_of(EventType type) {
        return type == EVENT_RETARGET      ? PENDING_RETARGET
               : type == EVENT_REATTEST    ? PENDING_REATTEST
               : type == EVENT_REPROVISION ? PENDING_REPROVISION
                                           : PENDING_NONE;
}

/* Without an assignment there is nothing to hand over in another way. */
static Pending change_of(const Machine *m, const Facts *f, EventType type) {
        Pending change = type < EVENT_START ? m->pending : pending_of(type);

        return change == PENDING_RETARGET && !f->intended ? PENDING_REATTEST : change;
}

/* An intended assignment is compared with each configuration, not with the last one, so the last event
 * counts. */
static void remember(Machine *m, const Facts *f, EventType type) {
        bool configured = type == EVENT_CONFIGURED || type == EVENT_RETARGET || type == EVENT_REATTEST;

        if (f->reset || m->pending == PENDING_REPROVISION)
                return;
        if (pending_of(type) > m->pending || (configured && f->intended))
                m->pending = pending_of(type);
}

/* A gateway that works without its TPM reads it less and less often, up to OperatorLongMaxSec=. */
static void back_off(Machine *m, const Facts *f, const Event *event, const RetryPolicy *policy,
                     uint64_t random, Action *action) {
        const bool failed = event->type == EVENT_FAILED;
        const FailureKind kind = failed ? event->failure->kind : f->unread;
        const usec_t asked = failed ? event->failure->retry_after_usec : 0;
        RetryPolicy p = *policy;

        if (f->unread != FAILURE_NONE && m->step == STEP_IDENTITY)
                p.max_usec = policy->operator_long_max_usec;

        /* The helper names the exact time, and no other device waits for it, so there is no jitter. */
        if (kind == FAILURE_DISRUPTION_BUDGET && asked > 0)
                wait_for(m, kind, asked, action);
        else
                wait_for(m, kind, retry_next(&m->retry, &p, failure_class(kind), asked, random), action);
}

static void act(Machine *m, const Input *in, const Row *row, const RetryPolicy *policy, uint64_t random,
                Action *action) {
        const Facts *f = in->facts;
        const Event *event = in->event;
        Step next = row->next == NEXT_SAME ? m->step : row->next;

        switch (row->how) {
        case HOW_STAY:
                break;
        case HOW_REMEMBER:
                remember(m, f, event->type);
                break;
        case HOW_LET_GO:
                m->step = next;
                break;
        case HOW_INTERRUPT:
                interrupt(m, f, next, PENDING_NONE, action);
                break;
        case HOW_CHANGE:
                interrupt(m, f, next, change_of(m, f, event->type), action);
                break;
        case HOW_BEGIN:
                begin(m, f, next, action);
                break;
        case HOW_ASK_AGAIN:
                go(m, next, action);
                action->delay_usec = event->delay_usec;
                break;
        case HOW_BACK_OFF:
                go(m, next, action);
                back_off(m, f, event, policy, random, action);
                break;
        case HOW_HOLD_BACK:
                go(m, next, action);
                wait_for(m, FAILURE_REGISTRATION_BUDGET, f->budget_usec + random % (f->budget_usec / 8 + 1),
                         action);
                action->held_back = true;
                break;
        case HOW_SPARE_EDGE:
                go(m, next, action);
                wait_for(m, FAILURE_DISRUPTION_BUDGET, f->disruption_usec, action);
                action->held_back = true;
                break;
        case HOW_GO_ON:
                go(m, next, action);
                m->failure = event->failure->kind;
                break;
        default:
                go(m, next, action);
        }
}

Action machine_feed(Machine *m, const Facts *f, const Event *event, const RetryPolicy *policy,
                    uint64_t random) {
        const Input in = { .machine = m, .facts = f, .event = event };
        bool result = event->type < EVENT_START;
        Action action = {};
        const Row *row;

        assert(event->type >= 0 && event->type < _EVENT_MAX);
        assert(!result || m->progress == PROGRESS_RUNNING);

        row = find_row(m->step, &in);
        assert(row);
        act(m, &in, row, policy, random, &action);
        if (result)
                m->pending = PENDING_NONE;
        if (action.start && action.step == STEP_IDLE && row->how == HOW_NOW) {
                m->failure = FAILURE_NONE;
                retry_reset(&m->retry);
        }
        /* IoT Edge is quiesced for the steps that need it, up to the limit. */
        action.resume = f->quiesced &&
                        (row->how == HOW_LET_GO ||
                         (action.start &&
                          (!step_holds(m->step) || (m->progress == PROGRESS_WAITING && f->hold_spent))));
        return action;
}
