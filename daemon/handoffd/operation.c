/* How operations run, and what they leave stopped. */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "handoffd.h"
#include "log.h"
#include "machine.h"
#include "paths.h"

#define AGAIN_USEC     (10 * USEC_PER_SEC)
#define AGAIN_MAX_USEC (300 * USEC_PER_SEC)

/* Each wait has a limit of its own; together they would be longer than the daemon waits for its call. Past
 * LONG_USEC there may still be: two questions that make IoT Edge register, the confirmation and its last
 * question, whether aziot-edged stays up, and the question for $edgeAgent. What was stopped is started again
 * within what is left, and a call may wait for a Resume before it begins. */
#define SHORT_USEC    (60 * USEC_PER_SEC)
#define LONG_USEC     (320 * USEC_PER_SEC)
#define RECOVERY_USEC (60 * USEC_PER_SEC)
#define LAST_USEC     (4 * IDENTITYD_LEAST_USEC + 2 * CONFIRM_LEAST_USEC)
static_assert(SHORT_USEC + LONG_USEC + LAST_USEC + RECOVERY_USEC + 3 * STOPPED_MAX * UNITS_LEAST_USEC <
                      HANDOFF_DEADLINE_USEC,
              "a call ends before its caller gives up");

static void set_deadline(Operation *op, usec_t usec) {
        op->deadline = now_usec(CLOCK_MONOTONIC) + usec;
        units_set_deadline(op->h->units, op->deadline);
        identityd_set_deadline(op->h->identityd, op->deadline);
}

int operation_begin(Handoffd *h, sd_bus_message *message, const char *name, const FlowStep *steps,
                    const FlowStep *recovery, Operation **ret) {
        Operation *op = calloc(1, sizeof(*op));

        if (!op)
                return -ENOMEM;
        *op = (Operation){ .h = h,
                           .message = sd_bus_message_ref(message),
                           .name = name,
                           .steps = steps,
                           .steps_begun = steps,
                           .recovery = recovery };
        set_deadline(op, recovery ? LONG_USEC : SHORT_USEC);
        h->operation = op;
        *ret = op;
        return 0;
}

static void operation_free(Operation *op) {
        (void) sd_event_source_disable_unref(op->timer);
        (void) sd_bus_message_unref(op->message);
        wanted_deinit(&op->wanted);
        situation_deinit(&op->situation);
        free(op->registration_id);
        assignment_deinit(&op->assignment);
        free(op->plan.hub);
        free(op->plan.device_id);
        free(op->plan.written);
        free(op->plan.pending);
        operation_discard_files(op);
        applied_deinit(&op->plan.applied);
        handoff_record_deinit(&op->plan.record);
        free(op);
}

static void operation_end(Operation *op) {
        Handoffd *h = op->h;
        int r;

        if (op->failed)
                log_warning("%s failed: %s", op->name, op->failure.sentence);
        /* ProtectSystem= makes a directory that was made after the start of this process read-only to it.
         * The next instance can write there. */
        if (op->failed && op->failure.kind == FAILURE_STORAGE && streq(op->failure.code, "EROFS"))
                h->outdated = true;
        operation_discard_files(op);
        r = operation_reply(op);
        if (r < 0) { /* who called should not wait for the deadline */
                log_warning("%s could not be answered: %s", op->name, strerror(-r));
                if (op->message)
                        (void) sd_bus_reply_method_errno(op->message, r, NULL);
        }
        operation_free(op);
        h->operation = NULL;
        handoffd_next(h);
}

static void begin_recovery(Operation *op) {
        static const FlowStep none[] = { NULL };

        op->failed = true;
        set_deadline(op, RECOVERY_USEC);
        op->steps = op->recovery ? op->recovery : none;
        op->recovery = NULL;
}

void operation_run(Operation *op) {
        while (*op->steps) {
                const Failure cause = op->failure;
                int r = (*op->steps++)(op);

                if (r == FLOW_WAIT)
                        return; /* and op may be gone */
                if (r < 0 && !op->failed)
                        begin_recovery(op);
                else if (r < 0) { /* does not hide why the recovery was needed */
                        log_error("While %s was undone: %s", op->name, op->failure.sentence);
                        op->failure = cause;
                }
        }
        operation_end(op);
}

void operation_fail(Operation *op, const Failure *failure) {
        if (op->failed)
                log_error("While %s was undone: %s", op->name, failure->sentence);
        else {
                op->failure = *failure;
                begin_recovery(op);
        }
        operation_run(op);
}

const char *operation_root(const Operation *op) {
        return op->h->options->root;
}

int operation_fail_write(Operation *op, int r, const char *path) {
        return failure_set_errno(&op->failure, FAILURE_STORAGE, r, "'%s%s' can't be written",
                                 operation_root(op), path);
}

void operation_warn(Operation *op, FailureKind kind, const char *format, ...) {
        Failure warning = { .kind = kind };
        va_list args;

        va_start(args, format);
        (void) vsnprintf(warning.sentence, sizeof(warning.sentence), format, args);
        va_end(args);
        operation_warn_failure(op, &warning);
}

void operation_warn_failure(Operation *op, const Failure *failure) {
        if (op->warning_count < HANDOFF_WARNINGS_MAX)
                op->warnings[op->warning_count++] = *failure;
}

static void on_jobs_done(void *userdata, const Failure *failure) {
        if (failure)
                operation_fail(userdata, failure);
        else
                operation_run(userdata);
}

int operation_jobs(Operation *op, const UnitJob *jobs, size_t count) {
        int r = units_run(op->h->units, jobs, count, on_jobs_done, op);

        return r < 0 ? failure_set_errno(&op->failure, FAILURE_RESTART_FAILED, r, "systemd can't be asked")
                     : FLOW_WAIT;
}

/* --- what was stopped --- */

static int step_forget_stopped(Operation *op) {
        Handoffd *h = op->h;
        Failure ignored;

        h->stopped = (Stopped){};
        h->again_usec = 0;
        if (stopped_save(&h->stopped, h->options->root, &ignored) < 0)
                log_warning("%s",
                            ignored.sentence); /* they are started once more at the next start: harmless */
        hold_resumed(h);
        return 0;
}

static void on_stopped_started(void *userdata, const Failure *failure) {
        Operation *op = userdata;

        if (!failure)
                (void) step_forget_stopped(op);
        on_jobs_done(op, failure);
}

int step_start_stopped(Operation *op) {
        Handoffd *h = op->h;
        UnitJob jobs[STOPPED_JOBS_MAX];
        size_t n = stopped_start_jobs(&h->stopped, h->units, jobs);
        int r;

        hold_end(h);
        h->again = sd_event_source_disable_unref(h->again);
        if (n == 0)
                return step_forget_stopped(op);
        r = units_run_all(h->units, jobs, n, on_stopped_started, op);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_RESTART_FAILED, r, "systemd can't be asked")
                     : FLOW_WAIT;
}

const FlowStep resume_steps[] = { step_start_stopped, NULL };

/* Without a call: Quiesce's caller is gone, its time is over, or this process takes over from one that died.
 */
void handoffd_resume(Handoffd *h, const char *why) {
        Operation *op;

        log_notice("What was stopped of IoT Edge is started again: %s", why);
        if (h->operation) {
                h->resume_due = true;
                return;
        }
        if (operation_begin(h, NULL, "Resume", resume_steps, NULL, &op) >= 0)
                operation_run(op);
}

static int on_again(sd_event_source *source, uint64_t usec, void *userdata) {
        handoffd_resume(userdata, "the last attempt failed");
        return 0;
}

/* systemd was away, or a unit failed: not for ever. */
static void resume_later(Handoffd *h) {
        h->again_usec = h->again_usec == 0 ? AGAIN_USEC : h->again_usec * 2;
        if (h->again_usec > AGAIN_MAX_USEC)
                h->again_usec = AGAIN_MAX_USEC;
        if (sd_event_add_time_relative(h->event, &h->again, CLOCK_BOOTTIME, h->again_usec, USEC_PER_SEC,
                                       on_again, h) < 0)
                log_error("What was stopped of IoT Edge is not started again before the next call");
}

/* --- one at a time --- */

void handoffd_next(Handoffd *h) {
        if (h->operation)
                return;
        if (h->resume_due) {
                h->resume_due = false;
                handoffd_resume(h, "the hold ended during another call");
                return;
        }
        while (h->queued > 0 && !h->operation) {
                CLEANUP(sd_bus_message_unrefp) sd_bus_message *message = h->queue[0];

                /* NOLINTNEXTLINE(bugprone-sizeof-expression): it is an array of pointers */
                memmove(h->queue, h->queue + 1, --h->queued * sizeof(h->queue[0]));
                (void) handoffd_begin_call(h, message);
        }
        if (!h->operation && !h->hold.quiesced && !h->again && stopped_any(&h->stopped))
                resume_later(h);
}

bool handoffd_busy(void *userdata) {
        const Handoffd *h = userdata;

        return h->operation || h->queued > 0 || h->hold.quiesced || h->again;
}

static int make_state_directory(const char *root) {
        CLEANUP(freep) char *path = NULL;
        int r;

        r = path_under(&path, root, PATH_STATE);
        if (r >= 0)
                r = store_make_directory(path, 0700);
        if (r < 0)
                log_error("'%s%s' can't be made: %s", root, PATH_STATE, strerror(-r));
        return r;
}

int handoffd_start(sd_bus *bus, sd_event *event, void *userdata) {
        Handoffd *h = userdata;
        int r;

        h->bus = bus;
        h->event = event;
        r = make_state_directory(h->options->root);
        if (r >= 0)
                r = units_new(&h->units, bus, event);
        if (r >= 0)
                r = identityd_new(&h->identityd, event, h->options->root);
        if (r < 0)
                return r;
        handoffd_load_budgets(h);
        stopped_load(&h->stopped, h->options->root);
        if (stopped_any(&h->stopped))
                handoffd_resume(h, "the helper had ended before it could do so");
        return 0;
}

/* Told to end, with IoT Edge stopped: there may be no next instance, as when the package is removed. The
 * list stays on disk, since nobody waits for the jobs; one that comes starts the same once more. */
void handoffd_leave(void *userdata) {
        Handoffd *h = userdata;
        UnitJob jobs[STOPPED_JOBS_MAX];
        size_t n;

        if (!stopped_any(&h->stopped))
                return;
        log_notice("What was stopped of IoT Edge is started again: this program is told to end");
        n = stopped_start_jobs(&h->stopped, h->units, jobs);
        units_ask(h->units, jobs, n);
        hold_end(h);
}

void handoffd_stop(Handoffd *h) {
        if (h->operation)
                operation_free(h->operation);
        h->operation = NULL;
        while (h->queued > 0)
                (void) sd_bus_message_unref(h->queue[--h->queued]);
        hold_deinit(&h->hold);
        h->again = sd_event_source_disable_unref(h->again);
        h->identityd = identityd_free(h->identityd);
        h->units = units_free(h->units);
}
