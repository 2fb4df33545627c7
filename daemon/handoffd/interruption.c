/* May aziot-edged be stopped or restarted now? The budget (disruption.h) is asked and charged here. */
#include <errno.h>
#include <unistd.h>

#include "handoffd.h"
#include "log.h"
#include "paths.h"

/* aziot-edged writes this file when it has got its identity. One that never had it runs no modules. */
static bool had_identity(const char *root) {
        CLEANUP(freep) char *path = NULL;

        return path_under(&path, root, PATH_EDGED_HAD) < 0 || access(path, F_OK) == 0;
}

/* An aziot-edged that is down, or waits to be started again, has nothing to lose. 1: it has, and has been
 * running for *ret_running. */
static int has_something_to_lose(Operation *op, usec_t *ret_running) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        UnitState edged;
        int r;

        r = units_query(op->h->units, UNIT_EDGED, &edged, &op->failure);
        if (r < 0)
                return r;
        if (!edged.active || edged.failing || !had_identity(op->h->options->root))
                return 0;
        *ret_running = edged.active_enter_usec > 0 && edged.active_enter_usec < now
                               ? now - edged.active_enter_usec
                               : 0;
        return 1;
}

int operation_disruption_wait(Operation *op, usec_t *ret) {
        Disruptions *d = &op->h->budgets.disruptions;
        usec_t running;
        Moment now;
        int r;

        r = has_something_to_lose(op, &running);
        if (r > 0) {
                (void) disruptions_note_running(d, running); /* saved with the next disruption */
                moment_now(&now);
                *ret = disruptions_wait(d, &now);
        } else if (r == 0)
                *ret = 0;
        return r;
}

/* Nothing that the caller says changes the answer. */
int operation_permit_interruption(Operation *op) {
        Handoffd *h = op->h;
        usec_t wait;
        Moment now;
        int r;

        if (op->permitted)
                return 0;
        r = operation_disruption_wait(op, &wait);
        if (r < 0)
                return r;
        if (wait > 0)
                return budgets_refuse(&op->failure, wait, "Another interruption of aziot-edged");
        op->permitted = true;
        if (r == 0)
                return 0;
        moment_now(&now);
        disruptions_count(&h->budgets.disruptions, &now);
        log_info("Interrupting aziot-edged, number %u since its budget was full",
                 h->budgets.disruptions.count);
        return budgets_save(&h->budgets, h->options->root, &op->failure);
}

/* The hub has accepted IoT Edge. A file that can't be written leaves the stricter value on disk. */
int step_confirm_interruption(Operation *op) {
        Handoffd *h = op->h;
        Failure ignored;

        if (disruptions_confirm(&h->budgets.disruptions) &&
            budgets_save(&h->budgets, h->options->root, &ignored) < 0)
                log_warning("%s", ignored.sentence);
        return 0;
}

static int step_allow(Operation *op) {
        Handoffd *h = op->h;

        if (h->budgets.disruptions.count == 0)
                return 0;
        log_notice("Root allows interruptions of aziot-edged at once");
        h->budgets.disruptions = (Disruptions){};
        return budgets_save(&h->budgets, h->options->root, &op->failure);
}

const FlowStep allow_steps[] = { step_allow, NULL };

/* Only the time since the last look counts after the next reboot, so each boot begins with one. */
void interruption_start(Handoffd *h) {
        Disruptions *d = &h->budgets.disruptions;
        Failure ignored;
        Moment now;

        budgets_load(&h->budgets, h->options->root);
        moment_now(&now);
        if (d->wait_usec == 0 || moment_same_boot(&d->since, &now))
                return;
        disruptions_run_down(d, &now);
        if (budgets_save(&h->budgets, h->options->root, &ignored) < 0)
                log_warning("%s", ignored.sentence);
}
