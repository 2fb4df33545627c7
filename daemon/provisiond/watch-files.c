/* The directories with configuration files. */
#include <errno.h>
#include <stdlib.h>
#include <sys/inotify.h>

#include "watch.h"

#define DIRECTORIES_MAX 8
#define DEBOUNCE_USEC   (100 * USEC_PER_MSEC) /* an editor makes several events of one change */
#define DEBOUNCE_MAX    (2 * USEC_PER_SEC)    /* for a directory that changes all the time, such as /run */
#define AGAIN_USEC      (5 * USEC_PER_SEC)    /* the kernel has a limit of inotify instances for each user */
#define WATCHED                                                                                             \
        (IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM | IN_CLOSE_WRITE | IN_ATTRIB |                 \
         IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct FileWatch {
        Daemon *daemon;
        sd_event_source *directories[DIRECTORIES_MAX], *debounce;
        usec_t changed; /* the first change since the last reading, CLOCK_MONOTONIC; or 0 */
        bool blind;     /* a directory can't be watched and is read periodically instead */
};

static int on_debounced(sd_event_source *source, uint64_t usec, void *userdata) {
        FileWatch *w = userdata;

        w->changed = 0;
        daemon_reload(w->daemon, false);
        return 0;
}

static void reload_after(FileWatch *w, usec_t delay_usec) {
        (void) sd_event_source_set_time_relative(w->debounce, delay_usec);
        (void) sd_event_source_set_enabled(w->debounce, SD_EVENT_ONESHOT);
}

static int on_inotify(sd_event_source *source, const struct inotify_event *event, void *userdata) {
        FileWatch *w = userdata;
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (w->changed == 0)
                w->changed = now;
        if (now - w->changed < DEBOUNCE_MAX)
                reload_after(w, DEBOUNCE_USEC);
        return 0;
}

/* For a missing directory, watch the nearest existing directory above it. */
static int watch_directory(FileWatch *w, sd_event_source **ret, char *path) {
        for (;;) {
                int r = sd_event_add_inotify(w->daemon->event, ret, path, WATCHED, on_inotify, w);
                char *slash = strrchr(path, '/');

                if (r != -ENOENT && r != -ENOTDIR)
                        return r;
                if (!slash || slash == path)
                        return 0;
                *slash = '\0';
        }
}

void file_watch_update(FileWatch *w) {
        char **list = NULL;
        int r, error = 0;

        for (size_t i = 0; i < DIRECTORIES_MAX; i++)
                w->directories[i] = sd_event_source_disable_unref(w->directories[i]);
        if (config_watch_directories(&list, &w->daemon->options->config) < 0)
                return;
        for (size_t i = 0; list[i]; i++) {
                if (i < DIRECTORIES_MAX) {
                        r = watch_directory(w, &w->directories[i], list[i]);
                        if (r < 0)
                                error = r;
                }
                free(list[i]);
        }
        free(list);
        if (error < 0 && !w->blind)
                log_warning("Failed to watch the configuration, reading it every %u s instead: %s",
                            (unsigned) (AGAIN_USEC / USEC_PER_SEC), strerror(-error));
        w->blind = error < 0;
        if (w->blind)
                reload_after(w, AGAIN_USEC);
}

int file_watch_new(FileWatch **ret, Daemon *daemon) {
        FileWatch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        w->daemon = daemon;
        r = sd_event_add_time_relative(daemon->event, &w->debounce, CLOCK_MONOTONIC, 0, 1000, on_debounced,
                                       w);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->debounce, SD_EVENT_OFF);
        if (r < 0) {
                file_watch_free(w);
                return r;
        }
        (void) sd_event_source_set_description(w->debounce, "configuration");
        file_watch_update(w);
        reload_after(w, DEBOUNCE_USEC); /* it may have changed since it was read */
        *ret = w;
        return 0;
}

FileWatch *file_watch_free(FileWatch *w) {
        if (!w)
                return NULL;
        for (size_t i = 0; i < DIRECTORIES_MAX; i++)
                (void) sd_event_source_disable_unref(w->directories[i]);
        (void) sd_event_source_disable_unref(w->debounce);
        free(w);
        return NULL;
}
