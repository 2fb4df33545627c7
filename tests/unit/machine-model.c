#include "machine-model.h"

#define NOW_USEC (1000000 * USEC_PER_SEC)

static uint8_t our_name[] = { 1 }, other_name[] = { 2 }, some[] = { 3 };

static const FailureKind kinds[] = {
        [KIND_NONE] = FAILURE_NONE,
        [KIND_TRANSIENT] = FAILURE_TPM_BUSY,
        [KIND_OPERATOR] = FAILURE_ENROLLMENT_MISSING,
        [KIND_THROTTLED] = FAILURE_HTTP_THROTTLED,
        [KIND_BUDGET] = FAILURE_REGISTRATION_BUDGET,
        [KIND_DISRUPTION] = FAILURE_DISRUPTION_BUDGET,
};

State model_state(Model w) {
        if (w.reset || w.resting)
                return STATE_UNPROVISIONED;
        if (w.intended)
                return w.confirmed ? STATE_HANDED_OFF : STATE_ASSIGNED;
        return w.configured ? STATE_ATTESTING : STATE_UNPROVISIONED;
}

/* --- the machine --- */

Machine model_machine(Model w) {
        return (Machine){ .step = (Step) w.step,
                          .progress = (Progress) w.progress,
                          .pending = (Pending) w.pending,
                          .failure = kinds[w.failure],
                          .retry.attempts = w.failed_before };
}

static Kind kind_of(FailureKind failure) {
        return failure == FAILURE_NONE                             ? KIND_NONE
               : failure == FAILURE_HTTP_THROTTLED                 ? KIND_THROTTLED
               : failure == FAILURE_REGISTRATION_BUDGET            ? KIND_BUDGET
               : failure == FAILURE_DISRUPTION_BUDGET              ? KIND_DISRUPTION
               : failure_class(failure) == FAILURE_CLASS_TRANSIENT ? KIND_TRANSIENT
                                                                   : KIND_OPERATOR;
}

void model_set_machine(Model *w, const Machine *m) {
        w->step = m->step;
        w->progress = m->progress;
        w->pending = m->pending;
        w->failure = kind_of(m->failure);
        w->failed_before = m->retry.attempts > 0;
}

/* --- the facts --- */

static Record record_of(Model w) {
        Record r = { .forced = w.forced, .reset = w.reset, .resting = w.resting };
        Assignment *a = &r.intended;

        if (w.intended) {
                *a = (Assignment){ .generation = 3, .hub = (char *) "hub", .device_id = (char *) "device" };
                a->hand_over = (HandOver) w.hand_over;
                a->hub_key_handle = w.noted == NOTED_OTHER_HANDLE ? 2 : 1;
                if (w.key == HUB_KEY_RECEIVED)
                        a->key.received = (Bytes){ some, sizeof(some) };
                if (w.key >= HUB_KEY_WRAPPED)
                        a->key.private_area = a->key.public_area = (Bytes){ some, sizeof(some) };
                if (w.key == HUB_KEY_ADOPTED)
                        a->key.name = (Bytes){ our_name, sizeof(our_name) };
        }
        r.confirmed.generation = w.confirmed ? a->generation : w.other ? 1 : 0;
        r.budget = (Budget){ .spent = w.tokens == TOKENS_MAX ? 0 : REGISTRATION_BUDGET_SIZE - w.tokens,
                             .since_usec = NOW_USEC };
        return r;
}

void model_facts(const Move *move, Facts *ret) {
        const Model w = move->model;
        const Record record = record_of(w);
        const Bytes name = w.handle == MODEL_OURS        ? (Bytes){ our_name, sizeof(our_name) }
                           : w.handle == MODEL_OTHER_KEY ? (Bytes){ other_name, sizeof(other_name) }
                                                         : (Bytes){};
        const Snapshot snapshot = { .hub = (char *) "other", .device_id = (char *) "other" };
        const FactsInput input = { .now_usec = NOW_USEC,
                                   .budget_time.usec = NOW_USEC,
                                   .configured = w.configured,
                                   .no_edge = w.no_edge,
                                   .adopts = w.adopts,
                                   .hub_key_handle = 1,
                                   .unread = w.unread ? FAILURE_TPM_BUSY : FAILURE_NONE,
                                   .hmac_at_handle = w.handle != MODEL_EMPTY,
                                   .name_at_handle = &name,
                                   .fresh = w.fresh,
                                   .live = w.live,
                                   .quiesced = w.quiesced,
                                   .hold_spent = w.hold_spent,
                                   .keyless = w.keyless,
                                   .dps_answers = !move->ask_dps,
                                   .looked_usec = move->look_is_old ? 0 : NOW_USEC,
                                   .token_expired = move->token_expired,
                                   .snapshot = &snapshot,
                                   .throttled_until_usec = w.throttled ? NOW_USEC + THROTTLED_USEC : 0,
                                   .disruption_until_usec =
                                           move->disruption ? NOW_USEC + DISRUPTION_USEC : 0,
                                   .unbudgeted = w.unbudgeted };

        facts_derive(ret, &record, &input);
        assert(facts_state(ret) == model_state(w));
}

/* --- the intended assignment --- */

void model_intend(Model *w, HandOver hand_over, HubKeyState key) {
        if (w->confirmed)
                w->other = true;
        w->intended = true;
        w->fresh = true;
        w->confirmed = false;
        w->forced = false;
        w->hand_over = hand_over;
        w->key = key;
        w->noted = NOTED_SAME;
}

void model_confirm(Model *w) {
        w->confirmed = true;
        w->other = false;
}

void model_reopen(Model *w) {
        if (w->confirmed)
                w->other = true;
        w->confirmed = false;
}

void model_discard(Model *w) {
        model_reopen(w);
        w->intended = false;
}

void model_give_way(Model *w) {
        w->hand_over = HAND_OVER_KEEP;
        w->key = HUB_KEY_ABSENT;
}

void model_register_instead(Model *w) {
        w->hand_over = HAND_OVER_REGISTER;
        w->key = HUB_KEY_ABSENT;
}

void model_hand_over_again(Model *w) {
        if (w->noted == NOTED_OTHER_HANDLE && w->key == HUB_KEY_ADOPTED)
                w->key = HUB_KEY_WRAPPED;
        if (!w->adopts)
                w->hand_over = HAND_OVER_REGISTER;
        else if (w->hand_over == HAND_OVER_REGISTER && w->key != HUB_KEY_ABSENT)
                w->hand_over = HAND_OVER_ADOPT;
        w->noted = NOTED_SAME;
        model_reopen(w);
}

void model_change(Model *w, Pending change) {
        if (change == PENDING_RETARGET)
                model_hand_over_again(w);
        else if (change != PENDING_NONE) {
                model_discard(w);
                w->forced = w->forced || change == PENDING_REPROVISION;
                w->resting = false;
        }
}

/* --- the daemon's act() --- */

void model_end_attempt(Model *w) {
        w->live = false;
        w->quiesced = false;
        w->keyless = false;
        w->fresh = false;
}

static bool ends_attempt(unsigned step) {
        return step == STEP_IDLE || step == STEP_IDENTITY || step == STEP_FORGET;
}

void model_act(Model *w, const Action *action) {
        if (action->resume)
                w->quiesced = false;
        if ((action->start || action->resume) && ends_attempt(w->step))
                model_end_attempt(w);
        model_change(w, action->change);
        if (w->progress == PROGRESS_WAITING && w->failure == KIND_THROTTLED)
                w->throttled = true;
}

static void simplify_intent(Model *w) {
        const State state = model_state(*w);

        if (w->reset) { /* FORGET drops all of it */
                w->intended = false;
                w->other = false;
                w->forced = false;
                w->resting = false;
        }
        if (!w->intended) {
                w->confirmed = false;
                w->fresh = false;
                w->hand_over = 0;
                w->key = 0;
                w->noted = 0;
        } else
                w->forced = false;
        if (w->key != HUB_KEY_ADOPTED || w->hand_over != HAND_OVER_ADOPT ||
            (ends_attempt(w->step) && state != STATE_HANDED_OFF))
                w->handle = MODEL_EMPTY; /* read again before it matters */
        if (state != STATE_HANDED_OFF)
                w->unread = false;
}

void model_simplify(Model *w) {
        simplify_intent(w);
        if (!w->quiesced) {
                w->hold_spent = false;
                w->keyless = false;
        }
        if (w->step == STEP_ADOPT || w->step == STEP_HANDOFF || w->step == STEP_VERIFY)
                w->live = false;
        if (w->step == STEP_HANDOFF || w->step == STEP_VERIFY)
                w->fresh = false;
        if (w->progress != PROGRESS_WAITING && !w->unread)
                w->failure = KIND_NONE;
}
