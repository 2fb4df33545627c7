#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include <systemd/sd-daemon.h>

#include "daemon.h"

static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        (void) sd_notify(false, "RELOADING=1");
        daemon_reload(userdata, true);
        (void) sd_notify(false, "READY=1");
        return 0;
}

static int on_disconnected(sd_bus_message *message, void *userdata, sd_bus_error *reterr) {
        log_error("The connection to the system bus was lost");
        return sd_event_exit(userdata, -ECONNRESET);
}

static int setup_signals(sd_event *event, Daemon *daemon) {
        int r;

        r = sd_event_add_signal(event, NULL, SIGTERM, NULL, NULL);
        if (r >= 0)
                r = sd_event_add_signal(event, NULL, SIGINT, NULL, NULL);
        return r < 0 ? r : sd_event_add_signal(event, NULL, SIGHUP, on_hangup, daemon);
}

static int open_bus(sd_bus **ret, sd_event *event) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        int r;

        r = sd_bus_open_system(&bus);
        if (r >= 0)
                r = sd_bus_attach_event(bus, event, SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = sd_bus_match_signal(bus, NULL, "org.freedesktop.DBus.Local", NULL,
                                        "org.freedesktop.DBus.Local", "Disconnected", on_disconnected,
                                        event);
        if (r < 0)
                return r;
        *ret = TAKE(bus);
        return 0;
}

static int run(const DaemonOptions *options) {
        CLEANUP(sd_event_unrefp) sd_event *event = NULL;
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        CLEANUP(daemon_freep) Daemon *daemon = NULL;
        int r;

        r = sd_event_new(&event);
        if (r < 0)
                return r;
        (void) sd_event_set_watchdog(event, true);
        r = open_bus(&bus, event);
        if (r < 0) {
                log_error("The system bus can't be used: %s", strerror(-r));
                return r;
        }
        r = daemon_new(&daemon, options, event, bus);
        if (r >= 0)
                r = setup_signals(event, daemon);
        if (r >= 0)
                r = bus_export(daemon);
        if (r >= 0)
                r = daemon_start(daemon);
        if (r < 0) {
                log_error("The daemon can't start: %s", strerror(-r));
                return r;
        }
        (void) sd_notify(false, "READY=1");
        r = sd_event_loop(event);
        (void) sd_notify(false, "STOPPING=1");
        return r;
}

int main(int argc, char *argv[]) {
        static const DaemonInfo info = {
                .name = "dps-provisiond",
                .description =
                        "Provisions this device through the Azure IoT Hub Device Provisioning Service.",
                .has_state_dir = true,
                .has_root = true,
        };
        DaemonOptions options;
        sigset_t set;
        int r;

        /* before anything could start a thread (curl's resolver), which would take the signals */
        (void) sigemptyset(&set);
        for (const int *s = (const int[]){ SIGTERM, SIGINT, SIGHUP, 0 }; *s; s++)
                (void) sigaddset(&set, *s);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        (void) signal(SIGPIPE, SIG_IGN);

        r = daemon_options_parse(&options, &info, argc, argv);
        if (r <= 0)
                return r < 0 ? 2 : EXIT_SUCCESS;
        return run(&options) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
