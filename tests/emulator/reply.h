/*
 * Reply: a Response as libmicrohttpd sends it, with the headers that the service adds, and with the faults
 * that spoil a reply.
 */
#pragma once

#include <microhttpd.h>

#include "emulator.h"

/* The caller destroys them. NULL: out of memory. */
struct MHD_Response *reply_new(Emulator *emulator, RequestKind kind, const Response *response);
struct MHD_Response *reply_new_captive_portal(void); /* for status 403 */
