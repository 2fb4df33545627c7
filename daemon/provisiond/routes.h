/*
 * Routes: the default routes of this machine, and which of their changes are news. Pure code over the
 * kernel's messages (rtnetlink(7)).
 *
 * A default route is a unicast route to everywhere, IPv4 or IPv6, in any table. It is up when its link has a
 * carrier. News is a default route that is up and was not before, counted by family, gateway and interface:
 * the same route with another metric or in another table is no news, neither is one that is replaced by
 * itself (a renewed lease, a router advertisement), nor one that is removed and comes back between two
 * looks. Interfaces of containers have no default route in the host's namespace.
 *
 * The messages don't tell everything: the kernel removes IPv4 routes without a message when a link goes down
 * or an address is removed. So messages only say that it is time to look. The look is a dump, compared with
 * the one before. A route that was added again since then (the kernel refuses to add one that exists) must
 * have been gone.
 *
 * Without any default route (a proxy or DPS itself in a network of the site), a new address that is not
 * link-local, tentative or renewed, and a new route through a gateway, count as weak news.
 */
#pragma once

#include <linux/netlink.h>

#include "util.h"

#define ROUTES_MAX 32 /* more default routes than these are ignored */

typedef struct Route {
        uint8_t family, gateway[16]; /* zeros: none */
        bool up;
        uint32_t table, priority, interface;
} Route;

typedef struct Routes {
        Route list[ROUTES_MAX];
        size_t count;
} Routes;

/* What was seen since the last look. */
typedef struct RouteChanges {
        Routes added, removed;
        bool routes;  /* the default routes may have changed */
        bool address; /* weak news, if there is no default route */
} RouteChanges;

/* Reads what the kernel has announced. known: of the last look. */
void routes_read_changes(RouteChanges *changes, const Routes *known, const void *buffer, size_t size);

/* Reads a part of a dump. Returns 1 at its end, 0 when more is to come, or a negative errno. */
int routes_read_dump(Routes *ret, const void *buffer, size_t size);

size_t routes_count_up(const Routes *routes);
bool routes_are_news(const Routes *known, const RouteChanges *changes, const Routes *now);
