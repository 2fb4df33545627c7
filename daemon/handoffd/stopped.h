/*
 * Stopped: which units run again at the end of an operation, whatever becomes of it. The list is on disk
 * before a unit is stopped, so that it outlives this process.
 */
#pragma once

#include "units.h"

#define STOPPED_MAX      11
#define STOPPED_JOBS_MAX (2 * STOPPED_MAX)

typedef struct Stopped {
        bool units[STOPPED_MAX]; /* of the fixed list, in the order in which they are started */
} Stopped;

/* root: prefix of the file's path. An unreadable list is as good as none. */
void stopped_load(Stopped *s, const char *root);
int stopped_save(const Stopped *s, const char *root, Failure *reterr); /* an empty one removes the file */

bool stopped_any(const Stopped *s);
void stopped_add(Stopped *s, const char *unit); /* one that this module knows */
void stopped_remove(Stopped *s, const char *unit);

/* The jobs that start what is on the list; returns their number. systemd refuses to start the socket of a
 * service that runs (because its own stop has failed, or somebody started it): such a service is stopped and
 * started as well. */
size_t stopped_start_jobs(const Stopped *s, Units *all, UnitJob jobs[static STOPPED_JOBS_MAX]);

/* Since when each of these units is active. */
typedef struct Running {
        uint64_t entered_usec[STOPPED_MAX]; /* UINT64_MAX: it is not active */
} Running;

int running_read(Running *ret, Units *all, Failure *reterr);
void stopped_add_running(Stopped *s, const Running *running);

/* If a unit was started since running_read(): the jobs that stop all units except those that kept running,
 * since a socket may be about to start its service. Returns their number. */
size_t running_stop_newer_jobs(const Running *before, Units *all, UnitJob jobs[static STOPPED_MAX]);
