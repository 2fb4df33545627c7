/* The steps that the hand-off helper does. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"

#define RENEWAL_USEC (60 * USEC_PER_SEC)

/* The answers of Check, Quiesce, Apply and Verify have the same shape; each uses a part. Borrowed from the
 * reply. */
typedef struct Answer {
        const char *result, *identity, *hub, *device_id, *proof, *detail;
        int live, changed;
        uint64_t disruption_wait_usec;
        Failure warnings[WARNINGS_MAX];
        size_t warning_count;
} Answer;

static int read_warnings(sd_bus_message *m, Answer *a) {
        const char *kind, *sentence, *hint;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(sss)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(m, "(sss)", &kind, &sentence, &hint)) > 0) {
                FailureKind k = failure_kind_from_string(kind);
                Failure *warning = &a->warnings[a->warning_count];

                if (k <= FAILURE_NONE || a->warning_count == WARNINGS_MAX)
                        continue;
                (void) failure_set(warning, k, NULL, "%s", sentence);
                warning->remedy = failure_keep_hint(hint);
                a->warning_count++;
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_entry(sd_bus_message *m, const char *key, void *userdata) {
        Answer *a = userdata;
        const struct {
                const char *key, *type;
                void *target;
        } entries[] = {
                { "result", "s", &a->result },
                { "identity", "s", &a->identity },
                { "hub", "s", &a->hub },
                { "deviceId", "s", &a->device_id },
                { "disruptionWaitUSec", "t", &a->disruption_wait_usec },
                { "proof", "s", &a->proof },
                { "detail", "s", &a->detail },
                { "live", "b", &a->live },
                { "changed", "b", &a->changed },
                { "warnings", "a(sss)", NULL },
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

static bool has_warning(const Answer *a, FailureKind kind) {
        for (size_t i = 0; i < a->warning_count; i++)
                if (a->warnings[i].kind == kind)
                        return true;
        return false;
}

/* Check, Apply and Verify look at these each time, so a warning that they don't repeat is over. */
static void add_warnings(Warnings *warnings, const Answer *a) {
        static const FailureKind looked_at[] = { WARNING_REPROVISIONS_ITSELF, WARNING_PAYLOAD_IGNORED,
                                                 WARNING_PROXY_MISSING, FAILURE_ENGINE_UNREACHABLE,
                                                 WARNING_EDGE_CONFIG };

        for (size_t i = 0; i < ARRAY_SIZE(looked_at); i++)
                if (!has_warning(a, looked_at[i]))
                        warnings_remove(warnings, looked_at[i]);
        for (size_t i = 0; i < a->warning_count; i++)
                warnings_add_failure(warnings, &a->warnings[i]);
}

static int build_check(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append(m, "us", HANDOFF_VERSION, d->tpm.registration_id);
}

/* IoT Edge runs with our provisioning, although this daemon has handed nothing over. */
static bool is_provisioned_by_others(const Daemon *d, const Answer *a) {
        return streq(a->result, "already") && a->hub && a->device_id && daemon_state(d) == STATE_ATTESTING &&
               !record_has_confirmed(&d->record) && !d->record.forced;
}

/* What the TPM permits is not known while it can't be read, and not needed for a key that is in its place.
 */
static bool can_persist(const Daemon *d) {
        const Bytes *name = &d->record.intended.key.name;

        return d->tpm.owner_auth_usable || d->tpm.ek_public.size == 0 ||
               (name->size > 0 && bytes_equal(name, &d->tpm.handle_name));
}

static int judge_prepared(Daemon *d) {
        Assignment *a = &d->record.intended;
        int r;

        r = intent_judge(d);
        if (r >= 0 && a->hand_over == HAND_OVER_ADOPT && !(d->attempt.may_adopt && can_persist(d)))
                a->hand_over = HAND_OVER_REGISTER;
        return r;
}

/* identityd may have registered since IDENTITY: Check waits for it. */
static int on_prepared(Daemon *d, sd_bus_message *reply) {
        int r;

        r = attempt_update_key_name(&d->attempt, &d->tpm.handle_name);
        if (r >= 0)
                r = judge_prepared(d);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

static int on_prepare(Daemon *d, sd_bus_message *reply) {
        bool assigned = daemon_state(d) == STATE_ASSIGNED;
        Answer a = {};
        int r;

        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        if (!a.result || !a.identity || !a.proof)
                return -EBADMSG;
        add_warnings(&d->warnings, &a);
        d->attempt.live = a.live;
        d->attempt.disruption_until_usec =
                a.disruption_wait_usec > 0 ? now_usec(CLOCK_BOOTTIME) + a.disruption_wait_usec : 0;
        d->attempt.may_adopt = streq(a.identity, "adopt");
        r = attempt_take_snapshot(&d->attempt, &d->tpm.handle_name, a.hub, a.device_id, a.proof);
        if (r >= 0 && assigned && a.live) {
                step_look_at_handle(d, on_prepared);
                return 0;
        }
        if (r >= 0 && assigned)
                r = judge_prepared(d);
        else if (r >= 0 && is_provisioned_by_others(d, &a))
                r = intent_begin_with_own(d, a.hub, a.device_id);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

void step_prepare(Daemon *d) {
        helper_call(d, &(HelperCall){ .helper = HELPER_HANDOFF,
                                      .method = "Check",
                                      .build = build_check,
                                      .done = on_prepare });
}

/* Nobody waits for these two: the helper lets IoT Edge go on by itself in the end. */
static int on_aside(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);

        if (error)
                log_warning("The hand-off helper did not do what it was asked: %s", error->message);
        return 0;
}

void handoff_resume(Daemon *d) {
        attempt_end_hold(&d->attempt);
        (void) sd_bus_call_method_async(d->bus, NULL, HANDOFF_NAME, HANDOFF_PATH, HANDOFF_NAME, "Resume",
                                        on_aside, NULL, NULL);
}

/* The next instance of the helper starts IoT Edge after a crash. Resume makes it do so now. Otherwise Apply
 * would start IoT Edge, perhaps with another hub key; a new key is judged and adopted after another Quiesce.
 */
static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Daemon *d = userdata;
        const char *name, *before, *now;
        int r;

        r = sd_bus_message_read(m, "sss", &name, &before, &now);
        if (r < 0 || now[0] != '\0' || !d->attempt.quiesced || d->machine.step == STEP_ADOPT ||
            d->machine.step == STEP_HANDOFF)
                return r < 0 ? r : 0;
        log_warning("The hand-off helper dps-handoffd ended while IoT Edge was quiesced");
        handoff_resume(d);
        return 0;
}

int handoff_watch(Daemon *d) {
        return sd_bus_add_match_async(d->bus, &d->handoff_owner,
                                      "type='signal',sender='org.freedesktop.DBus',"
                                      "path='/org/freedesktop/DBus',interface='org.freedesktop.DBus',"
                                      "member='NameOwnerChanged',arg0='" HANDOFF_NAME "'",
                                      on_owner_changed, NULL, d);
}

static void renew_quiesce(Daemon *d) {
        (void) sd_bus_call_method_async(d->bus, NULL, HANDOFF_NAME, HANDOFF_PATH, HANDOFF_NAME, "Quiesce",
                                        on_aside, NULL, "u", HANDOFF_VERSION);
}

/* The time until the next renewal, or until the hold is spent. */
static usec_t renewal_usec(const Attempt *attempt) {
        usec_t left = attempt_hold_left(attempt);

        return left > 0 && left < RENEWAL_USEC ? left : RENEWAL_USEC;
}

/* A wait for DPS or the TPM may exceed the helper's hold without a renewal (5 minutes). */
static int on_renewal(sd_event_source *source, uint64_t usec, void *userdata) {
        Daemon *d = userdata;

        if (!d->attempt.quiesced || d->machine.step == STEP_HANDOFF)
                return 0;
        if (attempt_hold_left(&d->attempt) == 0)
                daemon_feed(d, &(Event){ .type = EVENT_HOLD_SPENT });
        if (!d->attempt.quiesced) /* the attempt may have ended, and the source with it */
                return 0;
        renew_quiesce(d);
        (void) sd_event_source_set_time_relative(source, renewal_usec(&d->attempt));
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int on_looked(Daemon *d, sd_bus_message *reply) {
        int r;

        r = attempt_update_key_name(&d->attempt, &d->tpm.handle_name);
        if (r >= 0 && daemon_state(d) == STATE_ASSIGNED)
                r = intent_judge(d);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

/* IoT Edge is quiesced, so its identity and the key at the handle are older than the next reply of DPS. */
static int on_quiesce(Daemon *d, sd_bus_message *reply) {
        Answer a = {};
        int r;

        attempt_begin_hold(&d->attempt); /* even when the reply is malformed */
        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        if (!a.proof)
                return -EBADMSG;
        r = attempt_take_snapshot(&d->attempt, &d->tpm.handle_name, a.hub, a.device_id, a.proof);
        if (r < 0)
                return r;
        d->attempt.renewal = sd_event_source_disable_unref(d->attempt.renewal);
        r = sd_event_add_time_relative(d->event, &d->attempt.renewal, CLOCK_BOOTTIME,
                                       renewal_usec(&d->attempt), USEC_PER_SEC, on_renewal, d);
        if (r < 0)
                return r;
        step_look_at_handle(d, on_looked);
        return 0;
}

static int build_quiesce(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append(m, "u", HANDOFF_VERSION);
}

void step_quiesce(Daemon *d) {
        Failure failure;

        /* IoT Edge can't use an adopted key yet (see step_adopt()), so leave it running. */
        if (daemon_state(d) == STATE_ASSIGNED && daemon_clock_behind(d, &failure)) {
                daemon_failed(d, &failure);
                return;
        }
        helper_call(d, &(HelperCall){ .helper = HELPER_HANDOFF,
                                      .method = "Quiesce",
                                      .build = build_quiesce,
                                      .done = on_quiesce });
}

static int build_handoff(Daemon *d, sd_bus_message *m) {
        int r;

        r = assignment_append(&d->record.intended, m);
        return r < 0 ? r : sd_bus_message_append(m, "b", (int) attempt_dps_answers(&d->attempt));
}

static int on_handoff(Daemon *d, sd_bus_message *reply) {
        Answer a = {};
        int r;

        d->attempt.quiesced = false; /* Apply resumes IoT Edge */

        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        warnings_remove(&d->warnings, WARNING_EDGE_FLAG_MISSING);
        add_warnings(&d->warnings, &a);
        r = intent_confirm(d, a.hub, a.device_id);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

/* Without IoT Edge there is nothing to hand over. */
static void finish_without_edge(Daemon *d) {
        Failure failure;
        int r;

        r = intent_note_configuration(d);
        if (r >= 0)
                r = intent_confirm(d, NULL, NULL);
        if (r < 0) {
                (void) failure_set_errno(&failure, FAILURE_STORAGE, r, "Failed to store the assignment");
                daemon_failed(d, &failure);
        } else
                daemon_done(d);
}

void step_handoff(Daemon *d) {
        Failure failure;

        if (d->config->target == TARGET_NONE) {
                finish_without_edge(d);
                return;
        }
        if (intent_note_configuration(d) < 0)
                (void) failure_set_errno(&failure, FAILURE_STORAGE, -ENOMEM,
                                         "Failed to store the assignment");
        else if (!daemon_clock_behind(d, &failure) && daemon_save(d, &failure) >= 0) {
                helper_call(d, &(HelperCall){ .helper = HELPER_HANDOFF,
                                              .method = "Apply",
                                              .build = build_handoff,
                                              .done = on_handoff });
                return;
        }
        daemon_failed(d, &failure);
}

static int on_verify(Daemon *d, sd_bus_message *reply) {
        Answer a = {};
        int r;

        r = bus_read_entries(reply, read_entry, &a);
        if (r < 0)
                return r;
        if (!a.result)
                return -EBADMSG;
        add_warnings(&d->warnings, &a);
        if (streq(a.result, "lost")) {
                log_notice("Handing over to IoT Edge again: %s", a.detail ? a.detail : "something is lost");
                record_reopen(&d->record);
        } else if (streq(a.result, "moved")) {
                if (!a.hub || !a.device_id)
                        return -EBADMSG;
                r = intent_give_way(d, a.hub, a.device_id);
                if (r >= 0)
                        r = intent_confirm(d, NULL, NULL);
        }
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

static int build_verify(Daemon *d, sd_bus_message *m) {
        Facts facts;
        int r;

        daemon_facts(d, &facts);
        r = assignment_append(&d->record.intended, m);
        return r < 0 ? r : sd_bus_message_append(m, "b", (int) facts.key_questioned);
}

void step_verify(Daemon *d) {
        helper_call(d, &(HelperCall){ .helper = HELPER_HANDOFF,
                                      .method = "Verify",
                                      .build = build_verify,
                                      .done = on_verify });
}
