/*
 * Handoffd: the hand-off helper as a whole, and the operation that is under way: one at a time, as a list of
 * steps. A step that has to wait (for a job of systemd, for identityd, for a timer) says so and the event
 * that it waited for runs the list on. A failed step ends the list; the recovery steps then start what was
 * stopped, on every path.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "applied.h"
#include "assignment.h"
#include "budgets.h"
#include "identityd.h"
#include "judge.h"
#include "options.h"
#include "stopped.h"
#include "units.h"

#define HANDOFF_WARNINGS_MAX 8
#define HANDOFF_QUEUE_MAX    16
#define CONFIRM_LEAST_USEC   (15 * USEC_PER_SEC)
#define HANDOFF_BUSY         "org.dps.HandOff1.Busy"

typedef struct Handoffd Handoffd;
typedef struct Operation Operation;

/* 0: go on; FLOW_WAIT; a negative errno with op->failure set. */
#define FLOW_WAIT 1
typedef int (*FlowStep)(Operation *op);

/* What Apply does and has done. */
typedef struct Plan {
        bool forget; /* Forget: there may be something of ours, so IoT Edge is stopped */
        bool adopt, write_config, write_device_info, renew_key, run_apply;
        bool restart_main, restart_identityd, reprovision;
        bool begun, started;              /* by an earlier attempt; IoT Edge was restarted for it */
        char *written;                    /* what config.toml will say, when write_config */
        StoreFile config_file, info_file; /* the new files; once placed, the old ones */
        Applied applied;                  /* as before, when run_apply */
        Running running;                  /* the units before the first was stopped */
        Record record;                    /* as before, when recorded */
        bool recorded;
        bool applying; /* `iotedge config apply` was begun */
        bool settled;  /* the new files stay, whatever fails later */
        bool unsteady;
        char *pending; /* of the record: what IoT Edge becomes */

        usec_t deadline; /* of the confirmation, CLOCK_MONOTONIC */
        bool keep;       /* IoT Edge's own, newer identity stays */

        bool need_new_proof; /* identityd was started anew: only a prev_state newer than this counts */
        FileMark proof_before;
        char *hub, *device_id; /* as whom IoT Edge runs, once confirmed */
} Plan;

struct Operation {
        Handoffd *h;
        sd_bus_message *message; /* the call to answer, or NULL */
        const char *name;
        const FlowStep *steps, *steps_begun, *recovery; /* the next one; the list it began with */
        bool failed, changed;
        bool disruption_permitted;
        usec_t disruption_wait_usec; /* of Check: until the next disruption is allowed */
        usec_t deadline;             /* of all of it, CLOCK_MONOTONIC */
        Failure failure;
        char *registration_id;
        bool forget_provisioning; /* Forget's argument */
        Situation situation;
        Wanted wanted;
        Verdict verdict;
        const char *result, *detail; /* of Check and Verify */
        Assignment assignment;       /* of Apply and Verify, checked */
        bool dps_answers;            /* Apply's argument: IoT Edge may give up its identity to register */
        Plan plan;
        Failure warnings[HANDOFF_WARNINGS_MAX];
        size_t warning_count;
        sd_event_source *timer;
};

/* hold.c: what Quiesce stopped stays stopped until Resume, Apply or the end of the hold. */
typedef struct Hold {
        usec_t began_usec; /* CLOCK_BOOTTIME; 0: none */
        bool quiesced;
        sd_bus_track *caller;
        sd_event_source *expiry;
} Hold;

struct Handoffd {
        const DaemonOptions *options;
        sd_bus *bus;
        sd_event *event;
        Units *units;
        Identityd *identityd;
        Stopped stopped; /* what runs again at the end, whatever happens */
        Budgets budgets; /* as on disk */
        Hold hold;
        bool resume_due;
        sd_event_source *again; /* what is stopped could not be started: once more, later */
        usec_t again_usec;
        Operation *operation;
        sd_bus_message *queue[HANDOFF_QUEUE_MAX];
        size_t queued;
        bool outdated; /* a caller has another version, perhaps that of the installed program */
};

extern const sd_bus_vtable handoffd_vtable[];

int handoffd_start(sd_bus *bus, sd_event *event, void *userdata);
void handoffd_leave(void *userdata); /* while there is a bus */
void handoffd_stop(Handoffd *h);
bool handoffd_busy(void *userdata);
void handoffd_next(Handoffd *h); /* begins what is queued, when nothing is under way */

/* Operations. message may be NULL; it is referenced. */
int operation_begin(Handoffd *h, sd_bus_message *message, const char *name, const FlowStep *steps,
                    const FlowStep *recovery, Operation **ret);
void operation_run(Operation *op);                          /* frees it at the end */
void operation_fail(Operation *op, const Failure *failure); /* and runs on: the recovery */
void operation_warn(Operation *op, FailureKind kind, const char *format, ...) PRINTF_LIKE(3, 4);
void operation_warn_failure(Operation *op, const Failure *failure);   /* with its own hint */
int operation_jobs(Operation *op, const UnitJob *jobs, size_t count); /* FLOW_WAIT */
const char *operation_root(const Operation *op);                      /* what the paths are below */
int operation_fail_write(Operation *op, int r, const char *path);     /* fills op->failure, returns r */

/* Starts again what was stopped, now or when the operation under way has ended. */
void handoffd_resume(Handoffd *h, const char *why);

/* hold.c */
void hold_end(Handoffd *h);
void hold_resumed(Handoffd *h); /* everything that was stopped runs again */
void hold_deinit(Hold *hold);

/* The steps that operations share. */
int step_survey(Operation *op);        /* files and units */
int step_ask_device(Operation *op);    /* identityd, if it runs */
int step_start_stopped(Operation *op); /* everything in h->stopped */

/* disruption.c. To be called before the first job that stops or restarts aziot-edged. Charges the disruption
 * budget, on disk and once per operation, when aziot-edged works. FAILURE_DISRUPTION_BUDGET: not allowed
 * yet. */
int operation_permit_disruption(Operation *op);
/* The time until that is allowed; 0: now, or aziot-edged does not work. */
int operation_disruption_wait(Operation *op, usec_t *ret);
int step_confirm_disruption(Operation *op); /* the hub has accepted IoT Edge */
void handoffd_load_budgets(Handoffd *h);    /* at the start */
void handoffd_note_running(Handoffd *h);    /* fills the disruption budget when aziot-edged ran for a day */

/* check.c: judges the situation, refuses what an operator has to mend, and fills op->plan. */
int operation_judge(Operation *op);

/* confirm.c */
int step_check_main_unit(Operation *op);
int step_confirm(Operation *op);
int step_settle(Operation *op); /* does aziot-edged stay up? */
int step_compare(Operation *op);
int step_edge_agent(Operation *op);

/* config-file.c: config.toml */
int config_directory_open(Operation *op);
void config_remove_leftovers(int dir);
int config_prepare(Operation *op, int dir, const char *text, StoreFile *ret);
int config_check_unchanged(Operation *op, const char *text, size_t size);
int operation_write_config(Operation *op, const char *text);
int step_keep_backup(Operation *op);

/* prepare.c: the writes that can fail, before a unit is stopped */
int step_try_writes(Operation *op); /* writes what Apply would write, and removes it */
int step_prepare(Operation *op);    /* leaves the new files beside their places */

/* apply-files.c: the files of a hand-off, into their places and back */
int step_record_pending(Operation *op);
int step_place_files(Operation *op);
void operation_discard_files(Operation *op);       /* the old files, or new ones that are not in place */
bool operation_keeps_new_set(const Operation *op); /* when `iotedge config apply` fails */
int step_end_apply(Operation *op);                 /* in the recovery */
int step_stop_newer(Operation *op);                /* in the recovery */
int step_put_back_files(Operation *op);            /* in the recovery */

extern const FlowStep check_steps[], verify_steps[], verify_settled_steps[], apply_steps[],
        apply_recovery_steps[], quiesce_steps[], quiesce_recovery_steps[], resume_steps[], forget_steps[],
        allow_steps[];

int operation_reply(Operation *op);                            /* bus.c */
int handoffd_begin_call(Handoffd *h, sd_bus_message *message); /* bus.c: what was queued */
