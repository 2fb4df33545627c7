#include "units.h"

#include <errno.h>
#include <stdlib.h>

#include "log.h"

#define JOBS_MAX            16
#define JOB_TIMEOUT_USEC    (100 * USEC_PER_SEC)
#define APPLY_TIMEOUT_USEC  (300 * USEC_PER_SEC)
#define ANSWER_TIMEOUT_USEC (5 * USEC_PER_SEC)

#define SYSTEMD           "org.freedesktop.systemd1"
#define SYSTEMD_PATH      "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER   SYSTEMD ".Manager"
#define ERROR_NO_SUCH     SYSTEMD ".NoSuchUnit"
#define ERROR_LOAD_FAILED SYSTEMD ".LoadFailed"

struct Units {
        sd_bus *bus;
        sd_bus_slot *job_removed, *owner_changed, *call;
        sd_event_source *timer;
        UnitJob jobs[JOBS_MAX];
        size_t count, index;
        char *job;                  /* path of the one under way; NULL: none, or not known yet */
        char *early, *early_result; /* a job that ended before its path was known */
        UnitsDone done;
        void *userdata;
};

static const char *const verbs[] = {
        [UNIT_START] = "start", [UNIT_STOP] = "stop", [UNIT_RESTART] = "restart"
};
static const char *const methods[] = {
        [UNIT_START] = "StartUnit", [UNIT_STOP] = "StopUnit", [UNIT_RESTART] = "RestartUnit"
};

static void run_job(Units *u);

static void forget_job(Units *u) {
        u->call = sd_bus_slot_unref(u->call);
        free(TAKE(u->job));
        free(TAKE(u->early));
        free(TAKE(u->early_result));
        (void) sd_event_source_set_enabled(u->timer, SD_EVENT_OFF);
}

static void end(Units *u, const Failure *failure) {
        UnitsDone done = TAKE(u->done);

        forget_job(u);
        u->count = u->index = 0;
        done(u->userdata, failure);
}

static const UnitJob *current(const Units *u) {
        return &u->jobs[u->index];
}

static void job_failed(Units *u, const char *code, const char *what) {
        const UnitJob *job = current(u);
        bool apply = streq(job->unit, UNIT_APPLY);
        UnitState state = {};
        Failure failure;

        if (job->verb != UNIT_STOP)
                (void) units_query(u, job->unit, &state, NULL);
        (void) failure_set(&failure, apply ? FAILURE_APPLY_FAILED : FAILURE_RESTART_FAILED,
                           state.result[0] && !streq(state.result, "success") ? state.result : code,
                           "'%s' could not be %s: %s; see 'journalctl -u %s'", job->unit,
                           job->verb == UNIT_STOP    ? "stopped"
                           : job->verb == UNIT_START ? "started"
                                                     : "restarted",
                           what, job->unit);
        end(u, &failure);
}

static void job_done(Units *u) {
        forget_job(u);
        u->index++;
        if (u->index < u->count)
                run_job(u);
        else
                end(u, NULL);
}

static void job_ended(Units *u, const char *result) {
        if (streq(result, "done") || streq(result, "skipped"))
                job_done(u);
        else
                job_failed(u, result, "its job did not succeed");
}

static int on_job_removed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Units *u = userdata;
        const char *path, *unit, *result;
        uint32_t id;

        if (!u->done || sd_bus_message_read(m, "uoss", &id, &path, &unit, &result) < 0)
                return 0;
        if (u->job && streq(u->job, path))
                job_ended(u, result);
        else if (!u->job && u->call && streq(unit, current(u)->unit)) {
                (void) string_replace(&u->early, path);
                (void) string_replace(&u->early_result, result);
        }
        return 0;
}

static bool may_be_missing(const UnitJob *job) {
        size_t n = strlen(job->unit), m = strlen(".socket");

        return job->verb == UNIT_STOP || (n > m && streq(job->unit + n - m, ".socket"));
}

static int on_job_queued(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Units *u = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        const char *path;

        u->call = sd_bus_slot_unref(u->call);
        if (error) {
                if (may_be_missing(current(u)) && (sd_bus_error_has_name(error, ERROR_NO_SUCH) ||
                                                   sd_bus_error_has_name(error, ERROR_LOAD_FAILED)))
                        job_done(u);
                else
                        job_failed(u, error->name, error->message ? error->message : "no reason was given");
                return 0;
        }
        if (sd_bus_message_read(reply, "o", &path) < 0 || string_replace(&u->job, path) < 0) {
                job_failed(u, "", "systemd's answer was not understood");
                return 0;
        }
        if (u->early && streq(u->early, u->job)) {
                CLEANUP(freep) char *result = TAKE(u->early_result);

                job_ended(u, result);
        }
        return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        job_failed(userdata, "timeout", "its job takes too long");
        return 0;
}

/* systemd executes itself anew or is gone: jobs and their paths with it. */
static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Units *u = userdata;

        (void) sd_bus_call_method_async(u->bus, NULL, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "Subscribe",
                                        NULL, NULL, NULL);
        if (u->done)
                job_failed(u, "disconnected", "systemd left the bus meanwhile");
        return 0;
}

static void run_job(Units *u) {
        const UnitJob *job = current(u);
        usec_t timeout = streq(job->unit, UNIT_APPLY) ? APPLY_TIMEOUT_USEC : JOB_TIMEOUT_USEC;
        int r;

        log_debug("Asking systemd to %s '%s'", verbs[job->verb], job->unit);
        (void) sd_event_source_set_time_relative(u->timer, timeout);
        (void) sd_event_source_set_enabled(u->timer, SD_EVENT_ONESHOT);
        r = sd_bus_call_method_async(u->bus, &u->call, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                     methods[job->verb], on_job_queued, u, "ss", job->unit, "replace");
        if (r < 0) /* the bus is gone, and with it this process; else the timer ends the job */
                log_warning("systemd can't be asked to %s '%s': %s", verbs[job->verb], job->unit,
                            strerror(-r));
}

int units_run(Units *u, const UnitJob *jobs, size_t count, UnitsDone done, void *userdata) {
        if (u->done)
                return -EBUSY;
        if (count == 0 || count > JOBS_MAX)
                return -EINVAL;
        memcpy(u->jobs, jobs, count * sizeof(*jobs));
        u->count = count;
        u->index = 0;
        u->done = done;
        u->userdata = userdata;
        run_job(u);
        return 0;
}

static int read_text(Units *u, const char *path, const char *interface, const char *property, char *ret,
                     size_t size) {
        CLEANUP(freep) char *text = NULL;
        int r;

        r = sd_bus_get_property_string(u->bus, SYSTEMD, path, interface, property, NULL, &text);
        if (r >= 0)
                (void) snprintf(ret, size, "%s", text);
        return r;
}

static int read_state(Units *u, const char *path, const char *unit, UnitState *s) {
        char text[32];
        int r;

        r = read_text(u, path, SYSTEMD ".Unit", "LoadState", text, sizeof(text));
        if (r < 0)
                return r;
        s->masked = streq(text, "masked");
        s->exists = s->masked || streq(text, "loaded");
        r = read_text(u, path, SYSTEMD ".Unit", "ActiveState", text, sizeof(text));
        if (r < 0)
                return r;
        s->active = streq(text, "active") || streq(text, "activating") || streq(text, "reloading");
        s->failed = streq(text, "failed");
        r = sd_bus_get_property_trivial(u->bus, SYSTEMD, path, SYSTEMD ".Unit",
                                        "ActiveEnterTimestampMonotonic", NULL, 't', &s->active_enter_usec);
        if (r >= 0 && s->exists && !s->masked && strstr(unit, ".service"))
                r = read_text(u, path, SYSTEMD ".Service", "Result", s->result, sizeof(s->result));
        return r;
}

int units_query(Units *u, const char *unit, UnitState *ret, Failure *reterr) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        UnitState state = {};
        const char *path;
        int r;

        r = sd_bus_call_method(u->bus, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", &error, &reply,
                               "s", unit);
        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &path);
        if (r >= 0)
                r = read_state(u, path, unit, &state);
        if (r < 0)
                return failure_set(reterr, FAILURE_RESTART_FAILED, error.name,
                                   "systemd did not say how '%s' is: %s", unit,
                                   error.message ? error.message : strerror(-r));
        *ret = state;
        return 0;
}

int units_new(Units **ret, sd_bus *bus, sd_event *event) {
        Units *u = calloc(1, sizeof(*u));
        int r;

        if (!u)
                return -ENOMEM;
        u->bus = sd_bus_ref(bus);
        r = sd_bus_set_method_call_timeout(bus, ANSWER_TIMEOUT_USEC);
        if (r >= 0)
                r = sd_event_add_time_relative(event, &u->timer, CLOCK_MONOTONIC, 0, USEC_PER_SEC / 10,
                                               on_timeout, u);
        if (r >= 0)
                r = sd_event_source_set_enabled(u->timer, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_bus_match_signal_async(bus, &u->job_removed, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                              "JobRemoved", on_job_removed, NULL, u);
        if (r >= 0)
                r = sd_bus_add_match_async(bus, &u->owner_changed,
                                           "type='signal',sender='org.freedesktop.DBus',"
                                           "member='NameOwnerChanged',arg0='" SYSTEMD "'",
                                           on_owner_changed, NULL, u);
        if (r >= 0)
                r = sd_bus_call_method_async(bus, NULL, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "Subscribe",
                                             NULL, NULL, NULL);
        if (r < 0) {
                (void) units_free(u);
                return r;
        }
        *ret = u;
        return 0;
}

Units *units_free(Units *u) {
        if (!u)
                return NULL;
        u->call = sd_bus_slot_unref(u->call);
        (void) sd_bus_slot_unref(u->job_removed);
        (void) sd_bus_slot_unref(u->owner_changed);
        (void) sd_event_source_disable_unref(u->timer);
        free(u->job);
        free(u->early);
        free(u->early_result);
        (void) sd_bus_unref(u->bus);
        free(u);
        return NULL;
}
