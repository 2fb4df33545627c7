/*
 * Model: the machine, the record, the configuration and IoT Edge in 64 bits, for the walk over everything
 * that can be reached (test-machine-walk.c). The steps' results and the outside events are modelled after
 * daemon/provisiond (step-*.c, intent.c, configuration.c). The facts come from the daemon's own function.
 *
 * Four facts are chosen in both ways where they matter: whether IoT Edge has to ask DPS, whether the look is
 * old, whether the token has expired, and whether the disruption budget forbids the hand-off.
 */
#pragma once

#include <assert.h>

#include "facts.h"

#define TOKENS_MAX       2 /* of the registration budget */
#define THROTTLED_USEC   (3600 * USEC_PER_SEC)
#define RETRY_AFTER_USEC (1800 * USEC_PER_SEC)
#define DISRUPTION_USEC  (5400 * USEC_PER_SEC)
#define POLL_USEC        (7 * USEC_PER_SEC)
#define MOVES_MAX        40

typedef enum Noted {
        NOTED_SAME, /* the assignment was made with the settings of the hand-off as they are */
        NOTED_OTHER,
        NOTED_OTHER_HANDLE,
} Noted;

typedef enum Handle {
        MODEL_EMPTY,
        MODEL_OURS,
        MODEL_OTHER_KEY,
} Handle;

typedef enum Kind {
        KIND_NONE,
        KIND_TRANSIENT,
        KIND_OPERATOR,
        KIND_THROTTLED,
        KIND_BUDGET,
        KIND_DISRUPTION,
} Kind;

typedef union Model {
        struct {
                unsigned step : 4, progress : 2, pending : 2, failure : 3,
                        failed_before : 1, /* the machine */
                        intended : 1, confirmed : 1, hand_over : 2, key : 2,
                        other : 1,                          /* the record; other: */
                        forced : 1, reset : 1, resting : 1, /* another assignment is confirmed */
                        configured : 1, no_edge : 1, adopts : 1, noted : 2, /* the configuration */
                        handle : 2, unread : 1,                             /* the TPM */
                        live : 1, quiesced : 1, hold_spent : 1, fresh : 1, keyless : 1, /* the attempt */
                        throttled : 1, tokens : 2, unbudgeted : 1,                      /* the limits */
                        asked : 2; /* for the properties: the highest change that was asked for and not made
                                    */
        };
        uint64_t all;
} Model;
static_assert(sizeof(Model) == sizeof(uint64_t), "a model is a key");

/* What happens next, and the model in which the machine is told. */
typedef struct Move {
        Model model;
        bool fed; /* otherwise only the model changes */
        EventType event;
        FailureKind failure;
        bool newly_usable;
        bool ask_dps, look_is_old, token_expired, disruption;
} Move;

typedef struct Moves {
        Move list[MOVES_MAX];
        unsigned count;
} Moves;

void model_facts(const Move *move, Facts *ret);
Machine model_machine(Model w);
void model_set_machine(Model *w, const Machine *m);

/* All that can happen. Where the work goes on, the first move is what happens when all is well. */
void model_moves(Model w, Moves *ret);

/* The daemon's act(). */
void model_act(Model *w, const Action *action);
/* Clears what will be set before it matters, so that fewer models differ. */
void model_simplify(Model *w);
State model_state(Model w);

/* The intended assignment, as intent.c and record.c change it. */
void model_change(Model *w, Pending change);
void model_intend(Model *w, HandOver hand_over, HubKeyState key);
void model_confirm(Model *w);
void model_reopen(Model *w);
void model_discard(Model *w);
void model_give_way(Model *w);
void model_register_instead(Model *w);
void model_hand_over_again(Model *w);
void model_end_attempt(Model *w);
