#include "routes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include "test.h"

#define LOWER_UP (1u << 16)

/* What the kernel sends, one message after the other. */
typedef struct Messages {
        _Alignas(struct nlmsghdr) uint8_t data[4096];
        size_t size;
        struct nlmsghdr *last;
} Messages;

static void *begin(Messages *m, uint16_t type, uint16_t flags, size_t size) {
        m->last = (void *) (m->data + m->size);
        *m->last = (struct nlmsghdr){ .nlmsg_len = (uint32_t) NLMSG_LENGTH(size),
                                      .nlmsg_type = type,
                                      .nlmsg_flags = flags };
        m->size += NLMSG_ALIGN(m->last->nlmsg_len);
        return NLMSG_DATA(m->last);
}

static void attribute(Messages *m, uint16_t type, const void *data, size_t size) {
        struct rtattr *a = (void *) (m->data + m->size);

        a->rta_type = type;
        a->rta_len = (uint16_t) RTA_LENGTH(size);
        memcpy(RTA_DATA(a), data, size);
        m->size += RTA_ALIGN(a->rta_len);
        m->last->nlmsg_len = (uint32_t) (m->data + m->size - (uint8_t *) m->last);
}

static void attribute_u32(Messages *m, uint16_t type, uint32_t value) {
        attribute(m, type, &value, sizeof(value));
}

typedef struct Spec {
        uint16_t type, message_flags;
        uint8_t route_type, dst_len;
        uint32_t interface, metric;
        const char *gateway;
        unsigned flags;
} Spec;

static void put_route(Messages *m, const Spec *s) {
        const bool six = s->gateway && strchr(s->gateway, ':');
        struct rtmsg *route = begin(m, s->type ? s->type : RTM_NEWROUTE, s->message_flags, sizeof(*route));
        uint8_t gateway[16];

        *route = (struct rtmsg){ .rtm_family = six ? AF_INET6 : AF_INET,
                                 .rtm_dst_len = s->dst_len,
                                 .rtm_table = RT_TABLE_MAIN,
                                 .rtm_type = s->route_type ? s->route_type : RTN_UNICAST,
                                 .rtm_flags = s->flags };
        attribute_u32(m, RTA_OIF, s->interface);
        attribute_u32(m, RTA_PRIORITY, s->metric);
        if (s->gateway) {
                assert_int_equal(inet_pton(route->rtm_family, s->gateway, gateway), 1);
                attribute(m, RTA_GATEWAY, gateway, six ? 16 : 4);
        }
}

static void put_address(Messages *m, uint8_t scope, uint32_t flags, uint32_t updated) {
        const struct ifa_cacheinfo info = { .cstamp = 5, .tstamp = 5 + updated };
        struct ifaddrmsg *address = begin(m, RTM_NEWADDR, 0, sizeof(*address));

        *address = (struct ifaddrmsg){ .ifa_family = AF_INET6, .ifa_scope = scope };
        attribute_u32(m, IFA_FLAGS, flags);
        attribute(m, IFA_CACHEINFO, &info, sizeof(info));
}

static void put_link(Messages *m, uint16_t type, int index, unsigned flags) {
        struct ifinfomsg *link = begin(m, type, 0, sizeof(*link));

        *link = (struct ifinfomsg){ .ifi_index = index, .ifi_flags = flags };
}

static Routes dump(const Spec *list, size_t count) {
        Messages m = {};
        Routes routes = {};

        for (size_t i = 0; i < count; i++)
                put_route(&m, &list[i]);
        assert_int_equal(routes_read_dump(&routes, m.data, m.size), 0);
        return routes;
}

static RouteChanges changes_of(const Messages *m, const Routes *known) {
        RouteChanges changes = {};

        routes_read_changes(&changes, known, m->data, m->size);
        return changes;
}

#define UPLINK                                                                                              \
        { .interface = 2, .gateway = "192.0.2.1", .metric = 100 }
#define OTHER                                                                                               \
        { .interface = 2, .gateway = "192.0.2.2", .metric = 100 }
#define DOWN                                                                                                \
        { .interface = 2, .gateway = "192.0.2.1", .metric = 100, .flags = RTNH_F_LINKDOWN }
#define METRIC                                                                                              \
        { .interface = 2, .gateway = "192.0.2.1", .metric = 200 }
#define BACKUP                                                                                              \
        { .interface = 3, .gateway = "198.51.100.1" }
#define SIX                                                                                                 \
        { .interface = 2, .gateway = "fe80::1" }

static void a_default_route_that_was_not_there_is_news(void **state) {
        static const struct {
                Spec before[2], now[2];
                size_t before_count, now_count;
                bool news;
        } cases[] = {
                { {}, { UPLINK }, 0, 1, true },
                { { UPLINK }, { UPLINK }, 1, 1, false },
                { { UPLINK }, {}, 1, 0, false },
                { { UPLINK }, { OTHER }, 1, 1, true },
                { { UPLINK }, { UPLINK, METRIC }, 1, 2, false },
                { { UPLINK }, { METRIC }, 1, 1, true }, /* it was gone in between, for all we know */
                { { UPLINK }, { UPLINK, BACKUP }, 1, 2, true },
                { { UPLINK, BACKUP }, { BACKUP }, 2, 1, false },
                { { UPLINK }, { UPLINK, SIX }, 1, 2, true },
                { {}, { DOWN }, 0, 1, false },
                { { DOWN }, { UPLINK }, 1, 1, true },
                { { UPLINK }, { DOWN }, 1, 1, false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const Routes before = dump(cases[i].before, cases[i].before_count),
                             now = dump(cases[i].now, cases[i].now_count);

                assert_int_equal(routes_are_news(&before, &(RouteChanges){}, &now), cases[i].news);
        }
}

static void what_is_no_default_route(void **state) {
        static const Spec others[] = {
                { .interface = 2, .gateway = "192.0.2.1", .dst_len = 8 },
                { .interface = 2, .route_type = RTN_UNREACHABLE },
                { .interface = 2, .gateway = "192.0.2.1", .flags = RTM_F_CLONED },
        };

        assert_int_equal(dump(others, ARRAY_SIZE(others)).count, 0);
}

static void a_route_that_was_added_again_had_been_gone(void **state) {
        static const Spec uplink = UPLINK, other = OTHER;
        const Routes known = dump(&uplink, 1), two = dump(&other, 1);
        RouteChanges changes;
        Messages m = {};

        /* the link went down and up: the kernel has removed the route without a message */
        put_route(&m, &(Spec) UPLINK);
        changes = changes_of(&m, &known);
        assert_true(changes.routes);
        assert_true(routes_are_news(&known, &changes, &known));
        assert_true(routes_are_news(&two, &changes, &known));
}

static void a_renewed_lease_is_no_news(void **state) {
        static const Spec uplink = UPLINK;
        const Routes known = dump(&uplink, 1);
        RouteChanges changes;
        Messages m = {};

        put_route(&m, &(Spec){ .interface = 2,
                               .gateway = "192.0.2.1",
                               .metric = 100,
                               .message_flags = NLM_F_REPLACE });
        put_address(&m, RT_SCOPE_UNIVERSE, 0, 1);
        changes = changes_of(&m, &known);
        assert_true(changes.routes);
        assert_false(changes.address);
        assert_false(routes_are_news(&known, &changes, &known));

        /* by a client that removes the route and adds it again */
        m = (Messages){};
        put_route(&m,
                  &(Spec){ .type = RTM_DELROUTE, .interface = 2, .gateway = "192.0.2.1", .metric = 100 });
        put_route(&m, &uplink);
        changes = changes_of(&m, &known);
        assert_false(routes_are_news(&known, &changes, &known));
}

static void only_fresh_addresses_are_weak_news(void **state) {
        static const struct {
                uint8_t scope;
                uint32_t flags, updated;
                bool news;
        } cases[] = {
                { RT_SCOPE_UNIVERSE, IFA_F_PERMANENT, 0, true },
                { RT_SCOPE_HOST, IFA_F_PERMANENT, 0, true }, /* a proxy on this machine */
                { RT_SCOPE_LINK, IFA_F_PERMANENT, 0, false },
                { RT_SCOPE_UNIVERSE, IFA_F_TENTATIVE, 0, false },
                { RT_SCOPE_UNIVERSE, IFA_F_DADFAILED, 0, false },
                { RT_SCOPE_UNIVERSE, 0, 100, false },
        };
        const Routes none = {};

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Messages m = {};
                RouteChanges changes;

                put_address(&m, cases[i].scope, cases[i].flags, cases[i].updated);
                changes = changes_of(&m, &none);
                assert_int_equal(changes.address, cases[i].news);
                assert_false(changes.routes);
        }
}

static void a_route_through_a_gateway_is_weak_news(void **state) {
        const Routes none = {};
        Messages m = {};

        put_route(&m, &(Spec){ .interface = 2, .dst_len = 16 }); /* of an address */
        assert_false(changes_of(&m, &none).address);
        put_route(&m, &(Spec){ .interface = 2, .dst_len = 16, .gateway = "192.0.2.1" });
        assert_true(changes_of(&m, &none).address);
        assert_false(changes_of(&m, &none).routes);
}

static void the_carrier_of_the_uplink_matters(void **state) {
        static const Spec uplink = UPLINK, down = DOWN;
        static const struct {
                uint16_t type;
                int index;
                unsigned flags;
                bool up_changes, down_changes;
        } cases[] = {
                { RTM_NEWLINK, 2, IFF_UP | LOWER_UP, false, true },
                { RTM_NEWLINK, 2, IFF_UP, true, false },
                { RTM_NEWLINK, 2, LOWER_UP, true, false },
                { RTM_DELLINK, 2, IFF_UP | LOWER_UP, true, false },
                { RTM_NEWLINK, 7, IFF_UP | LOWER_UP, false, false }, /* a container's */
                { RTM_DELLINK, 7, 0, false, false },
        };
        const Routes known = dump(&uplink, 1), known_down = dump(&down, 1);

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Messages m = {};

                put_link(&m, cases[i].type, cases[i].index, cases[i].flags);
                assert_int_equal(changes_of(&m, &known).routes, cases[i].up_changes);
                assert_int_equal(changes_of(&m, &known_down).routes, cases[i].down_changes);
        }
}

static void each_nexthop_of_a_route_counts(void **state) {
        struct {
                struct rtnexthop hop;
                struct rtattr attribute;
                uint8_t gateway[4];
        } hops[2] = {
                { { sizeof(hops[0]), 0, 0, 2 }, { RTA_LENGTH(4), RTA_GATEWAY }, { 192, 0, 2, 1 } },
                { { sizeof(hops[0]), RTNH_F_LINKDOWN, 0, 3 },
                  { RTA_LENGTH(4), RTA_GATEWAY },
                  { 198, 51, 100, 1 } },
        };
        Messages m = {};
        Routes routes = {};
        struct rtmsg *route = begin(&m, RTM_NEWROUTE, 0, sizeof(*route));

        *route = (struct rtmsg){ .rtm_family = AF_INET, .rtm_type = RTN_UNICAST };
        attribute(&m, RTA_MULTIPATH, hops, sizeof(hops));
        assert_int_equal(routes_read_dump(&routes, m.data, m.size), 0);
        assert_int_equal(routes.count, 2);
        assert_true(routes.list[0].up && !routes.list[1].up);
        assert_int_equal(routes.list[1].interface, 3);
        assert_int_equal(routes.list[1].gateway[0], 198);
}

static void a_dump_ends(void **state) {
        const struct nlmsgerr error = { .error = -EPERM };
        Messages m = {};
        Routes routes = {};

        put_route(&m, &(Spec) UPLINK);
        memset(begin(&m, NLMSG_DONE, 0, sizeof(int)), 0, sizeof(int));
        assert_int_equal(routes_read_dump(&routes, m.data, m.size), 1);
        assert_int_equal(routes.count, 1);
        m = (Messages){};
        memcpy(begin(&m, NLMSG_ERROR, 0, sizeof(error)), &error, sizeof(error));
        assert_int_equal(routes_read_dump(&routes, m.data, m.size), -EPERM);
}

static void more_routes_than_fit_are_ignored(void **state) {
        Routes routes = {};

        for (unsigned i = 1; i <= ROUTES_MAX + 5; i++) {
                Messages m = {};

                put_route(&m, &(Spec){ .interface = i });
                assert_int_equal(routes_read_dump(&routes, m.data, m.size), 0);
        }
        assert_int_equal(routes.count, ROUTES_MAX);
        assert_int_equal(routes_count_up(&routes), ROUTES_MAX);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_default_route_that_was_not_there_is_news),
                cmocka_unit_test(what_is_no_default_route),
                cmocka_unit_test(a_route_that_was_added_again_had_been_gone),
                cmocka_unit_test(a_renewed_lease_is_no_news),
                cmocka_unit_test(only_fresh_addresses_are_weak_news),
                cmocka_unit_test(a_route_through_a_gateway_is_weak_news),
                cmocka_unit_test(the_carrier_of_the_uplink_matters),
                cmocka_unit_test(each_nexthop_of_a_route_counts),
                cmocka_unit_test(a_dump_ends),
                cmocka_unit_test(more_routes_than_fit_are_ignored),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
