/* A factory reset. That it was asked for is on disk before anything is touched, and the name of the hub's
 * key stays there until the end: whatever dies in between, the next start of the daemon or another call goes
 * through all of it again, and each part is content when it finds nothing to do. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "daemon.h"

static void forget_state(Daemon *d) {
        Record *rec = &d->record;

        if (rec->reset_provisioning && !d->reset.provisioning) {
                step_forget(d); /* somebody has asked for more meanwhile */
                return;
        }
        record_forget_assignments(rec);
        rec->last_success_usec = 0;
        rec->reset = rec->reset_provisioning = false;
        rec->resting = true;
        free(TAKE(d->tpm.registration_id));
        warnings_remove_all(&d->warnings);
        daemon_warn_about_config(d);
        log_notice("The factory reset is complete");
        daemon_done(d);
        reset_answer(&d->reset, NULL);
}

/* The names that our key at the handle may have: those of the adopted keys, and that of the wrapped key,
 * which may have become persistent just before a crash. */
static int build_forget_key(Daemon *d, sd_bus_message *m) {
        const Record *rec = &d->record;
        CLEANUP(bytes_deinit) Bytes wrapped = {};
        const Bytes *names[] = { &rec->intended.key.name, &rec->confirmed.key.name, &rec->left_key_name,
                                 &rec->left_wrapped_name, &wrapped };

        if (assignment_wrapped_name(&rec->intended, &wrapped) == -ENOMEM)
                return -ENOMEM;
        return helper_append_names(m, names, ARRAY_SIZE(names));
}

static int on_key_forgotten(Daemon *d, sd_bus_message *reply) {
        forget_state(d);
        return 0;
}

/* Another program's object is at the handle. */
static bool on_key_failed(Daemon *d, Failure *failure) {
        if (failure->kind != FAILURE_TPM_HANDLE_TAKEN)
                return false;
        if (d->record.intended.key.name.size > 0 || d->record.confirmed.key.name.size > 0)
                reset_add_note(&d->reset, "%s; it stays", failure->sentence);
        forget_state(d);
        return true;
}

static bool has_key(const Daemon *d) {
        const Record *rec = &d->record;

        return assignment_key_state(&rec->intended) >= HUB_KEY_WRAPPED || rec->confirmed.key.name.size > 0 ||
               rec->left_key_name.size > 0 || rec->left_wrapped_name.size > 0;
}

/* Comes last: IoT Edge that finds its key gone, and still has an identity, would register itself at once. */
static void forget_key(Daemon *d) {
        if (has_key(d))
                helper_call(d, &(HelperCall){ .helper = HELPER_TPM,
                                              .method = "ForgetHubKey",
                                              .build = build_forget_key,
                                              .done = on_key_forgotten,
                                              .failed = on_key_failed });
        else
                forget_state(d);
}

static int build_forget(Daemon *d, sd_bus_message *m) {
        return sd_bus_message_append(m, "b", (int) d->reset.provisioning);
}

static int on_forgotten(Daemon *d, sd_bus_message *reply) {
        const char *note;
        int r;

        r = sd_bus_message_enter_container(reply, 'a', "s");
        while (r >= 0 && (r = sd_bus_message_read(reply, "s", &note)) > 0)
                reset_add_note(&d->reset, "%s", note);
        if (r < 0)
                return r;
        forget_key(d);
        return 0;
}

static bool has_handed_over(const Daemon *d) {
        const char *edge = target_to_string(TARGET_IOTEDGE);

        return d->config->target == TARGET_IOTEDGE || str_equal(d->record.intended.handed_to, edge) ||
               str_equal(d->record.confirmed.handed_to, edge);
}

void step_forget(Daemon *d) {
        reset_begin_round(&d->reset, d->record.reset_provisioning);
        if (has_handed_over(d))
                helper_call(d, &(HelperCall){ .helper = HELPER_HANDOFF,
                                              .method = "Forget",
                                              .build = build_forget,
                                              .done = on_forgotten });
        else
                forget_key(d);
}
