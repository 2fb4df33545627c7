/* The service's time, and how far behind it the local clock is. */
#include "daemon.h"

#define CLOCK_TOLERANCE_SEC  20u
#define SERVER_TIME_STEP_SEC 60u

void daemon_set_server_time(Daemon *d, uint64_t date) {
        if (date == 0)
                return;
        d->server_time = date;
        d->server_time_at_usec = now_usec(CLOCK_BOOTTIME);
        d->server_time_restored = false;
        /* On the disk a minute more or less does not matter, a write for each poll does. */
        if (date < d->record.server_time || date > d->record.server_time + SERVER_TIME_STEP_SEC)
                d->record.server_time = date;
}

uint64_t daemon_server_time(const Daemon *d) {
        uint64_t local = now_usec(CLOCK_REALTIME) / USEC_PER_SEC,
                 server =
                         d->server_time + (now_usec(CLOCK_BOOTTIME) - d->server_time_at_usec) / USEC_PER_SEC;

        if (d->server_time == 0)
                return local;
        /* The one from the disk is older than now by as long as the device was off. */
        return d->server_time_restored && local > server ? local : server;
}

bool daemon_clock_behind(const Daemon *d, Failure *ret) {
        uint64_t local = now_usec(CLOCK_REALTIME) / USEC_PER_SEC, server = daemon_server_time(d);

        if (local + CLOCK_TOLERANCE_SEC >= server)
                return false;
        (void) failure_set(
                ret, FAILURE_CLOCK_BEHIND, NULL,
                "The local clock is %llu s behind the service's, so IoT Edge's tokens would be refused",
                (unsigned long long) (server - local));
        return true;
}
