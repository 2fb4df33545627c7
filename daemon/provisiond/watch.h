/*
 * Watch: what happens outside, as small observed states. Each part watches one of them and reports an edge
 * to the daemon: the files of the configuration, the network, the clock, the TPM's device. A part that can't
 * watch logs that and leaves the daemon to its retries.
 */
#pragma once

#include "daemon.h"

typedef struct FileWatch FileWatch;
typedef struct NetworkWatch NetworkWatch;
typedef struct ClockWatch ClockWatch;
typedef struct TpmWatch TpmWatch;

int file_watch_new(FileWatch **ret, Daemon *daemon);
FileWatch *file_watch_free(FileWatch *w);
void file_watch_update(FileWatch *w); /* directories come and go */

/* A default route that appears, or an address where there is none: see routes.h. */
int network_watch_new(NetworkWatch **ret, Daemon *daemon);
NetworkWatch *network_watch_free(NetworkWatch *w);

int clock_watch_new(ClockWatch **ret, Daemon *daemon);
ClockWatch *clock_watch_free(ClockWatch *w);
/* True when the system says that its clock is synchronized. Where only systemd-timedated knows, it is asked;
 * until it has answered this is false, and a "yes" then ends the wait like a clock that was set. */
bool clock_watch_synchronized(ClockWatch *w);

/* The device unit that belongs to Tcti=; another TCTI than a device is not watched. */
int tpm_watch_new(TpmWatch **ret, Daemon *daemon);
TpmWatch *tpm_watch_free(TpmWatch *w);
void tpm_watch_update(TpmWatch *w); /* Tcti= may have changed */
