/*
 * Fleet: a simulation in virtual time of many gateways at one DPS instance.
 *
 * Each device runs the daemon's own rules (lib/machine, lib/retry, lib/budget). device.c replaces the rest
 * of the daemon: it does the steps and derives the facts. instance.c is DPS. Both depend on the scenario and
 * on random numbers from a fixed seed, so two runs are equal.
 */
#pragma once

#include "budget.h"
#include "machine.h"

#define MINUTE_USEC (60 * USEC_PER_SEC)
#define HOUR_USEC   (60 * MINUTE_USEC)
#define DAY_USEC    (24 * HOUR_USEC)

/* What the instance counts against its limit. Polls have a separate limit, per device. */
typedef enum Counted {
        COUNTED_REGISTER = 1 << 0, /* the first PUT */
        COUNTED_CONFIRM = 1 << 1,  /* the PUT with the token */
        COUNTED_BOTH = COUNTED_REGISTER | COUNTED_CONFIRM,
} Counted;

#define RETRY_AFTER_NEXT_MINUTE USEC_INFINITY

/* The highest values that pass. 0: no expectation. */
typedef struct Expected {
        double last, last_of_fewer; /* the last device, in capacity bounds; of a fleet below a million */
        usec_t last_usec;           /* the same, in time */
        unsigned requests;          /* of a device, without polls */
        unsigned early_requests;    /* the same, while it can't succeed */
        unsigned registrations;     /* of a device: the confirmations that DPS accepted, which are billed */
        usec_t transient_usec;      /* the wait after a transient failure, with budget left */
} Expected;

typedef struct Scenario {
        const char *name;
        Counted counted;         /* 0: the instance has no limit */
        usec_t retry_after_usec; /* of a 429; 0: none */
        usec_t opens_usec;       /* outages are over, enrollments are made, hubs accept */
        usec_t enrolling_usec;   /* the first enrollment is made; the last one at opens_usec */
        FailureKind outage;      /* DPS' answer until opens_usec */
        FailureKind hub;         /* what a hand-off ends with until opens_usec */
        unsigned lost_percent;   /* of the devices have a wrong scope for ever */
        bool outage_later;       /* not to the first PUT */
        bool hub_refuses;        /* so the daemon has to register again */
        Expected expected;
} Scenario;

extern const Scenario fleet_scenarios[];
extern const size_t fleet_n_scenarios;

typedef struct Device {
        Machine machine;
        Facts facts;
        Budget budget;
        usec_t due_usec;      /* when it acts next */
        usec_t assigned_usec; /* DPS has an answer to the poll */
        usec_t done_usec;     /* handed off; 0: not yet */
        uint64_t random;
        uint32_t next; /* in the queue, see queue.c */
        uint16_t early_requests, requests, registrations;
        bool answered; /* DPS answered, so its Date is known */
        bool lost;     /* has a wrong scope */
} Device;

/* The measured values of a run, see Expected. */
typedef struct Seen {
        usec_t last_usec;
        double last, mean_requests;
        unsigned requests, early_requests, registrations;
        uint32_t unfinished; /* devices that could have been handed off and were not */
        usec_t transient_usec;
} Seen;

typedef struct Queue Queue;

typedef struct Fleet {
        const Scenario *scenario;
        const RetryPolicy *policy;
        Device *devices;
        uint32_t n_devices;
        uint32_t limit; /* operations a minute */
        uint64_t minute, used;
        usec_t transient_usec; /* the longest so far, see Expected */
        Queue *queue;
} Fleet;

/* The devices by the time at which they act next. Within a tenth of a second the order is not kept. */
int queue_new(Queue **ret, Device *devices, usec_t horizon_usec);
Queue *queue_free(Queue *queue);
void queue_add(Queue *queue, uint32_t id, usec_t usec); /* drops times beyond the horizon */
bool queue_take(Queue *queue, uint32_t *ret);           /* false: there is nothing left */

/* The time at which DPS can first serve the fleet. Measurements begin here. */
usec_t scenario_begin_usec(const Scenario *scenario);

typedef struct Answer {
        FailureKind failure; /* FAILURE_NONE: accepted */
        usec_t retry_after_usec;
} Answer;

/* To the device's request, which arrives now. */
Answer instance_answer(Fleet *fleet, uint32_t id, usec_t now_usec);

void device_boot(Fleet *fleet, uint32_t id);
void device_wake(Fleet *fleet, uint32_t id);
