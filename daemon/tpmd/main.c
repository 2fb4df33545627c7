#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "bus.h"
#include "tpmd.h"

#define IDLE_USEC (60 * USEC_PER_SEC)

static bool is_outdated(void *userdata) {
        return ((const Tpmd *) userdata)->outdated;
}

int main(int argc, char *argv[]) {
        static const DaemonInfo info = {
                .name = "dps-tpmd",
                .description = "Answers the provisioning daemon's questions to the TPM; started by the bus.",
                .has_command_timeout = true,
        };
        DaemonOptions options;
        Tpmd tpmd = { .options = &options };
        int r;

        r = daemon_options_parse(&options, &info, argc, argv);
        if (r <= 0)
                return r < 0 ? 2 : EXIT_SUCCESS;

        r = tpm_cache_new(&tpmd.cache);
        if (r >= 0)
                r = bus_helper_run(&(BusHelperSettings){ .name = TPM_NAME,
                                                         .path = TPM_PATH,
                                                         .vtable = tpmd_vtable,
                                                         .userdata = &tpmd,
                                                         .idle_usec = IDLE_USEC,
                                                         .outdated = is_outdated });
        tpmd.cache = tpm_cache_free(tpmd.cache);
        if (r < 0) {
                log_error("The TPM helper ends: %s", strerror(-r));
                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
