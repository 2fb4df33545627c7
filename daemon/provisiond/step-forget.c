/* A factory reset. That it was asked for is on disk before anything is touched, and the name of the hub's
 * key stays there until the end: whatever dies in between, the next start of the daemon or another call goes
 * through all of it again, and each part is content when it finds nothing to do. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"

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

static int build_forget_key(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append_array(m, 'y', d->record.key_name.data, d->record.key_name.size);
}

static int on_key_forgotten(Daemon *d, sd_bus_message *reply) {
        forget_state(d);
        return 0;
}

/* Somebody else's object sits where our key was. */
static bool on_key_failed(Daemon *d, const Failure *failure) {
        if (failure->kind != FAILURE_TPM_HANDLE_TAKEN)
                return false;
        daemon_note_reset(d, "%s; it stays", failure->sentence);
        forget_state(d);
        return true;
}

/* Comes last: IoT Edge that finds its key gone, and still has an identity, would register by itself at once.
 */
static void forget_key(Daemon *d) {
        if (d->record.key_name.size > 0)
                helper_call_or(d, TPM_NAME, TPM_PATH, "ForgetHubKey", build_forget_key, on_key_forgotten,
                               on_key_failed);
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
