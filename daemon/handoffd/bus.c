#include "bus.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "handoffd.h"
#include "identity.h"
#include "log.h"

#define HEX_CHARS "0123456789abcdef"

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
                r = sd_bus_message_open_container(m, 'v', "a(ss)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(ss)");
        for (size_t i = 0; r >= 0 && i < op->warning_count; i++)
                r = sd_bus_message_append(m, "(ss)", failure_kind_to_string(op->warnings[i].kind),
                                          op->warnings[i].sentence);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_answer(sd_bus_message *m, const Operation *op) {
        const Situation *s = &op->situation;
        bool check = op->steps_begun == check_steps, apply = op->steps_begun == apply_steps;
        int r;

        r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0)
                r = append_text(m, "result", op->result);
        if (r >= 0)
                r = append_text(m, "detail", op->detail);
        if (r >= 0)
                r = append_text(m, "hub", op->plan.hub);
        if (r >= 0)
                r = append_text(m, "deviceId", op->plan.device_id);
        if (r >= 0 && check)
                r = append_flag(m, "live", s->device.status == 200);
        if (r >= 0 && check)
                r = append_text(m, "identity", op->plan.adopt ? "adopt" : "register");
        if (r >= 0 && apply)
                r = append_flag(m, "changed", op->changed);
        if (r >= 0 && (check || apply))
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
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        bool answers = op->steps_begun != quiesce_steps && op->steps_begun != resume_steps;
        int r;

        if (!op->message)
                return 0;
        if (op->failed) {
                (void) bus_error_set_failure(&error, &op->failure);
                return sd_bus_reply_method_error(op->message, &error);
        }
        r = sd_bus_message_new_method_return(op->message, &reply);
        if (r >= 0 && op->steps_begun == forget_steps)
                r = append_notes(reply, op);
        else if (r >= 0 && answers)
                r = append_answer(reply, op);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* --- arguments --- */

static int read_member(sd_bus_message *m, const char *key, void *userdata) {
        Assignment *a = userdata;
        const struct {
                const char *key;
                const char **text;
                bool *flag;
        } members[] = {
                { "registrationId", &a->registration_id, NULL },
                { "hub", &a->hub, NULL },
                { "deviceId", &a->device_id, NULL },
                { "keyName", &a->key_name, NULL },
                { "keyChanged", NULL, &a->key_changed },
                { "adopt", NULL, &a->adopt },
                { "dpsJustAnswered", NULL, &a->dps_just_answered },
                { "force", NULL, &a->force },
        };

        assert(a);
        for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
                int flag, r;

                if (!streq(members[i].key, key))
                        continue;
                if (members[i].text)
                        return sd_bus_message_read(m, "v", "s", members[i].text);
                r = sd_bus_message_read(m, "v", "b", &flag);
                if (r >= 0)
                        *members[i].flag = flag;
                return r;
        }
        return -ENOENT;
}

/* Returns what is wrong with it, or NULL. */
static const char *assignment_fault(const Assignment *a) {
        if (!a->registration_id || !identity_registration_id_valid(a->registration_id))
                return "registrationId is not a registration ID";
        if (!a->hub || !hub_name_valid(a->hub))
                return "hub is not a host name";
        if (!a->device_id || !device_id_valid(a->device_id))
                return "deviceId is not a device ID";
        if (a->key_name && !chars_valid(a->key_name, HEX_CHARS, 2, 132))
                return "keyName is not the name of a TPM object in hexadecimal";
        return NULL;
}

static const char *read_assignment(sd_bus_message *m, Assignment *a) {
        int r = bus_read_entries(m, read_member, a);

        if (r < 0)
                return r == -ENOENT ? "an unknown key" : "a key with a value of another type";
        return assignment_fault(a);
}

/* --- calls --- */

static int begin(Handoffd *h, sd_bus_message *m, const char *name, const FlowStep *steps,
                 const FlowStep *recovery, const char *registration_id, const Assignment *assignment) {
        CLEANUP(freep) char *id = NULL;
        Operation *op;
        int r;

        r = string_replace(&id, registration_id);
        if (r >= 0)
                r = operation_begin(h, m, name, steps, recovery, &op);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        if (assignment)
                op->assignment = *assignment;
        op->registration_id = TAKE(id);
        operation_run(op);
        return 1;
}

static int begin_check(Handoffd *h, sd_bus_message *m) {
        const char *registration_id;
        int r;

        r = sd_bus_message_read(m, "s", &registration_id);
        if (r < 0) /* sd-bus ignores the result of a queued call */
                return sd_bus_reply_method_errno(m, r, NULL);
        if (!identity_registration_id_valid(registration_id))
                return bad_argument(m, "not a registration ID");
        return begin(h, m, "Check", check_steps, NULL, registration_id, NULL);
}

static int begin_apply(Handoffd *h, sd_bus_message *m) {
        Assignment a = {};
        const char *fault = read_assignment(m, &a);

        if (fault)
                return bad_argument(m, fault);
        return begin(h, m, "Apply", apply_steps, apply_recovery_steps, a.registration_id, &a);
}

static int begin_forget(Handoffd *h, sd_bus_message *m) {
        Operation *op;
        int provisioning, r;

        r = sd_bus_message_read(m, "b", &provisioning);
        if (r >= 0)
                r = operation_begin(h, m, "Forget", forget_steps, resume_steps, &op);
        if (r < 0)
                return sd_bus_reply_method_errno(m, r, NULL);
        op->forget_provisioning = provisioning;
        operation_run(op);
        return 1;
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
                return begin(h, m, "Quiesce", quiesce_steps, quiesce_recovery_steps, NULL, NULL);
        if (streq(member, "Resume"))
                return begin(h, m, "Resume", resume_steps, NULL, NULL, NULL);
        return begin(h, m, "Verify", verify_steps, NULL, NULL, NULL);
}

/* All of them: one at a time, in the order in which they came. */
static int on_call(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Handoffd *h = userdata;
        int r;

        r = bus_check_caller(m, error);
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
        SD_BUS_METHOD_WITH_ARGS("Check", SD_BUS_ARGS("s", registrationId), SD_BUS_RESULT("a{sv}", answer),
                                on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Quiesce", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Resume", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Apply", SD_BUS_ARGS("a{sv}", assignment), SD_BUS_RESULT("a{sv}", answer),
                                on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Forget", SD_BUS_ARGS("b", provisioning), SD_BUS_RESULT("as", notes),
                                on_call, OPEN),
        SD_BUS_METHOD_WITH_ARGS("Verify", SD_BUS_NO_ARGS, SD_BUS_RESULT("a{sv}", answer), on_call, OPEN),
        SD_BUS_VTABLE_END,
};
