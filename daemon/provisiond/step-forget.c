/* A factory reset. That it was asked for is on disk before anything is touched, and the name of the hub's
 * key stays there until the end: whatever dies in between, the next start of the daemon or another call goes
 * through all of it again, and each part is content when it finds nothing to do. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"

#define ALG_SHA256 0x0b
#define NAME_SIZE  (2 + SHA256_SIZE)

static void forget_state(Daemon *d) {
        Record *rec = &d->record;

        if (rec->reset_provisioning && !d->reset_provisioning) {
                step_forget(d); /* somebody has asked for more meanwhile */
                return;
        }
        record_forget_assignment(rec);
        rec->last_success_usec = 0;
        rec->hub_key_handle = 0;
        rec->reset = rec->reset_provisioning = false;
        free(TAKE(d->registration_id));
        daemon_unwarn_all(d);
        log_notice("The factory reset is complete");
        daemon_done(d);
        bus_answer_reset(d, NULL);
}

static int on_key_forgotten(Daemon *d, sd_bus_message *reply) {
        forget_state(d);
        return 0;
}

/* The name of the key that was wrapped last: nameAlg and the digest of TPMT_PUBLIC (TPM 2.0 part 1, 16),
 * which comes after two bytes of size and two of type. */
static int wrapped_name(const Daemon *d, uint8_t ret[static NAME_SIZE]) {
        const Bytes *public = &d->record.key_public;

        if (public->size <= 6 || public->data[4] != 0 || public->data[5] != ALG_SHA256)
                return -ENOENT;
        ret[0] = 0;
        ret[1] = ALG_SHA256;
        return sha256(public->data + 2, public->size - 2, ret + 2);
}

static int build_forget_wrapped(Daemon *d, sd_bus_message *m) {
        uint8_t name[NAME_SIZE];
        int r = wrapped_name(d, name);

        return r < 0 ? r : sd_bus_message_append_array(m, 'y', name, sizeof(name));
}

/* Somebody else's object sits where our key was, or was to be. */
static bool on_wrapped_failed(Daemon *d, const Failure *failure) {
        if (failure->kind != FAILURE_TPM_HANDLE_TAKEN)
                return false;
        if (d->record.key_name.size > 0)
                daemon_note_reset(d, "%s; it stays", failure->sentence);
        forget_state(d);
        return true;
}

/* What ended the making persistent of a key may have kept its name from us, and not the key from its handle.
 */
static void forget_wrapped(Daemon *d) {
        helper_call_or(d, TPM_NAME, TPM_PATH, "ForgetHubKey", build_forget_wrapped, on_key_forgotten,
                       on_wrapped_failed);
}

static int build_forget_known(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append_array(m, 'y', d->record.key_name.data, d->record.key_name.size);
}

static bool on_known_failed(Daemon *d, const Failure *failure) {
        uint8_t name[NAME_SIZE];

        if (failure->kind != FAILURE_TPM_HANDLE_TAKEN || wrapped_name(d, name) < 0)
                return on_wrapped_failed(d, failure);
        forget_wrapped(d);
        return true;
}

/* Comes last: IoT Edge that finds its key gone, and still has an identity, would register by itself at once.
 */
static void forget_key(Daemon *d) {
        uint8_t name[NAME_SIZE];

        if (d->record.key_name.size > 0)
                helper_call_or(d, TPM_NAME, TPM_PATH, "ForgetHubKey", build_forget_known, on_key_forgotten,
                               on_known_failed);
        else if (wrapped_name(d, name) >= 0)
                forget_wrapped(d);
        else
                forget_state(d);
}

static int build_forget(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append(m, "b", (int) d->reset_provisioning);
}

static int on_forgotten(Daemon *d, sd_bus_message *reply) {
        const char *note;
        int r;

        r = sd_bus_message_enter_container(reply, 'a', "s");
        while (r >= 0 && (r = sd_bus_message_read(reply, "s", &note)) > 0)
                daemon_note_reset(d, "%s", note);
        if (r < 0)
                return r;
        forget_key(d);
        return 0;
}

static bool has_handed_over(const Daemon *d) {
        return d->config->target == TARGET_IOTEDGE ||
               (d->record.target && streq(d->record.target, target_to_string(TARGET_IOTEDGE)));
}

void step_forget(Daemon *d) {
        d->reset_note_count = 0;
        d->reset_provisioning = d->record.reset_provisioning;
        if (has_handed_over(d))
                helper_call(d, HANDOFF_NAME, HANDOFF_PATH, "Forget", build_forget, on_forgotten);
        else
                forget_key(d);
}
