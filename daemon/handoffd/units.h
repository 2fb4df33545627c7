/*
 * Units: systemd over D-Bus: the state of a unit, and jobs one after the other.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "failure.h"

#define UNIT_EDGED            "aziot-edged.service"
#define UNIT_EDGED_MGMT       "aziot-edged.mgmt.socket"
#define UNIT_EDGED_WORKLOAD   "aziot-edged.workload.socket"
#define UNIT_IDENTITYD        "aziot-identityd.service"
#define UNIT_IDENTITYD_SOCKET "aziot-identityd.socket"
#define UNIT_KEYD             "aziot-keyd.service"
#define UNIT_KEYD_SOCKET      "aziot-keyd.socket"
#define UNIT_CERTD            "aziot-certd.service"
#define UNIT_CERTD_SOCKET     "aziot-certd.socket"
#define UNIT_TPMD             "aziot-tpmd.service"
#define UNIT_TPMD_SOCKET      "aziot-tpmd.socket"
#define UNIT_APPLY            "dps-iotedge-apply.service"
#define UNIT_DOCKER           "docker.service"
#define UNIT_DOCKER_SOCKET    "docker.socket"
#define UNIT_MOBY             "moby-engine.service"
#define UNIT_PODMAN           "podman.service"
#define UNIT_PODMAN_SOCKET    "podman.socket"
#define UNIT_DOCKER_SNAP      "snap.docker.dockerd.service"
#define UNIT_SNAP             "snap.azure-iot-edge.aziot-edged.service"

typedef struct Units Units;

typedef struct UnitState {
        bool exists, masked, active, failed;
        bool broken;                /* it has a file, which systemd can't use */
        bool failing;               /* it has ended with an error and is about to be started again */
        uint64_t active_enter_usec; /* CLOCK_MONOTONIC, 0: it is not active, or never was */
        char result[32]; /* "exit-code", … of a service that has failed or is failing; else "" */
} UnitState;

typedef enum UnitVerb {
        UNIT_START,
        UNIT_STOP,
        UNIT_RESTART,
} UnitVerb;

typedef struct UnitJob {
        UnitVerb verb;
        const char *unit; /* a constant */
} UnitJob;

typedef void (*UnitsDone)(void *userdata, const Failure *failure); /* NULL: every job was done */

#define UNITS_LEAST_USEC (5 * USEC_PER_SEC)

int units_new(Units **ret, sd_bus *bus, sd_event *event);
Units *units_free(Units *units);
void units_freep(Units **units);

/* Wait for systemd's answer, at most 5 s; count is at least 1. ret is undefined after a failure of
 * units_query_all(). */
int units_query(Units *units, const char *unit, UnitState *ret, Failure *reterr);
int units_query_all(Units *units, const char *const names[], size_t count, UnitState ret[], Failure *reterr);

/* When the unit became active, CLOCK_REALTIME. 0: it never was. UINT64_MAX: systemd does not say. */
uint64_t units_entered_real(Units *units, const char *unit);

/* Calls on_variable() for each "NAME=VALUE" that a service gets from its unit, and on_file(), which may be
 * NULL, for the path of each EnvironmentFile=. unit NULL: what systemd gives every service. */
int units_read_environment(Units *units, const char *unit,
                           void (*on_variable)(void *userdata, const char *text),
                           void (*on_file)(void *userdata, const char *path), void *userdata);

/* CLOCK_MONOTONIC: no job is waited for longer, but each gets UNITS_LEAST_USEC. */
void units_set_deadline(Units *units, usec_t deadline);

/* Runs the jobs in order; the first that fails or takes longer than 100 s (UNIT_APPLY: 300 s) ends it. Units
 * that don't exist are passed over when they are stopped, and sockets also when they are started. jobs is
 * copied. done() is called from the loop. -EBUSY: jobs are under way. */
int units_run(Units *units, const UnitJob *jobs, size_t count, UnitsDone done, void *userdata);

/* The same, but each job gets its turn, whatever becomes of the others; done() is told the first failure.
 * Units that don't exist or are masked are passed over. */
int units_run_all(Units *units, const UnitJob *jobs, size_t count, UnitsDone done, void *userdata);

/* Asks for all of the jobs and waits for none. */
void units_ask(Units *units, const UnitJob *jobs, size_t count);
