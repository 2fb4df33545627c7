/*
 * Machine: the order of things. Pure code: events go in, the next action comes out; the daemon does the I/O.
 *
 * Exactly one step is under way, waits for its time, or there is nothing to do (STEP_IDLE). A failure is not
 * a state: the machine stays where it is and comes back later. Only this module knows the order of the
 * steps, and only it asks of which class a failure is.
 */
#pragma once

#include "failure.h"
#include "retry.h"

typedef enum State {
        STATE_UNPROVISIONED,
        STATE_ATTESTING,
        STATE_ASSIGNED,
        STATE_HANDED_OFF,
        _STATE_MAX,
        _STATE_INVALID = -22,
} State;

typedef enum Step {
        STEP_IDLE,
        STEP_IDENTITY, /* Tpm1.Identity */
        STEP_PREPARE,  /* HandOff1.Check */
        STEP_REGISTER, /* PUT without a token */
        STEP_ACTIVATE, /* Tpm1.SignRegistration */
        STEP_QUIESCE,  /* HandOff1.Quiesce */
        STEP_CONFIRM,  /* PUT with the token */
        STEP_POLL,     /* GET of the operation */
        STEP_IMPORT,   /* Tpm1.ImportHubKey */
        STEP_ADOPT,    /* Tpm1.AdoptHubKey */
        STEP_HANDOFF,  /* HandOff1.Apply */
        STEP_VERIFY,   /* HandOff1.Verify */
        STEP_FORGET,   /* a factory reset: HandOff1.Forget, then Tpm1.ForgetHubKey */
        _STEP_MAX,
} Step;

typedef enum EventType {
        /* how the step under way ended */
        EVENT_DONE,
        EVENT_PENDING,  /* CONFIRM, POLL: ask again after delay_usec */
        EVENT_ASSIGNED, /* REGISTER, CONFIRM, POLL: hub_key says whether the hub's key came with it */
        EVENT_ALREADY,  /* PREPARE: IoT Edge works without us having provisioned it */
        EVENT_MOVED,    /* PREPARE, VERIFY: IoT Edge registered by itself since */
        EVENT_LOST,     /* IDENTITY, VERIFY: what was handed off is gone */
        EVENT_OTHER,    /* IDENTITY: another TPM, registration ID, scope or endpoint than the stored
                           assignment's */
        EVENT_FAILED,
        /* from outside, at any time */
        EVENT_CONFIGURED,   /* a usable scope is there, and it is the one there was */
        EVENT_UNCONFIGURED, /* the scope is gone or the configuration has an error */
        EVENT_REATTEST,     /* Reprovision(), or another scope, endpoint or registration ID */
        EVENT_RETARGET,     /* HubKeyHandle=, Target= or Identity= changed */
        EVENT_RESET,        /* FactoryReset() */
        _EVENT_MAX,
} EventType;

typedef struct Event {
        EventType type;
        const Failure *failure; /* EVENT_FAILED */
        usec_t delay_usec;      /* EVENT_PENDING; EVENT_REATTEST, EVENT_RETARGET: what is left of the wait;
                                   EVENT_CONFIGURED, and in STATE_UNPROVISIONED EVENT_REATTEST: what is left
                                   of a 429's, also of one that was given up */
        bool live;              /* PREPARE: IoT Edge is at work and has to be quiesced */
        bool adopt;             /* PREPARE: the hub's key may be adopted (Identity=) */
        bool hub_key;           /* EVENT_ASSIGNED */
        bool forced;            /* EVENT_REATTEST: somebody asked for it */
} Event;

typedef struct Action {
        bool start;        /* false: leave everything as it is */
        bool cancel;       /* first end the request or the wait that is under way */
        bool resume;       /* tell IoT Edge that it may go on */
        Step step;         /* STEP_IDLE: nothing to do */
        usec_t delay_usec; /* from now */
} Action;

typedef struct Machine {
        State state;
        Step step;        /* under way, or to be done when the wait is over */
        bool waiting;     /* its time has not come */
        bool begun;       /* under way: only its own result ends a helper's call */
        bool restart;     /* EVENT_REATTEST came in the middle of a helper's call, which has to end first */
        bool retarget;    /* the same for EVENT_RETARGET */
        bool configured;  /* a usable scope is there */
        bool reset;       /* a factory reset has begun: nothing else happens until it is complete */
        bool target_none; /* Target=none: no hand-off */
        bool has_assignment; /* an assignment is stored: "already" does not apply */
        bool has_hub_key;    /* a wrapped key is stored with the assignment */
        bool adopt;          /* Identity=adopt, as PREPARE has it */
        bool live, quiesced;
        bool forced;         /* somebody asked for a new attestation */
        bool fresh;          /* the assignment came in this very attempt */
        FailureKind failure; /* the last one; FAILURE_NONE after success */
        Retry retry;
} Machine;

/* The first action after the daemon's start. state: the stored one; configured: a usable scope is there;
 * throttled_usec: what is left of a 429's wait. */
Action machine_start(Machine *machine, State state, bool configured, usec_t throttled_usec);

Action machine_feed(Machine *machine, const Event *event, const RetryPolicy *policy, uint64_t random);

/* The wait, if there was one, is over: the step is under way from now on. Until then what comes from outside
 * takes its place, and only from then on has it a result. */
void machine_begin(Machine *machine);

/* Is this the wait after a failure? The one between two polls is not. */
bool machine_backing_off(const Machine *machine);

/* Does the service make everybody wait (429)? Then nobody may shorten it. */
bool machine_throttled(const Machine *machine);

const char *state_to_string(State state);
const char *state_message_id(State state); /* of the journal's entry for reaching it */
State state_from_string(const char *name); /* _STATE_INVALID */
const char *step_to_string(Step step);

/* What the daemon allows a call of the hand-off helper, which keeps its own waits below it. */
#define HANDOFF_DEADLINE_USEC (600 * USEC_PER_SEC)

/* Steps that a helper does can't be cancelled; the longest that the daemon waits for one. USEC_INFINITY for
 * the others, whose limit is the request's own timeout. */
usec_t step_deadline_usec(Step step);
