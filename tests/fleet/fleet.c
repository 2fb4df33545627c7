/*
 * fleet [DEVICES]: runs every scenario with this number of devices (default: a million), prints the measured
 * values, and fails when one exceeds the expected value.
 */
#include "fleet.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"

#define HORIZON_USEC   (7 * DAY_USEC)
#define HUGE_PAGE_SIZE ((size_t) 2 * 1024 * 1024)
#define DEVICES_LEAST  10000   /* the hand-off itself takes a minute */
#define DEVICES        1000000 /* at most */
#define LIMIT          1000

static void look_at(Seen *seen, const Device *d, usec_t begin_usec) {
        if (d->early_requests > seen->early_requests)
                seen->early_requests = d->early_requests;
        if (d->requests > seen->requests)
                seen->requests = d->requests;
        if (d->registrations > seen->registrations)
                seen->registrations = d->registrations;
        if (d->done_usec == 0)
                seen->unfinished += !d->lost;
        else if (d->done_usec > begin_usec + seen->last_usec)
                seen->last_usec = d->done_usec - begin_usec;
        seen->mean_requests += d->requests;
}

static void summarize(const Fleet *f, Seen *seen) {
        uint32_t able = 0;

        *seen = (Seen){ .transient_usec = f->transient_usec };
        for (uint32_t id = 0; id < f->n_devices; id++) {
                look_at(seen, &f->devices[id], scenario_begin_usec(f->scenario));
                able += !f->devices[id].lost;
        }
        seen->mean_requests /= able;
        if (f->scenario->counted != 0)
                seen->last = (double) seen->last_usec / MINUTE_USEC * f->limit /
                             (f->scenario->counted == COUNTED_BOTH ? 2.0 * able : able);
}

static int run(Fleet *f, Seen *ret) {
        uint32_t id;
        int r;

        /* device_boot() sets all of it */
        r = -posix_memalign((void **) &f->devices, HUGE_PAGE_SIZE, f->n_devices * sizeof(Device));
        if (r < 0)
                return r;
        (void) madvise(f->devices, f->n_devices * sizeof(Device), MADV_HUGEPAGE);
        r = queue_new(&f->queue, f->devices, HORIZON_USEC);
        if (r >= 0) {
                for (id = 0; id < f->n_devices; id++)
                        device_boot(f, id);
                while (queue_take(f->queue, &id))
                        device_wake(f, id);
                summarize(f, ret);
        }
        f->queue = queue_free(f->queue);
        free(f->devices);
        return r;
}

/* --- the report --- */

/* Marks a value above the expected one; 0: no expectation. Returns the number of misses. */
static unsigned print_measure(int width, int decimals, double seen, double expected) {
        bool missed = expected > 0 && seen > expected;

        printf("%*.*f%c", width, decimals, seen, missed ? '!' : ' ');
        return missed;
}

static unsigned print_row(const Fleet *f, const Scenario *s, const Seen *seen) {
        const Expected *e = &s->expected;
        double last = f->n_devices < DEVICES ? e->last_of_fewer : e->last;
        unsigned missed = 0;

        printf("%-48s", s->name);
        missed +=
                print_measure(7, 2, (double) seen->last_usec / HOUR_USEC, (double) e->last_usec / HOUR_USEC);
        if (s->counted != 0)
                missed += print_measure(6, 2, seen->last, last);
        else
                printf("     - ");
        missed += print_measure(5, 1, seen->mean_requests, 0);
        missed += print_measure(4, 0, seen->requests, e->requests);
        missed += print_measure(5, 0, seen->early_requests, e->early_requests);
        missed += print_measure(6, 0, seen->registrations, e->registrations);
        missed += print_measure(5, 0, (double) seen->transient_usec / USEC_PER_SEC,
                                (double) e->transient_usec / USEC_PER_SEC);
        missed += seen->unfinished > 0;
        printf("%8u%s\n", seen->unfinished, seen->unfinished > 0 ? "!" : "");
        return missed;
}

static unsigned report(const Fleet *f, const Seen *seen) {
        unsigned missed = 0;

        printf("%u devices, %u operations a minute. ! marks what is more than expected.\n"
               "last: the last device that was handed off, in hours and in capacity bounds\n"
               "requests: the mean and the most of a device, without polls; early: the most while it can't "
               "succeed\n"
               "billed: the most registrations of a device\n"
               "retry: the longest wait after a transient failure with budget left, in seconds\n\n"
               "%48s   hours bounds  mean most early billed retry unserved\n",
               f->n_devices, f->limit, "");
        for (size_t i = 0; i < fleet_n_scenarios; i++)
                missed += print_row(f, &fleet_scenarios[i], &seen[i]);
        return missed;
}

/* --- the processes: one for each scenario, as many at a time as there are processors --- */

static int await_one(void) {
        int status;

        if (wait(&status) < 0)
                return -errno;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int run_all(Fleet *f, Seen *seen) {
        long running = 0, processors = sysconf(_SC_NPROCESSORS_ONLN);
        int r = 0;

        for (size_t i = 0; i < fleet_n_scenarios && r >= 0; i++) {
                if (running >= processors) {
                        r = await_one();
                        running--;
                }
                f->scenario = &fleet_scenarios[i];
                switch (fork()) {
                case -1:
                        return -errno;
                case 0:
                        _exit(run(f, &seen[i]) < 0);
                default:
                        running++;
                }
        }
        for (; running > 0; running--)
                r = await_one() < 0 ? -EIO : r;
        return r;
}

static int simulate(Fleet *f) {
        usec_t begin = now_usec(CLOCK_MONOTONIC);
        size_t size = fleet_n_scenarios * sizeof(Seen);
        struct rusage usage;
        unsigned missed;
        Seen *seen;
        int r;

        seen = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (seen == MAP_FAILED)
                return -errno;
        r = run_all(f, seen);
        if (r >= 0) {
                missed = report(f, seen);
                (void) getrusage(RUSAGE_CHILDREN, &usage);
                printf("\n%s: %u missed. %.0f s, %ld MiB in each process.\n", missed > 0 ? "FAIL" : "ok",
                       missed, (double) (now_usec(CLOCK_MONOTONIC) - begin) / USEC_PER_SEC,
                       usage.ru_maxrss / 1024);
                r = missed > 0;
        }
        (void) munmap(seen, size);
        return r;
}

int main(int argc, char *argv[]) {
        CLEANUP(config_freep) Config *config = NULL;
        Fleet fleet = { .limit = LIMIT };
        uint64_t n = DEVICES;
        int r;

        if (argc > 2 || (argc == 2 && (parse_uint(argv[1], DEVICES, &n) < 0 || n < DEVICES_LEAST))) {
                fprintf(stderr, "Usage: fleet [DEVICES], from %d to %d\n", DEVICES_LEAST, DEVICES);
                return 2;
        }
        fleet.n_devices = (uint32_t) n;
        r = config_load(&config, &(ConfigPaths){ .file = "/dev/null" });
        if (r >= 0) {
                fleet.policy = &config->retry;
                r = simulate(&fleet);
        }
        if (r < 0)
                fprintf(stderr, "Failed to simulate the fleet: %s\n", strerror(-r));
        return r != 0;
}
