#include "helper.h"

#include <assert.h>
#include <errno.h>

#include "bus.h"
#include "daemon.h"

/* The hints of the failure kinds are for failures that a helper reports. These are for helpers that can't
 * report. */
#define SEE_UNIT(name)                                                                                      \
        "See 'systemctl status " name "' and 'journalctl -u " name "'. The bus starts it when it is "       \
        "called: its unit must not be masked, and files that were installed by hand need "                  \
        "'systemctl reload dbus'."
#define STOP(name) "Run 'systemctl stop " name "'. The next attempt starts the installed version."

static const struct {
        const char *program, *subject, *name, *path;
        FailureKind kind;
        const char *unreachable, *outdated; /* hints */
} helpers[] = {
        [HELPER_TPM] = { "dps-tpmd", "The TPM helper dps-tpmd", TPM_NAME, TPM_PATH, FAILURE_TPM_FAILED,
                         SEE_UNIT("dps-tpmd") " If the TPM does not answer it, power-cycle the device.",
                         STOP("dps-tpmd") },
        [HELPER_HANDOFF] = { "dps-handoffd", "The hand-off helper dps-handoffd", HANDOFF_NAME, HANDOFF_PATH,
                             FAILURE_APPLY_FAILED, SEE_UNIT("dps-handoffd"), STOP("dps-handoffd") },
};
static_assert(ARRAY_SIZE(helpers) == _HELPER_MAX, "every helper has a name");

void helper_deinit(HelperCalls *calls) {
        (void) sd_bus_slot_unref(calls->slot);
        *calls = (HelperCalls){};
}

/* A helper that was started before an upgrade has another version. It exits when it is idle, and the next
 * call starts the installed one. */
static void set_version_failure(Failure *ret, const sd_bus_error *error, Helper helper) {
        (void) failure_set(ret, helpers[helper].kind, "version",
                           "The helper '%s' has another version than dps-provisiond: %s",
                           helpers[helper].program, error->message ? error->message : "unknown method");
        ret->remedy = helpers[helper].outdated;
}

/* What it means when the helper itself could not be reached, died or did not answer (reply NULL), or failed.
 */
static void fail_call(Daemon *d, const sd_bus_error *error, sd_bus_message *reply) {
        const HelperCall *call = &d->helper.call;
        Failure failure;

        if (sd_bus_error_has_name(error, SD_BUS_ERROR_UNKNOWN_METHOD) ||
            sd_bus_error_has_name(error, SD_BUS_ERROR_INVALID_ARGS))
                set_version_failure(&failure, error, call->helper);
        else
                bus_failure_from_error(&failure, error, helpers[call->helper].kind,
                                       helpers[call->helper].subject, helpers[call->helper].unreachable);
        if (reply)
                bus_read_details(reply, &failure);
        if (!call->failed || !call->failed(d, &failure))
                daemon_failed(d, &failure);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        Daemon *d = userdata;
        int r;

        (void) sd_bus_message_sensitive(reply); /* it may hold the token */
        d->helper.slot = sd_bus_slot_unref(d->helper.slot);
        if (sd_bus_message_is_method_error(reply, NULL)) {
                fail_call(d, sd_bus_message_get_error(reply), reply);
                return 0;
        }
        r = d->helper.call.done(d, reply);
        if (r < 0) {
                (void) sd_bus_error_set_errnof(&error, r, "its answer is not what was expected");
                fail_call(d, &error, NULL);
        }
        return 0;
}

void helper_call(Daemon *d, const HelperCall *call) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *message = NULL;
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *name = helpers[call->helper].name;
        int r;

        d->helper.call = *call;
        r = sd_bus_message_new_method_call(d->bus, &message, name, helpers[call->helper].path, name,
                                           call->method);
        if (r >= 0)
                r = sd_bus_message_sensitive(message);
        if (r >= 0 && call->build)
                r = call->build(d, message);
        if (r >= 0)
                r = sd_bus_call_async(d->bus, &d->helper.slot, message, on_reply, d,
                                      step_deadline_usec(d->machine.step));
        if (r >= 0)
                return;
        (void) sd_bus_error_set_errno(&error, r);
        fail_call(d, &error, NULL);
}

int helper_append_names(sd_bus_message *m, const Bytes *const *names, size_t count) {
        int r;

        r = sd_bus_message_open_container(m, 'a', "ay");
        for (size_t i = 0; r >= 0 && i < count; i++)
                if (names[i] && names[i]->size > 0)
                        r = sd_bus_message_append_array(m, 'y', names[i]->data, names[i]->size);
        return r < 0 ? r : sd_bus_message_close_container(m);
}
