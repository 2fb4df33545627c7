#include "bus.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "handoffd.h"
#include "identity.h"
#include "log.h"

static int bad_argument(sd_bus_message *m, const char *what) {
        log_warning("%s was called with a bad argument: %s", sd_bus_message_get_member(m), what);
        return sd_bus_reply_method_errorf(m, SD_BUS_ERROR_INVALID_ARGS, "Bad argument: %s", what);
}

/* --- answers --- */

static int append_text(sd_bus_message *m, const char *key, const char *value) {
        return value ? sd_bus_message_append(m, "{sv}", key, "s", value) : 0;
}

static int append_flag(sd_bus_message *m, const char *key, bool value) {
        return sd_bus_message_append(m, "{sv}", key, "b", (int) value);
}

static int append_warnings(sd_bus_message *m, const Operation *op) {
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "warnings");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(sss)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < op->warning_count; i++)
                r = sd_bus_message_append(m, "(sss)", failure_kind_to_string(op->warnings[i].kind),
                                          op->warnings[i].sentence,
                                          op->warnings[i].remedy ? op->warnings[i].remedy : "");
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_answer(sd_bus_message *m, const Operation *op) {
        const Situation *s = &op->situation;
        bool check = op->steps_begun == check_steps, apply = op->steps_begun == apply_steps,
             looks = check || op->steps_begun == quiesce_steps;
        const char *hub = op->plan.hub, *device_id = op->plan.device_id;
        int r;

        if (looks && !hub) {
                hub = s->device_info.hub;
                device_id = s->device_info.device_id;
        }
        r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0)
                r = append_text(m, "result", op->result);
        if (r >= 0)
                r = append_text(m, "detail", op->detail);
        if (r >= 0)
                r = append_text(m, "hub", hub);
        if (r >= 0)
                r = append_text(m, "deviceId", device_id);
        if (r >= 0 && looks)
                r = append_text(m, "proof", s->prev_state.text);
        if (r >= 0 && check)
                r = append_flag(m, "live", s->device.status == 200);
        if (r >= 0 && check)
                r = sd_bus_message_append(m, "{sv}", "disruptionWaitUSec", "t", op->disruption_wait_usec);
        if (r >= 0 && check)
                r = append_text(m, "identity", op->plan.adopt ? "adopt" : "register");
        if (r >= 0 && apply)
                r = append_flag(m, "changed", op->changed);
        if (r >= 0 && op->steps_begun != quiesce_steps)
                r = append_warnings(m, op);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* Forget's warnings are of no kind: what it has left alone. */
static int append_notes(sd_bus_message *m, const Operation *op) {
        int r = sd_bus_message_open_container(m, 'a', "s");

        for (size_t i = 0; r >= 0 && i < op->warning_count; i++)
                r = sd_bus_message_append(m, "s", op->warnings[i].sentence);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int operation_reply(Operation *op) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        bool answers = op->steps_begun != resume_steps && op->steps_begun != allow_steps;
        int r;

        if (!op->message)
                return 0;
        if (op->failed)
                return bus_reply_failure(op->message, &op->failure);
        r = sd_bus_message_new_method_return(op->message, &reply);
        if (r >= 0 && op->steps_begun == forget_steps)
                r = append_notes(reply, op);
        else if (r >= 0 && answers)
                r = append_answer(reply, op);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* --- arguments --- */

static bool device_valid(const char *hub, const char *device_id) {
        return hub && hub_name_valid(hub) && device_id && device_id_valid(device_id);
}

/* Returns what is wrong with it, or NULL. */
static const char *assignment_fault(const Assignment *a) {
        if (!a->target.registration_id || !identity_registration_id_valid(a->target.registration_id))
                return "registrationId is not a registration ID";
        if (!device_valid(a->hub, a->device_id))
                return "hub or deviceId is not valid";
        if ((a->snapshot.hub || a->snapshot.device_id) &&
            !device_valid(a->snapshot.hub, a->snapshot.device_id))
                return "snapshotHub or snapshotDeviceId is not valid";
        if (a->key.name.size > KEY_NAME_MAX)
                return "keyName is not the name of a TPM object";
        return NULL;
}

static const char *read_assignment(sd_bus_message *m, Assignment *ret) {
        CLEANUP(assignment_deinit) Assignment a = {};
        const char *fault;
        int r;

        r = assignment_read(&a, m);
        if (r < 0)
                return r == -ENOENT ? "an unknown key" : "a key with a value of another type";
        fault = assignment_fault(&a);
        if (fault)
                return fault;
        *ret = a;
        a = (Assignment){};
        return NULL;
}

/* --- calls --- */

typedef struct Call {
        const char *name;
        const FlowStep *steps, *recovery;
        const char *registration_id; /* copied */
        Assignment *assignment;      /* emptied */
        bool dps_answers, forget_provisioning;
} Call;

static int begin(Handoffd *h, sd_bus_message *m, const Call *call) {
        CLEANUP(freep) char *id = NULL;
        Operation *op;
        int r;

        r = string_replace(&id, call->registration_id);
        if (r >= 0)
                r = operation_begin(h, m, call->name, call->steps, call->recovery, &op);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        if (call->assignment) {
                op->assignment = *call->assignment;
                *call->assignment = (Assignment){};
        }
        op->registration_id = TAKE(id);
        op->dps_answers = call->dps_answers;
        op->forget_provisioning = call->forget_provisioning;
        operation_run(op);
        return 1;
}

static int bad_version(Handoffd *h, sd_bus_message *m) {
        h->outdated = true;
        return bad_argument(m, "the caller has another version");
}

static int begin_check(Handoffd *h, sd_bus_message *m) {
        const char *registration_id;
        uint32_t version;
        int r;

        r = sd_bus_message_read(m, "us", &version, &registration_id);
        if (r < 0) /* sd-bus ignores the result of a queued call */
                return sd_bus_reply_method_errno(m, r, NULL);
        if (version != HANDOFF_VERSION)
                return bad_version(h, m);
        if (!identity_registration_id_valid(registration_id))
                return bad_argument(m, "not a registration ID");
        return begin(h, m,
                     &(Call){ .name = "Check", .steps = check_steps, .registration_id = registration_id });
}

static int begin_apply(Handoffd *h, sd_bus_message *m) {
        CLEANUP(assignment_deinit) Assignment a = {};
        const char *fault = read_assignment(m, &a);
        int dps_answers, r;

        if (fault)
                return bad_argument(m, fault);
        r = sd_bus_message_read(m, "b", &dps_answers);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        return begin(h, m,
                     &(Call){ .name = "Apply",
                              .steps = apply_steps,
                              .recovery = apply_recovery_steps,
                              .registration_id = a.target.registration_id,
                              .assignment = &a,
                              .dps_answers = dps_answers });
}

static int begin_verify(Handoffd *h, sd_bus_message *m) {
        CLEANUP(assignment_deinit) Assignment a = {};
        const char *fault = read_assignment(m, &a);
        int settled, r;

        if (fault)
                return bad_argument(m, fault);
        r = sd_bus_message_read(m, "b", &settled);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        return begin(h, m,
                     &(Call){ .name = "Verify",
                              .steps = settled ? verify_settled_steps : verify_steps,
                              .registration_id = a.target.registration_id,
                              .assignment = &a });
}

static int begin_quiesce(Handoffd *h, sd_bus_message *m) {
        uint32_t version;
        int r;

        r = sd_bus_message_read(m, "u", &version);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        if (version != HANDOFF_VERSION)
                return bad_version(h, m);
        return begin(
                h, m,
                &(Call){ .name = "Quiesce", .steps = quiesce_steps, .recovery = quiesce_recovery_steps });
}

static int begin_forget(Handoffd *h, sd_bus_message *m) {
        int provisioning, r;

        r = sd_bus_message_read(m, "b", &provisioning);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        return begin(h, m,
                     &(Call){ .name = "Forget",
                              .steps = forget_steps,
                              .recovery = resume_steps,
                              .forget_provisioning = provisioning });
}

int handoffd_begin_call(Handoffd *h, sd_bus_message *m) {
        const char *member = sd_bus_message_get_member(m);

        if (streq(member, "Check"))
                return begin_check(h, m);
        if (streq(member, "Apply"))
                return begin_apply(h, m);
        if (streq(member, "Forget"))
                return begin_forget(h, m);
        if (streq(member, "Quiesce"))
                return begin_quiesce(h, m);
        if (streq(member, "Resume"))
                return begin(h, m, &(Call){ .name = "Resume", .steps = resume_steps });
        if (streq(member, "Allow"))
                return begin(h, m, &(Call){ .name = "Allow", .steps = allow_steps });
        return begin_verify(h, m);
}

/* All of them: one at a time, in the order in which they came. */
static int on_call(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Handoffd *h = userdata;
        int r;

        r = sd_bus_message_is_method_call(m, NULL, "Allow") ? bus_check_root(m, error)
                                                            : bus_check_caller(m, error);
        if (r < 0)
                return r;
        if (!h->operation)
                return handoffd_begin_call(h, m);
        if (h->queued == HANDOFF_QUEUE_MAX ||
            (sd_bus_message_is_method_call(m, NULL, "Apply") && h->operation->steps_begun == apply_steps))
                return sd_bus_error_setf(error, HANDOFF_BUSY, "%s is under way", h->operation->name);
        h->queue[h->queued++] = sd_bus_message_ref(m);
        return 1;
}

#define OPEN SD_BUS_VTABLE_UNPRIVILEGED /* who may call is checked in on_call() */

const sd_bus_vtable handoffd_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Check", SD_BUS_ARGS("u", version, "s", registrationId),
                                SD_BUS_RESULT("a{sv}", answer), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Quiesce", SD_BUS_ARGS("u", version), SD_BUS_RESULT("a{sv}", answer),
                                on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Resume", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Allow", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Apply", SD_BUS_ARGS("a{sv}", assignment, "b", dpsAnswers),
                                SD_BUS_RESULT("a{sv}", answer), on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Forget", SD_BUS_ARGS("b", provisioning), SD_BUS_RESULT("as", notes),
                                on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Verify", SD_BUS_ARGS("a{sv}", assignment, "b", settled),
                                SD_BUS_RESULT("a{sv}", answer), on_call, OPEN),
        SD_BUS_VTABLE_END,
};
