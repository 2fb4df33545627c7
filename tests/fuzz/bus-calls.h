/*
 * BusCalls: method calls from text, sent to a service's vtable over a connection within this process, so
 * that libsystemd checks and dispatches them as it does for a caller on the system bus.
 *
 * A call is the line "MEMBER" or "INTERFACE.MEMBER" and one line for each argument; an empty line ends it:
 *     sTEXT  aTEXT                     a string; an array of these bytes
 *     yN bN nN qN iN uN xN tN          a number
 *     [TYPES  (TYPES  {TYPES  <TYPES   an array, structure, dictionary entry or variant of these types
 * begins .                                the innermost of them ends
 */
#pragma once

#include <systemd/sd-bus.h>

#include "fuzz.h"

/* The service's end: the target adds its vtable to it once. The log is silent from here on. */
sd_bus *bus_calls_open(void);

/* Makes the calls. settle() then has to answer what is still without an answer: each call gets one reply. */
void bus_calls_run(const char *path, const char *interface, const uint8_t *data, size_t size,
                   void (*settle)(void));
