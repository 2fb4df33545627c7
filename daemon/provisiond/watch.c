#include "watch.h"

#include <errno.h>
#include <stdlib.h>

struct Watch {
        FileWatch *files;
        NetworkWatch *network;
        ClockWatch *clock;
        TpmWatch *tpm;
        EngineWatch *engine;
};

int watch_new(Watch **ret, Daemon *daemon) {
        Watch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        r = file_watch_new(&w->files, daemon);
        if (r < 0) {
                watch_free(w);
                return r;
        }
        r = network_watch_new(&w->network, daemon);
        if (r < 0)
                log_warning("Failed to watch the network: %s", strerror(-r));
        r = clock_watch_new(&w->clock, daemon);
        if (r < 0)
                log_warning("Failed to watch the clock: %s", strerror(-r));
        r = tpm_watch_new(&w->tpm, daemon);
        if (r < 0)
                log_warning("Failed to watch the TPM's device: %s", strerror(-r));
        r = engine_watch_new(&w->engine, daemon);
        if (r < 0)
                log_warning("Failed to watch the container engine: %s", strerror(-r));
        *ret = w;
        return 0;
}

Watch *watch_free(Watch *w) {
        if (!w)
                return NULL;
        file_watch_free(w->files);
        network_watch_free(w->network);
        clock_watch_free(w->clock);
        tpm_watch_free(w->tpm);
        engine_watch_free(w->engine);
        free(w);
        return NULL;
}

void watch_update(Watch *w) {
        file_watch_update(w->files);
}

void watch_configured(Watch *w) {
        if (w->tpm)
                tpm_watch_update(w->tpm);
        if (w->engine)
                engine_watch_update(w->engine);
}

bool watch_clock_synchronized(Watch *w) {
        return w && w->clock && clock_watch_synchronized(w->clock);
}
