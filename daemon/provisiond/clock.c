/* The daemon's side of ServerTime: the clocks, the record, and the system's report about its clock. */
#include "daemon.h"
#include "project.h"

#define RECORD_STEP_SEC 60u

/* CLOCK_BOOTTIME is slewed with the local clock, so an estimate by CLOCK_BOOTTIME follows a clock that a
 * time service corrects slowly. CLOCK_MONOTONIC_RAW is not slewed, but stands still during a suspend. The
 * three readings are microseconds apart, so a later sum may be a little smaller. */
static usec_t steady_usec(void) {
        usec_t suspended = now_usec(CLOCK_BOOTTIME) - now_usec(CLOCK_MONOTONIC);

        return now_usec(CLOCK_MONOTONIC_RAW) + suspended;
}

/* C fixes no order for arguments, so read the local clock last and separately: a pause between the two
 * readings then makes the local clock look ahead, never behind. */
typedef struct Clocks {
        usec_t steady_usec;
        uint64_t local; /* seconds */
} Clocks;

static Clocks read_clocks(void) {
        Clocks now;

        now.steady_usec = steady_usec();
        now.local = now_usec(CLOCK_REALTIME) / USEC_PER_SEC;
        return now;
}

void daemon_set_server_time(Daemon *d, uint64_t date) {
        Clocks now = read_clocks();

        if (date == 0)
                return;
        server_time_set(&d->server_time, date, now.steady_usec, now.local);
        budget_refill(&d->record.budget, daemon_budget_time(d));
        /* On the disk a minute more or less does not matter, a write for each poll does. */
        if (date < d->record.server_time || date > d->record.server_time + RECORD_STEP_SEC)
                d->record.server_time = date;
}

void daemon_restore_server_time(Daemon *d) {
        server_time_restore(&d->server_time, d->record.server_time, steady_usec());
}

BudgetTime daemon_budget_time(const Daemon *d) {
        const ServerTime *t = &d->server_time;

        if (t->date == 0)
                return (BudgetTime){ .usec = now_usec(CLOCK_BOOTTIME) };
        return (BudgetTime){ .usec = t->date * USEC_PER_SEC + steady_usec() - t->seen_usec,
                             .by_date = true };
}

uint64_t daemon_server_time(const Daemon *d) {
        Clocks now = read_clocks();

        return server_time_now(&d->server_time, now.steady_usec, now.local);
}

uint64_t daemon_latest_time(const Daemon *d) {
        return server_time_latest(&d->server_time, steady_usec(), BUILD_TIME);
}

bool daemon_clock_behind(const Daemon *d, Failure *ret) {
        Clocks now = read_clocks();
        uint64_t behind = 0;

        switch (server_time_judge(&d->server_time, now.steady_usec, now.local, &behind)) {
        case SERVER_TIME_FINE:
                return false;
        case SERVER_TIME_BEHIND_UNLESS_SYNCHRONIZED:
                if (watch_clock_synchronized(d->watch))
                        return false;
                break;
        case SERVER_TIME_BEHIND:
                break;
        }
        (void) failure_set(ret, FAILURE_CLOCK_BEHIND, NULL,
                           "The local clock is %llu s behind DPS, so the hub would refuse IoT Edge's tokens",
                           (unsigned long long) behind);
        return true;
}
