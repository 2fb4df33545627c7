/* Prints the journal catalog (journalctl -x) from the table of failures, at build time; or, given a manual
 * page, that page with the table in the place of its line "@FAILURES@". */
#include <errno.h>
#include <stdio.h>

#include "failure.h"
#include "machine.h"

static void entry(const char *id, const char *subject, const char *text) {
        (void) printf("-- %s\nSubject: %s\nDefined-By: dps-provisiond\nDocumentation: "
                      "man:dps-provisiond(8)\n\n%s\n\n",
                      id, subject, text);
}

static void print_table(void) {
        (void) puts(".Bl -tag -width indent");
        for (int k = FAILURE_NONE + 1; k < _FAILURE_KIND_MAX; k++)
                (void) printf(".It Cm %s\n%s.\n%s\n", failure_kind_to_string(k), failure_summary(k),
                              failure_remedy(k));
        (void) puts(".El");
}

static int print_page(const char *path) {
        CLEANUP(fclosep) FILE *f = fopen(path, "re");
        char line[1024];

        if (!f)
                return -errno;
        while (fgets(line, sizeof(line), f))
                if (streq(line, "@FAILURES@\n"))
                        print_table();
                else
                        (void) fputs(line, stdout);
        return ferror(f) ? -EIO : 0;
}

static void print_catalog(void) {
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
}

int main(int argc, char **argv) {
        int r = 0;

        if (argc > 1)
                r = print_page(argv[1]);
        else
                print_catalog();
        return r < 0 || ferror(stdout) ? 1 : 0;
}
