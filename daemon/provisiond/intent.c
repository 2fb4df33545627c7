/* The intended assignment: how it begins, changes and ends. It is stored in the record only. */
#include <errno.h>
#include <stdlib.h>

#include "daemon.h"
#include "facts.h"

void daemon_facts(const Daemon *d, Facts *ret) {
        const Attempt *a = &d->attempt;
        Failure failure;
        const FactsInput input = { .now_usec = now_usec(CLOCK_BOOTTIME),
                                   .budget_time = daemon_budget_time(d),
                                   .configured = daemon_config_usable(d, &failure),
                                   .no_edge = d->config->target == TARGET_NONE,
                                   .adopts = daemon_adopts(d),
                                   .hub_key_handle = d->config->hub_key_handle,
                                   .unread = d->warnings.identity,
                                   .hmac_at_handle = d->tpm.handle == HANDLE_HMAC,
                                   .name_at_handle = &d->tpm.handle_name,
                                   .fresh = a->fresh,
                                   .live = a->live,
                                   .quiesced = a->quiesced,
                                   .hold_spent = attempt_hold_left(a) == 0,
                                   .keyless = a->keyless,
                                   .dps_answers = attempt_dps_answers(a),
                                   .token_expired = attempt_token_expired(a),
                                   .looked_usec = a->looked_usec,
                                   .snapshot = &a->snapshot,
                                   .throttled_until_usec = d->wait.throttled_until_usec,
                                   .disruption_until_usec = a->disruption_until_usec,
                                   .unbudgeted = a->unbudgeted };

        facts_derive(ret, &d->record, &input);
}

State daemon_state(const Daemon *d) {
        Facts facts;

        daemon_facts(d, &facts);
        return facts_state(&facts);
}

int daemon_target(const Daemon *d, Target *ret) {
        const Target target = { .id_scope = d->config->id_scope,
                                .endpoint = d->config->global_endpoint,
                                .registration_id = d->tpm.registration_id,
                                .ek_hash = d->tpm.ek_hash };

        return target_copy(ret, &target);
}

/* Stores the settings that decide how the assignment is handed over. */
static int note_configuration(Assignment *a, const Config *config) {
        int r;

        a->hub_key_handle = config->hub_key_handle;
        r = string_replace(&a->handed_to, target_to_string(config->target));
        return r < 0 ? r : string_replace(&a->identity, identity_mode_to_string(config->identity));
}

/* --- it begins --- */

static bool data_moved(const char *substatus) {
        return substatus && (streq(substatus, "deviceDataMigrated") || streq(substatus, "deviceDataReset"));
}

static void warn_about_reply(Warnings *warnings, const DpsReply *reply, bool adopts) {
        warnings_remove(warnings, WARNING_ADOPTION_REFUSED);
        warnings_remove(warnings, WARNING_DATA_MOVED);
        if (adopts && reply->hub_key.size == 0)
                warnings_add(warnings, WARNING_ADOPTION_REFUSED,
                             "DPS assigned '%s' without a hub key, so IoT Edge has to register itself",
                             reply->hub);
        if (data_moved(reply->substatus))
                warnings_add(warnings, WARNING_DATA_MOVED, "DPS reports '%s' for the device '%s' on '%s'",
                             reply->substatus, reply->device_id, reply->hub);
}

static int assignment_of(Daemon *d, DpsReply *reply, bool adopts, Assignment *ret) {
        CLEANUP(assignment_deinit) Assignment a = { .forced = d->record.forced };
        int r;

        a.hub = TAKE(reply->hub);
        a.device_id = TAKE(reply->device_id);
        a.substatus = TAKE(reply->substatus);
        a.payload = TAKE(reply->payload);
        a.hand_over = adopts && reply->hub_key.size > 0 ? HAND_OVER_ADOPT : HAND_OVER_REGISTER;
        if (a.hand_over == HAND_OVER_ADOPT) {
                a.key.received = reply->hub_key;
                reply->hub_key = (Bytes){};
        }
        r = daemon_target(d, &a.target);
        if (r >= 0)
                r = note_configuration(&a, d->config);
        if (r >= 0)
                r = snapshot_copy(&a.snapshot, &d->attempt.snapshot);
        if (r < 0)
                return r;
        *ret = a;
        a = (Assignment){};
        return 0;
}

int intent_begin(Daemon *d, DpsReply *reply, Failure *reterr) {
        bool no_edge = d->config->target == TARGET_NONE,
             adopts = daemon_adopts(d) && d->tpm.owner_auth_usable && (no_edge || d->attempt.may_adopt);
        CLEANUP(assignment_deinit) Assignment a = {};
        int r;

        if (!config_hub_allowed(d->config, reply->hub))
                return failure_set(reterr, FAILURE_HUB_NOT_ALLOWED, NULL,
                                   "DPS assigned '%s', which AllowedHubs= does not allow", reply->hub);
        if (no_edge && adopts && reply->hub_key.size == 0)
                return failure_set(reterr, FAILURE_PROTOCOL, NULL, "DPS assigned '%s' without a hub key",
                                   reply->hub);
        warn_about_reply(&d->warnings, reply, adopts);
        r = assignment_of(d, reply, adopts, &a);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "Failed to store the assignment");
        record_intend(&d->record, &a);
        d->attempt.fresh = true;
        return daemon_save(d, reterr);
}

int intent_begin_with_own(Daemon *d, const char *hub, const char *device_id) {
        CLEANUP(assignment_deinit) Assignment a = { .hand_over = HAND_OVER_KEEP };
        int r;

        r = daemon_target(d, &a.target);
        if (r >= 0)
                r = string_replace(&a.hub, hub);
        if (r >= 0)
                r = string_replace(&a.device_id, device_id);
        if (r >= 0)
                r = note_configuration(&a, d->config);
        if (r < 0)
                return r;
        record_intend(&d->record, &a);
        return intent_confirm(d, NULL, NULL);
}

/* --- it changes --- */

static int replace_device(Assignment *a, const char *hub, const char *device_id) {
        int r;

        if (!hub || !device_id || assignment_same_device(a, hub, device_id))
                return 0;
        r = string_replace(&a->hub, hub);
        if (r >= 0)
                r = string_replace(&a->device_id, device_id);
        return r < 0 ? r : string_replace(&a->substatus, NULL);
}

int intent_give_way(Daemon *d, const char *hub, const char *device_id) {
        Assignment *a = &d->record.intended;
        bool was_confirmed = record_is_confirmed(&d->record),
             adopted = a->hand_over == HAND_OVER_ADOPT || d->record.confirmed.hand_over == HAND_OVER_ADOPT;
        int r;

        r = replace_device(a, hub, device_id);
        if (r < 0)
                return r;
        assignment_drop_key(a);
        a->hand_over = HAND_OVER_KEEP;
        if (adopted)
                warnings_add(
                        &d->warnings, WARNING_ADOPTION_REFUSED,
                        d->config->target == TARGET_IOTEDGE
                                ? "IoT Edge registered itself and keeps its identity: the device '%s' on "
                                  "'%s'"
                                : "Another program registered the device '%s' on '%s' and keeps its hub key",
                        a->device_id, a->hub);
        return was_confirmed ? record_confirm(&d->record) : 0;
}

void intent_register_instead(Daemon *d, const char *why) {
        Assignment *a = &d->record.intended;

        assignment_drop_key(a);
        a->hand_over = HAND_OVER_REGISTER;
        warnings_add(&d->warnings, WARNING_ADOPTION_REFUSED, "IoT Edge has to register itself: %s", why);
}

/* Was this assignment already handed over to IoT Edge? */
static bool was_handed_over(const Daemon *d) {
        const Assignment *c = &d->record.confirmed;

        return record_has_confirmed(&d->record) && c->handed_to &&
               streq(c->handed_to, target_to_string(TARGET_IOTEDGE)) &&
               assignment_same_device(&d->record.intended, c->hub, c->device_id);
}

/* Without a snapshot, what there is now counts as older, with two exceptions: another key where ours was
 * adopted, and another device than the one that was handed over. */
static int take_late_snapshot(Daemon *d) {
        Assignment *a = &d->record.intended;
        const Snapshot *now = &d->attempt.snapshot;
        int r;

        r = snapshot_copy(&a->snapshot, now);
        if (r < 0)
                return r;
        if (a->key.name.size > 0 && !record_is_our_key(&d->record, &now->key_name))
                bytes_deinit(&a->snapshot.key_name);
        if (was_handed_over(d) && now->hub && !assignment_same_device(a, now->hub, now->device_id))
                return intent_give_way(d, now->hub, now->device_id);
        return 0;
}

int intent_judge(Daemon *d) {
        Assignment *a = &d->record.intended;
        const Snapshot *now = &d->attempt.snapshot;
        const Found found = { .key_name = &now->key_name,
                              .same_key = a->hand_over == HAND_OVER_ADOPT,
                              .hub = now->hub,
                              .device_id = now->device_id };

        if (!a->snapshot.taken)
                return take_late_snapshot(d);
        if (a->hand_over == HAND_OVER_KEEP || !assignment_superseded(a, &found))
                return 0;
        return intent_give_way(d, now->hub, now->device_id);
}

int intent_confirm(Daemon *d, const char *hub, const char *device_id) {
        Record *rec = &d->record;
        int r;

        if (hub && device_id && !assignment_same_device(&rec->intended, hub, device_id)) {
                r = replace_device(&rec->intended, hub, device_id);
                if (r < 0)
                        return r;
                assignment_drop_key(&rec->intended);
                rec->intended.hand_over = HAND_OVER_KEEP;
        }
        /* A key that was not adopted becomes stale. */
        if (rec->intended.hand_over != HAND_OVER_ADOPT && rec->intended.key.name.size == 0)
                assignment_drop_key(&rec->intended);
        r = record_confirm(rec);
        if (r < 0)
                return r;
        warnings_remove(&d->warnings, WARNING_EK_CHANGED);
        rec->last_success_usec = now_usec(CLOCK_REALTIME);
        daemon_warn_about_hub(d);
        return 0;
}

int intent_note_configuration(Daemon *d) {
        return note_configuration(&d->record.intended, d->config);
}

/* Hands the same assignment over in another way. A snapshot of another handle, or of before the last
 * hand-off, says nothing any more: the next look takes a new one. */
static int hand_over_anew(Daemon *d) {
        Assignment *a = &d->record.intended;
        bool moved = a->hub_key_handle > 0 && a->hub_key_handle != d->config->hub_key_handle;
        int r;

        r = note_configuration(a, d->config);
        if (r < 0)
                return r;
        if (moved)
                bytes_deinit(&a->key.name);
        if (!daemon_adopts(d))
                a->hand_over = HAND_OVER_REGISTER;
        else if (a->hand_over == HAND_OVER_REGISTER && assignment_key_state(a) != HUB_KEY_ABSENT)
                a->hand_over = HAND_OVER_ADOPT;
        if (moved || record_is_confirmed(&d->record))
                snapshot_deinit(&a->snapshot);
        record_reopen(&d->record);
        return 0;
}

int intent_change(Daemon *d, Pending change) {
        int r;

        switch (change) {
        case PENDING_RETARGET:
                return hand_over_anew(d);
        case PENDING_REATTEST:
        case PENDING_REPROVISION:
                r = record_discard(&d->record);
                if (r < 0)
                        return r;
                d->record.forced = d->record.forced || change == PENDING_REPROVISION;
                d->record.resting = false;
                return 0;
        default:
                return 0;
        }
}

/* --- it ends --- */

bool intent_is_allowed(const Daemon *d) {
        const Assignment *a = &d->record.intended, *confirmed = &d->record.confirmed;

        return !record_has_intent(&d->record) || config_hub_allowed(d->config, a->hub) ||
               assignment_same_device(a, confirmed->hub, confirmed->device_id);
}
