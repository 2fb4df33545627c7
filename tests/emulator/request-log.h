/*
 * RequestLog: one JSON object a line for each request, written before the reply leaves, so that whoever has
 * the reply finds the line. Text from the device is cut and reduced to printable ASCII. No keys, no tokens.
 */
#pragma once

#include "exchange.h"

typedef struct RequestLog RequestLog;

int request_log_open(RequestLog **ret, const char *path); /* appends */
RequestLog *request_log_close(RequestLog *log);

/* status 0: the connection was dropped without a reply. when: microseconds since the epoch. */
void request_log_write(RequestLog *log, usec_t when, unsigned connection, const Request *request,
                       const Response *response, unsigned status);
