/* org.dps.Provisioning1. Reading is open to all; the methods need root or polkit's word. */
#include "bus.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon.h"
#include "project.h"

#define ERROR_NO_SCOPE     PROVISIONING_NAME ".NoScope"
#define ERROR_NOT_WAITING  PROVISIONING_NAME ".NotWaiting"
#define ERROR_TOO_EARLY    PROVISIONING_NAME ".TooEarly"
#define ERROR_RESETTING    PROVISIONING_NAME ".Resetting"
#define RESETTING          "A factory reset is under way"
#define POLKIT_NAME        "org.freedesktop.PolicyKit1"
#define POLKIT_PATH        "/org/freedesktop/PolicyKit1/Authority"
#define POLKIT_INTERFACE   "org.freedesktop.PolicyKit1.Authority"
#define POLKIT_INTERACTIVE 1u
#define QUESTIONS_MAX      16 /* whoever may ask must not fill the bus with it */

/* Somebody may have to find a password first. */
#define PASSWORD_TIMEOUT_USEC (300 * USEC_PER_SEC)

/* --- properties --- */

static const char *text_property(const Daemon *d, const char *name) {
        const struct {
                const char *name, *value;
        } texts[] = {
                { "State", state_to_string(daemon_state(d)) },
                { "Step", daemon_step_text(d) },
                { "IdScope", d->config->id_scope },
                { "GlobalEndpoint", d->config->global_endpoint },
                { "RegistrationId", d->tpm.registration_id },
                { "EndorsementKey", d->tpm.ek_base64 },
                { "AssignedHub", d->record.confirmed.hub },
                { "DeviceId", d->record.confirmed.device_id },
                { "Substatus", record_assignment(&d->record)->substatus },
                { "Version", PROJECT_VERSION },
        };

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (streq(texts[i].name, name))
                        return texts[i].value ? texts[i].value : "";
        return "";
}

static int get_text(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        return sd_bus_message_append(reply, "s", text_property(userdata, property));
}

static int get_attempts(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const Daemon *d = userdata;

        return sd_bus_message_append(reply, "u", d->machine.retry.attempts);
}

static usec_t time_property(const Daemon *d, const char *name) {
        return streq(name, "NextAttemptUSec")    ? d->wait.next_attempt_usec
               : streq(name, "StateChangedUSec") ? d->record.state_changed_usec
                                                 : d->record.last_success_usec;
}

static int get_time(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        return sd_bus_message_append(reply, "t", time_property(userdata, property));
}

static int get_last_error(sd_bus *bus, const char *path, const char *interface, const char *property,
                          sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const Failure *f = &((const Daemon *) userdata)->failure;

        return sd_bus_message_append(reply, "(ssss)", failure_kind_to_string(f->kind), f->code, f->sentence,
                                     failure_advice(f));
}

static int get_warnings(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const Daemon *d = userdata;
        int r;

        r = sd_bus_message_open_container(reply, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < d->warnings.count; i++)
                r = sd_bus_message_append(reply, "(sss)", failure_kind_to_string(d->warnings.list[i].kind),
                                          d->warnings.list[i].sentence,
                                          failure_advice(&d->warnings.list[i]));
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

/* --- who may call --- */

/* root: the caller is root. Others have been authorized by polkit. */
typedef int BusAction(Daemon *daemon, sd_bus_message *call, bool root, sd_bus_error *error);

typedef struct Permission {
        Daemon *daemon;
        sd_bus_message *call;
        BusAction *action;
} Permission;

static void permission_free(Permission *p) {
        p->daemon->question_count--;
        (void) sd_bus_message_unref(p->call);
        free(p);
}

static void run_permitted(const Permission *p) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

        if (p->action(p->daemon, p->call, false, &error) < 0 || sd_bus_error_is_set(&error))
                (void) sd_bus_reply_method_error(p->call, &error);
}

static int on_polkit(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Permission *p = userdata;
        int authorized = 0, challenge;

        if (!sd_bus_message_is_method_error(reply, NULL) &&
            sd_bus_message_enter_container(reply, 'r', "bba{ss}") >= 0)
                (void) sd_bus_message_read(reply, "bb", &authorized, &challenge);
        if (authorized)
                run_permitted(p);
        else
                (void) sd_bus_reply_method_errorf(p->call, SD_BUS_ERROR_ACCESS_DENIED,
                                                  "Only root, or whom polkit allows it, may call this");
        permission_free(p);
        return 0;
}

static int ask_polkit(Permission *p, const char *action_id) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *question = NULL;
        uint32_t flags =
                sd_bus_message_get_allow_interactive_authorization(p->call) > 0 ? POLKIT_INTERACTIVE : 0;
        int r;

        r = sd_bus_message_new_method_call(p->daemon->bus, &question, POLKIT_NAME, POLKIT_PATH,
                                           POLKIT_INTERFACE, "CheckAuthorization");
        if (r >= 0)
                r = sd_bus_message_append(question, "(sa{sv})sa{ss}us", "system-bus-name", 1, "name", "s",
                                          sd_bus_message_get_sender(p->call), action_id, 0, flags, "");
        return r < 0 ? r
                     : sd_bus_call_async(p->daemon->bus, NULL, question, on_polkit, p,
                                         PASSWORD_TIMEOUT_USEC);
}

static int with_permission(Daemon *d, sd_bus_message *call, sd_bus_error *error, const char *action_id,
                           BusAction *action) {
        CLEANUP(sd_bus_creds_unrefp) sd_bus_creds *creds = NULL;
        Permission *p;
        uid_t uid;
        int r;

        r = sd_bus_query_sender_creds(call, SD_BUS_CREDS_EUID, &creds);
        if (r >= 0)
                r = sd_bus_creds_get_euid(creds, &uid);
        if (r < 0)
                return sd_bus_error_set_errnof(error, r, "The caller can't be identified");
        if (uid == 0 || uid == geteuid())
                return action(d, call, true, error);

        if (d->question_count >= QUESTIONS_MAX)
                return sd_bus_error_setf(error, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                         "Too many callers wait for polkit's answer; try again later");
        p = malloc(sizeof(*p));
        if (!p)
                return -ENOMEM;
        d->question_count++;
        *p = (Permission){ .daemon = d, .call = sd_bus_message_ref(call), .action = action };
        r = ask_polkit(p, action_id);
        if (r < 0) {
                permission_free(p);
                return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED, "Only root may call this");
        }
        return 1;
}

/* --- methods --- */

void bus_answer_reprovision(Daemon *d) {
        if (d->machine.pending == PENDING_REPROVISION)
                return;
        while (d->reprovision_count > 0) {
                CLEANUP(sd_bus_message_unrefp) sd_bus_message *call = d->reprovision[--d->reprovision_count];

                if (daemon_state(d) == STATE_ATTESTING)
                        (void) sd_bus_reply_method_return(call, NULL);
                else if (d->record.reset)
                        (void) sd_bus_reply_method_errorf(call, ERROR_RESETTING, RESETTING);
                else /* it had to wait for a helper's call, and meanwhile the configuration went */
                        (void) sd_bus_reply_method_errorf(call, ERROR_NO_SCOPE, "%s",
                                                          d->failure.kind != FAILURE_NONE
                                                                  ? d->failure.sentence
                                                                  : "No ID scope is set");
        }
}

static int too_early(sd_bus_error *error, const char *why, usec_t wait_usec) {
        char when[UTC_TEXT_SIZE];

        utc_text(when, now_usec(CLOCK_REALTIME) + wait_usec);
        return sd_bus_error_setf(error, ERROR_TOO_EARLY, "%s. Call again after %s", why, when);
}

/* Refuses a caller that is not root and has begun too many attempts. */
static int take_call(Daemon *d, bool root, sd_bus_error *error) {
        usec_t now = now_usec(CLOCK_BOOTTIME),
               wait = root ? 0 : call_limit_refused(&d->wait.call_limit, now);

        if (wait > 0)
                return too_early(error, "Callers other than root have begun 10 attempts in an hour", wait);
        if (!root)
                call_limit_count_other(&d->wait.call_limit, now);
        return 0;
}

static int reprovision(Daemon *d, sd_bus_message *call, bool root, sd_bus_error *error) {
        /* a pending Reprovision, which waits for a helper's call or for the CallLimit */
        bool joins = d->machine.pending == PENDING_REPROVISION ||
                     (d->record.forced && d->machine.progress == PROGRESS_DUE &&
                      d->machine.step == STEP_IDENTITY);
        Failure failure;
        int r;

        if (d->record.reset)
                return sd_bus_error_setf(error, ERROR_RESETTING, RESETTING);
        if (config_failure(d->config, &failure))
                return bus_error_set_failure(error, &failure);
        if (!d->config->id_scope)
                return sd_bus_error_setf(error, ERROR_NO_SCOPE,
                                         "No ID scope is set; set it with 'dps-provision set-scope ID'");
        if (d->reprovision_count >= CALLERS_MAX)
                return sd_bus_error_setf(error, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                         "Too many Reprovision calls are pending");
        r = joins ? 0 : take_call(d, root, error);
        if (r < 0)
                return r;
        d->reprovision[d->reprovision_count++] = sd_bus_message_ref(call);
        log_notice("Reprovisioning was asked for");
        if (joins) {
                bus_answer_reprovision(d);
                return 1;
        }
        d->attempt.unbudgeted = true;
        daemon_feed(d, &(Event){ .type = EVENT_REPROVISION });
        return 1;
}

/* What there is to do where nothing is tried again. */
static const char *what_else(const Daemon *d) {
        if (d->machine.step != STEP_IDLE)
                return "; it is under way";
        return d->config->id_scope ? "; 'dps-provision reprovision' attests again"
                                   : "; no ID scope is set: set it with 'dps-provision set-scope ID'";
}

static int retry(Daemon *d, sd_bus_message *call, bool root, sd_bus_error *error) {
        bool over_budget = d->machine.failure == FAILURE_REGISTRATION_BUDGET ||
                           d->machine.failure == FAILURE_DISRUPTION_BUDGET;
        usec_t now = now_usec(CLOCK_BOOTTIME), allowed;
        int r;

        if (!machine_backing_off(&d->machine))
                return sd_bus_error_setf(
                        error, ERROR_NOT_WAITING, "There is no wait to end: the state is %s, the step %s%s",
                        state_to_string(daemon_state(d)), daemon_step_text(d), what_else(d));
        if (over_budget && !root)
                return too_early(error, d->failure.sentence, wait_left(&d->wait));
        allowed = machine_throttled(&d->machine) ? d->wait.ends_usec
                                                 : d->wait.began_usec + d->failure.retry_after_usec;
        if (allowed > now && !over_budget)
                return too_early(error, "DPS asked to wait", allowed - now);
        if (wait_left(&d->wait) > call_limit_delay(&d->wait.call_limit, now)) {
                r = take_call(d, root, error);
                if (r < 0)
                        return r;
                daemon_end_wait(d);
        }
        if (root) {
                d->attempt.unbudgeted = true;
                retry_reset(&d->machine.retry);
        }
        return sd_bus_reply_method_return(call, NULL);
}

static int method_reprovision(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        return with_permission(userdata, call, error, "org.dps.provisioning.reprovision", reprovision);
}

static int method_retry(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        return with_permission(userdata, call, error, "org.dps.provisioning.retry", retry);
}

/* --- factory reset --- */

/* On disk before it begins: from then on it is completed, whatever happens. */
static int factory_reset(Daemon *d, sd_bus_message *call, bool provisioning, sd_bus_error *error) {
        Failure failure = { .kind = FAILURE_CONFIG,
                            .sentence = "Another call has taken the factory reset over" };
        bool was_due = d->record.reset, before = d->record.reset_provisioning;
        int r;

        d->record.reset = true;
        d->record.reset_provisioning = d->record.reset_provisioning || provisioning;
        r = daemon_save(d, &failure);
        if (r < 0) {
                d->record.reset = was_due;
                d->record.reset_provisioning = before;
                daemon_publish(d); /* it may be on the disk all the same, and must not be */
                return bus_error_set_failure(error, &failure);
        }
        reset_replace_call(&d->reset, call, &failure);
        log_notice("A factory reset was asked for");
        daemon_feed(d, &(Event){ .type = EVENT_RESET });
        return 1;
}

/* No polkit action: what it takes away belongs to root. */
static int method_factory_reset(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        CLEANUP(sd_bus_creds_unrefp) sd_bus_creds *creds = NULL;
        int provisioning, r;
        uid_t uid;

        r = sd_bus_message_read(call, "b", &provisioning);
        if (r < 0)
                return r;
        r = sd_bus_query_sender_creds(call, SD_BUS_CREDS_EUID, &creds);
        if (r >= 0)
                r = sd_bus_creds_get_euid(creds, &uid);
        if (r < 0)
                return sd_bus_error_set_errnof(error, r, "The caller can't be identified");
        if (uid != 0)
                return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED, "Only root may call this");
        return factory_reset(userdata, call, provisioning, error);
}

#define CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Reprovision", NULL, NULL, method_reprovision, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Retry", NULL, NULL, method_retry, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("FactoryReset", SD_BUS_ARGS("b", provisioning), SD_BUS_RESULT("as", notes),
                                method_factory_reset, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("State", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("Step", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("StateChangedUSec", "t", get_time, 0, CHANGES),
        SD_BUS_PROPERTY("IdScope", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("GlobalEndpoint", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("RegistrationId", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("EndorsementKey", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("AssignedHub", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("DeviceId", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("Substatus", "s", get_text, 0, CHANGES),
        SD_BUS_PROPERTY("Attempts", "u", get_attempts, 0, CHANGES),
        SD_BUS_PROPERTY("NextAttemptUSec", "t", get_time, 0, CHANGES),
        SD_BUS_PROPERTY("LastError", "(ssss)", get_last_error, 0, CHANGES),
        SD_BUS_PROPERTY("Warnings", "a(sss)", get_warnings, 0, CHANGES),
        SD_BUS_PROPERTY("LastSuccessUSec", "t", get_time, 0, CHANGES),
        SD_BUS_PROPERTY("Version", "s", get_text, 0, CHANGES),
        SD_BUS_VTABLE_END,
};

/* --- what has changed --- */

/* A property's value as text, only to compare it with the one that was announced last. */
static char *fingerprint(const Daemon *d, const char *name) {
        char *text = NULL;
        int r;

        if (streq(name, "Attempts"))
                r = asprintf(&text, "%u", d->machine.retry.attempts);
        else if (strstr(name, "USec"))
                r = asprintf(&text, "%llu", (unsigned long long) time_property(d, name));
        else if (streq(name, "LastError"))
                r = asprintf(&text, "%d %s %s", d->failure.kind, d->failure.code, d->failure.sentence);
        else if (streq(name, "Warnings")) {
                size_t size = 0;
                FILE *f = open_memstream(&text, &size);

                if (!f)
                        return NULL;
                for (size_t i = 0; i < d->warnings.count; i++)
                        (void) fprintf(f, "%d %s\n", d->warnings.list[i].kind, d->warnings.list[i].sentence);
                r = fclose(f) == 0 ? 0 : -1;
        } else
                r = asprintf(&text, "%s", text_property(d, name));
        return r < 0 ? NULL : text;
}

void bus_publish(Daemon *d) {
        static const char *const names[] = {
                "State",           "Step",        "IdScope",  "GlobalEndpoint",  "RegistrationId",
                "EndorsementKey",  "AssignedHub", "DeviceId", "Substatus",       "Attempts",
                "NextAttemptUSec", "LastError",   "Warnings", "LastSuccessUSec", "StateChangedUSec"
        };
        char *changed[ARRAY_SIZE(names) + 1];
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                char *text = fingerprint(d, names[i]);

                if (!text || (d->publisher.properties[i] && streq(d->publisher.properties[i], text))) {
                        free(text);
                        continue;
                }
                free(d->publisher.properties[i]);
                d->publisher.properties[i] = text;
                changed[n++] = (char *) names[i];
        }
        changed[n] = NULL;
        if (n > 0)
                (void) sd_bus_emit_properties_changed_strv(d->bus, PROVISIONING_PATH, PROVISIONING_NAME,
                                                           changed);
}

int bus_export(Daemon *d) {
        int r;

        r = sd_bus_add_object_vtable(d->bus, NULL, PROVISIONING_PATH, PROVISIONING_NAME, vtable, d);
        if (r < 0)
                return r;
        r = sd_bus_request_name(d->bus, PROVISIONING_NAME, 0);
        if (r == -EEXIST)
                log_error("Another process has the name '%s' on the bus: dps-provisiond runs already",
                          PROVISIONING_NAME);
        else if (r < 0)
                log_error(
                        "The bus does not give the name '%s': see its policy in org.dps.Provisioning1.conf",
                        PROVISIONING_NAME);
        return r;
}
