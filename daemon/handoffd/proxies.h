/*
 * Proxies: dps-provisiond, IoT Edge and the container engine have separate settings for the site's proxy.
 * Which parts of the gateway lack the proxy that dps-provisiond has?
 */
#pragma once

#include "situation.h"

/* Fills s->proxy_lacking. systemd is asked for the environments of the units; what it does not say lacks
 * nothing. */
void proxies_read(Situation *s, const Config *config, Units *units);

/* WARNING_PROXY_MISSING, with the names of the parts. */
int proxies_failure(unsigned lacking, Failure *reterr);

/* The proxy that the container engine uses for a host. Untouched when it uses none. */
int proxies_read_engine(char **ret, const Situation *s, Units *units, const char *host);
