/* The steps that the TPM helper does. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"
#include "identity.h"

typedef struct Identity {
        Bytes ek, srk, hub_key_name; /* borrowed from the reply */
        const char *hub_key_state;
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

static int keep_identity(Daemon *d, const Identity *id) {
        uint8_t hash[SHA256_SIZE];
        int r;

        bytes_deinit(&d->ek_public);
        bytes_deinit(&d->srk_public);
        free(TAKE(d->ek_base64));
        free(TAKE(d->ek_hash));
        r = bytes_copy(&d->ek_public, id->ek.data, id->ek.size);
        if (r >= 0)
                r = bytes_copy(&d->srk_public, id->srk.data, id->srk.size);
        if (r >= 0)
                r = base64_encode(&d->ek_base64, id->ek.data, id->ek.size);
        if (r >= 0)
                r = sha256(id->ek.data, id->ek.size, hash);
        return r < 0 ? r : hex_encode(&d->ek_hash, hash, sizeof(hash));
}

/* What the hub key's handle holds is known before the service is asked. */
static int check_handle(const Daemon *d, const Identity *id, Failure *reterr) {
        bool ours = d->record.key_name.size > 0 && bytes_equal(&id->hub_key_name, &d->record.key_name);

        if (!daemon_adopts(d) || d->machine.state == STATE_HANDED_OFF || streq(id->hub_key_state, "empty") ||
            ours)
                return 0;
        /* With IoT Edge, Check() decides whether an HMAC key may go: aziot-tpmd would evict it as well. */
        if (streq(id->hub_key_state, "hmac") &&
            (d->config->target == TARGET_IOTEDGE || d->config->replace_provisioning ||
             (d->machine.state == STATE_ASSIGNED && d->machine.has_hub_key)))
                return 0; /* ADOPT compares the keys themselves: a power cut may have hidden our own name */
        return failure_set(reterr, FAILURE_TPM_HANDLE_TAKEN, NULL, "The TPM handle 0x%08x holds %s",
                           d->config->hub_key_handle,
                           streq(id->hub_key_state, "hmac") ? "an HMAC key that is not ours"
                                                            : "an object that is not a hub key");
}

static int check_owner(Daemon *d, const Identity *id, Failure *reterr) {
        daemon_unwarn(d, WARNING_SRK_UNSUITABLE);
        if (id->srk_unsuitable)
                daemon_warn(d, WARNING_SRK_UNSUITABLE,
                            "The TPM handle 0x81000001 holds a storage root key that IoT Edge can't use");
        if (id->owner_auth_usable || d->config->identity == IDENTITY_REGISTER)
                return 0;
        if (d->config->target == TARGET_NONE && d->machine.state != STATE_HANDED_OFF)
                return failure_set(reterr, FAILURE_TPM_AUTH, NULL,
                                   "The TPM's owner authorization is set and not known, so no key can be "
                                   "made persistent");
        daemon_warn(
                d, WARNING_SRK_UNSUITABLE,
                "The TPM's owner authorization is set and not known: IoT Edge has to register by itself");
        return 0;
}

static bool differs(const char *a, const char *b) {
        return a && b && !streq(a, b);
}

/* Another scope, endpoint, registration ID or endorsement key than the assignment was made for? */
static bool is_other(Daemon *d) {
        const Record *r = &d->record;

        if (!r->hub || !(differs(r->id_scope, d->config->id_scope) ||
                         differs(r->endpoint, d->config->global_endpoint) ||
                         differs(r->registration_id, d->registration_id) || differs(r->ek_hash, d->ek_hash)))
                return false;
        log_notice("The stored assignment of '%s' in scope '%s' belongs to another device or instance; this "
                   "one is "
                   "'%s' in scope '%s'",
                   r->registration_id, r->id_scope, d->registration_id, d->config->id_scope);
        return true;
}

static bool is_key_lost(const Daemon *d, const Identity *id) {
        if (d->record.key_name.size == 0 || !daemon_adopts(d) || !id->owner_auth_usable)
                return false;
        /* With IoT Edge, another key than ours means that it registered by itself: on_verify(). */
        return streq(id->hub_key_state, "empty") ||
               (d->config->target == TARGET_NONE && !bytes_equal(&id->hub_key_name, &d->record.key_name));
}

/* tpmd imports a key when identityd registers, and each import has another name. */
static bool is_key_replaced(const Daemon *d, const Identity *id) {
        return d->record.key_name.size > 0 && daemon_adopts(d) && d->config->target == TARGET_IOTEDGE &&
               d->record.hub_key_handle == d->config->hub_key_handle && streq(id->hub_key_state, "hmac") &&
               !bytes_equal(&id->hub_key_name, &d->record.key_name);
}

static int on_identity(Daemon *d, sd_bus_message *reply) {
        CLEANUP(freep) char *registration_id = NULL;
        Event event = { .type = EVENT_DONE };
        Identity id = {};
        Failure failure = { .kind = FAILURE_TPM_FAILED,
                            .sentence = "The identity can't be kept: out of memory" };
        int r;

        r = read_identity(reply, &id);
        if (r >= 0)
                r = keep_identity(d, &id);
        if (r < 0)
                return r;

        r = identity_registration_id(&registration_id, d->config, &d->options->config, id.ek.data,
                                     id.ek.size, &failure);
        if (r >= 0 || d->machine.state != STATE_HANDED_OFF) { /* what was handed off has the stored one */
                free(d->registration_id);
                d->registration_id = TAKE(registration_id);
        }
        if (r >= 0)
                r = check_handle(d, &id, &failure);
        if (r >= 0)
                r = check_owner(d, &id, &failure);
        if (r < 0) {
                daemon_failed(d, &failure);
                return 0;
        }
        daemon_unwarn(d, d->identity_warning);
        d->identity_warning = FAILURE_NONE;
        d->key_replaced = is_key_replaced(d, &id);
        d->machine.target_none = d->config->target == TARGET_NONE;
        d->machine.adopt = daemon_adopts(d) && id.owner_auth_usable;

        if (d->machine.state != STATE_ATTESTING && is_other(d)) {
                event.type = EVENT_OTHER;
                if (differs(d->record.ek_hash, d->ek_hash)) { /* never this machine's: a cloned disk */
                        record_forget_assignment(&d->record);
                        daemon_unwarn_assignment(d);
                        d->machine.has_assignment = d->machine.has_hub_key = false;
                }
        } else if (is_key_lost(d, &id))
                event.type = EVENT_LOST;
        daemon_feed(d, &event);
        return 0;
}

void step_identity(Daemon *d) {
        helper_call(d, TPM_NAME, TPM_PATH, "Identity", NULL, on_identity);
}

static int build_activate(Daemon *d, sd_bus_message *m) {
        int r;

        r = append_bytes(m, &d->challenge);
        if (r < 0)
                return r;
        return sd_bus_message_append(m, "st", d->registration_id, daemon_server_time(d) + 3600);
}

static int on_activate(Daemon *d, sd_bus_message *reply) {
        const char *token;
        int r;

        r = sd_bus_message_read(reply, "s", &token);
        if (r < 0)
                return r;
        secret_freep(&d->token);
        r = string_replace(&d->token, token);
        if (r < 0)
                return r;
        bytes_deinit(&d->challenge);
        daemon_done(d);
        return 0;
}

void step_activate(Daemon *d) {
        helper_call(d, TPM_NAME, TPM_PATH, "SignRegistration", build_activate, on_activate);
}

static int build_import(Daemon *d, sd_bus_message *m) {
        return append_bytes(m, &d->hub_key_blob);
}

/* Assignment and wrapped key are on disk before anything changes in the TPM. */
static int on_import(Daemon *d, sd_bus_message *reply) {
        Bytes private_area, public_area;
        State before = d->record.state;
        Failure failure;
        int r;

        r = read_bytes(reply, &private_area);
        if (r >= 0)
                r = read_bytes(reply, &public_area);
        if (r < 0)
                return r;
        bytes_deinit(&d->record.key_private);
        bytes_deinit(&d->record.key_public);
        r = bytes_copy(&d->record.key_private, private_area.data, private_area.size);
        if (r >= 0)
                r = bytes_copy(&d->record.key_public, public_area.data, public_area.size);
        if (r < 0)
                return r;
        bytes_deinit(&d->hub_key_blob);

        d->record.state = STATE_ASSIGNED;
        if (daemon_save(d, &failure) < 0) {
                d->record.state = before;
                daemon_failed(d, &failure);
        } else
                daemon_done(d);
        return 0;
}

void step_import(Daemon *d) {
        helper_call(d, TPM_NAME, TPM_PATH, "ImportHubKey", build_import, on_import);
}

static int build_adopt(Daemon *d, sd_bus_message *m) {
        int r;

        r = append_bytes(m, &d->record.key_private);
        if (r >= 0)
                r = append_bytes(m, &d->record.key_public);
        if (r >= 0)
                r = append_bytes(m, &d->record.key_name);
        return r < 0 ? r : sd_bus_message_append(m, "b", !d->machine.target_none); /* Check() came before */
}

static int on_adopt(Daemon *d, sd_bus_message *reply) {
        Bytes name;
        int changed, r;

        r = sd_bus_message_read(reply, "b", &changed);
        if (r >= 0)
                r = read_bytes(reply, &name);
        if (r < 0)
                return r;
        bytes_deinit(&d->record.key_name);
        r = bytes_copy(&d->record.key_name, name.data, name.size);
        if (r < 0)
                return r;
        if (changed)
                d->record.key_changed = true;
        daemon_done(d);
        return 0;
}

void step_adopt(Daemon *d) {
        Failure failure;

        /* IoT Edge could not use the key: its tokens would be refused, and it would throw the key away. */
        if (!d->machine.target_none && daemon_clock_behind(d, &failure)) {
                daemon_failed(d, &failure);
                return;
        }
        helper_call(d, TPM_NAME, TPM_PATH, "AdoptHubKey", build_adopt, on_adopt);
}
