/*
 * idle-helper IDLE-MSEC: a helper on lib/bus whose calls last as long as they are told to. Prints "end USEC"
 * at the end of each call, and "exit USEC" when the helper has left, both of CLOCK_BOOTTIME.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <systemd/sd-event.h>

#include "bus.h"

typedef struct IdleHelper {
        sd_event *event;
        unsigned calls; /* that are under way */
} IdleHelper;

static void print(const char *what) {
        printf("%s %" PRIu64 "\n", what, (uint64_t) now_usec(CLOCK_BOOTTIME));
        (void) fflush(stdout);
}

/* As dps-tpmd does it. */
static int method_block(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        uint32_t msec;
        int r;

        r = sd_bus_message_read(m, "u", &msec);
        if (r < 0)
                return r;
        (void) usleep(msec * 1000);
        print("end");
        return sd_bus_reply_method_return(m, NULL);
}

static int on_end(sd_event_source *source, uint64_t usec, void *userdata) {
        IdleHelper *h = userdata;

        h->calls--;
        print("end");
        return 0;
}

/* As dps-handoffd does it, but the reply comes at once. */
static int method_begin(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        IdleHelper *h = userdata;
        uint32_t msec;
        int r;

        r = sd_bus_message_read(m, "u", &msec);
        if (r >= 0)
                r = sd_event_add_time_relative(h->event, NULL, CLOCK_BOOTTIME, msec * UINT64_C(1000), 0,
                                               on_end, h);
        if (r < 0)
                return r;
        h->calls++;
        return sd_bus_reply_method_return(m, NULL);
}

static bool is_busy(void *userdata) {
        return ((const IdleHelper *) userdata)->calls > 0;
}

static int take_event(sd_bus *bus, sd_event *event, void *userdata) {
        ((IdleHelper *) userdata)->event = event;
        return 0;
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Block", "u", NULL, method_block, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD("Begin", "u", NULL, method_begin, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END,
};

int main(int argc, char *argv[]) {
        IdleHelper h = {};
        int r;

        if (argc != 2)
                return 2;
        r = bus_helper_run(&(BusHelperSettings){ .name = "org.dps.Idle",
                                                 .path = "/org/dps/Idle",
                                                 .vtable = vtable,
                                                 .userdata = &h,
                                                 .idle_usec = strtoull(argv[1], NULL, 10) * USEC_PER_MSEC,
                                                 .busy = is_busy,
                                                 .start = take_event });
        print("exit");
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
