/* Calls of org.dps.Provisioning1, and its properties. Stubs replace the daemon. */
#include "bus-calls.h"
#include "bus.h"
#include "daemon.h"
#include "scratch.h"

static Daemon provisiond;

/* --- the daemon --- */

const char *daemon_step_text(const Daemon *daemon) {
        return "confirm";
}

void daemon_end_wait(Daemon *daemon) {
}

int daemon_save(Daemon *daemon, Failure *reterr) {
        return daemon->record.reset_provisioning ? failure_set(reterr, FAILURE_STORAGE, "ENOSPC", "full")
                                                 : 0;
}

void daemon_publish(Daemon *daemon) {
}

void daemon_feed(Daemon *daemon, const Event *event) {
        PROMISE(daemon->reprovision_count <= CALLERS_MAX);
        PROMISE(event->type == EVENT_REPROVISION || (event->type == EVENT_RESET && daemon->reset.call));
}

State daemon_state(const Daemon *daemon) {
        return STATE_ATTESTING;
}

static void settle(void) {
        bus_publish(&provisiond);
        bus_answer_reprovision(&provisiond);
        reset_answer(&provisiond.reset, NULL);
        PROMISE(provisiond.reprovision_count == 0 && !provisiond.reset.call &&
                provisiond.question_count == 0);
}

static void free_daemon(void) {
        for (size_t i = 0; i < PROPERTIES_MAX; i++)
                free(provisiond.publisher.properties[i]);
        provisiond.config = config_free(provisiond.config);
}

static void make_daemon(void) {
        static const char text[] = "[Provisioning]\nIdScope=0ne00000000\n";
        const ConfigPaths paths = { .file = scratch_write("provisiond.conf", text, strlen(text)) };

        PROMISE(config_load(&provisiond.config, &paths) == 0 && atexit(free_daemon) == 0);
        provisiond.bus = bus_calls_open();
        provisiond.warnings.count = 1;
        (void) failure_set(&provisiond.warnings.list[0], WARNING_DATA_MOVED, "", "moved");
        (void) failure_set(&provisiond.failure, FAILURE_HTTP_THROTTLED, "429", "too many");
        provisiond.reset.note_count = 1;
        (void) snprintf(provisiond.reset.notes[0], sizeof(provisiond.reset.notes[0]), "left alone");
        (void) bus_export(&provisiond); /* fails to own the name: a socket pair has no names */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (!provisiond.bus)
                make_daemon();
        provisiond.machine = (Machine){};
        provisiond.record = (Record){};
        bus_calls_run(PROVISIONING_PATH, PROVISIONING_NAME, data, size, settle);
        return 0;
}
