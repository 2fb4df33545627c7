/* The local clock: when it is set, and whether the system says that it is right. */
#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "watch.h"

#define TIMEDATE          "org.freedesktop.timedate1"
#define TIMEDATE_PATH     "/org/freedesktop/timedate1"
#define SYNCHRONIZED      "/run/systemd/timesync/synchronized"
#define ANSWER_VALID_USEC (600 * USEC_PER_SEC)

struct ClockWatch {
        Daemon *daemon;
        int fd;
        sd_event_source *set;
        sd_bus_slot *question;
        usec_t synchronized_usec; /* CLOCK_BOOTTIME of timedated's last "yes"; 0: none */
};

/* A timer far in the future that the kernel cancels when the clock is set: as far as the kernel's
 * nanoseconds reach, or a 32-bit time_t. A timer in the past would fire again and again. */
static int arm_clock(int fd) {
        const struct itimerspec far = { .it_value.tv_sec = sizeof(time_t) > 4
                                                                   ? (time_t) (INT64_MAX / 2000000000)
                                                                   : INT32_MAX };

        return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL) < 0 ? -errno : 0;
}

static int on_clock(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        ClockWatch *w = userdata;
        uint64_t expirations;

        (void) !read(fd, &expirations, sizeof(expirations)); /* ECANCELED */
        (void) arm_clock(fd);
        w->synchronized_usec = 0; /* the answer was about the clock of before */
        w->question = sd_bus_slot_unref(w->question);
        daemon_clock_set(w->daemon);
        return 0;
}

static int on_answer(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        ClockWatch *w = userdata;
        int synchronized = false;

        w->question = sd_bus_slot_unref(w->question);
        if (sd_bus_message_is_method_error(reply, NULL)) {
                log_debug("Failed to ask systemd-timedated: %s", sd_bus_message_get_error(reply)->message);
                return 0;
        }
        if (sd_bus_message_enter_container(reply, 'v', "b") < 0 ||
            sd_bus_message_read(reply, "b", &synchronized) < 0 || !synchronized)
                return 0;
        w->synchronized_usec = now_usec(CLOCK_BOOTTIME);
        daemon_clock_set(w->daemon);
        return 0;
}

/* Looking for the file of systemd-timesyncd is cheap. For other time services timedated asks the kernel,
 * which ProtectClock= forbids to this unit. The bus starts timedated for the call, and timedated ends after
 * 30 seconds, so call it only when its answer changes a decision. */
bool clock_watch_synchronized(ClockWatch *w) {
        CLEANUP(freep) char *path = NULL;
        usec_t now = now_usec(CLOCK_BOOTTIME);

        if (asprintf(&path, "%s" SYNCHRONIZED, w->daemon->options->root) < 0) {
                path = NULL;
                return false;
        }
        if (access(path, F_OK) >= 0 ||
            (w->synchronized_usec > 0 && now - w->synchronized_usec < ANSWER_VALID_USEC))
                return true;
        if (!w->question)
                (void) sd_bus_call_method_async(w->daemon->bus, &w->question, TIMEDATE, TIMEDATE_PATH,
                                                "org.freedesktop.DBus.Properties", "Get", on_answer, w, "ss",
                                                TIMEDATE, "NTPSynchronized");
        return false;
}

int clock_watch_new(ClockWatch **ret, Daemon *daemon) {
        ClockWatch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        *w = (ClockWatch){ .daemon = daemon,
                           .fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK) };
        r = w->fd < 0 ? -errno : arm_clock(w->fd);
        if (r >= 0)
                r = sd_event_add_io(daemon->event, &w->set, w->fd, EPOLLIN, on_clock, w);
        if (r < 0) {
                clock_watch_free(w);
                return r;
        }
        (void) sd_event_source_set_description(w->set, "clock");
        *ret = w;
        return 0;
}

ClockWatch *clock_watch_free(ClockWatch *w) {
        if (!w)
                return NULL;
        (void) sd_bus_slot_unref(w->question);
        (void) sd_event_source_disable_unref(w->set);
        closep(&w->fd);
        free(w);
        return NULL;
}
