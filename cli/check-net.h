/*
 * CheckNet: addresses and sockets, for probes. A host is "host" or "host:port", with anything behind a slash
 * ignored; the port is for the former.
 */
#pragma once

#include "util.h"

#define NET_TEXT_MAX 160

/* text: the first addresses. -EHOSTUNREACH and *ret_why, which is static, when the name has none. */
int net_resolve(const char *host, unsigned port, char text[static NET_TEXT_MAX], const char **ret_why);

/* Is there a route to one of its addresses? Nothing is sent. text: from which address, or why not. */
int net_route(const char *host, unsigned port, char text[static NET_TEXT_MAX]);

/* Connects by TCP to one of its addresses. text: to which, or why not. */
int net_connect(const char *host, unsigned port, usec_t timeout_usec, char text[static NET_TEXT_MAX]);
