/*
 * Server: HTTP/1.1 over TLS on the loopback addresses (or another one), by libmicrohttpd on the event loop.
 * It turns what arrives into a Request, has the emulator answer it, applies the faults of transport, and
 * logs.
 */
#pragma once

#include <systemd/sd-event.h>

#include "certs.h"
#include "emulator.h"
#include "request-log.h"

typedef struct Server Server;

/* address: NULL for 127.0.0.1 and, where there is IPv6, ::1. port: 0 for any. emulator, certs and log are
 * borrowed. One Server per process: GnuTLS asks for the certificate without saying on whose behalf. */
int server_new(Server **ret, sd_event *event, const char *address, uint16_t port, Emulator *emulator,
               Certs *certs, RequestLog *log, const char **ret_why);
Server *server_free(Server *server);
uint16_t server_port(const Server *server);
