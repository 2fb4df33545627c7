#include <errno.h>

#include "bus.h"
#include "daemon.h"

/* The kinds' own remedies are made for what the helpers report, not for helpers that can't report. */
#define SEE_UNIT(name)                                                                                      \
        "See 'systemctl status " name "' and 'journalctl -u " name "'. The bus starts it when it is "       \
        "called: its unit must not be masked, and files that were installed by hand need "                  \
        "'systemctl reload dbus'."

/* of the call that is under way: one operation at a time */
static struct {
        HelperDone done;
        HelperFailed failed;
        bool tpm;
} under_way;

/* A helper that was started before an upgrade has another version. It exits when it is idle, and the next
 * call starts the installed one. */
static void set_version_failure(Failure *ret, const sd_bus_error *error, bool tpm) {
        (void) failure_set(ret, tpm ? FAILURE_TPM_FAILED : FAILURE_APPLY_FAILED, "version",
                           "The helper '%s' has another version than dps-provisiond: %s",
                           tpm ? "dps-tpmd" : "dps-handoffd",
                           error->message ? error->message : "unknown method");
        ret->remedy =
                tpm ? "Run 'systemctl stop dps-tpmd'. The next attempt starts the installed version."
                    : "Run 'systemctl stop dps-handoffd'. The next attempt starts the installed version.";
}

/* What it means when the helper itself could not be reached, died or did not answer. */
static void helper_failed(Daemon *daemon, const sd_bus_error *error) {
        bool tpm = under_way.tpm;
        Failure failure;

        if (sd_bus_error_has_name(error, SD_BUS_ERROR_UNKNOWN_METHOD) ||
            sd_bus_error_has_name(error, SD_BUS_ERROR_INVALID_ARGS))
                set_version_failure(&failure, error, tpm);
        else
                bus_failure_from_error(
                        &failure, error, tpm ? FAILURE_TPM_FAILED : FAILURE_APPLY_FAILED,
                        tpm ? "The TPM helper dps-tpmd" : "The hand-off helper dps-handoffd",
                        tpm ? SEE_UNIT("dps-tpmd") " If the TPM does not answer it, power-cycle the device."
                            : SEE_UNIT("dps-handoffd"));
        /* This TPM has just answered the challenge, so the enrollment is for it, and the hub key has to be
         * as well. */
        if (daemon->machine.step == STEP_IMPORT && daemon->attempt.fresh &&
            failure.kind == FAILURE_IDENTITY_MISMATCH)
                failure.kind = FAILURE_PROTOCOL;
        if (!under_way.failed || !under_way.failed(daemon, &failure))
                daemon_failed(daemon, &failure);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Daemon *daemon = userdata;
        int r;

        (void) sd_bus_message_sensitive(reply); /* it may hold the token */
        daemon->call = sd_bus_slot_unref(daemon->call);
        if (sd_bus_message_is_method_error(reply, NULL)) {
                helper_failed(daemon, sd_bus_message_get_error(reply));
                return 0;
        }
        r = under_way.done(daemon, reply);
        if (r < 0) {
                CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

                (void) sd_bus_error_set_errnof(&error, r, "its answer is not what was expected");
                helper_failed(daemon, &error);
        }
        return 0;
}

void helper_call_or(Daemon *daemon, const char *name, const char *path, const char *method,
                    HelperBuild build, HelperDone done, HelperFailed failed) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *message = NULL;
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r;

        r = sd_bus_message_new_method_call(daemon->bus, &message, name, path, name, method);
        if (r >= 0)
                r = sd_bus_message_sensitive(message);
        if (r >= 0 && build)
                r = build(daemon, message);
        under_way.done = done;
        under_way.failed = failed;
        under_way.tpm = streq(name, TPM_NAME);
        if (r >= 0)
                r = sd_bus_call_async(daemon->bus, &daemon->call, message, on_reply, daemon,
                                      step_deadline_usec(daemon->machine.step));
        if (r >= 0)
                return;
        (void) sd_bus_error_set_errno(&error, r);
        helper_failed(daemon, &error);
}

void helper_call(Daemon *daemon, const char *name, const char *path, const char *method, HelperBuild build,
                 HelperDone done) {
        helper_call_or(daemon, name, path, method, build, done, NULL);
}
