/*
 * Routes: the default routes of this machine, and which of their changes are news. Pure code over the
 * kernel's messages (rtnetlink(7)).
 *
 * A default route is a unicast route to everywhere, IPv4 or IPv6, in any table. It is up when its link has a
 * carrier. News is a default route that is up and was not up before, identified by family, gateway and
 * interface. The same route with another metric or in another table is no news. The same holds for a route
 * that replaces an equal one (a renewed lease, a router advertisement) and for a route that is removed and
 * comes back between two looks. Interfaces of containers have no default route in the host's namespace.
 *
 * The messages are incomplete: the kernel removes IPv4 routes without a message when a link goes down or an
 * address is removed. So a message only starts a look, which compares a dump with the one before. A route
 * that was added again since then must have been gone, because the kernel refuses to add a route that
 * exists.
 *
 * Without any default route (a proxy or DPS itself is in a network of the site), weak news is a new address
 * that is not link-local, tentative or renewed, or a new route through a gateway.
 */
#pragma once

#include <linux/netlink.h>

#include "util.h"

#define ROUTES_MAX 32 /* further default routes are ignored */

typedef struct Route {
        uint8_t family, gateway[16]; /* zeros: none */
        bool up;
        uint32_t table, priority, interface;
} Route;

typedef struct Routes {
        Route list[ROUTES_MAX];
        size_t count;
} Routes;

/* The changes since the last look. */
typedef struct RouteChanges {
        Routes added, removed;
        bool routes;  /* the default routes may have changed */
        bool address; /* weak news, if there is no default route */
} RouteChanges;

/* Reads the kernel's messages. known: the routes at the last look. */
void routes_read_changes(RouteChanges *changes, const Routes *known, const void *buffer, size_t size);

/* Reads a part of a dump. Returns 1 at its end, 0 when more is to come, or a negative errno. */
int routes_read_dump(Routes *ret, const void *buffer, size_t size);

size_t routes_count_up(const Routes *routes);
bool routes_are_news(const Routes *known, const RouteChanges *changes, const Routes *now);
