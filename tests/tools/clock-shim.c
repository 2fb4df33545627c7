/* Clocks that a test sets, for one process: preloaded, it adds the seconds in $CLOCK_SHIM_FILE to
 * CLOCK_REALTIME. When the file is replaced, timers with TFD_TIMER_CANCEL_ON_SET become readable, as they do
 * when the kernel's clock is set.
 *
 * The seconds in $CLOCK_SHIM_PASSED pass on all clocks at the moment when that file is replaced: what is due
 * by then elapses at once, and FILE.PID says so. clock_nanosleep() ends early. A timeout of another system
 * call (poll) is not shortened; a loop over epoll and timerfds has none.
 *
 * $CLOCK_SHIM_BOOTED is a number of seconds: CLOCK_MONOTONIC and CLOCK_BOOTTIME are that much less, as after
 * a boot that was that much later. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NSEC_PER_SEC 1000000000
#define TIMERS_MAX   1024

typedef struct Timer {
        clockid_t clock;
        bool armed;
        bool watched;            /* its descriptor is an inotify's */
        struct itimerspec value; /* absolute, as the process sees it */
} Timer;

static Timer timers[TIMERS_MAX]; /* by descriptor */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_long passed;
static pthread_once_t following = PTHREAD_ONCE_INIT;
static long booted;

static bool is_since_boot(clockid_t clock) {
        return clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_BOOTTIME;
}

static long seconds_in(const char *variable) {
        const char *path = getenv(variable);
        char text[32] = "";
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

        if (fd < 0)
                return 0;
        (void) !read(fd, text, sizeof(text) - 1);
        (void) close(fd);
        return strtol(text, NULL, 10);
}

/* Becomes readable when a file is renamed to the one that the variable names, or to another one beside it.
 */
static int watch_file(const char *variable, int flags) {
        char directory[4096];
        const char *path = getenv(variable);
        int fd;

        if (!path || strlen(path) >= sizeof(directory))
                return -1;
        (void) strcpy(directory, path);
        *strrchr(directory, '/') = '\0';
        fd = inotify_init1(IN_CLOEXEC | flags);
        (void) inotify_add_watch(fd, directory, IN_MOVED_TO);
        return fd;
}

__attribute__((constructor)) static void begin(void) {
        const char *text = getenv("CLOCK_SHIM_BOOTED");

        passed = seconds_in("CLOCK_SHIM_PASSED");
        booted = text ? strtol(text, NULL, 10) : 0;
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): glibc's names are reserved ones */
int clock_gettime(clockid_t clock, struct timespec *ts) {
        static int (*real)(clockid_t, struct timespec *);
        int r;

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "clock_gettime");
        r = real(clock, ts);
        if (r == 0 && clock == CLOCK_REALTIME)
                ts->tv_sec += seconds_in("CLOCK_SHIM_FILE");
        if (r == 0 && (clock == CLOCK_REALTIME || is_since_boot(clock)))
                ts->tv_sec += passed;
        if (r == 0 && is_since_boot(clock))
                ts->tv_sec -= booted;
        return r;
}

time_t time(time_t *ret) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_REALTIME, &ts);
        if (ret)
                *ret = ts.tv_sec;
        return ts.tv_sec;
}

int gettimeofday(struct timeval *tv, void *zone) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_REALTIME, &ts);
        *tv = (struct timeval){ .tv_sec = ts.tv_sec, .tv_usec = ts.tv_nsec / 1000 };
        return 0;
}

static int real_settime(int fd, int flags, const struct itimerspec *value, struct itimerspec *old) {
        static int (*real)(int, int, const struct itimerspec *, struct itimerspec *);

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "timerfd_settime");
        return real(fd, flags, value, old);
}

static int arm(int fd, struct itimerspec *old) {
        struct itimerspec value = timers[fd].value;

        value.it_value.tv_sec -= passed;
        if (is_since_boot(timers[fd].clock))
                value.it_value.tv_sec += booted;
        if (value.it_value.tv_sec < 0)
                value.it_value = (struct timespec){ .tv_nsec = 1 };
        return real_settime(fd, TFD_TIMER_ABSTIME, &value, old);
}

/* Tells in a file of this process what has passed for it. */
static void acknowledge(void) {
        char path[4096], text[32];
        int fd;

        (void) snprintf(path, sizeof(path), "%s.%d", getenv("CLOCK_SHIM_PASSED"), getpid());
        (void) snprintf(text, sizeof(text), "%ld", passed);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        (void) !write(fd, text, strlen(text));
        (void) close(fd);
}

static void *follow(void *unused) {
        char events[4096];
        int fd = watch_file("CLOCK_SHIM_PASSED", 0);

        (void) unused;
        do {
                (void) pthread_mutex_lock(&lock);
                passed = seconds_in("CLOCK_SHIM_PASSED");
                for (int i = 0; i < TIMERS_MAX; i++) {
                        struct itimerspec left;

                        /* One that has elapsed has done so, whoever has not read it yet. */
                        if (timers[i].armed && timerfd_gettime(i, &left) == 0 &&
                            (left.it_value.tv_sec > 0 || left.it_value.tv_nsec > 0))
                                (void) arm(i, NULL);
                }
                (void) pthread_mutex_unlock(&lock);
                acknowledge();
        } while (read(fd, events, sizeof(events)) > 0);
        return NULL;
}

static void start_following(void) {
        sigset_t all, before;
        pthread_t thread;

        if (!getenv("CLOCK_SHIM_PASSED"))
                return;
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before);
        (void) pthread_create(&thread, NULL, follow, NULL);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int timerfd_create(clockid_t clock, int flags) {
        static int (*real)(clockid_t, int);
        int fd;

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "timerfd_create");
        (void) pthread_once(&following, start_following);
        (void) pthread_mutex_lock(&lock);
        fd = real(clock, flags);
        if (fd >= 0 && fd < TIMERS_MAX)
                timers[fd] = (Timer){ .clock = clock };
        (void) pthread_mutex_unlock(&lock);
        return fd;
}

/* The timer's descriptor becomes one that the file's directory wakes. */
static int wait_for_clock(int fd) {
        char events[4096];

        if (!timers[fd].watched) {
                int notify = watch_file("CLOCK_SHIM_FILE", IN_NONBLOCK);

                (void) dup3(notify, fd, O_CLOEXEC);
                (void) close(notify);
                timers[fd].watched = true;
        }
        while (read(fd, events, sizeof(events)) > 0)
                ;
        return 0;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *value, struct itimerspec *old) {
        bool armed = value->it_value.tv_sec > 0 || value->it_value.tv_nsec > 0;
        struct timespec now = {};
        int r;

        if (fd >= TIMERS_MAX)
                return real_settime(fd, flags, value, old);
        if ((flags & TFD_TIMER_CANCEL_ON_SET) && getenv("CLOCK_SHIM_FILE"))
                return wait_for_clock(fd);
        (void) pthread_mutex_lock(&lock);
        timers[fd].armed = armed;
        timers[fd].value = *value;
        if (!(flags & TFD_TIMER_ABSTIME) && armed) {
                (void) clock_gettime(timers[fd].clock, &now);
                timers[fd].value.it_value.tv_sec +=
                        now.tv_sec + (value->it_value.tv_nsec + now.tv_nsec) / NSEC_PER_SEC;
                timers[fd].value.it_value.tv_nsec = (value->it_value.tv_nsec + now.tv_nsec) % NSEC_PER_SEC;
        }
        r = armed ? arm(fd, old) : real_settime(fd, flags, value, old);
        (void) pthread_mutex_unlock(&lock);
        return r;
}
/* Sleeps in slices until its time has come on the clock as the process sees it. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *request, struct timespec *left) {
        static int (*real)(clockid_t, int, const struct timespec *, struct timespec *);
        const struct timespec slice = { .tv_nsec = NSEC_PER_SEC / 100 };
        struct timespec now, end = *request;

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "clock_nanosleep");
        if ((flags & TIMER_ABSTIME) || !getenv("CLOCK_SHIM_PASSED"))
                return real(clock, flags, request, left);
        (void) pthread_once(&following, start_following);
        (void) clock_gettime(clock, &now);
        end.tv_sec += now.tv_sec + (end.tv_nsec + now.tv_nsec) / NSEC_PER_SEC;
        end.tv_nsec = (end.tv_nsec + now.tv_nsec) % NSEC_PER_SEC;
        do {
                if (real(CLOCK_MONOTONIC, 0, &slice, left) == EINTR)
                        return EINTR;
                (void) clock_gettime(clock, &now);
        } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
        return 0;
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
