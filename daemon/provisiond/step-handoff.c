/* The steps that the hand-off helper does. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"

#define RENEWAL_USEC (60 * USEC_PER_SEC)

/* The answers of Check, Apply and Verify have the same shape; each uses a part. Borrowed from the reply. */
typedef struct Answer {
        const char *result, *identity, *hub, *device_id, *detail;
        int live, changed;
        Failure warnings[WARNINGS_MAX];
        size_t warning_count;
} Answer;

static int read_warnings(sd_bus_message *m, Answer *a) {
        const char *kind, *sentence;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(ss)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(m, "(ss)", &kind, &sentence)) > 0) {
                FailureKind k = failure_kind_from_string(kind);

                if (k > FAILURE_NONE && a->warning_count < WARNINGS_MAX)
                        (void) failure_set(&a->warnings[a->warning_count++], k, NULL, "%s", sentence);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_entry(sd_bus_message *m, const char *key, void *userdata) {
        Answer *a = userdata;
        const struct {
                const char *key, *type;
                void *target;
        } entries[] = {
                { "result", "s", &a->result },   { "identity", "s", &a->identity },
                { "hub", "s", &a->hub },         { "deviceId", "s", &a->device_id },
                { "detail", "s", &a->detail },   { "live", "b", &a->live },
                { "changed", "b", &a->changed }, { "warnings", "a(ss)", NULL },
        };
        int r;

        assert(a);
        for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
                if (!streq(entries[i].key, key))
                        continue;
                r = sd_bus_message_enter_container(m, 'v', entries[i].type);
                if (r >= 0)
                        r = entries[i].target ? sd_bus_message_read(m, entries[i].type, entries[i].target)
                                              : read_warnings(m, a);
                return r < 0 ? r : sd_bus_message_exit_container(m);
        }
        return sd_bus_message_skip(m, "v");
}

static void take_warnings(Daemon *d, const Answer *a) {
        daemon_unwarn(d, WARNING_REPROVISIONS_ITSELF);
        for (size_t i = 0; i < a->warning_count; i++)
                daemon_warn(d, a->warnings[i].kind, "%s", a->warnings[i].sentence);
}

/* Who this machine is can't be told while its TPM or its serial number can't be read. */
static int replace_known(char **target, const char *value) {
        return value ? string_replace(target, value) : 0;
}

/* IoT Edge has another identity than the one that was assigned: that one is newer. */
static int take_identity(Daemon *d, const Answer *a) {
        Record *rec = &d->record;
        int r;

        if (!a->hub || !a->device_id)
                return -EBADMSG;
        if (rec->hub && rec->device_id && streq(rec->hub, a->hub) && streq(rec->device_id, a->device_id))
                return 0;
        bytes_deinit(&rec->key_private);
        bytes_deinit(&rec->key_public);
        bytes_deinit(&rec->key_name);
        r = string_replace(&rec->hub, a->hub);
        if (r >= 0)
                r = string_replace(&rec->device_id, a->device_id);
        if (r >= 0)
                r = string_replace(&rec->substatus, NULL);
        if (r >= 0)
                r = replace_known(&rec->id_scope, d->config->id_scope);
        if (r >= 0)
                r = replace_known(&rec->endpoint, d->config->global_endpoint);
        if (r >= 0)
                r = replace_known(&rec->registration_id, d->registration_id);
        return r < 0 ? r : replace_known(&rec->ek_hash, d->ek_hash);
}

/* What the hub has accepted: from here on this is what people see. */
int handoff_prove(Daemon *d) {
        Record *rec = &d->record;
        int r;

        rec->last_success_usec = now_usec(CLOCK_REALTIME);
        rec->key_changed = false;
        rec->hub_key_handle = d->config->hub_key_handle;
        r = string_replace(&rec->target, target_to_string(d->config->target));
        if (r >= 0)
                r = string_replace(&rec->identity, identity_mode_to_string(d->config->identity));
        if (r >= 0)
                r = string_replace(&rec->proven_hub, rec->hub);
        return r < 0 ? r : string_replace(&rec->proven_device_id, rec->device_id);
}

static void warn_moved(Daemon *d, const Answer *a) {
        daemon_warn(d, WARNING_ADOPTION_REFUSED, "IoT Edge has registered by itself as '%s' on '%s'",
                    a->device_id, a->hub);
}

static int build_registration_id(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append(m, "s", d->registration_id);
}

static int on_prepare(Daemon *d, sd_bus_message *reply) {
        Event event = { .type = EVENT_DONE };
        Answer a = {};
        int r;

        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        if (!a.result || !a.identity)
                return -EBADMSG;
        take_warnings(d, &a);
        event.live = a.live;
        event.adopt = d->machine.adopt && streq(a.identity, "adopt");

        if (streq(a.result, "already") && d->machine.state == STATE_ATTESTING &&
            !d->machine.has_assignment && !d->machine.forced) {
                event.type = EVENT_ALREADY;
                r = take_identity(d, &a);
                if (r >= 0)
                        r = handoff_prove(d);
        } else if (streq(a.result, "moved") && d->machine.state == STATE_ASSIGNED) {
                event.type = EVENT_MOVED;
                r = take_identity(d, &a);
                if (r >= 0)
                        warn_moved(d, &a);
        }
        if (r < 0)
                return r;
        daemon_feed(d, &event);
        return 0;
}

void step_prepare(Daemon *d) {
        helper_call(d, HANDOFF_NAME, HANDOFF_PATH, "Check", build_registration_id, on_prepare);
}

/* Nobody waits for these two: the helper lets IoT Edge go on by itself in the end. */
static int on_aside(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);

        if (error)
                log_warning("The hand-off helper did not do what it was asked: %s", error->message);
        return 0;
}

static void call_aside(Daemon *d, const char *method) {
        (void) sd_bus_call_method_async(d->bus, NULL, HANDOFF_NAME, HANDOFF_PATH, HANDOFF_NAME, method,
                                        on_aside, NULL, NULL);
}

void handoff_resume(Daemon *d) {
        call_aside(d, "Resume");
}

void handoff_renew_quiesce(Daemon *d) {
        call_aside(d, "Quiesce");
}

/* Between two polls, and while the TPM takes its time, more may pass than the helper waits for (5 minutes).
 * Polling ends after 20 minutes, so this does, too. */
static int on_renewal(sd_event_source *source, uint64_t usec, void *userdata) {
        Daemon *d = userdata;

        if (!d->machine.quiesced || d->machine.step == STEP_HANDOFF)
                return sd_event_source_set_enabled(source, SD_EVENT_OFF);
        handoff_renew_quiesce(d);
        (void) sd_event_source_set_time_relative(source, RENEWAL_USEC);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int on_quiesce(Daemon *d, sd_bus_message *reply) {
        int r;

        d->renewal = sd_event_source_disable_unref(d->renewal);
        r = sd_event_add_time_relative(d->event, &d->renewal, CLOCK_BOOTTIME, RENEWAL_USEC, USEC_PER_SEC,
                                       on_renewal, d);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

void step_quiesce(Daemon *d) {
        Failure failure;

        /* The key that would be adopted can't be used yet (see step_adopt()), so IoT Edge goes on. */
        if (d->machine.state == STATE_ASSIGNED && daemon_clock_behind(d, &failure)) {
                daemon_failed(d, &failure);
                return;
        }
        helper_call(d, HANDOFF_NAME, HANDOFF_PATH, "Quiesce", NULL, on_quiesce);
}

static int append_flag(sd_bus_message *m, const char *key, bool value) {
        return sd_bus_message_append(m, "{sv}", key, "b", (int) value);
}

static int append_text(sd_bus_message *m, const char *key, const char *value) {
        return sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int build_handoff(Daemon *d, sd_bus_message *m) {
        const Record *rec = &d->record;
        CLEANUP(freep) char *key_name = NULL;
        bool adopt = d->machine.adopt && d->machine.has_hub_key;
        int r;

        r = hex_encode(&key_name, rec->key_name.data, rec->key_name.size);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0)
                r = append_text(m, "registrationId", d->registration_id);
        if (r >= 0)
                r = append_text(m, "hub", rec->hub);
        if (r >= 0)
                r = append_text(m, "deviceId", rec->device_id);
        if (r >= 0 && adopt && rec->key_name.size > 0)
                r = append_text(m, "keyName", key_name);
        if (r >= 0)
                r = append_flag(m, "keyChanged", adopt && rec->key_changed);
        if (r >= 0)
                r = append_flag(m, "adopt", adopt);
        if (r >= 0)
                r = append_flag(m, "dpsJustAnswered", d->machine.fresh);
        if (r >= 0)
                r = append_flag(m, "force", d->machine.forced && !adopt);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int on_handoff(Daemon *d, sd_bus_message *reply) {
        Answer a = {};
        int r;

        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        daemon_unwarn(d, WARNING_EDGE_FLAG_MISSING);
        take_warnings(d, &a);
        if (a.hub && a.device_id) {
                r = take_identity(d, &a);
                if (r < 0)
                        return r;
        }
        r = handoff_prove(d);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

void step_handoff(Daemon *d) {
        Failure failure;

        if (daemon_clock_behind(d, &failure)) {
                daemon_failed(d, &failure);
                return;
        }
        helper_call(d, HANDOFF_NAME, HANDOFF_PATH, "Apply", build_handoff, on_handoff);
}

static int on_verify(Daemon *d, sd_bus_message *reply) {
        Event event = { .type = EVENT_DONE };
        Answer a = {};
        int r;

        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        if (!a.result)
                return -EBADMSG;
        if (streq(a.result, "lost")) {
                event.type = EVENT_LOST;
                log_notice("What was handed off to IoT Edge is lost and is written again: %s",
                           a.detail ? a.detail : "no detail");
        } else if (streq(a.result, "moved")) {
                event.type = EVENT_MOVED;
                r = take_identity(d, &a);
                if (r >= 0)
                        r = handoff_prove(d);
                if (r < 0)
                        return r;
                warn_moved(d, &a);
        } else if (d->key_replaced) {
                event.type = EVENT_MOVED;
                bytes_deinit(&d->record.key_private); /* may be the hub's no more; the name still tells */
                bytes_deinit(&d->record.key_public);
                daemon_warn(
                        d, WARNING_ADOPTION_REFUSED,
                        "IoT Edge has registered by itself, as the same device: the key at 0x%08x is not "
                        "the one that it was given",
                        d->config->hub_key_handle);
        }
        daemon_feed(d, &event);
        return 0;
}

void step_verify(Daemon *d) {
        helper_call(d, HANDOFF_NAME, HANDOFF_PATH, "Verify", NULL, on_verify);
}
