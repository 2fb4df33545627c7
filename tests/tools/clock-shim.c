/* A clock that is wrong, for one process: preloaded, it adds the seconds in $CLOCK_SHIM_FILE to
 * CLOCK_REALTIME. When the file is replaced, timers with TFD_TIMER_CANCEL_ON_SET become readable, as they do
 * when the kernel's clock is set. CLOCK_BOOTTIME goes $CLOCK_SHIM_BOOT_SPEED times as fast, and so do its
 * timers; CLOCK_MONOTONIC, by which replies are waited for, does not. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NSEC_PER_SEC 1000000000

static int watched[1024];
static char boot[1024]; /* is it a timer of CLOCK_BOOTTIME? */

static long offset(void) {
        const char *path = getenv("CLOCK_SHIM_FILE");
        char text[32] = "";
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

        if (fd < 0)
                return 0;
        (void) !read(fd, text, sizeof(text) - 1);
        (void) close(fd);
        return strtol(text, NULL, 10);
}

static long speed(void) {
        const char *text = getenv("CLOCK_SHIM_BOOT_SPEED");

        return text ? strtol(text, NULL, 10) : 1;
}

/* Between what the kernel says and what the process sees: the same zero, another speed. */
static struct timespec scaled(struct timespec ts, long mul, long div) {
        int64_t nsec = ((int64_t) ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec) * mul / div;

        return (struct timespec){ .tv_sec = (time_t) (nsec / NSEC_PER_SEC),
                                  .tv_nsec = (long) (nsec % NSEC_PER_SEC) };
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): glibc's names are reserved ones */
int clock_gettime(clockid_t clock, struct timespec *ts) {
        static int (*real)(clockid_t, struct timespec *);
        int r;

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "clock_gettime");
        r = real(clock, ts);
        if (r == 0 && clock == CLOCK_REALTIME)
                ts->tv_sec += offset();
        if (r == 0 && clock == CLOCK_BOOTTIME)
                *ts = scaled(*ts, speed(), 1);
        return r;
}

int timerfd_create(clockid_t clock, int flags) {
        static int (*real)(clockid_t, int);
        int fd;

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "timerfd_create");
        fd = real(clock, flags);
        if (fd >= 0 && fd < 1024)
                boot[fd] = clock == CLOCK_BOOTTIME || clock == CLOCK_BOOTTIME_ALARM;
        return fd;
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

/* The timer's descriptor becomes one that the file's directory wakes. */
static void watch_file(int fd) {
        char directory[4096];
        const char *path = getenv("CLOCK_SHIM_FILE");
        int notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

        if (!path || strlen(path) >= sizeof(directory))
                return;
        (void) strcpy(directory, path);
        *strrchr(directory, '/') = '\0';
        (void) inotify_add_watch(notify, directory, IN_MOVED_TO);
        (void) dup3(notify, fd, O_CLOEXEC);
        (void) close(notify);
        watched[fd] = 1;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *value, struct itimerspec *old) {
        static int (*real)(int, int, const struct itimerspec *, struct itimerspec *);
        char events[4096];

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "timerfd_settime");
        if (fd < 1024 && boot[fd] && speed() != 1) {
                const struct itimerspec slower = { .it_interval = scaled(value->it_interval, 1, speed()),
                                                   .it_value = scaled(value->it_value, 1, speed()) };

                return real(fd, flags, &slower, old);
        }
        if (!(flags & TFD_TIMER_CANCEL_ON_SET) || fd >= 1024)
                return real(fd, flags, value, old);
        if (!watched[fd])
                watch_file(fd);
        while (read(fd, events, sizeof(events)) > 0)
                ;
        return 0;
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
