/* Calls of org.dps.HandOff1. Stubs replace the operations. */
#include <errno.h>

#include "bus-calls.h"
#include "bus.h"
#include "handoffd.h"
#include "identity.h"

static Handoffd handoffd;

/* --- operations: the first one ends after the last call, so the calls between are queued --- */

const FlowStep check_steps[] = { NULL }, verify_steps[] = { NULL }, verify_settled_steps[] = { NULL },
               apply_steps[] = { NULL }, apply_recovery_steps[] = { NULL }, quiesce_steps[] = { NULL },
               quiesce_recovery_steps[] = { NULL }, resume_steps[] = { NULL }, forget_steps[] = { NULL },
               allow_steps[] = { NULL };

int operation_begin(Handoffd *h, sd_bus_message *message, const char *name, const FlowStep *steps,
                    const FlowStep *recovery, Operation **ret) {
        Operation *op = calloc(1, sizeof(*op));

        PROMISE(op && !h->operation);
        *op = (Operation){
                .h = h, .message = sd_bus_message_ref(message), .name = name, .steps_begun = steps
        };
        h->operation = *ret = op;
        return 0;
}

static void check_assignment(const Assignment *a) {
        const Target *target = &a->target;

        PROMISE(target->registration_id && identity_registration_id_valid(target->registration_id));
        PROMISE(a->hub && hub_name_valid(a->hub) && a->device_id && device_id_valid(a->device_id));
        PROMISE(!a->snapshot.hub == !a->snapshot.device_id && a->key.name.size <= 66);
        PROMISE(assignment_key_state(a) == HUB_KEY_ABSENT);
}

void operation_run(Operation *op) {
        bool has_assignment = op->steps_begun == apply_steps || op->steps_begun == verify_steps ||
                              op->steps_begun == verify_settled_steps;

        if (op->steps_begun == check_steps || has_assignment)
                PROMISE(op->registration_id && identity_registration_id_valid(op->registration_id));
        if (has_assignment)
                check_assignment(&op->assignment);
}

static void end_operation(void) {
        Operation *op = TAKE(handoffd.operation);
        size_t length = op->registration_id ? strlen(op->registration_id) : 0;

        op->result = "handed-off";
        op->plan.hub = op->assignment.hub;
        op->failed = length % 3 == 1;
        (void) failure_set(&op->failure, FAILURE_APPLY_FAILED, "1", "it failed");
        op->warning_count = length % 3;
        for (size_t i = 0; i < op->warning_count; i++) {
                op->warnings[i].kind = WARNING_DATA_MOVED;
                (void) snprintf(op->warnings[i].sentence, sizeof(op->warnings[i].sentence), "%s",
                                op->registration_id);
        }
        PROMISE(operation_reply(op) >= 0);
        (void) sd_bus_message_unref(op->message);
        assignment_deinit(&op->assignment);
        free(op->registration_id);
        free(op);
}

static void settle(void) {
        Handoffd *h = &handoffd;

        while (h->operation) {
                end_operation();
                while (h->queued > 0 && !h->operation) {
                        CLEANUP(sd_bus_message_unrefp) sd_bus_message *message = h->queue[0];

                        /* NOLINTNEXTLINE(bugprone-sizeof-expression): it is an array of pointers */
                        memmove(h->queue, h->queue + 1, --h->queued * sizeof(h->queue[0]));
                        (void) handoffd_begin_call(h, message);
                }
        }
        PROMISE(h->queued == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (!handoffd.bus) {
                handoffd.bus = bus_calls_open();
                PROMISE(sd_bus_add_object_vtable(handoffd.bus, NULL, HANDOFF_PATH, HANDOFF_NAME,
                                                 handoffd_vtable, &handoffd) >= 0);
        }
        bus_calls_run(HANDOFF_PATH, HANDOFF_NAME, data, size, settle);
        return 0;
}
