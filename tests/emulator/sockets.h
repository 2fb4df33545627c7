/*
 * Sockets: what the emulator listens on.
 */
#pragma once

#include "util.h"

#define SOCKETS_MAX 2

/* A listening socket on that address (IPv4 or IPv6), -EINVAL when it is none. *port 0: any, which it then
 * says. */
int socket_listen(const char *address, uint16_t *port);
/* Both loopback addresses with one port. Returns how many sockets there are: without IPv6, one. */
int socket_listen_loopback(int fds[static SOCKETS_MAX], uint16_t *port);
