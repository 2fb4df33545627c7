/* A clock that is wrong, for one process: preloaded, it adds the seconds in $CLOCK_SHIM_FILE to
 * CLOCK_REALTIME. When the file is replaced, timers with TFD_TIMER_CANCEL_ON_SET become readable, as they do
 * when the kernel's clock is set. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static int watched[1024];

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

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): glibc's names are reserved ones */
int clock_gettime(clockid_t clock, struct timespec *ts) {
        static int (*real)(clockid_t, struct timespec *);
        int r;

        if (!real)
                *(void **) &real = dlsym(RTLD_NEXT, "clock_gettime");
        r = real(clock, ts);
        if (r == 0 && clock == CLOCK_REALTIME)
                ts->tv_sec += offset();
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
        if (!(flags & TFD_TIMER_CANCEL_ON_SET) || fd >= 1024)
                return real(fd, flags, value, old);
        if (!watched[fd])
                watch_file(fd);
        while (read(fd, events, sizeof(events)) > 0)
                ;
        return 0;
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
