/*
 * Emulator: the service as a whole: its settings, what it remembers, and the two that answer requests with
 * them.
 */
#pragma once

#include "attempts.h"
#include "enrollments.h"
#include "exchange.h"
#include "faults.h"
#include "registry.h"

typedef struct Emulator {
        const char *scope, *retry_after; /* borrowed */
        unsigned polls;                  /* how many GETs say `assigning` first */
        HubKeys hub_keys;
        int64_t clock_offset; /* seconds */
        char base_url[64];    /* https://localhost:PORT */
        Enrollments *enrollments;
        Registry *registry;
        Attempts *attempts;
        Faults *faults;
} Emulator;

time_t emulator_now(const Emulator *emulator); /* its own idea of the time */

/* Fill an initialised response. emulator_answer() calls one of the two others. */
void emulator_answer(Emulator *emulator, const Request *request, Response *response);
void service_answer(Emulator *emulator, const Request *request, Response *response); /* DPS */
void hub_answer(Emulator *emulator, const Request *request, Response *response);     /* IoT Hub */
