/* What can happen in a model: how the step under way ends, and what comes from outside. */
#include "machine-model.h"

static Move *add(Moves *moves, Model w, EventType event) {
        assert(moves->count < MOVES_MAX);
        moves->list[moves->count] = (Move){ .model = w, .fed = true, .event = event };
        return &moves->list[moves->count++];
}

static void add_silent(Moves *moves, Model w) {
        add(moves, w, EVENT_START)->fed = false;
}

static void add_failure(Moves *moves, Model w, FailureKind kind) {
        add(moves, w, EVENT_FAILED)->failure = kind;
}

static void add_helper_failures(Moves *moves, Model w) {
        add_failure(moves, w, FAILURE_TPM_BUSY);
        add_failure(moves, w, FAILURE_CONFIG_CONFLICT);
}

static void add_request_failures(Moves *moves, Model w) {
        Model returned = w;

        if (w.step == STEP_CONFIRM && w.tokens < TOKENS_MAX)
                returned.tokens++;
        add_failure(moves, w, FAILURE_HTTP_SERVER);
        add_failure(moves, returned, FAILURE_HTTP_THROTTLED);
        add_failure(moves, returned, FAILURE_ENROLLMENT_MISSING);
        add_failure(moves, w, FAILURE_IDENTITY_MISMATCH);
}

static void identity_results(Model w, Moves *moves) {
        Model read = w, other = w, found;

        read.unread = false;
        other.unread = w.confirmed;
        for (int i = 0; i < 3; i++) {
                static const Handle handles[] = { MODEL_OURS, MODEL_EMPTY, MODEL_OTHER_KEY };

                found = read;
                found.handle = handles[i];
                if (w.confirmed && w.adopts && w.key == HUB_KEY_ADOPTED && found.handle == MODEL_EMPTY)
                        model_reopen(&found);
                add(moves, found, EVENT_DONE);
        }
        if (w.intended && w.no_edge) {
                found = read;
                found.handle = MODEL_OTHER_KEY;
                model_give_way(&found);
                add(moves, found, EVENT_DONE);
        }
        add_helper_failures(moves, other);
        add_failure(moves, other, FAILURE_IDENTITY_MISMATCH);
        if (w.intended) { /* another registration ID */
                model_discard(&read);
                add(moves, read, EVENT_DONE);
                add_failure(moves, read, FAILURE_TPM_HANDLE_TAKEN);
        }
        read.other = false; /* another TPM */
        add(moves, read, EVENT_DONE);
}

static void prepare_results(Model w, Moves *moves) {
        Model found;

        for (unsigned live = 2; live-- > 0;) {
                w.live = live;
                add(moves, w, EVENT_DONE);
                add(moves, w, EVENT_DONE)->ask_dps = true;
                add(moves, w, EVENT_DONE)->disruption = true;
                found = w;
                if (w.intended)
                        model_give_way(&found);
                else if (!w.other && !w.forced) {
                        model_intend(&found, HAND_OVER_KEEP, HUB_KEY_ABSENT);
                        model_confirm(&found);
                } else
                        continue;
                add(moves, found, EVENT_DONE);
        }
        if (w.intended && w.hand_over == HAND_OVER_ADOPT) {
                found = w;
                found.hand_over = HAND_OVER_REGISTER;
                add(moves, found, EVENT_DONE);
                add(moves, found, EVENT_DONE)->ask_dps = true;
        }
        w.live = false;
        add_helper_failures(moves, w);
}

static void assigned_results(Model w, Moves *moves) {
        Model assigned = w;

        for (unsigned old = 0; old < 2; old++) {
                if (w.adopts) {
                        model_intend(&assigned, HAND_OVER_ADOPT, HUB_KEY_RECEIVED);
                        add(moves, assigned, EVENT_DONE)->look_is_old = old;
                        add(moves, assigned, EVENT_DONE)->disruption = true;
                }
                if (!w.adopts || !w.no_edge) {
                        model_intend(&assigned, HAND_OVER_REGISTER, HUB_KEY_ABSENT);
                        add(moves, assigned, EVENT_DONE)->look_is_old = old;
                }
        }
        add_failure(moves, assigned, FAILURE_STORAGE);
        add(moves, w, EVENT_PENDING);
        add_request_failures(moves, w);
        add_failure(moves, w, FAILURE_HTTP_SERVER);
        moves->list[moves->count - 1].token_expired = true;
}

static void quiesce_results(Model w, Moves *moves) {
        w.quiesced = true;
        for (unsigned spent = 0; spent < 2; spent++) {
                Model found = w;

                w.hold_spent = found.hold_spent = spent;
                add(moves, w, EVENT_DONE);
                if (w.intended)
                        add(moves, w, EVENT_DONE)->disruption = true;
                model_give_way(&found);
                if (w.intended)
                        add(moves, found, EVENT_DONE);
                add_helper_failures(moves, w);
        }
        w.quiesced = false;
        w.hold_spent = false;
        add_helper_failures(moves, w);
}

static void import_results(Model w, Moves *moves) {
        Model wrapped = w, instead = w, dead = w;

        wrapped.key = HUB_KEY_WRAPPED;
        add(moves, wrapped, EVENT_DONE);
        add(moves, wrapped, EVENT_DONE)->disruption = true;
        model_register_instead(&instead);
        if (!w.no_edge) {
                add(moves, instead, EVENT_DONE);
                add(moves, instead, EVENT_DONE)->ask_dps = true;
        }
        model_discard(&dead);
        add_failure(moves, dead, FAILURE_IDENTITY_MISMATCH);
        if (w.no_edge)
                add_failure(moves, dead, FAILURE_PROTOCOL);
        add_helper_failures(moves, w);
}

static void adopt_results(Model w, Moves *moves) {
        Model adopted = w, way = w, other = w, dead = w;

        adopted.key = HUB_KEY_ADOPTED;
        adopted.handle = MODEL_OURS;
        adopted.keyless = false;
        model_give_way(&way);
        if (w.no_edge && !w.confirmed) {
                model_confirm(&adopted);
                model_confirm(&way);
        }
        add(moves, adopted, EVENT_DONE);
        add(moves, way, EVENT_DONE);
        if (w.confirmed) {
                model_reopen(&adopted);
                add(moves, adopted, EVENT_DONE);
                other.unread = true;
        } else if (w.fresh && !w.no_edge) {
                model_register_instead(&dead);
                add(moves, dead, EVENT_DONE);
                add(moves, dead, EVENT_DONE)->ask_dps = true;
        } else {
                model_discard(&dead);
                dead.keyless = w.quiesced;
                add_failure(moves, dead, FAILURE_IDENTITY_MISMATCH);
        }
        add_helper_failures(moves, other);
}

static void handoff_results(Model w, Moves *moves) {
        Model over = w;

        over.quiesced = false;
        model_confirm(&over);
        add(moves, over, EVENT_DONE);
        model_give_way(&over); /* IoT Edge came up as another device */
        add(moves, over, EVENT_DONE);
        add_helper_failures(moves, w);
}

static void verify_results(Model w, Moves *moves) {
        Model lost = w, moved = w;

        add(moves, w, EVENT_DONE);
        model_reopen(&lost);
        add(moves, lost, EVENT_DONE);
        model_give_way(&moved);
        add(moves, moved, EVENT_DONE);
        add_helper_failures(moves, w);
}

static void results(Model w, Moves *moves) {
        Model forgotten = w;

        switch (w.step) {
        case STEP_IDENTITY:
                identity_results(w, moves);
                break;
        case STEP_PREPARE:
                prepare_results(w, moves);
                break;
        case STEP_REGISTER:
                add(moves, w, EVENT_DONE);
                add_request_failures(moves, w);
                break;
        case STEP_ACTIVATE:
                add(moves, w, EVENT_DONE);
                add_helper_failures(moves, w);
                add_failure(moves, w, FAILURE_IDENTITY_MISMATCH);
                break;
        case STEP_QUIESCE:
                quiesce_results(w, moves);
                break;
        case STEP_CONFIRM:
        case STEP_POLL:
                assigned_results(w, moves);
                break;
        case STEP_IMPORT:
                import_results(w, moves);
                break;
        case STEP_ADOPT:
                adopt_results(w, moves);
                break;
        case STEP_HANDOFF:
                handoff_results(w, moves);
                break;
        case STEP_VERIFY:
                verify_results(w, moves);
                break;
        default:
                assert(w.step == STEP_FORGET);
                forgotten.reset = false;
                forgotten.resting = true;
                add(moves, forgotten, EVENT_DONE);
                add_helper_failures(moves, w);
        }
}

static Model begun(Model w) {
        if (w.progress == PROGRESS_WAITING && w.failure == KIND_THROTTLED)
                w.throttled = false;
        if (w.progress == PROGRESS_WAITING && w.failure == KIND_BUDGET && w.tokens == 0)
                w.tokens = 1;
        if (w.step == STEP_CONFIRM) {
                w.tokens -= w.tokens > 0;
                w.unbudgeted = false;
        }
        if (w.step == STEP_HANDOFF)
                w.noted = NOTED_SAME;
        w.progress = PROGRESS_RUNNING;
        return w;
}

/* --- from outside --- */

static void add_start(Moves *moves, Model w, bool configured) {
        model_end_attempt(&w);
        w.step = 0;
        w.progress = 0;
        w.pending = 0;
        w.failure = 0;
        w.asked = 0;
        w.handle = MODEL_EMPTY;
        w.unread = false;
        w.resting = false;
        w.unbudgeted = false;
        w.configured = configured;
        if (configured && w.intended && w.noted != NOTED_SAME)
                model_hand_over_again(&w);
        add(moves, w, EVENT_START);
}

/* With an intent, each configuration is compared with it, so the last one counts. */
static void ask(Model *w, Pending change) {
        const bool last_counts =
                w->intended && change != PENDING_REPROVISION && w->asked != PENDING_REPROVISION;

        if (!w->reset && (last_counts || change > w->asked))
                w->asked = change;
}

/* configuration.c, act_on_change() */
static void add_usable(Moves *moves, Model w, bool other_target) {
        const bool was_usable = w.configured;

        w.configured = true;
        w.resting = false;
        if (!(w.progress == PROGRESS_WAITING && w.failure == KIND_THROTTLED))
                w.failed_before = false;
        if (w.step == STEP_IDLE && !w.intended)
                add(moves, w, EVENT_CONFIGURED);
        else if (other_target) {
                w.unbudgeted = true;
                ask(&w, PENDING_REATTEST);
                add(moves, w, EVENT_REATTEST);
        } else if (w.noted != NOTED_SAME) {
                ask(&w, PENDING_RETARGET);
                add(moves, w, EVENT_RETARGET);
        } else {
                ask(&w, PENDING_NONE);
                add(moves, w, EVENT_CONFIGURED)->newly_usable = !was_usable;
        }
}

static void add_configurations(Moves *moves, Model w) {
        Model changed = w;

        add_usable(moves, w, false);
        add_usable(moves, w, true);
        changed.no_edge = !w.no_edge;
        changed.noted = NOTED_OTHER;
        add_usable(moves, changed, false);
        changed.noted = NOTED_SAME; /* as it was when the assignment was made */
        if (w.noted == NOTED_OTHER)
                add_usable(moves, changed, false);
        changed.noted = NOTED_OTHER;
        changed.no_edge = w.no_edge;
        changed.adopts = !w.adopts;
        add_usable(moves, changed, false);
        changed.adopts = w.adopts;
        changed.noted = NOTED_OTHER_HANDLE;
        add_usable(moves, changed, false);
        w.configured = false;
        add(moves, w, EVENT_UNCONFIGURED);
}

static void add_outside(Moves *moves, Model w) {
        Model changed = w;

        add_start(moves, w, w.configured);
        add_start(moves, w, !w.configured);
        add_configurations(moves, w);
        if (w.configured) {
                changed.unbudgeted = true;
                ask(&changed, PENDING_REPROVISION);
                add(moves, changed, EVENT_REPROVISION);
        }
        changed = w;
        changed.reset = true;
        changed.asked = PENDING_NONE;
        add(moves, changed, EVENT_RESET);
        changed = w;
        changed.hold_spent = true;
        if (w.quiesced && w.step != STEP_HANDOFF)
                add(moves, changed, EVENT_HOLD_SPENT);
        changed = w;
        changed.throttled = false;
        if (w.throttled && !(w.progress == PROGRESS_WAITING && w.failure == KIND_THROTTLED))
                add_silent(moves, changed);
        changed = w;
        changed.tokens++;
        if (w.tokens < TOKENS_MAX)
                add_silent(moves, changed);
}

void model_moves(Model w, Moves *ret) {
        ret->count = 0;
        if (w.progress == PROGRESS_RUNNING)
                results(w, ret);
        else if (w.progress != PROGRESS_IDLE)
                add_silent(ret, begun(w));
        add_outside(ret, w);
}
