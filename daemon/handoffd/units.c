#include "units.h"

#include <errno.h>
#include <stdlib.h>

#include "log.h"

#define JOBS_MAX            24
#define JOB_TIMEOUT_USEC    (100 * USEC_PER_SEC)
#define APPLY_TIMEOUT_USEC  (300 * USEC_PER_SEC)
#define ANSWER_TIMEOUT_USEC (5 * USEC_PER_SEC)

#define SYSTEMD           "org.freedesktop.systemd1"
#define SYSTEMD_PATH      "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER   SYSTEMD ".Manager"
#define SYSTEMD_UNIT      SYSTEMD ".Unit"
#define ERROR_NO_SUCH     SYSTEMD ".NoSuchUnit"
#define ERROR_LOAD_FAILED SYSTEMD ".LoadFailed"
#define ERROR_MASKED      SYSTEMD ".UnitMasked"

struct Units {
        sd_bus *bus;
        sd_bus_slot *job_removed, *owner_changed, *call;
        sd_event_source *timer;
        usec_t deadline; /* 0: none */
        UnitJob jobs[JOBS_MAX];
        size_t count, index;
        bool all;
        Failure first;              /* kind FAILURE_NONE: none so far */
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

static void end(Units *u) {
        const Failure first = u->first;
        UnitsDone done = TAKE(u->done);

        forget_job(u);
        u->count = u->index = 0;
        done(u->userdata, first.kind == FAILURE_NONE ? NULL : &first);
}

static void next(Units *u) {
        forget_job(u);
        u->index++;
        if (u->index < u->count && (u->all || u->first.kind == FAILURE_NONE))
                run_job(u);
        else
                end(u);
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
        if (u->first.kind == FAILURE_NONE)
                u->first = failure;
        else
                log_warning("%s", failure.sentence);
        next(u);
}

static void job_ended(Units *u, const char *result) {
        static const struct {
                const char *result, *what;
        } results[] = {
                { "failed", "it failed" },
                { "timeout", "it took longer than its unit allows" },
                { "canceled", "its job was cancelled, by another job or by somebody" },
                { "dependency", "a unit that it needs failed" },
                { "skipped", "systemd has skipped its job" },
        };
        const char *what = "its job did not succeed";

        /* What was not to be stopped or started is as it is; who cares for that looks at the unit. */
        if (streq(result, "done") || (streq(result, "skipped") && !streq(current(u)->unit, UNIT_APPLY))) {
                next(u);
                return;
        }
        for (size_t i = 0; i < ARRAY_SIZE(results); i++)
                if (streq(results[i].result, result))
                        what = results[i].what;
        job_failed(u, result, what);
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

static bool passed_over(const Units *u, const sd_bus_error *error) {
        const UnitJob *job = current(u);
        size_t n = strlen(job->unit), m = strlen(".socket");
        bool socket = n > m && streq(job->unit + n - m, ".socket");

        if (sd_bus_error_has_name(error, ERROR_MASKED))
                return u->all;
        return (u->all || socket || job->verb == UNIT_STOP) &&
               (sd_bus_error_has_name(error, ERROR_NO_SUCH) ||
                sd_bus_error_has_name(error, ERROR_LOAD_FAILED));
}

static int on_job_queued(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Units *u = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        const char *path;

        u->call = sd_bus_slot_unref(u->call);
        if (error) {
                if (passed_over(u, error))
                        next(u);
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

void units_set_deadline(Units *u, usec_t deadline) {
        u->deadline = deadline;
}

static usec_t job_timeout(const Units *u, const UnitJob *job) {
        usec_t timeout = streq(job->unit, UNIT_APPLY) ? APPLY_TIMEOUT_USEC : JOB_TIMEOUT_USEC,
               now = now_usec(CLOCK_MONOTONIC);

        if (u->deadline == 0 || now + timeout <= u->deadline)
                return timeout;
        return u->deadline > now + UNITS_LEAST_USEC ? u->deadline - now : UNITS_LEAST_USEC;
}

static void run_job(Units *u) {
        const UnitJob *job = current(u);
        usec_t timeout = job_timeout(u, job);
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

static int begin(Units *u, const UnitJob *jobs, size_t count, bool all, UnitsDone done, void *userdata) {
        if (u->done)
                return -EBUSY;
        if (count == 0 || count > JOBS_MAX)
                return -EINVAL;
        memcpy(u->jobs, jobs, count * sizeof(*jobs));
        u->count = count;
        u->index = 0;
        u->all = all;
        u->first = (Failure){};
        u->done = done;
        u->userdata = userdata;
        run_job(u);
        return 0;
}

int units_run(Units *u, const UnitJob *jobs, size_t count, UnitsDone done, void *userdata) {
        return begin(u, jobs, count, false, done, userdata);
}

int units_run_all(Units *u, const UnitJob *jobs, size_t count, UnitsDone done, void *userdata) {
        return begin(u, jobs, count, true, done, userdata);
}

void units_ask(Units *u, const UnitJob *jobs, size_t count) {
        (void) sd_bus_set_method_call_timeout(u->bus, ANSWER_TIMEOUT_USEC);
        for (size_t i = 0; i < count; i++) {
                CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                int r = sd_bus_call_method(u->bus, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                           methods[jobs[i].verb], &error, NULL, "ss", jobs[i].unit,
                                           "replace");

                if (r < 0 && !sd_bus_error_has_name(&error, ERROR_NO_SUCH))
                        log_warning("systemd could not be asked to %s '%s': %s", verbs[jobs[i].verb],
                                    jobs[i].unit, error.message ? error.message : strerror(-r));
        }
        (void) sd_bus_set_method_call_timeout(u->bus, 0); /* the default again */
}

static int read_property(Units *u, const char *path, const char *interface, const char *property, char type,
                         void *ret) {
        int r;

        (void) sd_bus_set_method_call_timeout(u->bus, ANSWER_TIMEOUT_USEC);
        r = type == 's' ? sd_bus_get_property_string(u->bus, SYSTEMD, path, interface, property, NULL, ret)
                        : sd_bus_get_property_trivial(u->bus, SYSTEMD, path, interface, property, NULL, type,
                                                      ret);
        (void) sd_bus_set_method_call_timeout(u->bus, 0); /* the default again */
        return r;
}

static int read_list(Units *u, const char *path, const char *interface, const char *property, bool files,
                     void (*on_text)(void *userdata, const char *text), void *userdata) {
        const char *type = files ? "(sb)" : "s", *text;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        (void) sd_bus_set_method_call_timeout(u->bus, ANSWER_TIMEOUT_USEC);
        r = sd_bus_get_property(u->bus, SYSTEMD, path, interface, property, NULL, &reply,
                                files ? "a(sb)" : "as");
        (void) sd_bus_set_method_call_timeout(u->bus, 0); /* the default again */
        if (r >= 0)
                r = sd_bus_message_enter_container(reply, 'a', type);
        while (r >= 0 && (r = sd_bus_message_read(reply, type, &text, NULL)) > 0)
                on_text(userdata, text);
        return r;
}

int units_read_environment(Units *u, const char *unit, void (*on_variable)(void *userdata, const char *text),
                           void (*on_file)(void *userdata, const char *path), void *userdata) {
        CLEANUP(freep) char *path = NULL;
        int r;

        if (!unit)
                return read_list(u, SYSTEMD_PATH, SYSTEMD_MANAGER, "Environment", false, on_variable,
                                 userdata);
        r = sd_bus_path_encode(SYSTEMD_PATH "/unit", unit, &path);
        if (r >= 0)
                r = read_list(u, path, SYSTEMD ".Service", "Environment", false, on_variable, userdata);
        if (r >= 0 && on_file)
                r = read_list(u, path, SYSTEMD ".Service", "EnvironmentFiles", true, on_file, userdata);
        return r;
}

static int read_details(Units *u, const char *unit, const char *path, UnitState *s) {
        CLEANUP(freep) char *result = NULL;
        int r = 0;

        if (s->active)
                r = read_property(u, path, SYSTEMD_UNIT, "ActiveEnterTimestampMonotonic", 't',
                                  &s->active_enter_usec);
        if (r < 0 || !(s->failed || s->failing) || !strstr(unit, ".service"))
                return r;
        r = read_property(u, path, SYSTEMD ".Service", "Result", 's', &result);
        if (r >= 0)
                (void) snprintf(s->result, sizeof(s->result), "%s", result);
        return r;
}

/* One element of ListUnitsByNames' reply. */
static int read_state(Units *u, const char *unit, sd_bus_message *m, UnitState *ret) {
        const char *load, *active, *sub, *path;
        UnitState s = {};
        int r;

        r = sd_bus_message_read(m, "(ssssssouso)", NULL, NULL, &load, &active, &sub, NULL, &path, NULL, NULL,
                                NULL);
        if (r <= 0)
                return r < 0 ? r : -EBADMSG;
        s.masked = streq(load, "masked");
        s.broken = !s.masked && !streq(load, "loaded") && !streq(load, "not-found");
        s.exists = s.masked || s.broken || streq(load, "loaded");
        s.active = streq(active, "active") || streq(active, "activating") || streq(active, "reloading");
        s.failed = streq(active, "failed");
        s.failing = strncmp(sub, "auto-restart", strlen("auto-restart")) == 0; /* or …-queued */
        r = read_details(u, unit, path, &s);
        if (r >= 0)
                *ret = s;
        return r;
}

static int list_units(Units *u, const char *const names[], size_t count, sd_bus_error *reterr,
                      sd_bus_message **ret) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = sd_bus_message_new_method_call(u->bus, &m, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                           "ListUnitsByNames");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "s");
        for (size_t i = 0; r >= 0 && i < count; i++)
                r = sd_bus_message_append(m, "s", names[i]);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r >= 0)
                r = sd_bus_call(u->bus, m, ANSWER_TIMEOUT_USEC, reterr, ret);
        return r;
}

int units_query_all(Units *u, const char *const names[], size_t count, UnitState ret[], Failure *reterr) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = list_units(u, names, count, &error, &reply);
        if (r >= 0)
                r = sd_bus_message_enter_container(reply, 'a', "(ssssssouso)");
        for (size_t i = 0; r >= 0 && i < count; i++)
                r = read_state(u, names[i], reply, &ret[i]);
        if (r < 0)
                return failure_set(reterr, FAILURE_RESTART_FAILED, error.name,
                                   "Failed to query the state of '%s'%s: %s", names[0],
                                   count > 1 ? " and other units" : "",
                                   error.message ? error.message : strerror(-r));
        return 0;
}

int units_query(Units *u, const char *unit, UnitState *ret, Failure *reterr) {
        return units_query_all(u, &unit, 1, ret, reterr);
}

uint64_t units_entered_real(Units *u, const char *unit) {
        CLEANUP(freep) char *path = NULL;
        uint64_t usec;

        if (sd_bus_path_encode(SYSTEMD_PATH "/unit", unit, &path) < 0 ||
            read_property(u, path, SYSTEMD_UNIT, "ActiveEnterTimestamp", 't', &usec) < 0)
                return UINT64_MAX;
        return usec;
}

int units_new(Units **ret, sd_bus *bus, sd_event *event) {
        Units *u = calloc(1, sizeof(*u));
        int r;

        if (!u)
                return -ENOMEM;
        u->bus = sd_bus_ref(bus);
        r = sd_event_add_time_relative(event, &u->timer, CLOCK_MONOTONIC, 0, USEC_PER_SEC / 10, on_timeout,
                                       u);
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

void units_freep(Units **u) {
        *u = units_free(*u);
}
