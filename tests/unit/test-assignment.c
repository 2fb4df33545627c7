#include "test.h"

#include <errno.h>
#include <stdlib.h>

#include <json-c/json.h>

#include "assignment-fixture.h"

#define BYTES(text)                                                                                         \
        { (uint8_t *) (text), sizeof(text) - 1 }

static void the_fixture_s_table_has_every_member(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};
        json_object *json = NULL;

        make(&a);
        assert_int_equal(assignment_to_json(&a, &json), 0);
        assert_int_equal(json_object_object_length(json), ARRAY_SIZE(members) + 1); /* the generation */
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                assert_true(json_object_object_get_ex(json, members[i].key, NULL));
        json_object_put(json);
}

static void a_copy_is_equal_and_its_own(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {}, copy = {}, none = {};

        make(&a);
        assert_int_equal(assignment_copy(&copy, &a), 0);
        assert_true(assignment_equal(&a, &copy));
        assert_int_equal(copy.generation, 7);
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (members[i].kind == TEXT)
                        assert_ptr_not_equal(*(char **) member_of(&a, i), *(char **) member_of(&copy, i));
                else if (members[i].kind == BLOB)
                        assert_ptr_not_equal(((Bytes *) member_of(&a, i))->data,
                                             ((Bytes *) member_of(&copy, i))->data);
        assignment_deinit(&copy);
        assert_int_equal(assignment_copy(&copy, &none), 0);
        assert_true(assignment_equal(&copy, &none));
}

static void every_member_but_the_generation_counts_for_equality(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {}, b = {};

        make(&a);
        make(&b);
        b.generation = 8;
        assert_true(assignment_equal(&a, &b));
        for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
                CLEANUP(assignment_deinit) Assignment other = {}, smallest = {}, more = {};

                assert_int_equal(assignment_copy(&other, &a), 0);
                change(&other, i);
                assert_false(assignment_equal(&a, &other) || assignment_equal(&other, &a));
                make_smallest(&smallest);
                make_smallest(&more);
                change(&more, i);
                assert_false(assignment_equal(&smallest, &more) || assignment_equal(&more, &smallest));
        }
}

static void deinit_leaves_nothing(void **state) {
        const Assignment nothing = {};
        Assignment a;

        make(&a);
        assignment_deinit(&a);
        assert_memory_equal(&a, &nothing, sizeof(a));
        assignment_deinit(&a);
}

static void host_names_are_compared_without_case(void **state) {
        const Assignment a = { .hub = (char *) "Hub.example", .device_id = (char *) "gw-1" };

        assert_true(assignment_same_device(&a, "hub.EXAMPLE", "gw-1"));
        assert_false(assignment_same_device(&a, "hub.example", "GW-1"));
        assert_false(assignment_same_device(&a, "hub", "gw-1"));
        assert_false(assignment_same_device(&a, NULL, "gw-1") ||
                     assignment_same_device(&a, "hub.example", NULL));
        assert_false(assignment_same_device(&(Assignment){}, NULL, NULL));
}

/* --- the target --- */

static void targets_are_compared_by_every_member(void **state) {
        static const Target full = { (char *) "s", (char *) "e", (char *) "r", (char *) "h" };

        assert_true(target_equal(&full, &full) && target_equal(&(Target){}, &(Target){}));
        assert_false(target_differs(&full, &full) || target_differs(&(Target){}, &(Target){}));
        for (size_t i = 0; i < 4; i++) {
                Target other = full, unknown = full;
                char **const in_other[] = { &other.id_scope, &other.endpoint, &other.registration_id,
                                            &other.ek_hash },
                             **const in_unknown[] = { &unknown.id_scope, &unknown.endpoint,
                                                      &unknown.registration_id, &unknown.ek_hash };

                *in_other[i] = (char *) "x";
                *in_unknown[i] = NULL;
                assert_true(target_differs(&full, &other) && target_differs(&other, &full));
                assert_false(target_equal(&full, &other));
                /* what one of them does not know is not different, nor is it the same */
                assert_false(target_differs(&full, &unknown) || target_differs(&unknown, &full));
                assert_false(target_equal(&full, &unknown) || target_equal(&unknown, &full));
                *in_unknown[(i + 1) % 4] = (char *) "x";
                assert_true(target_differs(&full, &unknown));
        }
}

/* Earlier versions stored it as it was configured; a gateway does not register again for that. */
static void endpoints_are_compared_by_their_meaning(void **state) {
        const Target a = { .endpoint = (char *) "https://dps.example" },
                     b = { .endpoint = (char *) "https://DPS.example:443" },
                     c = { .endpoint = (char *) "https://dps.example:444" };

        assert_true(target_equal(&a, &b));
        assert_false(target_differs(&a, &b));
        assert_false(target_equal(&a, &c));
        assert_true(target_differs(&a, &c));
}

static void a_target_and_a_snapshot_can_be_copied(void **state) {
        const Target target = { (char *) "s", NULL, (char *) "r", (char *) "h" };
        const Snapshot snapshot = { true, BYTES("name"), (char *) "hub", NULL, (char *) "proof" };
        CLEANUP(target_deinit) Target t = {};
        CLEANUP(snapshot_deinit) Snapshot s = {};

        assert_int_equal(target_copy(&t, &target), 0);
        assert_true(target_equal(&t, &target));
        for (int twice = 0; twice < 2; twice++) {
                assert_int_equal(snapshot_copy(&s, &snapshot), 0);
                assert_true(s.taken && bytes_equal(&s.key_name, &snapshot.key_name) && !s.device_id);
                assert_string_equal(s.hub, "hub");
                assert_string_equal(s.proof, "proof");
        }
}

/* --- JSON --- */

static void json_keeps_every_member(void **state) {
        for (size_t i = 0; i <= ARRAY_SIZE(members); i++) {
                CLEANUP(assignment_deinit) Assignment a = {}, smallest = {}, back = {};
                json_object *json = NULL;

                make(&a);
                make_smallest(&smallest);
                /* all of them, then only one more than there has to be; half a wrapped key is none */
                if (i < ARRAY_SIZE(members)) {
                        assignment_deinit(&a);
                        make_smallest(&a);
                        change(&a, i);
                        if (&a.key.private_area == member_of(&a, i))
                                assert_int_equal(bytes_copy(&a.key.public_area, "x", 1), 0);
                        else if (&a.key.public_area == member_of(&a, i))
                                assert_int_equal(bytes_copy(&a.key.private_area, "x", 1), 0);
                }
                a.generation = UINT64_C(1) << 60;
                assert_int_equal(assignment_to_json(&a, &json), 0);
                assert_int_equal(assignment_from_json(&back, json), 0);
                assert_true(assignment_equal(&a, &back));
                assert_true(back.generation == a.generation);
                assert_false(assignment_equal(&back, &smallest));
                json_object_put(json);
        }
}

/* With one member of a good one replaced, or removed when there is no value. */
static int parse_with(Assignment *ret, const char *key, const char *value) {
        CLEANUP(assignment_deinit) Assignment a = {};
        json_object *json = NULL;
        int r;

        make(&a);
        assert_int_equal(assignment_to_json(&a, &json), 0);
        json_object_object_del(json, key);
        if (value)
                json_object_object_add(json, key, json_tokener_parse(value));
        r = assignment_from_json(ret, json);
        json_object_put(json);
        return r;
}

static void a_member_of_another_type_is_refused(void **state) {
        static const char *const wrong[][8] = {
                [TEXT] = { "1", "true", "null", "[]", "{}", "1.5" },
                [BLOB] = { "1", "true", "null", "[]", "{}", "\"!\"", "\"QQ\"" },
                [FLAG] = { "\"true\"", "null", "[]", "{}", "0.5" },
                [NUMBER] = { "\"1\"", "true", "null", "[]", "1.5", "4294967296" },
                [HAND_OVER_NAME] = { "1", "null", "\"\"", "\"adopted\"", "\"Adopt\"" },
        };
        Assignment a = {};

        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                for (const char *const *value = wrong[members[i].kind]; *value; value++) {
                        if (parse_with(&a, members[i].key, *value) != -EBADMSG)
                                fail_msg("%s: %s", members[i].key, *value);
                        assert_null(a.hub);
                }
        assert_int_equal(parse_with(&a, "generation", "\"1\""), -EBADMSG);
        assert_int_equal(assignment_from_json(&a, NULL), -EBADMSG);
}

static void what_every_assignment_has_may_not_be_missing(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
                CLEANUP(assignment_deinit) Assignment a = {};
                bool half = streq(members[i].key, "keyPrivate") || streq(members[i].key, "keyPublic");

                assert_int_equal(parse_with(&a, members[i].key, NULL),
                                 members[i].required || half ? -EBADMSG : 0);
        }
}

static void flags_are_read_as_version_1_wrote_them(void **state) {
        for (int flag = 0; flag < 2; flag++) {
                CLEANUP(assignment_deinit) Assignment a = {};

                assert_int_equal(parse_with(&a, "keyChanged", flag ? "1" : "0"), 0);
                assert_int_equal(a.key.changed, flag);
        }
}

static void an_unknown_member_is_ignored(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {}, full = {};

        make(&full);
        assert_int_equal(parse_with(&a, "somethingNew", "{}"), 0);
        assert_true(assignment_equal(&a, &full));
}

static void a_key_of_any_size_is_bounded(void **state) {
        for (size_t size = 8192; size <= 8193; size++) {
                CLEANUP(assignment_deinit) Assignment a = {}, back = {};
                CLEANUP(freep) uint8_t *data = calloc(1, size);
                json_object *json = NULL;

                make_smallest(&a);
                assert_int_equal(bytes_copy(&a.key.received, data, size), 0);
                assert_int_equal(assignment_to_json(&a, &json), 0);
                assert_int_equal(assignment_from_json(&back, json), size > 8192 ? -EBADMSG : 0);
                json_object_put(json);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_fixture_s_table_has_every_member),
                cmocka_unit_test(a_copy_is_equal_and_its_own),
                cmocka_unit_test(every_member_but_the_generation_counts_for_equality),
                cmocka_unit_test(deinit_leaves_nothing),
                cmocka_unit_test(host_names_are_compared_without_case),
                cmocka_unit_test(targets_are_compared_by_every_member),
                cmocka_unit_test(endpoints_are_compared_by_their_meaning),
                cmocka_unit_test(a_target_and_a_snapshot_can_be_copied),
                cmocka_unit_test(json_keeps_every_member),
                cmocka_unit_test(a_member_of_another_type_is_refused),
                cmocka_unit_test(what_every_assignment_has_may_not_be_missing),
                cmocka_unit_test(flags_are_read_as_version_1_wrote_them),
                cmocka_unit_test(an_unknown_member_is_ignored),
                cmocka_unit_test(a_key_of_any_size_is_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
