/*
 * BusCalls: method calls written as text, sent to the vtable of a service. Caller and service are connected
 * by a socket pair in this process, so libsystemd checks and dispatches the calls as on the system bus.
 *
 * A call is a line "MEMBER" or "INTERFACE.MEMBER" and one line per argument. An empty line ends it:
 *     sTEXT  aTEXT                     a string; an array with the bytes of TEXT
 *     yN bN nN qN iN uN xN tN          a number
 *     [TYPES  (TYPES  {TYPES  <TYPES   opens an array, structure, dictionary entry or variant
 *     .                                closes the innermost container
 */
#pragma once

#include <systemd/sd-bus.h>

#include "fuzz.h"

/* Returns the end of the service. Call it once, then add the vtable. It switches the log off. */
sd_bus *bus_calls_open(void);

/* Sends the calls, then calls settle(), which answers the pending ones. Each call must get one reply. */
void bus_calls_run(const char *path, const char *interface, const uint8_t *data, size_t size,
                   void (*settle)(void));
