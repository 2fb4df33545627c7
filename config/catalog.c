/* Prints the journal catalog (journalctl -x) from the table of failures, at build time. */
#include <stdio.h>

#include "failure.h"
#include "machine.h"

static void entry(const char *id, const char *subject, const char *text) {
        (void) printf("-- %s\nSubject: %s\nDefined-By: dps-provisiond\nDocumentation: "
                      "man:dps-provisiond(8)\n\n%s\n\n",
                      id, subject, text);
}

int main(void) {
        static const char *const states[_STATE_MAX] = {
                [STATE_UNPROVISIONED] =
                        "The device has no identity and nothing to get one with: the ID scope is not "
                        "set, or the configuration can't be used.\n"
                        "Set it with 'dps-provision set-scope ID'.",
                [STATE_ATTESTING] =
                        "The device proves its identity to the Device Provisioning Service, in the ID "
                        "scope @DPS_SCOPE_ID@,\nand asks which hub it belongs to.",
                [STATE_ASSIGNED] =
                        "The service has assigned the device @DPS_DEVICE_ID@ to the hub @DPS_HUB@.\n"
                        "What is left is local: IoT Edge is given this identity.",
                [STATE_HANDED_OFF] =
                        "IoT Edge runs as the device @DPS_DEVICE_ID@, and the hub @DPS_HUB@ has "
                        "accepted it.\nThere is nothing left to do.",
        };

        for (int s = 0; s < _STATE_MAX; s++) {
                char subject[64];

                (void) snprintf(subject, sizeof(subject), "Device provisioning: %s", state_to_string(s));
                entry(state_message_id(s), subject, states[s]);
        }
        for (int k = FAILURE_NONE + 1; k < _FAILURE_KIND_MAX; k++)
                entry(failure_message_id(k), failure_summary(k), failure_remedy(k));
        return ferror(stdout) ? 1 : 0;
}
