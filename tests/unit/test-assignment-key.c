/* The state of an assignment's hub key, and the comparison with what the gateway has. */
#include "test.h"

#include <errno.h>

#include "assignment.h"

#define BYTES(text)                                                                                         \
        { (uint8_t *) (text), sizeof(text) - 1 }

static void the_key_s_state_follows_from_what_there_is_of_it(void **state) {
        static const struct {
                HubKey key;
                HubKeyState state;
        } cases[] = {
                { {}, HUB_KEY_ABSENT },
                { { .name = BYTES("n") }, HUB_KEY_ABSENT },
                { { .received = BYTES("r") }, HUB_KEY_RECEIVED },
                { { .private_area = BYTES("s"), .public_area = BYTES("p") }, HUB_KEY_WRAPPED },
                { { .private_area = BYTES("s"), .public_area = BYTES("p"), .name = BYTES("n") },
                  HUB_KEY_ADOPTED },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const Assignment a = { .key = cases[i].key };

                assert_int_equal(assignment_key_state(&a), cases[i].state);
        }
}

static void every_way_to_hand_over_has_a_name(void **state) {
        assert_string_equal(hand_over_to_string(HAND_OVER_ADOPT), "adopt");
        assert_string_equal(hand_over_to_string(HAND_OVER_REGISTER), "register");
        assert_string_equal(hand_over_to_string(HAND_OVER_KEEP), "keep");
}

static void a_dropped_key_leaves_nothing(void **state) {
        CLEANUP(assignment_deinit) Assignment a = { .key.changed = true };
        const HubKey none = {};

        assert_int_equal(string_replace(&a.hub, "hub"), 0);
        assert_int_equal(bytes_copy(&a.key.received, "r", 1), 0);
        assert_int_equal(bytes_copy(&a.key.private_area, "s", 1), 0);
        assert_int_equal(bytes_copy(&a.key.public_area, "p", 1), 0);
        assert_int_equal(bytes_copy(&a.key.name, "n", 1), 0);
        assignment_drop_key(&a);
        assert_memory_equal(&a.key, &none, sizeof(none));
        assert_int_equal(assignment_key_state(&a), HUB_KEY_ABSENT);
        assert_string_equal(a.hub, "hub");
}

/* As a TPM made them: tpm2_create -G hmac -u pub, tpm2_load -n name. */
static const char wrapped_public[] = "00300008000b0004007200000005000b00208ab7fc115be824589ccf562c69154b9696"
                                     "e091533ba96cea2f068262d4fa80c0";
static const char wrapped_name[] = "000b5b10445a2fab239cd971d252531e3387913ecfe016cfdd80aeaf902cbc7d2835";

static void the_name_of_a_wrapped_key_is_the_tpm_s(void **state) {
        static const char *const unusable[] = { "00", "0004", "00040008000b", "00060008000c0000",
                                                "00060008010b0000" };
        CLEANUP(assignment_deinit) Assignment a = {};
        CLEANUP(bytes_deinit) Bytes name = {};
        CLEANUP(freep) char *hex = NULL;

        assert_int_equal(assignment_wrapped_name(&a, &name), -ENOENT);
        assert_int_equal(hex_decode(&a.key.public_area, wrapped_public, 128), 0);
        assert_int_equal(assignment_wrapped_name(&a, &name), 0);
        assert_int_equal(hex_encode(&hex, name.data, name.size), 0);
        assert_string_equal(hex, wrapped_name);

        for (size_t i = 0; i < ARRAY_SIZE(unusable); i++) {
                CLEANUP(assignment_deinit) Assignment other = {};
                Bytes none = {};

                assert_int_equal(hex_decode(&other.key.public_area, unusable[i], 64), 0);
                assert_int_equal(assignment_wrapped_name(&other, &none), -ENOENT);
                assert_null(none.data);
        }
}

enum {
        EMPTY,
        BEFORE,
        OURS,
        WRAPPED,
        SAME_KEY,
        OTHER_KEY,
        KEYS
};
enum {
        NO_DEVICE,
        OUR_DEVICE,
        DEVICE_BEFORE,
        OTHER_DEVICE,
        OTHER_HUB,
        DEVICES
};

static void make(Assignment *ret, bool snapshot) {
        const Snapshot before = { true, BYTES("before"), (char *) "old-hub", (char *) "old",
                                  (char *) "proof" };

        *ret = (Assignment){};
        assert_int_equal(string_replace(&ret->hub, "hub"), 0);
        assert_int_equal(string_replace(&ret->device_id, "gw-1"), 0);
        assert_int_equal(bytes_copy(&ret->key.name, "ours", 4), 0);
        assert_int_equal(bytes_copy(&ret->key.private_area, "private", 7), 0);
        assert_int_equal(hex_decode(&ret->key.public_area, wrapped_public, 128), 0);
        if (snapshot)
                assert_int_equal(snapshot_copy(&ret->snapshot, &before), 0);
}

static bool superseded(const Assignment *a, int key, int device) {
        static const char *const hubs[] = { NULL, "HUB", "Old-Hub", "old-hub", "hub" };
        static const char *const devices[] = { NULL, "gw-1", "old", "gw-1", "old" };
        const Bytes keys[] = { {}, BYTES("before"), BYTES("ours"), {}, BYTES("same"), BYTES("other") };
        CLEANUP(bytes_deinit) Bytes wrapped = {};
        const Found found = { .key_name = key == WRAPPED ? &wrapped : &keys[key],
                              .same_key = key == OURS || key == WRAPPED || key == SAME_KEY,
                              .hub = hubs[device],
                              .device_id = devices[device] };

        assert_int_equal(hex_decode(&wrapped, wrapped_name, 64), 0);
        return assignment_superseded(a, &found);
}

static void newer_is_what_differs_from_both_the_snapshot_and_ours(void **state) {
        static const bool expected[KEYS][DEVICES] = {
                [EMPTY] = { [OTHER_DEVICE] = true, [OTHER_HUB] = true },
                [BEFORE] = { [OTHER_DEVICE] = true, [OTHER_HUB] = true },
                [OURS] = { [OTHER_DEVICE] = true, [OTHER_HUB] = true },
                [WRAPPED] = { [OTHER_DEVICE] = true, [OTHER_HUB] = true },
                /* imported since, so device_info is newer even if it says the same as before */
                [SAME_KEY] = { [DEVICE_BEFORE] = true, [OTHER_DEVICE] = true, [OTHER_HUB] = true },
                [OTHER_KEY] = { true, true, true, true, true },
        };
        CLEANUP(assignment_deinit) Assignment with = {}, without = {};

        make(&with, true);
        make(&without, false);
        for (int key = 0; key < KEYS; key++)
                for (int device = 0; device < DEVICES; device++) {
                        if (superseded(&with, key, device) != expected[key][device])
                                fail_msg("key %d, device %d", key, device);
                        assert_false(superseded(&without, key, device));
                }
}

static void what_was_empty_before_is_not_newer_while_it_is(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};

        make(&a, false);
        a.snapshot.taken = true; /* no key at the handle, no device_info */
        assert_false(superseded(&a, EMPTY, NO_DEVICE));
        assert_false(superseded(&a, OURS, OUR_DEVICE));
        assert_true(superseded(&a, BEFORE, OUR_DEVICE));
        assert_true(superseded(&a, EMPTY, DEVICE_BEFORE));
        assert_true(superseded(&a, OURS, DEVICE_BEFORE));
}

/* Before our key is adopted, and when there is none at all. */
static void another_key_is_newer_whether_or_not_ours_was_adopted(void **state) {
        CLEANUP(assignment_deinit) Assignment a = {};

        make(&a, true);
        bytes_deinit(&a.key.name);
        assert_true(superseded(&a, OTHER_KEY, DEVICE_BEFORE));
        assert_false(superseded(&a, WRAPPED, DEVICE_BEFORE));
        assert_false(superseded(&a, BEFORE, DEVICE_BEFORE));
        assignment_drop_key(&a);
        assert_true(superseded(&a, OTHER_KEY, OUR_DEVICE));
        assert_false(superseded(&a, BEFORE, DEVICE_BEFORE));
        assert_false(superseded(&a, EMPTY, OUR_DEVICE));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_key_s_state_follows_from_what_there_is_of_it),
                cmocka_unit_test(every_way_to_hand_over_has_a_name),
                cmocka_unit_test(a_dropped_key_leaves_nothing),
                cmocka_unit_test(the_name_of_a_wrapped_key_is_the_tpm_s),
                cmocka_unit_test(newer_is_what_differs_from_both_the_snapshot_and_ours),
                cmocka_unit_test(what_was_empty_before_is_not_newer_while_it_is),
                cmocka_unit_test(another_key_is_newer_whether_or_not_ours_was_adopted),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
