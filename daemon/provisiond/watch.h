/*
 * Watch: small observed states outside the daemon. Each part watches one state and reports its edges to the
 * daemon: the configuration files, the network, the clock, the TPM's device, the container engine. A part
 * that can't watch logs the failure and leaves the daemon to its retries.
 */
#pragma once

#include "daemon.h"

typedef struct FileWatch FileWatch;
typedef struct NetworkWatch NetworkWatch;
typedef struct ClockWatch ClockWatch;
typedef struct TpmWatch TpmWatch;
typedef struct EngineWatch EngineWatch;

int file_watch_new(FileWatch **ret, Daemon *daemon);
FileWatch *file_watch_free(FileWatch *w);
void file_watch_update(FileWatch *w); /* directories come and go */

/* A default route that appears, or an address where there is none: see routes.h. */
int network_watch_new(NetworkWatch **ret, Daemon *daemon);
NetworkWatch *network_watch_free(NetworkWatch *w);

int clock_watch_new(ClockWatch **ret, Daemon *daemon);
ClockWatch *clock_watch_free(ClockWatch *w);
/* True when the system says that its clock is synchronized. May call systemd-timedated: until timedated has
 * answered this returns false, and the answer "yes" ends the wait like a clock that was set. */
bool clock_watch_synchronized(ClockWatch *w);

/* The device unit of Tcti=. Nothing is watched for a TCTI without a device. */
int tpm_watch_new(TpmWatch **ret, Daemon *daemon);
TpmWatch *tpm_watch_free(TpmWatch *w);
void tpm_watch_update(TpmWatch *w); /* Tcti= may have changed */

/* The units of the container engine. Nothing is watched with Target=none. */
int engine_watch_new(EngineWatch **ret, Daemon *daemon);
EngineWatch *engine_watch_free(EngineWatch *w);
void engine_watch_update(EngineWatch *w); /* Target= may have changed */
