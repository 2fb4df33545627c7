/* The assignment in calls to the hand-off helper, and failed allocations. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <json-c/json.h>
#include <systemd/sd-bus.h>

#include "assignment-fixture.h"
#include "memory.h"

static int peer;

/* A message needs a bus that was started; nobody answers at the other end. */
static int open_bus(void **state) {
        sd_bus *bus = NULL;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        peer = fds[1];
        assert_true(sd_bus_new(&bus) >= 0);
        assert_true(sd_bus_set_fd(bus, fds[0], fds[0]) >= 0);
        assert_true(sd_bus_start(bus) >= 0);
        *state = bus;
        return 0;
}

static int close_bus(void **state) {
        sd_bus_unref(*state);
        closep(&peer);
        return 0;
}

static sd_bus_message *new_message(sd_bus *bus) {
        sd_bus_message *m = NULL;

        assert_true(sd_bus_message_new_method_call(bus, &m, NULL, "/", NULL, "M") >= 0);
        return m;
}

static void turn_around(sd_bus_message *m) {
        assert_true(sd_bus_message_seal(m, 1, 0) >= 0);
        assert_true(sd_bus_message_rewind(m, 1) >= 0);
}

static void what_crosses_the_bus_comes_back(void **state) {
        for (int full = 0; full < 2; full++) {
                CLEANUP(assignment_deinit) Assignment a = {}, expected = {}, back = {};
                sd_bus_message *m = new_message(*state);

                if (full)
                        make(&a);
                else
                        make_smallest(&a);
                for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                        if (members[i].on_bus && (full || members[i].required))
                                change(&expected, i);
                assert_int_equal(assignment_append(&a, m), 0);
                turn_around(m);
                assert_int_equal(assignment_read(&back, m), 0);
                assert_true(assignment_equal(&back, &expected));
                assert_int_equal(back.generation, 0);
                sd_bus_message_unref(m);
        }
}

/* DPS' key and its wrapped form among them: by the names in the message, not by what was read from it. */
static void only_what_the_helper_needs_crosses_the_bus(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};
        sd_bus_message *m = new_message(*state);
        size_t count = 0, expected = 0;
        const char *key;

        make(&a);
        assert_int_equal(assignment_append(&a, m), 0);
        turn_around(m);
        assert_true(sd_bus_message_enter_container(m, 'a', "{sv}") > 0);
        while (sd_bus_message_enter_container(m, 'e', "sv") > 0) {
                assert_true(sd_bus_message_read(m, "s", &key) > 0);
                for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                        if (streq(members[i].key, key)) {
                                assert_true(members[i].on_bus);
                                count++;
                        }
                assert_false(streq(key, "keyReceived") || streq(key, "keyPrivate") ||
                             streq(key, "keyPublic"));
                assert_true(sd_bus_message_skip(m, "v") >= 0);
                assert_true(sd_bus_message_exit_container(m) >= 0);
        }
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                expected += members[i].on_bus;
        assert_int_equal(count, expected);
        sd_bus_message_unref(m);
}

static int read_entry(sd_bus *bus, const char *key, const char *type, const char *value) {
        CLEANUP(assignment_deinit) Assignment a = {};
        sd_bus_message *m = new_message(bus);
        int r;

        assert_true(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        if (streq(type, "s"))
                r = sd_bus_message_append(m, "{sv}", key, "s", value);
        else if (streq(type, "ay"))
                r = sd_bus_message_append(m, "{sv}", key, "ay", 2, 1, 2);
        else
                r = sd_bus_message_append(m, "{sv}", key, type, 1);
        assert_true(r >= 0);
        assert_true(sd_bus_message_close_container(m) >= 0);
        turn_around(m);
        r = assignment_read(&a, m);
        sd_bus_message_unref(m);
        return r;
}

static void what_may_not_cross_the_bus_is_refused(void **state) {
        static const char *const types[] = { "s", "ay", "b", "u" };

        assert_int_equal(read_entry(*state, "somethingNew", "s", "x"), -ENOENT);
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
                        Kind kind = members[i].kind;
                        bool fits = streq(types[t], kind == BLOB ? "ay" : kind == FLAG ? "b" : "s");
                        int r = read_entry(*state, members[i].key, types[t], "register");

                        assert_int_equal(r, !members[i].on_bus ? -ENOENT : fits ? 0 : -EBADMSG);
                }
        assert_int_equal(read_entry(*state, "handOver", "s", "adopted"), -EBADMSG);
}

static void an_entry_that_comes_twice_counts_once(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};
        sd_bus_message *m = new_message(*state);

        assert_true(sd_bus_message_append(m, "a{sv}", 4, "hub", "s", "a", "keyName", "ay", 1, 1, "hub", "s",
                                          "b", "keyName", "ay", 2, 2, 3) >= 0);
        turn_around(m);
        assert_int_equal(assignment_read(&a, m), 0);
        assert_string_equal(a.hub, "b");
        assert_int_equal(a.key.name.size, 2);
        sd_bus_message_unref(m);
}

#ifdef MEMORY_CAN_RUN_OUT

static void no_memory_is_an_error_and_nothing_is_touched(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};
        json_object *json = NULL;
        bool enough = false;

        make(&a);
        assert_int_equal(assignment_to_json(&a, &json), 0);
        for (unsigned n = 0; !enough; n++) {
                CLEANUP(assignment_deinit) Assignment copy = {}, parsed = {}, received = {};
                CLEANUP(target_deinit) Target target = {};
                CLEANUP(snapshot_deinit) Snapshot snapshot = { .hub = strdup("before") };
                sd_bus_message *m = new_message(*state);
                json_object *made = NULL;
                int results[6];
                bool ran_out[6];

                memory_limit(n, false);
                results[0] = assignment_copy(&copy, &a);
                ran_out[0] = memory_unlimit();
                memory_limit(n, false);
                results[1] = assignment_to_json(&a, &made);
                ran_out[1] = memory_unlimit();
                memory_limit(n, false);
                results[2] = assignment_from_json(&parsed, json);
                ran_out[2] = memory_unlimit();
                memory_limit(n, false);
                results[3] = target_copy(&target, &a.target);
                ran_out[3] = memory_unlimit();
                memory_limit(n, false);
                results[4] = snapshot_copy(&snapshot, &a.snapshot);
                ran_out[4] = memory_unlimit();
                memory_limit(n, false);
                results[5] = assignment_append(&a, m);
                ran_out[5] = memory_unlimit();

                enough = true;
                for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
                        assert_int_equal(results[i], ran_out[i] ? -ENOMEM : 0);
                        enough = enough && !ran_out[i];
                }
                assert_int_equal(!made, ran_out[1]);
                assert_true(ran_out[0] ? !copy.hub : assignment_equal(&copy, &a));
                assert_true(ran_out[2] ? !parsed.hub : assignment_equal(&parsed, &a));
                assert_true(ran_out[3] ? !target.id_scope : target_equal(&target, &a.target));
                assert_string_equal(snapshot.hub, ran_out[4] ? "before" : a.snapshot.hub);
                json_object_put(made);
                sd_bus_message_unref(m);
        }
        json_object_put(json);
}

static void no_memory_to_read_a_message_is_an_error(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};
        bool enough = false;

        make(&a);
        for (unsigned n = 0; !enough; n++) {
                CLEANUP(assignment_deinit) Assignment back = {};
                sd_bus_message *m = new_message(*state);
                int r;

                assert_int_equal(assignment_append(&a, m), 0);
                turn_around(m);
                memory_limit(n, false);
                r = assignment_read(&back, m);
                enough = !memory_unlimit();
                assert_int_equal(r, enough ? 0 : -ENOMEM);
                assert_true(enough || !back.hub);
                sd_bus_message_unref(m);
        }
}

#endif

#define BUS_TEST(test) cmocka_unit_test_setup_teardown(test, open_bus, close_bus)

int main(void) {
        const struct CMUnitTest tests[] = {
                BUS_TEST(what_crosses_the_bus_comes_back),
                BUS_TEST(only_what_the_helper_needs_crosses_the_bus),
                BUS_TEST(what_may_not_cross_the_bus_is_refused),
                BUS_TEST(an_entry_that_comes_twice_counts_once),
#ifdef MEMORY_CAN_RUN_OUT
                BUS_TEST(no_memory_is_an_error_and_nothing_is_touched),
                BUS_TEST(no_memory_to_read_a_message_is_an_error),
#endif
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
