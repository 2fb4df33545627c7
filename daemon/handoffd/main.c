#include <stdlib.h>

#include "bus.h"
#include "handoffd.h"
#include "log.h"

#define IDLE_USEC (60 * USEC_PER_SEC)

static bool is_outdated(void *userdata) {
        return ((const Handoffd *) userdata)->outdated;
}

int main(int argc, char *argv[]) {
        static const DaemonInfo info = {
                .name = "dps-handoffd",
                .description = "Gives an assigned identity to Azure IoT Edge; started by the bus.",
                .has_root = true,
                .has_confirm_timeout = true,
        };
        DaemonOptions options;
        Handoffd h = { .options = &options };
        int r;

        r = daemon_options_parse(&options, &info, argc, argv);
        if (r <= 0)
                return r < 0 ? 2 : EXIT_SUCCESS;

        r = bus_helper_run(&(BusHelperSettings){ .name = HANDOFF_NAME,
                                                 .path = HANDOFF_PATH,
                                                 .vtable = handoffd_vtable,
                                                 .userdata = &h,
                                                 .idle_usec = IDLE_USEC,
                                                 .busy = handoffd_busy,
                                                 .outdated = is_outdated,
                                                 .start = handoffd_start,
                                                 .stop = handoffd_leave });
        handoffd_stop(&h);
        if (r < 0) {
                log_error("The hand-off helper ends: %s", strerror(-r));
                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
