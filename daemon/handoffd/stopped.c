#include "stopped.h"

#include <assert.h>
#include <stdlib.h>

#include "paths.h"
#include "store.h"

static const char *const units[STOPPED_MAX] = {
        UNIT_TPMD_SOCKET, UNIT_KEYD_SOCKET,    UNIT_CERTD_SOCKET, UNIT_IDENTITYD_SOCKET,
        UNIT_EDGED_MGMT,  UNIT_EDGED_WORKLOAD, UNIT_TPMD,         UNIT_KEYD,
        UNIT_CERTD,       UNIT_IDENTITYD,      UNIT_EDGED,
};

/* Sockets go first, or a client would start the service again. */
static const char *const stop_order[STOPPED_MAX] = {
        UNIT_EDGED_MGMT, UNIT_EDGED_WORKLOAD, UNIT_EDGED, UNIT_IDENTITYD_SOCKET,
        UNIT_IDENTITYD,  UNIT_TPMD_SOCKET,    UNIT_TPMD,  UNIT_KEYD_SOCKET,
        UNIT_KEYD,       UNIT_CERTD_SOCKET,   UNIT_CERTD,
};

static size_t find(const char *unit) {
        size_t i = 0;

        while (i < STOPPED_MAX && !streq(units[i], unit))
                i++;
        return i;
}

void stopped_load(Stopped *s, const char *root) {
        CLEANUP(freep) char *path = NULL, *text = NULL;
        char *rest = NULL;

        *s = (Stopped){};
        if (path_under(&path, root, PATH_STOPPED) < 0 || read_file(path, 4096, &text, NULL) < 0)
                return;
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
                if (find(line) < STOPPED_MAX)
                        s->units[find(line)] = true;
}

int stopped_save(const Stopped *s, const char *root, Failure *reterr) {
        CLEANUP(freep) char *path = NULL;
        char text[512] = "";
        size_t n = 0;
        int r;

        for (size_t i = 0; i < STOPPED_MAX; i++)
                if (s->units[i])
                        n += (size_t) snprintf(text + n, sizeof(text) - n, "%s\n", units[i]);
        r = path_under(&path, root, PATH_STOPPED);
        if (r >= 0)
                r = n > 0 ? store_write(path, text, n, 0600) : store_remove(path);
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be written",
                                         path ? path : PATH_STOPPED)
                     : 0;
}

bool stopped_any(const Stopped *s) {
        for (size_t i = 0; i < STOPPED_MAX; i++)
                if (s->units[i])
                        return true;
        return false;
}

void stopped_add(Stopped *s, const char *unit) {
        assert(find(unit) < STOPPED_MAX);
        s->units[find(unit)] = true;
}

void stopped_remove(Stopped *s, const char *unit) {
        assert(find(unit) < STOPPED_MAX);
        s->units[find(unit)] = false;
}

/* The service of a socket, or NULL. */
static const char *service_of(const char *unit) {
        return streq(unit, UNIT_TPMD_SOCKET)        ? UNIT_TPMD
               : streq(unit, UNIT_KEYD_SOCKET)      ? UNIT_KEYD
               : streq(unit, UNIT_CERTD_SOCKET)     ? UNIT_CERTD
               : streq(unit, UNIT_IDENTITYD_SOCKET) ? UNIT_IDENTITYD
               : strstr(unit, ".socket")            ? UNIT_EDGED
                                                    : NULL;
}

/* A service that runs while its socket does not. */
static bool in_the_way(const UnitState *service, const UnitState *socket) {
        return socket->exists && !socket->masked && !socket->active && service->active;
}

size_t stopped_start_jobs(const Stopped *s, Units *all, UnitJob jobs[static STOPPED_JOBS_MAX]) {
        UnitState states[STOPPED_MAX] = {};
        Stopped stop = {};
        size_t n = 0;

        if (units_query_all(all, units, STOPPED_MAX, states, NULL) < 0)
                memset(states, 0, sizeof(states)); /* start all of them */
        for (size_t i = 0; i < STOPPED_MAX; i++) {
                const char *service = service_of(units[i]);

                if (s->units[i] && service && !stop.units[find(service)] &&
                    in_the_way(&states[find(service)], &states[i])) {
                        jobs[n++] = (UnitJob){ UNIT_STOP, service };
                        stopped_add(&stop, service);
                }
        }
        for (size_t i = 0; i < STOPPED_MAX; i++)
                if (stop.units[i] || (s->units[i] && !states[i].active))
                        jobs[n++] = (UnitJob){ UNIT_START, units[i] };
        return n;
}

static uint64_t entered(const UnitState *state) {
        return state->active ? state->active_enter_usec : UINT64_MAX;
}

int running_read(Running *ret, Units *all, Failure *reterr) {
        UnitState states[STOPPED_MAX];
        int r;

        r = units_query_all(all, units, STOPPED_MAX, states, reterr);
        for (size_t i = 0; r >= 0 && i < STOPPED_MAX; i++)
                ret->entered_usec[i] = entered(&states[i]);
        return r;
}

void stopped_add_running(Stopped *s, const Running *running) {
        for (size_t i = 0; i < STOPPED_MAX; i++)
                if (running->entered_usec[i] != UINT64_MAX)
                        s->units[i] = true;
}

size_t running_stop_newer_jobs(const Running *before, Units *all, UnitJob jobs[static STOPPED_MAX]) {
        UnitState states[STOPPED_MAX];
        bool known = units_query_all(all, stop_order, STOPPED_MAX, states, NULL) >= 0, newer = false;
        size_t n = 0;

        for (size_t i = 0; i < STOPPED_MAX; i++) {
                bool active = known && states[i].active;

                if (active && entered(&states[i]) == before->entered_usec[find(stop_order[i])])
                        continue;
                newer = newer || active;
                jobs[n++] = (UnitJob){ UNIT_STOP, stop_order[i] };
        }
        return newer ? n : 0;
}
