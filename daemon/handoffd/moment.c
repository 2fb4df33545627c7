#include "moment.h"

#include <stdlib.h>

#include <systemd/sd-id128.h>

#include "project.h"

/* The unit passes the boot ID, because ProcSubset=pid hides the kernel's file from this program. */
static void read_boot_id(Moment *m) {
        const char *id = getenv("DPS_BOOT_ID");
        char text[SD_ID128_STRING_MAX] = "";
        sd_id128_t boot;

        if (!id && sd_id128_get_boot(&boot) >= 0)
                id = sd_id128_to_string(boot, text);
        (void) snprintf(m->boot_id, sizeof(m->boot_id), "%s", id ? id : "");
}

void moment_now(Moment *ret) {
        *ret = (Moment){ .boottime_usec = now_usec(CLOCK_BOOTTIME),
                         .realtime_usec = now_usec(CLOCK_REALTIME) };
        read_boot_id(ret);
}

/* Without an ID, a clock that went backwards shows most reboots. */
bool moment_same_boot(const Moment *since, const Moment *now) {
        return streq(since->boot_id, now->boot_id) && now->boottime_usec >= since->boottime_usec;
}

static bool is_plausible(const Moment *m) {
        return m->realtime_usec >= BUILD_TIME * USEC_PER_SEC;
}

usec_t moment_elapsed(const Moment *since, const Moment *now, usec_t least, usec_t most) {
        usec_t elapsed = 0;

        if (moment_same_boot(since, now))
                return now->boottime_usec - since->boottime_usec;
        if (is_plausible(since) && is_plausible(now) && now->realtime_usec > since->realtime_usec)
                elapsed = now->realtime_usec - since->realtime_usec;
        if (elapsed < least)
                elapsed = least;
        if (elapsed > most)
                elapsed = most;
        return elapsed > now->boottime_usec ? elapsed : now->boottime_usec;
}
