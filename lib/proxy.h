/*
 * Proxy: which proxy curl uses for a host. A configured proxy replaces that of the environment; no_proxy
 * exempts hosts from both. curl makes the choice; this module repeats it, so that a message can name the
 * right peer.
 */
#pragma once

#include "util.h"

/* https_proxy or all_proxy, in lower or upper case. NULL: none. */
const char *proxy_of_environment(void);

/* As curl reads no_proxy: names, which stand for their subdomains as well, or an asterisk. host: with or
 * without a port. */
bool proxy_list_exempts(const char *list, const char *host);

/* The same for the environment's list. */
bool proxy_exempts(const char *host);

/* The URL of the proxy for this host, borrowed. NULL: none. configured: the URL or NULL. */
const char *proxy_for(const char *configured, const char *host);

/* What follows the scheme, user and password in the URL: HOST[:PORT], and maybe a path. Borrowed. */
const char *proxy_authority(const char *proxy);
