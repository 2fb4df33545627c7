/* The TPM's device unit. This process can't see the node (PrivateDevices=), and systemd reports a device
 * after udev has set its owner and mode. */
#include <errno.h>
#include <stdlib.h>

#include "bus.h"
#include "device-unit.h"
#include "watch.h"

#define SYSTEMD         "org.freedesktop.systemd1"
#define SYSTEMD_PATH    "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER SYSTEMD ".Manager"

typedef enum DeviceState {
        DEVICE_UNKNOWN,
        DEVICE_ABSENT,
        DEVICE_PRESENT,
} DeviceState;

struct TpmWatch {
        Daemon *daemon;
        char *unit; /* NULL: nothing is watched */
        sd_bus_slot *changed, *new, *question;
        DeviceState state;
};

static int on_list(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        TpmWatch *w = userdata;
        const DeviceState before = w->state;

        w->question = sd_bus_slot_unref(w->question);
        if (sd_bus_message_is_method_error(reply, NULL)) {
                log_debug("Failed to read the state of the TPM's device unit: %s",
                          sd_bus_message_get_error(reply)->message);
                return 0;
        }
        if (sd_bus_message_enter_container(reply, 'a', "(ssssssouso)") < 0)
                return 0;
        w->state = sd_bus_message_at_end(reply, false) > 0 ? DEVICE_ABSENT : DEVICE_PRESENT;
        if (before == DEVICE_ABSENT && w->state == DEVICE_PRESENT)
                daemon_shorten_wait(w->daemon, RETRY_EVENT_TPM);
        return 0;
}

/* Reading a property would load a unit that is not there, and systemd announces a unit that it loads like a
 * device that appears. The list contains loaded units only. */
static int ask(TpmWatch *w) {
        CLEANUP(freep) char *pattern = strdup(w->unit);

        if (!pattern)
                return -ENOMEM;
        for (char *c = pattern; *c; c++)
                if (*c == '\\') /* it escapes in patterns */
                        *c = '?';
        w->question = sd_bus_slot_unref(w->question);
        return sd_bus_call_method_async(w->daemon->bus, &w->question, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                        "ListUnitsByPatterns", on_list, w, "asas", 1, "active", 1, pattern);
}

/* systemd did not know the unit, so the device is new, even if it was away for a moment only. */
static int on_new(sd_bus_message *signal, void *userdata, sd_bus_error *reterr) {
        TpmWatch *w = userdata;

        w->state = DEVICE_ABSENT;
        (void) ask(w);
        return 0;
}

static int read_property(sd_bus_message *m, const char *key, void *userdata) {
        TpmWatch *w = userdata;
        const char *state;
        int r;

        if (!streq(key, "ActiveState"))
                return sd_bus_message_skip(m, "v");
        r = sd_bus_message_read(m, "v", "s", &state);
        if (r >= 0 && !streq(state, "active"))
                w->state = DEVICE_ABSENT;
        return r;
}

static int on_changed(sd_bus_message *signal, void *userdata, sd_bus_error *reterr) {
        TpmWatch *w = userdata;

        if (sd_bus_message_skip(signal, "s") >= 0)
                (void) bus_read_entries(signal, read_property, w);
        (void) ask(w);
        return 0;
}

/* systemd announces a new unit with UnitNew alone. The rules name one object, so the bus does not deliver
 * the signals of other units. */
static int subscribe(TpmWatch *w) {
        CLEANUP(freep) char *rule = NULL, *path = NULL;
        int r;

        r = sd_bus_path_encode(SYSTEMD_PATH "/unit", w->unit, &path);
        if (r < 0)
                return r;
        if (asprintf(&rule,
                     "type='signal',sender='" SYSTEMD "',path='" SYSTEMD_PATH "',interface='" SYSTEMD_MANAGER
                     "',member='UnitNew',arg1path='%s'",
                     path) < 0) {
                rule = NULL;
                return -ENOMEM;
        }
        r = sd_bus_add_match_async(w->daemon->bus, &w->new, rule, on_new, NULL, w);
        if (r >= 0)
                r = sd_bus_match_signal_async(w->daemon->bus, &w->changed, SYSTEMD, path,
                                              "org.freedesktop.DBus.Properties", "PropertiesChanged",
                                              on_changed, NULL, w);
        if (r >= 0)
                r = sd_bus_call_method_async(w->daemon->bus, NULL, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER,
                                             "Subscribe", NULL, NULL, NULL);
        return r < 0 ? r : ask(w);
}

static void forget(TpmWatch *w) {
        w->changed = sd_bus_slot_unref(w->changed);
        w->new = sd_bus_slot_unref(w->new);
        w->question = sd_bus_slot_unref(w->question);
        w->state = DEVICE_UNKNOWN;
        free(TAKE(w->unit));
}

void tpm_watch_update(TpmWatch *w) {
        CLEANUP(freep) char *unit = NULL;
        int r;

        r = device_unit_name(&unit, w->daemon->config->tcti);
        if (str_equal(unit, w->unit))
                return;
        forget(w);
        if (r < 0)
                return;
        w->unit = TAKE(unit);
        r = subscribe(w);
        if (r < 0)
                log_warning("Failed to watch the TPM's device: %s", strerror(-r));
}

int tpm_watch_new(TpmWatch **ret, Daemon *daemon) {
        TpmWatch *w = calloc(1, sizeof(*w));

        if (!w)
                return -ENOMEM;
        w->daemon = daemon;
        tpm_watch_update(w);
        *ret = w;
        return 0;
}

TpmWatch *tpm_watch_free(TpmWatch *w) {
        if (!w)
                return NULL;
        forget(w);
        free(w);
        return NULL;
}
