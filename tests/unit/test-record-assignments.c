/* The record's intended and confirmed assignment. */
#include "test.h"

#include <errno.h>

#include "memory.h"
#include "record.h"

/* Of a TPM: test-assignment-key.c. */
static const char wrapped_public[] = "00300008000b0004007200000005000b00208ab7fc115be824589ccf562c69154b9696"
                                     "e091533ba96cea2f068262d4fa80c0";
static const char wrapped_name[] = "000b5b10445a2fab239cd971d252531e3387913ecfe016cfdd80aeaf902cbc7d2835";

static const Bytes nothing, first_name = { (uint8_t *) "first", 5 },
                            second_name = { (uint8_t *) "second", 6 };

static void intend(Record *r, const char *hub, const Bytes *name) {
        CLEANUP(assignment_deinit) Assignment a = { .forced = true };

        assert_int_equal(string_replace(&a.hub, hub), 0);
        assert_int_equal(string_replace(&a.device_id, "gw-1"), 0);
        assert_int_equal(bytes_copy(&a.key.name, name->data, name->size), 0);
        a.key.changed = name->size > 0;
        record_intend(r, &a);
        assert_null(a.hub);
}

static void wrap(Record *r) {
        assert_int_equal(bytes_copy(&r->intended.key.private_area, "private", 7), 0);
        assert_int_equal(hex_decode(&r->intended.key.public_area, wrapped_public, 64), 0);
}

static bool is_ours(const Record *r, const char *hex) {
        CLEANUP(bytes_deinit) Bytes name = {};

        assert_int_equal(hex_decode(&name, hex, 64), 0);
        return record_is_our_key(r, &name);
}

static State state_of(const Record *r) {
        Facts f = { .configured = true };

        record_facts(r, &f);
        return facts_state(&f);
}

static void each_intended_assignment_is_another_one(void **state) {
        CLEANUP(record_deinit) Record r = { .forced = true };

        assert_false(record_has_intent(&r) || record_has_confirmed(&r) || record_is_confirmed(&r));
        assert_int_equal(state_of(&r), STATE_ATTESTING);
        for (unsigned n = 1; n < 4; n++) {
                intend(&r, "hub", &nothing);
                assert_int_equal(r.intended.generation, n);
                assert_false(r.forced); /* DPS has answered */
                assert_true(r.intended.forced);
                assert_int_equal(state_of(&r), STATE_ASSIGNED);
                if (n == 2)
                        assert_int_equal(record_confirm(&r), 0);
        }
        assert_int_equal(r.confirmed.generation, 2);
}

static void confirming_copies_what_was_intended(void **state) {
        CLEANUP(record_deinit) Record r = {};

        intend(&r, "old-hub", &nothing);
        assert_int_equal(record_confirm(&r), 0);
        intend(&r, "new-hub", &first_name);
        assert_int_equal(bytes_copy(&r.left_key_name, "left", 4), 0);
        assert_string_equal(r.confirmed.hub, "old-hub");
        assert_int_equal(state_of(&r), STATE_ASSIGNED);
        assert_int_equal(record_confirm(&r), 0);
        assert_int_equal(state_of(&r), STATE_HANDED_OFF);
        assert_true(record_is_confirmed(&r) && assignment_equal(&r.intended, &r.confirmed));
        assert_string_equal(r.confirmed.hub, "new-hub");
        assert_ptr_not_equal(r.confirmed.hub, r.intended.hub);
        /* what it was asked for and what it changed is over, and so is what was left before it */
        assert_false(r.intended.forced || r.intended.key.changed);
        assert_int_equal(r.left_key_name.size, 0);
}

static void reopening_needs_another_confirmation(void **state) {
        CLEANUP(record_deinit) Record r = {};

        intend(&r, "hub", &first_name);
        assert_int_equal(record_confirm(&r), 0);
        record_reopen(&r);
        assert_int_equal(state_of(&r), STATE_ASSIGNED);
        assert_true(assignment_equal(&r.intended, &r.confirmed));
        record_reopen(&r);
        assert_int_equal(r.intended.generation, 3);
        assert_int_equal(record_confirm(&r), 0);
        assert_int_equal(state_of(&r), STATE_HANDED_OFF);
}

static void a_discarded_assignment_leaves_the_confirmed_one(void **state) {
        CLEANUP(record_deinit) Record r = {};

        intend(&r, "old-hub", &nothing);
        assert_int_equal(record_confirm(&r), 0);
        intend(&r, "new-hub", &nothing);
        assert_string_equal(record_assignment(&r)->hub, "new-hub");
        assert_int_equal(record_discard(&r), 0);
        assert_string_equal(record_assignment(&r)->hub, "old-hub");
        assert_int_equal(state_of(&r), STATE_ATTESTING);
        assert_int_equal(r.left_key_name.size, 0);
        assert_int_equal(record_discard(&r), 0); /* there is none */
        intend(&r, "new-hub", &nothing);
        assert_int_equal(r.intended.generation, 2);
        assert_false(record_is_confirmed(&r));
}

static void the_former_device_is_known_until_the_next_one_is_confirmed(void **state) {
        CLEANUP(record_deinit) Record r = {};

        intend(&r, "hub", &first_name);
        assert_int_equal(string_replace(&r.intended.target.registration_id, "old"), 0);
        assert_int_equal(string_replace(&r.intended.target.ek_hash, "hash"), 0);
        assert_int_equal(record_confirm(&r), 0);
        assert_null(r.former_id);
        assert_int_equal(record_forget_device(&r), 0);
        assert_int_equal(state_of(&r), STATE_ATTESTING);
        assert_true(record_is_our_key(&r, &first_name));
        intend(&r, "hub", &second_name);
        assert_string_equal(r.former_id, "old");
        assert_string_equal(r.former_ek_hash, "hash");
        assert_int_equal(record_confirm(&r), 0);
        assert_null(r.former_id);
        assert_null(r.former_ek_hash);
}

static void a_key_at_the_handle_stays_ours_when_its_assignment_is_discarded(void **state) {
        CLEANUP(record_deinit) Record r = {};

        intend(&r, "hub", &first_name);
        assert_int_equal(record_discard(&r), 0);
        assert_true(record_is_our_key(&r, &first_name));
        intend(&r, "hub", &second_name);
        assert_true(record_is_our_key(&r, &first_name) && record_is_our_key(&r, &second_name));
        assert_int_equal(record_discard(&r), 0);
        assert_true(record_is_our_key(&r, &second_name));

        /* it may have become persistent just before the power went */
        intend(&r, "hub", &nothing);
        wrap(&r);
        assert_int_equal(record_discard(&r), 0);
        assert_true(is_ours(&r, wrapped_name));
}

/* An assignment that never had a key can't have left one. */
static void what_had_no_key_leaves_what_was_left_before(void **state) {
        CLEANUP(record_deinit) Record r = {};

        intend(&r, "hub", &first_name);
        assert_int_equal(record_discard(&r), 0);
        intend(&r, "hub", &nothing);
        assert_int_equal(record_discard(&r), 0);
        assert_true(record_is_our_key(&r, &first_name));
}

static void our_keys_are_those_of_both_assignments(void **state) {
        CLEANUP(record_deinit) Record r = {};

        assert_false(record_is_our_key(&r, &nothing));
        assert_false(record_is_our_key(&r, &first_name));
        intend(&r, "hub", &first_name);
        assert_int_equal(record_confirm(&r), 0);
        intend(&r, "hub", &nothing);
        assert_true(record_is_our_key(&r, &first_name)); /* the confirmed one's */
        wrap(&r);
        assert_true(is_ours(&r, wrapped_name)); /* about to be made persistent */
        assert_int_equal(bytes_copy(&r.intended.key.name, "second", 6), 0);
        assert_true(record_is_our_key(&r, &second_name) && record_is_our_key(&r, &first_name));
        assert_false(record_is_our_key(&r, &(Bytes){ (uint8_t *) "third", 5 }));
        assert_false(record_is_our_key(&r, &nothing));
}

static void forgetting_leaves_no_assignment_and_no_key(void **state) {
        CLEANUP(record_deinit) Record r = { .server_time = 9 };

        intend(&r, "hub", &first_name);
        assert_int_equal(record_confirm(&r), 0);
        assert_int_equal(record_discard(&r), 0);
        intend(&r, "hub", &second_name);
        r.forced = true;
        record_forget_assignments(&r);
        assert_false(record_has_intent(&r) || record_has_confirmed(&r) || r.forced);
        assert_false(record_is_our_key(&r, &first_name) || record_is_our_key(&r, &second_name));
        assert_null(record_assignment(&r)->hub);
        assert_int_equal(r.server_time, 9);
}

static void the_facts_are_those_of_the_intended_assignment(void **state) {
        CLEANUP(record_deinit) Record r = { .reset = true, .resting = true };
        Facts f = {};

        intend(&r, "hub", &first_name);
        assert_int_equal(record_confirm(&r), 0);
        intend(&r, "hub", &nothing);
        wrap(&r);
        r.intended.hand_over = HAND_OVER_KEEP;
        record_facts(&r, &f);
        assert_true(f.reset && f.resting && f.intended && !f.confirmed);
        assert_int_equal(f.hand_over, HAND_OVER_KEEP);
        assert_int_equal(f.key, HUB_KEY_WRAPPED);
        assert_int_equal(record_discard(&r), 0);
        record_facts(&r, &f);
        assert_false(f.intended || f.confirmed);
        assert_int_equal(f.key, HUB_KEY_ABSENT);
}

#ifdef MEMORY_CAN_RUN_OUT

static void without_memory_nothing_changes_hands(void **state) {
        bool enough = false;

        for (unsigned n = 0; !enough; n++) {
                CLEANUP(record_deinit) Record r = {};
                int confirmed, discarded;
                bool ran_out;

                intend(&r, "old-hub", &first_name);
                assert_int_equal(record_confirm(&r), 0);
                intend(&r, "new-hub", &second_name);
                memory_limit(n, false);
                confirmed = record_confirm(&r);
                ran_out = memory_unlimit();
                assert_int_equal(confirmed, ran_out ? -ENOMEM : 0);
                assert_string_equal(r.confirmed.hub, ran_out ? "old-hub" : "new-hub");
                enough = !ran_out;
                memory_limit(n, false);
                discarded = record_discard(&r);
                ran_out = memory_unlimit();
                assert_int_equal(discarded, ran_out ? -ENOMEM : 0);
                assert_int_equal(record_has_intent(&r), ran_out);
        }
}

#endif

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(each_intended_assignment_is_another_one),
                cmocka_unit_test(confirming_copies_what_was_intended),
                cmocka_unit_test(reopening_needs_another_confirmation),
                cmocka_unit_test(a_discarded_assignment_leaves_the_confirmed_one),
                cmocka_unit_test(the_former_device_is_known_until_the_next_one_is_confirmed),
                cmocka_unit_test(a_key_at_the_handle_stays_ours_when_its_assignment_is_discarded),
                cmocka_unit_test(what_had_no_key_leaves_what_was_left_before),
                cmocka_unit_test(our_keys_are_those_of_both_assignments),
                cmocka_unit_test(forgetting_leaves_no_assignment_and_no_key),
                cmocka_unit_test(the_facts_are_those_of_the_intended_assignment),
#ifdef MEMORY_CAN_RUN_OUT
                cmocka_unit_test(without_memory_nothing_changes_hands),
#endif
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
