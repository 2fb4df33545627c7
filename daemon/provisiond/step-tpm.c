/* The steps that the TPM helper does. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"
#include "identity.h"
#include "tpm.h"

#define TOKEN_LIFE_SEC 3600u /* as the SDKs of Azure have it */

typedef struct Identity {
        Bytes ek, srk, hub_key_name; /* borrowed from the reply */
        const char *hub_key_state, *owner_auth_fault;
        int owner_auth_usable, srk_unsuitable;
} Identity;

static int read_bytes(sd_bus_message *m, Bytes *ret) {
        const void *data;
        size_t size;
        int r;

        r = sd_bus_message_read_array(m, 'y', &data, &size);
        if (r >= 0)
                *ret = (Bytes){ .data = (uint8_t *) data, .size = size };
        return r;
}

static int append_bytes(sd_bus_message *m, const Bytes *bytes) {
        return sd_bus_message_append_array(m, 'y', bytes->data, bytes->size);
}

static int read_identity_entry(sd_bus_message *m, const char *key, void *userdata) {
        Identity *id = userdata;
        const struct {
                const char *key, *type;
                void *target;
        } entries[] = {
                { "endorsementKey", "ay", &id->ek },
                { "storageRootKey", "ay", &id->srk },
                { "hubKeyName", "ay", &id->hub_key_name },
                { "hubKeyState", "s", &id->hub_key_state },
                { "ownerAuthUsable", "b", &id->owner_auth_usable },
                { "ownerAuthFault", "s", &id->owner_auth_fault },
                { "storageRootKeyUnsuitable", "b", &id->srk_unsuitable },
        };
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
                if (!streq(entries[i].key, key))
                        continue;
                r = sd_bus_message_enter_container(m, 'v', entries[i].type);
                if (r < 0)
                        return r;
                r = streq(entries[i].type, "ay")
                            ? read_bytes(m, entries[i].target)
                            : sd_bus_message_read(m, entries[i].type, entries[i].target);
                return r < 0 ? r : sd_bus_message_exit_container(m);
        }
        return sd_bus_message_skip(m, "v");
}

static int read_identity(sd_bus_message *m, Identity *id) {
        int r = bus_read_entries(m, read_identity_entry, id);

        if (r < 0)
                return r;
        return id->ek.size > 0 && id->srk.size > 0 && id->hub_key_state ? 0 : -EBADMSG;
}

/* May an HMAC key that was there before our first adoption be replaced? With IoT Edge, HandOff1.Check
 * decides that: aziot-tpmd would evict it as well. */
static bool may_replace(const Config *config) {
        return config->target == TARGET_IOTEDGE || config->replace_provisioning;
}

/* What the hub key's handle holds is known before DPS is asked. */
static int check_handle(const Daemon *d, Failure *reterr) {
        const Tpm1 *tpm = &d->tpm;
        State state = daemon_state(d);

        if (!daemon_adopts(d) || state == STATE_HANDED_OFF ||
            (state == STATE_ASSIGNED && d->record.intended.hand_over != HAND_OVER_ADOPT) ||
            tpm->handle == HANDLE_EMPTY || record_is_our_key(&d->record, &tpm->handle_name))
                return 0;
        /* With a wrapped key, ADOPT compares the keys themselves. */
        if (tpm->handle == HANDLE_HMAC &&
            (may_replace(d->config) || assignment_key_state(&d->record.intended) >= HUB_KEY_WRAPPED))
                return 0;
        return failure_set(reterr, FAILURE_TPM_HANDLE_TAKEN, NULL, "The TPM handle 0x%08x holds %s",
                           d->config->hub_key_handle,
                           tpm->handle == HANDLE_HMAC ? "an HMAC key that is not ours"
                                                      : "an object that is not a hub key");
}

static int check_owner(Daemon *d, const Identity *id, Failure *reterr) {
        const char *why = id->owner_auth_fault ? id->owner_auth_fault
                                               : "the TPM's owner authorization is set and not known";
        Failure warning;
        int r;

        warnings_remove(&d->warnings, WARNING_SRK_UNSUITABLE);
        if (id->srk_unsuitable)
                warnings_add(&d->warnings, WARNING_SRK_UNSUITABLE,
                             "The key at 0x81000001 can't serve as storage root key, or its use could lock "
                             "the TPM; using a transient storage root key");
        if (id->owner_auth_usable || d->config->identity == IDENTITY_REGISTER)
                return 0;
        if (d->config->target == TARGET_NONE && daemon_state(d) != STATE_HANDED_OFF) {
                r = failure_set(reterr, FAILURE_TPM_AUTH, NULL, "The hub key can't be made persistent: %s",
                                why);
                if (id->owner_auth_fault)
                        reterr->remedy = TPM_AUTH_HINT;
                return r;
        }
        (void) failure_set(&warning, WARNING_SRK_UNSUITABLE, NULL, "IoT Edge has to register itself: %s",
                           why);
        if (id->owner_auth_fault)
                warning.remedy = TPM_AUTH_HINT;
        warnings_add_failure(&d->warnings, &warning);
        return 0;
}

/* The enrollment of the former endorsement key does not fit anymore, and only a person can change it. */
static void warn_of_change(Daemon *d, const Target *now) {
        Record *r = &d->record;

        if (str_set_and_equal(r->former_ek_hash, now->ek_hash))
                record_forget_former(r);
        if (!r->former_id) {
                warnings_remove(&d->warnings, WARNING_EK_CHANGED);
                return;
        }
        if (str_equal(r->former_id, now->registration_id))
                warnings_add(&d->warnings, WARNING_EK_CHANGED,
                             "The TPM has another endorsement key than when '%s' was provisioned",
                             r->former_id);
        else
                warnings_add(&d->warnings, WARNING_EK_CHANGED,
                             "The TPM has another endorsement key than when '%s' was provisioned; the "
                             "registration ID is '%s' now",
                             r->former_id, now->registration_id);
}

/* Drops an assignment for another target. An unknown member does not count. Another endorsement key means
 * that the disk was cloned, and then the confirmed assignment is not this device's either. */
static int check_target(Daemon *d) {
        const Target *stored = &record_assignment(&d->record)->target;
        CLEANUP(target_deinit) Target now = {};
        int r;

        r = daemon_target(d, &now);
        if (r < 0)
                return r;
        if (stored->ek_hash && !streq(stored->ek_hash, now.ek_hash)) {
                log_notice("Forgetting the stored assignment of '%s': it was made for another TPM",
                           stored->registration_id);
                warnings_remove_assignment(&d->warnings);
                r = record_forget_device(&d->record);
                warn_of_change(d, &now);
                return r;
        }
        warn_of_change(d, &now);
        if (!record_has_intent(&d->record) || !target_differs(stored, &now))
                return 0;
        log_notice(
                "Discarding the stored assignment of '%s' in the ID scope '%s': this device is '%s' in '%s'",
                stored->registration_id, stored->id_scope, now.registration_id, now.id_scope);
        return record_discard(&d->record);
}

/* Looks for an empty handle only. AdoptHubKey compares another key with ours; see Facts.key_questioned. */
static void check_key_is_there(Daemon *d) {
        const Assignment *a = &d->record.intended;

        if (record_is_confirmed(&d->record) && daemon_adopts(d) && d->tpm.owner_auth_usable &&
            assignment_key_state(a) == HUB_KEY_ADOPTED && d->tpm.handle == HANDLE_EMPTY) {
                log_notice("Loading the hub key again: the TPM handle 0x%08x is empty",
                           d->config->hub_key_handle);
                record_reopen(&d->record);
        }
}

static int on_identity(Daemon *d, sd_bus_message *reply) {
        CLEANUP(freep) char *registration_id = NULL;
        Identity id = {};
        Failure failure = { .kind = FAILURE_TPM_FAILED,
                            .sentence = "Failed to store the TPM's identity: out of memory" };
        int r;

        r = read_identity(reply, &id);
        if (r >= 0)
                r = tpm1_set_handle(&d->tpm, id.hub_key_state, &id.hub_key_name);
        if (r >= 0)
                r = tpm1_set_keys(&d->tpm, &id.ek, &id.srk);
        if (r < 0)
                return r;

        d->tpm.owner_auth_usable = id.owner_auth_usable;
        r = identity_registration_id(&registration_id, d->config, &d->options->config, id.ek.data,
                                     id.ek.size, &failure);
        if (r >= 0 || daemon_state(d) != STATE_HANDED_OFF) { /* a handed-off device keeps the stored one */
                free(d->tpm.registration_id);
                d->tpm.registration_id = TAKE(registration_id);
        }
        if (r >= 0)
                r = check_target(d);
        if (r >= 0)
                r = check_handle(d, &failure);
        if (r >= 0)
                r = check_owner(d, &id, &failure);
        if (r >= 0 && d->config->target == TARGET_NONE)
                r = attempt_take_snapshot(&d->attempt, &d->tpm.handle_name, NULL, NULL, NULL);
        if (r >= 0 && d->config->target == TARGET_NONE && daemon_state(d) == STATE_ASSIGNED)
                r = intent_judge(d);
        if (r < 0) {
                daemon_failed(d, &failure);
                return 0;
        }
        warnings_remove_identity(&d->warnings);
        check_key_is_there(d);
        daemon_done(d);
        return 0;
}

void step_identity(Daemon *d) {
        helper_call(d, &(HelperCall){ .helper = HELPER_TPM, .method = "Identity", .done = on_identity });
}

/* --- the handle now --- */

static int on_look(Daemon *d, sd_bus_message *reply) {
        const char *state;
        Bytes name;
        int r;

        r = sd_bus_message_read(reply, "s", &state);
        if (r >= 0)
                r = read_bytes(reply, &name);
        if (r >= 0)
                r = tpm1_set_handle(&d->tpm, state, &name);
        return r < 0 ? r : d->helper.looked(d, reply);
}

void step_look_at_handle(Daemon *d, HelperDone done) {
        d->helper.looked = done;
        helper_call(d, &(HelperCall){ .helper = HELPER_TPM, .method = "HubKey", .done = on_look });
}

static int build_activate(Daemon *d, sd_bus_message *m) {
        int r;

        r = append_bytes(m, &d->attempt.challenge);
        if (r < 0)
                return r;
        d->attempt.token_expires_usec = now_usec(CLOCK_BOOTTIME) + TOKEN_LIFE_SEC * USEC_PER_SEC;
        return sd_bus_message_append(m, "st", d->tpm.registration_id,
                                     daemon_server_time(d) + TOKEN_LIFE_SEC);
}

static int on_activate(Daemon *d, sd_bus_message *reply) {
        const char *token;
        int r;

        r = sd_bus_message_read(reply, "s", &token);
        if (r < 0)
                return r;
        secret_freep(&d->attempt.token);
        r = string_replace(&d->attempt.token, token);
        if (r < 0)
                return r;
        bytes_deinit(&d->attempt.challenge);
        daemon_done(d);
        return 0;
}

void step_activate(Daemon *d) {
        helper_call(d, &(HelperCall){ .helper = HELPER_TPM,
                                      .method = "SignRegistration",
                                      .build = build_activate,
                                      .done = on_activate });
}

/* --- the hub key --- */

/* The assignment has to be on disk before the TPM is changed. Feeds the failure when it can't be saved. */
static bool save_or_fail(Daemon *d) {
        Failure failure;

        if (daemon_save(d, &failure) >= 0)
                return true;
        daemon_failed(d, &failure);
        return false;
}

static int build_import(Daemon *d, sd_bus_message *m) {
        return append_bytes(m, &d->record.intended.key.received);
}

static int on_import(Daemon *d, sd_bus_message *reply) {
        HubKey *key = &d->record.intended.key;
        Bytes private_area, public_area;
        Failure failure;
        int r;

        r = read_bytes(reply, &private_area);
        if (r >= 0)
                r = read_bytes(reply, &public_area);
        if (r < 0)
                return r;
        bytes_deinit(&key->private_area);
        bytes_deinit(&key->public_area);
        r = bytes_copy(&key->private_area, private_area.data, private_area.size);
        if (r >= 0)
                r = bytes_copy(&key->public_area, public_area.data, public_area.size);
        if (r < 0) {
                bytes_deinit(&key->private_area);
                return r;
        }
        bytes_deinit(&key->received);
        if (daemon_save(d, &failure) < 0)
                daemon_failed(d, &failure);
        else
                daemon_done(d);
        return 0;
}

/* The TPM was cleared since the key was received or wrapped. */
static void discard_dead_key(Daemon *d, Failure *failure) {
        failure->remedy = "No action is needed. The daemon requests another hub key from DPS.";
        (void) record_discard(&d->record);
}

/* This TPM can't use a key of this kind, and another registration by us would bring the same kind again. */
static bool register_instead(Daemon *d, const Failure *failure) {
        if (d->config->target == TARGET_NONE) {
                (void) record_discard(&d->record);
                return false;
        }
        intent_register_instead(d, failure->sentence);
        daemon_done(d);
        return true;
}

static bool on_import_failed(Daemon *d, Failure *failure) {
        /* This TPM has just answered the challenge, so the enrollment and the hub key have to be for this
         * TPM. */
        if (d->attempt.fresh && failure->kind == FAILURE_IDENTITY_MISMATCH)
                failure->kind = FAILURE_PROTOCOL;
        if (failure->kind == FAILURE_PROTOCOL)
                return register_instead(d, failure);
        if (failure->kind == FAILURE_IDENTITY_MISMATCH)
                discard_dead_key(d, failure);
        return false;
}

void step_import(Daemon *d) {
        if (save_or_fail(d))
                helper_call(d, &(HelperCall){ .helper = HELPER_TPM,
                                              .method = "ImportHubKey",
                                              .build = build_import,
                                              .done = on_import,
                                              .failed = on_import_failed });
}

/* The names of the keys that AdoptHubKey may replace. When handed off the list is empty, and the keys are
 * only compared. */
static int append_replaceable(Daemon *d, sd_bus_message *m) {
        const Assignment *a = &d->record.intended, *confirmed = &d->record.confirmed;
        const Bytes *names[] = { &a->key.name, &confirmed->key.name, &d->record.left_key_name,
                                 &d->record.left_wrapped_name,
                                 may_replace(d->config) ? &a->snapshot.key_name : NULL };

        return helper_append_names(m, names, daemon_state(d) == STATE_ASSIGNED ? ARRAY_SIZE(names) : 0);
}

static int build_adopt(Daemon *d, sd_bus_message *m) {
        const HubKey *key = &d->record.intended.key;
        int r;

        r = append_bytes(m, &key->private_area);
        if (r >= 0)
                r = append_bytes(m, &key->public_area);
        return r < 0 ? r : append_replaceable(d, m);
}

/* With Target=none the hand-off ends here. */
static int finish_adopt(Daemon *d) {
        int r = 0;

        if (d->config->target == TARGET_NONE && daemon_state(d) == STATE_ASSIGNED)
                r = intent_confirm(d, NULL, NULL);
        if (r < 0)
                return r;
        daemon_done(d);
        return 0;
}

static int on_adopt(Daemon *d, sd_bus_message *reply) {
        HubKey *key = &d->record.intended.key;
        State state = daemon_state(d);
        Bytes name = {};
        int changed, r;

        r = sd_bus_message_read(reply, "b", &changed);
        if (r >= 0)
                r = read_bytes(reply, &name);
        if (r >= 0)
                r = tpm1_set_handle(&d->tpm, "hmac", &name);
        d->attempt.keyless = false;
        /* The key is equal to ours, but the program that imported it may have registered another device. */
        if (r >= 0 && !changed && state == STATE_ASSIGNED) {
                r = attempt_update_key_name(&d->attempt, &name);
                if (r >= 0)
                        r = intent_judge(d);
        }
        if (r >= 0 && d->record.intended.hand_over == HAND_OVER_ADOPT) {
                bytes_deinit(&key->name);
                r = bytes_copy(&key->name, name.data, name.size);
                key->changed = d->attempt.key_was_changed || changed;
        }
        if (r >= 0 && state == STATE_HANDED_OFF && changed)
                record_reopen(&d->record); /* it was gone: aziot-tpmd has to load it */
        else if (r >= 0 && state == STATE_HANDED_OFF)
                r = record_confirm(&d->record);
        return r < 0 ? r : finish_adopt(d);
}

/* The key at the handle is older than the assignment, is not ours, and may not be replaced. */
static bool is_older(const Daemon *d) {
        const Bytes *name = &d->record.intended.snapshot.key_name;

        return !may_replace(d->config) && name->size > 0 && !record_is_our_key(&d->record, name) &&
               bytes_equal(name, &d->tpm.handle_name);
}

/* The TPM can't load our key, and the handle holds a key that came after it: IoT Edge has registered itself
 * since the TPM was cleared. */
static bool replaces_dead_key(const Daemon *d) {
        const Bytes *name = &d->tpm.handle_name;

        return d->tpm.handle == HANDLE_HMAC && !record_is_our_key(&d->record, name) &&
               !bytes_equal(name, &d->record.intended.snapshot.key_name);
}

static bool on_adopt_failed(Daemon *d, Failure *failure) {
        bool handed_off = daemon_state(d) == STATE_HANDED_OFF,
             newer = failure->kind == FAILURE_TPM_HANDLE_TAKEN && streq(failure->code, TPM_CODE_HUB_KEY) &&
                     (handed_off || !is_older(d)),
             dead = failure->kind == FAILURE_IDENTITY_MISMATCH;

        if (!handed_off && (failure->kind == FAILURE_PROTOCOL || (dead && d->attempt.fresh)))
                return register_instead(d, failure);
        if (dead && !handed_off && !replaces_dead_key(d)) {
                discard_dead_key(d, failure);
                d->attempt.keyless = d->attempt.quiesced;
                return false;
        }
        return (newer || dead) && intent_give_way(d, NULL, NULL) >= 0 && finish_adopt(d) >= 0;
}

/* The power may go when the TPM has replaced the key and before the reply is here. So the mark is on disk
 * before the call, and the reply may take it back. */
static void mark_change(Daemon *d) {
        HubKey *key = &d->record.intended.key;

        d->attempt.key_was_changed = key->changed;
        if (daemon_state(d) == STATE_ASSIGNED && d->record.intended.hand_over == HAND_OVER_ADOPT &&
            (key->name.size == 0 || !bytes_equal(&key->name, &d->tpm.handle_name)))
                key->changed = true;
}

void step_adopt(Daemon *d) {
        bool handed_off = daemon_state(d) == STATE_HANDED_OFF;
        Failure failure;

        mark_change(d);
        if (!save_or_fail(d))
                return;
        /* While the clock is behind, the hub refuses IoT Edge's tokens, and IoT Edge then evicts the key. */
        if (!handed_off && d->config->target == TARGET_IOTEDGE && daemon_clock_behind(d, &failure)) {
                daemon_failed(d, &failure);
                return;
        }
        helper_call(d, &(HelperCall){ .helper = HELPER_TPM,
                                      .method = "AdoptHubKey",
                                      .build = build_adopt,
                                      .done = on_adopt,
                                      .failed = on_adopt_failed });
}
