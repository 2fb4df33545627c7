/* The container engine's units. When one of them becomes active, the engine may answer. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "watch.h"

#define SYSTEMD         "org.freedesktop.systemd1"
#define SYSTEMD_PATH    "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER SYSTEMD ".Manager"

static const char *const names[] = { "docker.service", "docker.socket", "podman.service", "podman.socket" };

typedef struct EngineUnit {
        EngineWatch *watch;
        sd_bus_slot *changed;
        bool active; /* as far as systemd has announced it */
} EngineUnit;

struct EngineWatch {
        Daemon *daemon;
        bool subscribed;
        EngineUnit units[ARRAY_SIZE(names)];
};

static int read_property(sd_bus_message *m, const char *key, void *userdata) {
        EngineUnit *unit = userdata;
        const bool before = unit->active;
        const char *state;
        int r;

        if (!streq(key, "ActiveState"))
                return sd_bus_message_skip(m, "v");
        r = sd_bus_message_read(m, "v", "s", &state);
        if (r < 0)
                return r;
        unit->active = streq(state, "active");
        if (unit->active && !before)
                daemon_shorten_wait(unit->watch->daemon, RETRY_EVENT_ENGINE);
        return 0;
}

/* systemd repeats the state whenever another property changes. */
static int on_changed(sd_bus_message *signal, void *userdata, sd_bus_error *reterr) {
        if (sd_bus_message_skip(signal, "s") >= 0)
                (void) bus_read_entries(signal, read_property, userdata);
        return 0;
}

/* The rules name one object each, so the bus does not deliver the signals of other units. */
static int subscribe(EngineUnit *unit, const char *name) {
        CLEANUP(freep) char *path = NULL;
        int r;

        r = sd_bus_path_encode(SYSTEMD_PATH "/unit", name, &path);
        return r < 0 ? r
                     : sd_bus_match_signal_async(unit->watch->daemon->bus, &unit->changed, SYSTEMD, path,
                                                 "org.freedesktop.DBus.Properties", "PropertiesChanged",
                                                 on_changed, NULL, unit);
}

static void forget(EngineWatch *w) {
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void) sd_bus_slot_unref(w->units[i].changed);
                w->units[i] = (EngineUnit){ .watch = w };
        }
        w->subscribed = false;
}

void engine_watch_update(EngineWatch *w) {
        const bool wanted = w->daemon->config->target != TARGET_NONE;
        int r = 0;

        if (wanted == w->subscribed)
                return;
        forget(w);
        for (size_t i = 0; wanted && r >= 0 && i < ARRAY_SIZE(names); i++)
                r = subscribe(&w->units[i], names[i]);
        if (wanted && r >= 0)
                r = sd_bus_call_method_async(w->daemon->bus, NULL, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                             "Subscribe", NULL, NULL, NULL);
        if (r < 0)
                log_warning("Failed to watch the container engine: %s", strerror(-r));
        w->subscribed = wanted && r >= 0;
}

int engine_watch_new(EngineWatch **ret, Daemon *daemon) {
        EngineWatch *w = calloc(1, sizeof(*w));

        if (!w)
                return -ENOMEM;
        w->daemon = daemon;
        engine_watch_update(w);
        *ret = w;
        return 0;
}

EngineWatch *engine_watch_free(EngineWatch *w) {
        if (!w)
                return NULL;
        forget(w);
        free(w);
        return NULL;
}
