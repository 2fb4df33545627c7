#include "routes.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>

#define LINK_LOWER_UP (1u << 16) /* IFF_LOWER_UP; <linux/if.h> and <net/if.h> exclude each other */
#define LINK_CARRIER  (IFF_UP | LINK_LOWER_UP)

/* The attributes of a route that matter here. A multipath route has a nexthop for each gateway. */
typedef struct RouteAttributes {
        Route route;
        const struct rtattr *multipath;
        bool through_gateway;
} RouteAttributes;

static uint32_t attribute_u32(const struct rtattr *a) {
        uint32_t value = 0;

        if (RTA_PAYLOAD(a) >= sizeof(value))
                memcpy(&value, RTA_DATA(a), sizeof(value));
        return value;
}

static void set_gateway(Route *route, const void *data, size_t size) {
        memset(route->gateway, 0, sizeof(route->gateway));
        memcpy(route->gateway, data, size < sizeof(route->gateway) ? size : sizeof(route->gateway));
}

static void read_attribute(RouteAttributes *ret, const struct rtattr *a) {
        switch (a->rta_type) {
        case RTA_TABLE:
                ret->route.table = attribute_u32(a);
                break;
        case RTA_PRIORITY:
                ret->route.priority = attribute_u32(a);
                break;
        case RTA_OIF:
                ret->route.interface = attribute_u32(a);
                break;
        case RTA_GATEWAY:
        case RTA_VIA: /* an IPv6 gateway of an IPv4 route */
                set_gateway(&ret->route, RTA_DATA(a), RTA_PAYLOAD(a));
                ret->through_gateway = true;
                break;
        case RTA_MULTIPATH:
                ret->multipath = a;
                ret->through_gateway = true;
                break;
        default:
                break;
        }
}

static void read_attributes(RouteAttributes *ret, const struct rtattr *a, size_t size) {
        int left = (int) size;

        for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
                read_attribute(ret, a);
}

static bool is_up(unsigned flags) {
        return (flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) == 0;
}

static void add(Routes *routes, const Route *route) {
        if (routes->count < ROUTES_MAX)
                routes->list[routes->count++] = *route;
}

static void add_nexthops(Routes *to, const RouteAttributes *of) {
        const struct rtnexthop *hop = RTA_DATA(of->multipath);
        size_t left = RTA_PAYLOAD(of->multipath);

        while (left >= sizeof(*hop) && hop->rtnh_len >= sizeof(*hop) && hop->rtnh_len <= left) {
                RouteAttributes one = { .route = of->route };
                const size_t length = RTNH_ALIGN(hop->rtnh_len);

                read_attributes(&one, RTNH_DATA(hop), hop->rtnh_len - RTNH_LENGTH(0));
                one.route.interface = (uint32_t) hop->rtnh_ifindex;
                one.route.up = is_up(hop->rtnh_flags);
                add(to, &one.route);
                if (length >= left)
                        return;
                left -= length;
                hop = RTNH_NEXT(hop);
        }
}

static bool is_unicast(const struct nlmsghdr *m) {
        const struct rtmsg *route = NLMSG_DATA(m);

        return NLMSG_PAYLOAD(m, 0) >= sizeof(*route) && route->rtm_type == RTN_UNICAST &&
               (route->rtm_flags & RTM_F_CLONED) == 0 &&
               (route->rtm_family == AF_INET || route->rtm_family == AF_INET6);
}

/* Adds the default route of a message, if it is one. Returns true when the route has a gateway. */
static bool add_default(Routes *to, const struct nlmsghdr *m) {
        const struct rtmsg *route = NLMSG_DATA(m);
        RouteAttributes attributes = { .route = { .family = route->rtm_family,
                                                  .table = route->rtm_table,
                                                  .up = is_up(route->rtm_flags) } };

        read_attributes(&attributes, RTM_RTA(route), RTM_PAYLOAD(m));
        if (route->rtm_dst_len == 0 && attributes.multipath)
                add_nexthops(to, &attributes);
        else if (route->rtm_dst_len == 0)
                add(to, &attributes.route);
        return attributes.through_gateway;
}

static bool same_nexthop(const Route *a, const Route *b) {
        return a->family == b->family && a->interface == b->interface &&
               memcmp(a->gateway, b->gateway, sizeof(a->gateway)) == 0;
}

static bool same_route(const Route *a, const Route *b) {
        return same_nexthop(a, b) && a->table == b->table && a->priority == b->priority;
}

static Route *find(const Routes *routes, const Route *route) {
        for (size_t i = 0; i < routes->count; i++)
                if (same_route(&routes->list[i], route))
                        return (Route *) &routes->list[i];
        return NULL;
}

static bool take(Routes *routes, const Route *route) {
        Route *found = find(routes, route);

        if (!found)
                return false;
        *found = routes->list[--routes->count];
        return true;
}

/* A route that was removed a moment ago is replaced: some DHCP clients renew a lease in this way. */
static void note_added(RouteChanges *changes, const Routes *fresh) {
        for (size_t i = 0; i < fresh->count; i++)
                if (!take(&changes->removed, &fresh->list[i]))
                        add(&changes->added, &fresh->list[i]);
}

static void read_route(RouteChanges *changes, const struct nlmsghdr *m) {
        const bool added = m->nlmsg_type == RTM_NEWROUTE && (m->nlmsg_flags & NLM_F_REPLACE) == 0;
        Routes found = {};
        bool through_gateway;

        if (!is_unicast(m))
                return;
        through_gateway = add_default(&found, m);
        changes->routes = changes->routes || found.count > 0;
        changes->address = changes->address || (added && through_gateway && found.count == 0);
        if (added)
                note_added(changes, &found);
        for (size_t i = 0; m->nlmsg_type == RTM_DELROUTE && i < found.count; i++)
                add(&changes->removed, &found.list[i]);
}

/* A renewed address has been updated since it was made. */
static bool is_new_address(const struct nlmsghdr *m) {
        const struct ifaddrmsg *address = NLMSG_DATA(m);
        const struct ifa_cacheinfo *info;
        unsigned flags = address->ifa_flags;
        const struct rtattr *a;
        int left;

        if (NLMSG_PAYLOAD(m, 0) < sizeof(*address) || address->ifa_scope == RT_SCOPE_LINK)
                return false;
        left = (int) IFA_PAYLOAD(m);
        for (a = IFA_RTA(address); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
                info = RTA_DATA(a);
                if (a->rta_type == IFA_FLAGS)
                        flags = attribute_u32(a);
                if (a->rta_type == IFA_CACHEINFO && RTA_PAYLOAD(a) >= sizeof(*info) &&
                    info->cstamp != info->tstamp)
                        return false;
        }
        return (flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)) == 0;
}

static bool changes_carrier(const Routes *known, const struct nlmsghdr *m) {
        const struct ifinfomsg *link = NLMSG_DATA(m);
        bool up;

        if (NLMSG_PAYLOAD(m, 0) < sizeof(*link))
                return false;
        up = m->nlmsg_type == RTM_NEWLINK && (link->ifi_flags & LINK_CARRIER) == LINK_CARRIER;
        for (size_t i = 0; i < known->count; i++)
                if (known->list[i].interface == (uint32_t) link->ifi_index && known->list[i].up != up)
                        return true;
        return false;
}

void routes_read_changes(RouteChanges *changes, const Routes *known, const void *buffer, size_t size) {
        unsigned left = (unsigned) size;

        for (const struct nlmsghdr *m = buffer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left))
                switch (m->nlmsg_type) {
                case RTM_NEWROUTE:
                case RTM_DELROUTE:
                        read_route(changes, m);
                        break;
                case RTM_NEWADDR:
                        changes->address = changes->address || is_new_address(m);
                        break;
                case RTM_NEWLINK:
                case RTM_DELLINK:
                        changes->routes = changes->routes || changes_carrier(known, m);
                        break;
                default:
                        break;
                }
}

int routes_read_dump(Routes *ret, const void *buffer, size_t size) {
        unsigned left = (unsigned) size;

        for (const struct nlmsghdr *m = buffer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
                const struct nlmsgerr *error = NLMSG_DATA(m);

                if (m->nlmsg_type == NLMSG_DONE)
                        return 1;
                if (m->nlmsg_type == NLMSG_ERROR)
                        return NLMSG_PAYLOAD(m, 0) >= sizeof(*error) && error->error < 0 ? error->error
                                                                                         : -EBADMSG;
                if (m->nlmsg_type == RTM_NEWROUTE && is_unicast(m))
                        (void) add_default(ret, m);
        }
        return 0;
}

size_t routes_count_up(const Routes *routes) {
        size_t count = 0;

        for (size_t i = 0; i < routes->count; i++)
                count += routes->list[i].up;
        return count;
}

/* True when a route through the same gateway was up before and has been up since. */
static bool was_up(const Routes *known, const RouteChanges *changes, const Routes *now, const Route *route) {
        for (size_t i = 0; i < known->count; i++) {
                const Route *before = &known->list[i], *after = find(now, before);

                if (before->up && same_nexthop(before, route) && after && after->up &&
                    !find(&changes->added, before))
                        return true;
        }
        return false;
}

bool routes_are_news(const Routes *known, const RouteChanges *changes, const Routes *now) {
        for (size_t i = 0; i < now->count; i++)
                if (now->list[i].up && !was_up(known, changes, now, &now->list[i]))
                        return true;
        return false;
}
