/*
 * Machine: the order of the steps. Pure code: facts and events go in, the next action comes out. The daemon
 * does the I/O.
 *
 * One table (machine.c; printed in docs/architecture.md) says for each state, step and event what happens
 * next. The machine does not store the State. The State follows from the facts, which the daemon derives
 * from its record and its configuration for each call. The daemon records the result of a step before it
 * feeds the event, so the facts already contain the result.
 *
 * At most one step is under way. A failure is not a state: the machine stays where it is and comes back
 * later. Only this module knows the order of the steps, and only it asks of which class a failure is.
 */
#pragma once

#include "assignment.h"
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
        STEP_REGISTER, /* PUT without a token; when assigned, a test whether DPS answers */
        STEP_ACTIVATE, /* Tpm1.SignRegistration */
        STEP_QUIESCE,  /* HandOff1.Quiesce */
        STEP_CONFIRM,  /* PUT with the token */
        STEP_POLL,     /* GET of the operation */
        STEP_IMPORT,   /* Tpm1.ImportHubKey */
        STEP_ADOPT,    /* Tpm1.AdoptHubKey; when handed off, a comparison of the keys */
        STEP_HANDOFF,  /* HandOff1.Apply */
        STEP_VERIFY,   /* HandOff1.Verify */
        STEP_FORGET,   /* a factory reset: HandOff1.Forget, then Tpm1.ForgetHubKey */
        _STEP_MAX,
} Step;

/* The input of each decision: what is true now. */
typedef struct Facts {
        bool reset;      /* a factory reset is due */
        bool resting;    /* after a factory reset, until the daemon's next start, another configuration or
                            Reprovision() */
        bool configured; /* the configuration has no error and names a scope */
        bool no_edge;    /* Target=none */
        bool intended;   /* there is an intended assignment */
        bool confirmed;  /* the intended assignment is confirmed by the hub */
        bool fresh;      /* DPS made the intended assignment in this attempt */
        /* as seen in this attempt */
        bool key_in_place;   /* the hub key's handle holds our adopted key */
        bool key_questioned; /* it holds another HMAC key, which AdoptHubKey can compare with ours */
        FailureKind unread;  /* of the last look at the TPM of a handed-off gateway; FAILURE_NONE: none */
        bool live;           /* identityd is provisioned and IoT Edge's units are up */
        bool look_is_old;    /* IoT Edge may have changed since PREPARE looked at it */
        bool quiesced;       /* identityd and aziot-tpmd are stopped until Apply or Resume */
        bool hold_spent;     /* IoT Edge has been quiesced for as long as this registration allows */
        bool keyless;        /* the TPM was cleared, so a resumed IoT Edge would register itself */
        bool token_expired;  /* DPS would reject every further request of this attempt */
        bool ask_dps; /* IoT Edge has to give up its identity to register, and DPS has not answered lately */
        /* of the intended assignment */
        HandOver hand_over;
        HubKeyState key;
        /* the remaining waits; 0: none */
        usec_t throttled_usec;  /* DPS is throttling requests (HTTP 429) */
        usec_t budget_usec;     /* until the registration budget gains one */
        usec_t disruption_usec; /* until the disruption that the hand-off may need is allowed */
} Facts;

State facts_state(const Facts *facts);

typedef enum EventType {
        /* how the step under way ended */
        EVENT_DONE,
        EVENT_PENDING, /* CONFIRM, POLL: ask again after delay_usec */
        EVENT_FAILED,
        /* from outside, at any time */
        EVENT_START,        /* of the daemon */
        EVENT_CONFIGURED,   /* the configuration is usable and has the same target */
        EVENT_UNCONFIGURED, /* the scope is gone or the configuration has an error */
        EVENT_RETARGET,     /* HubKeyHandle=, Target= or Identity= changed */
        EVENT_REATTEST,     /* another scope, endpoint or registration ID */
        EVENT_REPROVISION,  /* a person asked for a new registration */
        EVENT_RESET,        /* FactoryReset() */
        EVENT_HOLD_SPENT,   /* Facts.hold_spent became true */
        _EVENT_MAX,
} EventType;

typedef struct Event {
        EventType type;
        const Failure *failure; /* EVENT_FAILED */
        usec_t delay_usec;      /* EVENT_PENDING: until the next poll */
        bool newly_usable;      /* EVENT_CONFIGURED: the configuration was not usable before */
} Event;

/* The change that an outside event asks for. It waits for the end of a helper's call; the highest wins. */
typedef enum Pending {
        PENDING_NONE,
        PENDING_RETARGET,    /* hand the same assignment over in another way */
        PENDING_REATTEST,    /* the target changed: the intended assignment is void */
        PENDING_REPROVISION, /* a person asked for a registration: the intended assignment is void */
        _PENDING_MAX,
} Pending;

typedef enum Progress {
        PROGRESS_IDLE,
        PROGRESS_WAITING, /* the step begins after a failure's delay */
        PROGRESS_DUE,     /* the step begins with the next turn of the loop, a poll when DPS asked for it */
        PROGRESS_RUNNING,
        _PROGRESS_MAX,
} Progress;

typedef struct Action {
        bool start;     /* end the request or the wait that is under way; begin the step after the delay */
        bool resume;    /* call HandOff1.Resume */
        bool held_back; /* the delay is that of a budget; Machine.failure tells which */
        Pending change; /* make this change in the record first */
        Step step;      /* STEP_IDLE: nothing to do */
        usec_t delay_usec; /* from now */
} Action;

typedef struct Machine {
        Step step; /* under way, or next */
        Progress progress;
        Pending pending;
        FailureKind failure; /* the last one; FAILURE_NONE after success */
        Retry retry;
} Machine;

Action machine_feed(Machine *machine, const Facts *facts, const Event *event, const RetryPolicy *policy,
                    uint64_t random);

/* The step is under way from now on, and ends with a result. */
void machine_begin(Machine *machine);

/* True during the wait after a failure, false between two polls. */
bool machine_backing_off(const Machine *machine);

/* True while DPS is throttling requests (HTTP 429). No event shortens this wait. */
bool machine_throttled(const Machine *machine);

const char *state_to_string(State state);
const char *state_message_id(State state); /* of the journal's entry for reaching it */
State state_from_string(const char *name); /* _STATE_INVALID */
const char *step_to_string(Step step);

/* What the daemon allows a call of the hand-off helper, which keeps its own waits below it. */
#define HANDOFF_DEADLINE_USEC (720 * USEC_PER_SEC)

/* Steps that a helper does can't be cancelled; the longest that the daemon waits for one. USEC_INFINITY for
 * the others, whose limit is the request's own timeout. */
usec_t step_deadline_usec(Step step);

/* True for a step that may run, or be waited for, while IoT Edge is quiesced. */
bool step_holds(Step step);
