/*
 * Reply: a Response as libmicrohttpd sends it, with the headers that the service adds, and with the faults
 * that spoil a reply.
 */
#pragma once

#include <microhttpd.h>

#include "emulator.h"

/* The caller destroys it. NULL: out of memory. */
struct MHD_Response *reply_new(Emulator *emulator, RequestKind kind, const Response *response);
