#include "publish.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include <systemd/sd-daemon.h>

#include "daemon.h"
#include "store.h"

#define FIELDS_MAX      12
#define SAVE_AGAIN_USEC (60 * USEC_PER_SEC)

int publisher_init(Publisher *p, const char *state_dir) {
        *p = (Publisher){ .logged_state = _STATE_INVALID };
        if (asprintf(&p->record_path, "%s/state.json", state_dir) < 0) {
                p->record_path = NULL;
                return -ENOMEM;
        }
        (void) store_make_directory(state_dir, 0700); /* saving reports the failure */
        return 0;
}

void publisher_deinit(Publisher *p) {
        free(p->record_path);
        free(p->record_on_disk);
        (void) sd_event_source_disable_unref(p->save_again);
        free(p->status);
        for (size_t i = 0; i < PROPERTIES_MAX; i++)
                free(p->properties[i]);
        *p = (Publisher){};
}

typedef struct Fields {
        char *list[FIELDS_MAX + 1];
        size_t count;
} Fields;

static void add_field(Fields *f, const char *name, const char *value) {
        if (!value || !value[0] || f->count >= FIELDS_MAX)
                return;
        if (asprintf(&f->list[f->count], "%s=%s", name, value) < 0)
                f->list[f->count] = NULL;
        else
                f->count++;
}

static void fields_deinit(Fields *f) {
        for (size_t i = 0; i < f->count; i++)
                free(f->list[i]);
}

static void add_common_fields(Fields *f, const Daemon *d, Step step) {
        add_field(f, "DPS_STATE", state_to_string(daemon_state(d)));
        add_field(f, "DPS_STEP", step_to_string(step));
        add_field(f, "DPS_SCOPE_ID", d->config->id_scope);
        add_field(f, "DPS_REGISTRATION_ID", d->tpm.registration_id);
}

void publish_failure(Daemon *d, Step step) {
        CLEANUP(fields_deinit) Fields f = {};
        unsigned long long wait = (wait_left(&d->wait) + USEC_PER_SEC - 1) / USEC_PER_SEC;

        add_common_fields(&f, d, step);
        add_field(&f, "DPS_FAILURE", failure_kind_to_string(d->failure.kind));
        add_field(&f, "DPS_CODE", d->failure.code);
        add_field(&f, "DPS_REMEDY", failure_advice(&d->failure));
        if (machine_backing_off(&d->machine))
                log_event(LOG_WARNING, failure_message_id(d->failure.kind), (const char *const *) f.list,
                          "%s. Next attempt in %llu s. %s", d->failure.sentence, wait,
                          failure_advice(&d->failure));
        else
                log_event(LOG_WARNING, failure_message_id(d->failure.kind), (const char *const *) f.list,
                          "%s%s", d->failure.sentence,
                          daemon_state(d) == STATE_ATTESTING ? ". It begins anew at once" : "");
}

static const char *why_unprovisioned(const Daemon *d) {
        if (d->record.reset)
                return "a factory reset is under way";
        if (d->failure.kind != FAILURE_NONE)
                return "the configuration has to be corrected first";
        return d->config->id_scope
                       ? "after the factory reset the next start attests, or 'dps-provision reprovision'"
                       : "no ID scope, set it with 'dps-provision set-scope ID'";
}

static void log_state(Daemon *d) {
        CLEANUP(fields_deinit) Fields f = {};
        const Assignment *a = record_assignment(&d->record);
        State state = daemon_state(d);
        const char *id = state_message_id(state);
        const char *const *fields;

        if (d->publisher.logged_state == state)
                return;
        if (state == STATE_HANDED_OFF && d->machine.step != STEP_IDLE)
                return; /* after a start it is only true when IoT Edge has been looked at */
        d->publisher.logged_state = state;
        add_common_fields(&f, d, d->machine.step);
        if (state >= STATE_ASSIGNED) {
                add_field(&f, "DPS_HUB", a->hub);
                add_field(&f, "DPS_DEVICE_ID", a->device_id);
                add_field(&f, "DPS_SUBSTATUS", a->substatus);
                add_field(&f, "DPS_PAYLOAD", a->payload);
        }
        fields = (const char *const *) f.list;
        switch (state) {
        case STATE_ATTESTING:
                log_event(LOG_NOTICE, id, fields, "Attesting to '%s' in the ID scope '%s'",
                          d->config->global_endpoint, d->config->id_scope);
                break;
        case STATE_ASSIGNED:
                log_event(LOG_NOTICE, id, fields, "Assigned to '%s' as the device '%s'", a->hub,
                          a->device_id);
                break;
        case STATE_HANDED_OFF:
                log_event(LOG_NOTICE, id, fields, "Handed off: the device '%s' on '%s'", a->device_id,
                          a->hub);
                break;
        default:
                log_event(LOG_NOTICE, id, fields, "Not provisioned: %s", why_unprovisioned(d));
        }
}

/* The wait after a failure is a step of its own for people; the one between two polls is not. */
const char *daemon_step_text(const Daemon *d) {
        return wait_is_for_attempt(&d->wait, &d->machine) ? "wait" : step_to_string(d->machine.step);
}

static char *status_text(const Daemon *d) {
        const Assignment *a = record_assignment(&d->record);
        State state = daemon_state(d);
        char *text = NULL;
        int r;

        if (d->failure.kind != FAILURE_NONE)
                r = asprintf(&text, "%s (%s): %s", state_to_string(daemon_state(d)), daemon_step_text(d),
                             d->failure.sentence);
        else if (state == STATE_UNPROVISIONED)
                r = asprintf(&text, "unprovisioned: %s", why_unprovisioned(d));
        else if (state == STATE_HANDED_OFF)
                r = asprintf(&text, "handed-off: '%s' on '%s'", a->device_id, a->hub);
        else
                r = asprintf(&text, "%s (%s)", state_to_string(daemon_state(d)), daemon_step_text(d));
        return r < 0 ? NULL : text;
}

static void notify_systemd(Daemon *d) {
        CLEANUP(freep) char *text = status_text(d);

        if (!text || (d->publisher.status && streq(d->publisher.status, text)))
                return;
        (void) sd_notifyf(false, "STATUS=%s", text);
        free(d->publisher.status);
        d->publisher.status = TAKE(text);
}

int daemon_save(Daemon *d, Failure *reterr) {
        if (record_has_intent(&d->record))
                (void) warnings_save(&d->warnings, &d->record.intended);
        return record_save(&d->record, d->publisher.record_path, &d->publisher.record_on_disk, reterr);
}

static int on_save_again(sd_event_source *source, uint64_t usec, void *userdata) {
        daemon_publish(userdata);
        return 0;
}

/* At rest nothing else would ever write what a full disk has kept from it. */
static void save_later(Daemon *d) {
        d->publisher.save_again = sd_event_source_disable_unref(d->publisher.save_again);
        (void) sd_event_add_time_relative(d->event, &d->publisher.save_again, CLOCK_BOOTTIME,
                                          SAVE_AGAIN_USEC, USEC_PER_SEC, on_save_again, d);
}

void daemon_publish(Daemon *d) {
        Failure failure;

        if (d->record.state != daemon_state(d) || d->record.state_changed_usec == 0)
                d->record.state_changed_usec = now_usec(CLOCK_REALTIME);
        d->record.state = daemon_state(d);
        d->record.retry = d->machine.retry;
        if (daemon_save(d, &failure) < 0) {
                /* The work goes on: what is not on disk is done again after a restart. */
                warnings_add(&d->warnings, FAILURE_STORAGE, "%s", failure.sentence);
                d->publisher.save_failed = true;
                save_later(d);
        } else if (d->publisher.save_failed) {
                warnings_remove(&d->warnings, FAILURE_STORAGE);
                d->publisher.save_failed = false;
        }
        log_state(d);
        notify_systemd(d);
        bus_publish(d);
        bus_answer_reprovision(d);
}
