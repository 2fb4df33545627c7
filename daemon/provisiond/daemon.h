/*
 * Daemon: owns the parts, feeds the machine and runs its actions. At most one operation is under way.
 *
 * Each part has a file, a type and a deinit function: Attempt, HelperCalls, Publisher, Reset, ServerTime,
 * Tpm1, Wait, Warnings. HelperCalls feeds the daemon and Publisher reads the daemon; the other parts know
 * nothing of the daemon.
 *
 * Other files: step-*.c start one step each, record its result and feed the event; intent.c begins, changes
 * and discards the intended assignment; bus.c is the D-Bus interface; watch*.c feed outside events (files,
 * network, clock, the TPM's device); configuration.c feeds the consequences of a changed configuration.
 */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "attempt.h"
#include "dps.h"
#include "helper.h"
#include "machine.h"
#include "options.h"
#include "publish.h"
#include "record.h"
#include "reset.h"
#include "server-time.h"
#include "tpm1.h"
#include "wait.h"
#include "warnings.h"

#define CALLERS_MAX 8

typedef struct Watch Watch;

typedef struct Daemon {
        const DaemonOptions *options;
        sd_event *event;
        sd_bus *bus;
        Watch *watch;

        Config *config;
        Config *config_before; /* the last one that was usable, while config is not */
        uint8_t config_hash[SHA256_SIZE];

        Machine machine;
        Record record;
        usec_t noted_throttling_usec; /* Wait.throttled_until_usec in the last record */
        Failure failure;              /* the last one; FAILURE_NONE: none */
        Step failed_step;

        Attempt attempt;
        HelperCalls helper;
        sd_bus_slot *handoff_owner; /* see handoff_watch() */
        Publisher publisher;
        Reset reset;
        ServerTime server_time;
        Tpm1 tpm;
        Wait wait;
        Warnings warnings;

        sd_bus_message *reprovision[CALLERS_MAX]; /* calls that wait for the state "attesting" */
        size_t reprovision_count;
        size_t question_count; /* pending questions to polkit */
} Daemon;

int daemon_new(Daemon **ret, const DaemonOptions *options, sd_event *event, sd_bus *bus);
Daemon *daemon_free(Daemon *daemon);
void daemon_freep(Daemon **daemon);

/* Loads the stored state and begins. */
int daemon_start(Daemon *daemon);

/* Feeds the result of the step under way, or an outside event. */
void daemon_feed(Daemon *daemon, const Event *event);
void daemon_done(Daemon *daemon);                           /* EVENT_DONE with nothing to add */
void daemon_failed(Daemon *daemon, const Failure *failure); /* EVENT_FAILED */

/* Shortens the wait after an outside event that may cure the failure. */
void daemon_shorten_wait(Daemon *daemon, RetryEvent event);
void daemon_end_wait(Daemon *daemon); /* Retry(): begins as early as the CallLimit allows */
void daemon_clock_set(Daemon *daemon);
void daemon_forget_throttling(Daemon *daemon); /* for another DPS instance */

/* configuration.c. daemon_reload() rereads it and acts on what changed; asked: also when nothing has. */
void daemon_reload(Daemon *daemon, bool asked);
bool daemon_config_usable(const Daemon *daemon, Failure *ret); /* false without a failure: no scope */
int daemon_hash_config(const Daemon *daemon, uint8_t ret[static SHA256_SIZE]);
bool daemon_retargeted(const Daemon *daemon);  /* the settings of the hand-off changed */
void daemon_warn_about_config(Daemon *daemon); /* warns about settings without effect, and: */
void daemon_warn_about_hub(Daemon *daemon);    /* warns when the hub in use is not allowed */
void daemon_report_unusable(Daemon *daemon, const Failure *failure);

/* intent.c. These functions change the record. The caller feeds the event, which saves the record. */
void daemon_facts(const Daemon *daemon, Facts *ret);
State daemon_state(const Daemon *daemon);
int daemon_target(const Daemon *daemon, Target *ret); /* by the current configuration and TPM */
/* Makes the reply of DPS the intended assignment and writes it to disk, with the hub key as received. */
int intent_begin(Daemon *daemon, DpsReply *reply, Failure *reterr);
/* Accepts the device that IoT Edge runs as already, without a registration. */
int intent_begin_with_own(Daemon *daemon, const char *hub, const char *device_id);
/* The hub has accepted the intended assignment. hub, device_id: the device that IoT Edge runs as; NULL: the
 * assigned one. */
int intent_confirm(Daemon *daemon, const char *hub, const char *device_id);
/* Keeps IoT Edge's newer identity (hub, device_id; NULL: the assigned device) and drops our hub key. */
int intent_give_way(Daemon *daemon, const char *hub, const char *device_id);
/* This TPM can't use the hub key: IoT Edge has to register itself. */
void intent_register_instead(Daemon *daemon, const char *why);
int intent_change(Daemon *daemon, Pending change); /* Action.change */
/* Compares the intended assignment with the attempt's snapshot, and gives way to a newer identity. A key at
 * the handle counts as equal to ours until AdoptHubKey has compared them. */
int intent_judge(Daemon *daemon);
/* True when AllowedHubs= allows the hub of the intended assignment, or the assignment is confirmed. */
bool intent_is_allowed(const Daemon *daemon);
int intent_note_configuration(Daemon *daemon); /* what it is handed over with, from now on */

bool daemon_adopts(const Daemon *daemon); /* Identity=adopt, as configured */

/* clock.c: see server-time.h */
bool daemon_clock_behind(const Daemon *daemon, Failure *ret);
void daemon_set_server_time(Daemon *daemon, uint64_t date);
void daemon_restore_server_time(Daemon *daemon); /* from the record */
BudgetTime daemon_budget_time(const Daemon *daemon);
uint64_t daemon_server_time(const Daemon *daemon);
uint64_t daemon_latest_time(const Daemon *daemon);

/* step-*.c: each starts its step and returns; the result comes through daemon_feed(). */
void step_identity(Daemon *daemon);
void step_activate(Daemon *daemon);
void step_import(Daemon *daemon);
void step_adopt(Daemon *daemon);
void step_prepare(Daemon *daemon);
void step_quiesce(Daemon *daemon);
void step_handoff(Daemon *daemon);
void step_verify(Daemon *daemon);
void step_register(Daemon *daemon);
void step_confirm(Daemon *daemon);
void step_poll(Daemon *daemon);
void step_forget(Daemon *daemon);

int handoff_watch(Daemon *daemon);   /* notices the end of the helper while IoT Edge is quiesced */
void handoff_resume(Daemon *daemon); /* does not wait for the reply */

/* step-tpm.c: reads what is at the hub key's handle into daemon->tpm. done() can't read the reply again. */
void step_look_at_handle(Daemon *daemon, HelperDone done);

/* bus.c */
int bus_export(Daemon *daemon);
void bus_publish(Daemon *daemon); /* PropertiesChanged for what changed */
void bus_answer_reprovision(Daemon *daemon);

/* watch.c */
int watch_new(Watch **ret, Daemon *daemon);
Watch *watch_free(Watch *watch);
void watch_update(Watch *watch);     /* call before a reload: directories may have changed */
void watch_configured(Watch *watch); /* call after a reload */
bool watch_clock_synchronized(Watch *watch);
