/*
 * Helper: calls of dps-tpmd and dps-handoffd. One call at a time, with the deadline of the step under way.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "failure.h"

typedef struct Daemon Daemon;

typedef enum Helper {
        HELPER_TPM,
        HELPER_HANDOFF,
        _HELPER_MAX,
} Helper;

/* Appends the arguments. */
typedef int (*HelperBuild)(Daemon *daemon, sd_bus_message *message);
/* Gets the reply. Returns a negative errno when the reply is malformed. */
typedef int (*HelperDone)(Daemon *daemon, sd_bus_message *reply);
/* Gets the failure before it is fed, and may change it. Returns true when it has handled the failure and
 * nothing is to be fed. */
typedef bool (*HelperFailed)(Daemon *daemon, Failure *failure);

typedef struct HelperCall {
        Helper helper;
        const char *method;
        HelperBuild build; /* NULL: no arguments */
        HelperDone done;
        HelperFailed failed; /* may be NULL */
} HelperCall;

/* The call under way. */
typedef struct HelperCalls {
        sd_bus_slot *slot;
        HelperCall call;
        HelperDone looked; /* of step_look_at_handle() */
} HelperCalls;

void helper_deinit(HelperCalls *calls); /* neither done() nor failed() is called */

void helper_call(Daemon *daemon, const HelperCall *call);

/* Appends the names of TPM objects (aay). NULL and an empty name are left out. */
int helper_append_names(sd_bus_message *message, const Bytes *const *names, size_t count);
