/*
 * Bus: what the three daemons' D-Bus sides share: how a Failure crosses the bus, who may call a helper, and
 * a helper's life (activated by a call, gone when idle).
 *
 * A Failure travels as the error name BUS_FAILURE_PREFIX plus its kind with '_' for '-', and the message
 * "sentence [code]". A helper's reply carries retry_after and the failure's own hint ("": none) behind it.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "failure.h"

#define BUS_FAILURE_PREFIX "org.dps.Failure."

#define PROVISIONING_NAME "org.dps.Provisioning1"
#define PROVISIONING_PATH "/org/dps/Provisioning1"
#define TPM_NAME          "org.dps.Tpm1"
#define TPM_PATH          "/org/dps/Tpm1"
#define HANDOFF_NAME      "org.dps.HandOff1"
#define HANDOFF_PATH      "/org/dps/HandOff1"

/* Passed with the calls whose signature does not identify their version. A call with another version is
 * refused with InvalidArgs. */
#define HANDOFF_VERSION 4u

#define DPS_USER "dps-provision"

/* Sets error from failure and returns the negative errno of its kind, as a method handler has to. */
int bus_error_set_failure(sd_bus_error *error, const Failure *failure);

/* Replies with the failure, its retry_after and its own hint included. */
int bus_reply_failure(sd_bus_message *call, const Failure *failure);

/* Adds what such a reply has behind its message. */
void bus_read_details(sd_bus_message *reply, Failure *failure);

/* The failure that an error carries, without the details. One that is not ours (the helper died, could not
 * be started, timed out, access was denied) becomes `fallback` with a message that names `subject`, and
 * with `remedy`. */
void bus_failure_from_error(Failure *ret, const sd_bus_error *error, FailureKind fallback,
                            const char *subject, const char *remedy);

/* 0 when the sender of the message is root, the user DPS_USER or this program's own; else fills error with
 * AccessDenied, logs once. */
int bus_check_caller(sd_bus_message *message, sd_bus_error *error);

/* The same for root and this program's own user only. */
int bus_check_root(sd_bus_message *message, sd_bus_error *error);

/* Reads an a{sv}: read() is called for each entry and has to take its variant. 0, or a negative errno, also
 * read()'s. What is read points into the message. */
int bus_read_entries(sd_bus_message *message,
                     int (*read)(sd_bus_message *message, const char *key, void *userdata), void *userdata);

/* Runs a bus-activated helper: opens the system bus (DBUS_SYSTEM_BUS_ADDRESS honoured), exports the vtable,
 * owns the name, notifies systemd, and serves calls. After idle_usec since the end of the last call it
 * releases the name, serves the calls that came in the meantime, and returns 0. busy() (may be NULL) returns
 * true while the work of a call continues. After a call of another version, or when outdated() returns true,
 * the helper leaves as soon as possible, so that the next call starts the installed program. SIGTERM ends it
 * as well. Returns a negative errno when the bus is lost or the name is taken. */
typedef struct BusHelperSettings {
        const char *name, *path;
        const sd_bus_vtable *vtable;
        void *userdata;
        usec_t idle_usec;
        bool (*busy)(void *userdata);
        bool (*outdated)(void *userdata); /* may be NULL */
        int (*start)(sd_bus *bus, sd_event *event,
                     void *userdata); /* may be NULL: before the name is owned */
        void (*stop)(void *userdata); /* may be NULL: on SIGTERM, the last thing that is done */
} BusHelperSettings;

int bus_helper_run(const BusHelperSettings *settings);
