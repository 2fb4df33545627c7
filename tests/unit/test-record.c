/* The daemon's state file in both versions. test-record-assignments.c tests the operations on assignments.
 */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "record.h"
#include "store.h"

static char dir[] = "/tmp/test-record-XXXXXX";
static char path[64];

static int make_directory(void **state) {
        assert_non_null(mkdtemp(dir));
        (void) snprintf(path, sizeof(path), "%s/state.json", dir);
        return 0;
}

static int remove_directory(void **state) {
        (void) unlink(path);
        return rmdir(dir);
}

static void write_text(const char *text) {
        assert_int_equal(store_write(path, text, strlen(text), 0600), 0);
}

static int load(Record *ret, const char *text) {
        Failure failure = {};
        int r;

        write_text(text);
        r = record_load(ret, path, &failure);
        assert_int_equal(failure.kind, r < 0 ? FAILURE_STORAGE : FAILURE_NONE);
        return r;
}

/* --- version 1 --- */

/* As the program of version 1 wrote it, with nothing that the test does not look at. */
#define VERSION_1(state, ...)                                                                               \
        "{ \"version\": 1, \"state\": \"" state "\"," __VA_ARGS__                                           \
        " \"stateChangedUSec\": 11, \"lastSuccessUSec\": 12, \"attempts\": 3, \"transientFailures\": 1,"    \
        " \"throttledFailures\": 2, \"operatorFailures\": 4, \"operatorWaitedUSec\": 13, \"throttled\": 1," \
        " \"nextAttemptUSec\": 14, \"serverTime\": 15, \"resetProvisioning\": 0 }"
#define TARGET                                                                                              \
        "\"idScope\": \"0ne\", \"globalEndpoint\": \"https://e\", \"registrationId\": \"gw\","              \
        " \"endorsementKeyHash\": \"aa\","
#define DEVICE                                                                                              \
        TARGET "\"hub\": \"new-hub\", \"deviceId\": \"new\", \"substatus\": \"initialAssignment\","         \
               " \"payload\": \"{}\","
#define PROVEN     "\"provenHub\": \"new-hub\", \"provenDeviceId\": \"new\","
#define PROVEN_OLD "\"provenHub\": \"old-hub\", \"provenDeviceId\": \"old\","
#define HANDED_TO  "\"target\": \"iotedge\", \"identity\": \"adopt\", \"hubKeyHandle\": 2164261120,"
/* of a TPM: test-assignment-key.c */
#define WRAPPED                                                                                             \
        "\"keyPrivate\": \"AAFz\","                                                                         \
        " \"keyPublic\": "                                                                                  \
        "\"ADAACAALAAQAcgAAAAUACwAgirf8EVvoJFicz1YsaRVLlpbgkVM7qWzqLwaCYtT6gMA=\","
#define OUR_NAME  "\"keyName\": \"AAtbEERaL6sjnNlx0lJTHjOHkT7P4BbP3YCur5AsvH0oNQ==\","
#define LONG_NAME /* 67 bytes */                                                                            \
        "\"keyName\": \""                                                                                   \
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"                                                     \
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\","
#define OLDER_NAME "\"keyName\": \"AAtvbGRlcg==\","
#define CHANGED    "\"keyChanged\": 1,"

static void assert_bytes(const Bytes *bytes, const void *expected, size_t size) {
        assert_int_equal(bytes->size, size);
        if (size > 0)
                assert_memory_equal(bytes->data, expected, size);
}

static void every_state_of_version_1_is_the_same_in_version_2(void **state) {
        static const struct {
                const char *text;
                State state;
                bool confirmed; /* there is a confirmed assignment */
                HandOver hand_over;
                HubKeyState key;
                const char *confirmed_hub;
                enum {
                        NONE,
                        OURS,
                        OLDER
                } left;
        } cases[] = {
                /* never assigned */
                { VERSION_1("unprovisioned", ), STATE_ATTESTING },
                { VERSION_1("attesting", ), STATE_ATTESTING },
                { VERSION_1("attesting", TARGET), STATE_ATTESTING },
                /* asked to attest anew, in each step after which version 1 wrote the file */
                { VERSION_1("attesting", DEVICE PROVEN HANDED_TO WRAPPED OUR_NAME), STATE_ATTESTING, true,
                  .confirmed_hub = "new-hub", .left = OURS },
                { VERSION_1("attesting", DEVICE PROVEN HANDED_TO), STATE_ATTESTING, true,
                  .confirmed_hub = "new-hub" },
                { VERSION_1("attesting", DEVICE WRAPPED), STATE_ATTESTING, .left = OURS },
                { VERSION_1("attesting", DEVICE WRAPPED OLDER_NAME), STATE_ATTESTING, .left = OLDER },
                { VERSION_1("attesting", DEVICE), STATE_ATTESTING },
                { VERSION_1("unprovisioned", DEVICE PROVEN WRAPPED OUR_NAME), STATE_ATTESTING, true,
                  .confirmed_hub = "new-hub", .left = OURS },
                /* IMPORT is done */
                { VERSION_1("assigned", DEVICE WRAPPED), STATE_ASSIGNED, false, HAND_OVER_ADOPT,
                  HUB_KEY_WRAPPED },
                { VERSION_1("assigned", DEVICE PROVEN_OLD HANDED_TO WRAPPED OLDER_NAME), STATE_ASSIGNED,
                  true, HAND_OVER_ADOPT, HUB_KEY_WRAPPED, "old-hub", OLDER },
                /* ADOPT is done */
                { VERSION_1("assigned", DEVICE WRAPPED OUR_NAME CHANGED), STATE_ASSIGNED, false,
                  HAND_OVER_ADOPT, HUB_KEY_ADOPTED },
                { VERSION_1("assigned", DEVICE PROVEN_OLD HANDED_TO WRAPPED OUR_NAME CHANGED),
                  STATE_ASSIGNED, true, HAND_OVER_ADOPT, HUB_KEY_ADOPTED, "old-hub" },
                /* without a hub key */
                { VERSION_1("assigned", DEVICE), STATE_ASSIGNED, false, HAND_OVER_REGISTER, HUB_KEY_ABSENT },
                { VERSION_1("assigned", DEVICE PROVEN_OLD), STATE_ASSIGNED, true, HAND_OVER_REGISTER,
                  HUB_KEY_ABSENT, "old-hub" },
                /* VERIFY said "lost", or the configuration changed */
                { VERSION_1("assigned", DEVICE PROVEN HANDED_TO WRAPPED OUR_NAME), STATE_ASSIGNED, true,
                  HAND_OVER_ADOPT, HUB_KEY_ADOPTED, "new-hub" },
                /* HANDOFF is done */
                { VERSION_1("handed-off", DEVICE PROVEN HANDED_TO WRAPPED OUR_NAME), STATE_HANDED_OFF, true,
                  HAND_OVER_ADOPT, HUB_KEY_ADOPTED, "new-hub" },
                { VERSION_1("handed-off", DEVICE PROVEN HANDED_TO WRAPPED OLDER_NAME), STATE_HANDED_OFF,
                  true, HAND_OVER_ADOPT, HUB_KEY_ADOPTED, "new-hub" }, /* the same key in another object */
                { VERSION_1("handed-off", DEVICE PROVEN HANDED_TO), STATE_HANDED_OFF, true, HAND_OVER_KEEP,
                  HUB_KEY_ABSENT, "new-hub" },
        };

        static const Bytes left[] = {
                [NONE] = {},
                [OURS] = { (uint8_t *) "\0\x0b\x5b\x10\x44\x5a\x2f\xab\x23\x9c\xd9\x71\xd2\x52\x53\x1e\x33"
                                       "\x87\x91\x3e\xcf\xe0\x16\xcf\xdd\x80\xae\xaf\x90\x2c\xbc\x7d\x28"
                                       "\x35",
                           34 },
                [OLDER] = { (uint8_t *) "\0\x0bolder", 7 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(record_deinit) Record r = {};
                Facts f = { .configured = true };

                assert_int_equal(load(&r, cases[i].text), 0);
                record_facts(&r, &f);
                assert_string_equal(state_to_string(facts_state(&f)), state_to_string(cases[i].state));
                assert_int_equal(record_has_intent(&r), cases[i].state >= STATE_ASSIGNED);
                assert_int_equal(record_has_confirmed(&r), cases[i].confirmed);
                assert_int_equal(record_is_confirmed(&r), cases[i].state == STATE_HANDED_OFF);
                assert_int_equal(f.hand_over, cases[i].hand_over);
                assert_int_equal(f.key, cases[i].key);
                if (cases[i].confirmed)
                        assert_string_equal(r.confirmed.hub, cases[i].confirmed_hub);
                assert_true(cases[i].left == NONE || bytes_equal(&r.left_key_name, &left[cases[i].left]) ||
                            bytes_equal(&r.left_wrapped_name, &left[cases[i].left]));

                f.configured = false;
                assert_string_equal(state_to_string(facts_state(&f)),
                                    state_to_string(cases[i].state == STATE_ATTESTING ? STATE_UNPROVISIONED
                                                                                      : cases[i].state));
        }
}

static void version_1_s_values_come_along(void **state) {
        CLEANUP(record_deinit) Record r = {};
        const Assignment *a = &r.intended;

        assert_int_equal(load(&r, VERSION_1("assigned", DEVICE PROVEN_OLD HANDED_TO WRAPPED OUR_NAME CHANGED
                                            "\"edgeFlagMissing\": \"w1\", \"adoptionRefused\": \"w2\","
                                            " \"dataMoved\": \"w3\",")),
                         0);
        assert_string_equal(a->target.id_scope, "0ne");
        assert_string_equal(a->target.endpoint, "https://e");
        assert_string_equal(a->target.registration_id, "gw");
        assert_string_equal(a->target.ek_hash, "aa");
        assert_string_equal(a->hub, "new-hub");
        assert_string_equal(a->device_id, "new");
        assert_string_equal(a->substatus, "initialAssignment");
        assert_string_equal(a->payload, "{}");
        assert_bytes(&a->key.private_area, "\0\1s", 3);
        assert_int_equal(a->key.public_area.size, 50);
        assert_true(a->key.changed);
        assert_true(a->snapshot.taken && !a->forced); /* of the device that was confirmed before */
        assert_string_equal(a->snapshot.hub, "old-hub");
        assert_string_equal(a->handed_to, "iotedge");
        assert_string_equal(a->identity, "adopt");
        assert_int_equal(a->hub_key_handle, 0x81000100u);
        assert_string_equal(a->edge_flag_missing, "w1");
        assert_string_equal(a->adoption_refused, "w2");
        assert_string_equal(a->data_moved, "w3");
        assert_string_equal(r.confirmed.device_id, "old");
        assert_int_equal(r.state, STATE_ASSIGNED);
        assert_int_equal(r.state_changed_usec, 11);
        assert_int_equal(r.last_success_usec, 12);
        assert_int_equal(r.retry.attempts, 3);
        assert_int_equal(r.retry.transient_count, 1);
        assert_int_equal(r.retry.throttled_waited_usec, 0); /* not in this version */
        assert_int_equal(r.retry.operator_count, 4);
        assert_int_equal(r.retry.operator_waited_usec, 13);
        assert_true(!r.reset && !r.reset_provisioning && !r.forced && !r.resting);
        assert_int_equal(r.throttled_until_usec, 14);
        assert_int_equal(r.server_time, 15);
}

/* What differs from it came later, so it is newer. */
static void what_version_1_handed_off_has_a_snapshot(void **state) {
        CLEANUP(record_deinit) Record r = {};

        assert_int_equal(load(&r, VERSION_1("handed-off", DEVICE PROVEN WRAPPED OUR_NAME)), 0);
        assert_true(r.intended.snapshot.taken && r.confirmed.snapshot.taken);
        assert_true(assignment_equal(&r.intended, &r.confirmed));
}

static void a_reset_that_version_1_began_goes_on(void **state) {
        CLEANUP(record_deinit) Record r = {};
        Facts f = { .configured = true };

        assert_int_equal(load(&r, VERSION_1("handed-off", DEVICE PROVEN WRAPPED OUR_NAME "\"reset\": 1,")),
                         0);
        record_facts(&r, &f);
        assert_true(r.reset && f.reset);
        assert_int_equal(facts_state(&f), STATE_UNPROVISIONED);
}

static void version_1_is_written_back_as_version_2(void **state) {
        CLEANUP(record_deinit) Record r = {}, again = {};
        CLEANUP(freep) char *last = NULL, *text = NULL;

        assert_int_equal(load(&r, VERSION_1("assigned", DEVICE PROVEN_OLD HANDED_TO WRAPPED OLDER_NAME)), 0);
        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_int_equal(read_file(path, 65536, &text, NULL), 0);
        assert_string_equal(text, last);
        assert_non_null(strstr(text, "\"version\":2"));
        assert_int_equal(record_load(&again, path, NULL), 0);
        assert_true(assignment_equal(&r.intended, &again.intended));
        assert_true(assignment_equal(&r.confirmed, &again.confirmed));
        assert_true(bytes_equal(&r.left_key_name, &again.left_key_name));
}

static void a_damaged_file_of_version_1_is_told(void **state) {
        static const char *const damaged[] = {
                VERSION_1("assigned", ),
                VERSION_1("handed-off", PROVEN),
                VERSION_1("handed-off", TARGET "\"hub\": \"h\","),
                VERSION_1("assigned", "\"hub\": \"h\", \"deviceId\": \"d\","),
                VERSION_1("assigned", DEVICE "\"keyPrivate\": \"AAFz\","),
                VERSION_1("assigned", DEVICE "\"keyPrivate\": \"?\", \"keyPublic\": \"AAFz\","),
                VERSION_1("attesting", DEVICE "\"keyPrivate\": \"AAFz\","),
                VERSION_1("attesting", DEVICE WRAPPED LONG_NAME),
                VERSION_1("failed", ),
        };

        for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
                Record r = {};

                assert_int_equal(load(&r, damaged[i]), -EBADMSG);
                assert_null(r.intended.hub);
        }
}

/* --- version 2 --- */

static void make_assignment(Assignment *ret, const char *hub) {
        *ret = (Assignment){ .hand_over = HAND_OVER_KEEP, .forced = true, .snapshot.taken = true };
        assert_int_equal(string_replace(&ret->target.id_scope, "0ne"), 0);
        assert_int_equal(string_replace(&ret->target.endpoint, "https://e"), 0);
        assert_int_equal(string_replace(&ret->target.registration_id, "gw"), 0);
        assert_int_equal(string_replace(&ret->hub, hub), 0);
        assert_int_equal(string_replace(&ret->device_id, "gw-1"), 0);
}

static void make(Record *ret) {
        CLEANUP(assignment_deinit) Assignment old = {}, new = {};

        *ret = (Record){ .state = STATE_ASSIGNED,
                         .state_changed_usec = UINT64_MAX,
                         .last_success_usec = 2,
                         .retry = { 3, 4, 5, 6, 7, 0, 0 },
                         .budget = { .spent = 3, .since_usec = 7, .by_date = true },
                         .throttled_until_usec = 8,
                         .reset_provisioning = true,
                         .reset = true,
                         .server_time = 9 };
        make_assignment(&old, "old-hub");
        record_intend(ret, &old);
        assert_int_equal(record_confirm(ret), 0);
        make_assignment(&new, "new-hub");
        record_intend(ret, &new);
        ret->forced = true;
        assert_int_equal(bytes_copy(&ret->left_key_name, "left", 4), 0);
}

static void version_2_keeps_everything(void **state) {
        CLEANUP(record_deinit) Record r = {}, again = {};
        CLEANUP(freep) char *last = NULL;
        struct stat st;

        make(&r);
        r.resting = true; /* but this: the daemon's start ends it */
        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(record_load(&again, path, NULL), 0);
        assert_true(assignment_equal(&r.intended, &again.intended));
        assert_true(assignment_equal(&r.confirmed, &again.confirmed));
        assert_int_equal(again.intended.generation, 2);
        assert_int_equal(again.confirmed.generation, 1);
        assert_true(bytes_equal(&r.left_key_name, &again.left_key_name));
        assert_true(again.forced && again.reset && again.reset_provisioning);
        assert_false(again.resting);
        assert_int_equal(again.state, STATE_ASSIGNED);
        assert_true(again.state_changed_usec == UINT64_MAX);
        assert_int_equal(again.last_success_usec, 2);
        assert_int_equal(again.throttled_until_usec, 8);
        assert_int_equal(again.budget.spent, 3);
        assert_int_equal(again.budget.since_usec, 7);
        assert_true(again.budget.by_date);
        assert_int_equal(again.server_time, 9);
        assert_memory_equal(&again.retry, &r.retry, sizeof(r.retry));
}

static void an_empty_record_stays_empty(void **state) {
        CLEANUP(record_deinit) Record r = {}, again = {};
        CLEANUP(freep) char *last = NULL;

        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_null(strstr(last, "intended"));
        assert_int_equal(record_load(&again, path, NULL), 0);
        assert_memory_equal(&r, &again, sizeof(r));
}

static void what_is_on_disk_is_not_written_again(void **state) {
        CLEANUP(record_deinit) Record r = {};
        CLEANUP(freep) char *last = NULL;

        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_int_equal(access(path, F_OK), -1);
        r.server_time = 1;
        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_int_equal(access(path, F_OK), 0);
}

/* It may have come as far as the rename. */
static void a_write_that_failed_is_tried_again(void **state) {
        CLEANUP(record_deinit) Record r = {};
        CLEANUP(freep) char *last = NULL;
        Failure failure = {};

        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        r.server_time = 1;
        assert_int_equal(record_save(&r, "/nonexistent/state.json", &last, &failure), -ENOENT);
        assert_int_equal(failure.kind, FAILURE_STORAGE);
        assert_null(last);
}

static void a_file_that_is_not_there_is_no_failure(void **state) {
        Failure failure = {};
        Record r = {};

        (void) unlink(path);
        assert_int_equal(record_load(&r, path, &failure), -ENOENT);
        assert_int_equal(failure.kind, FAILURE_NONE);
}

#define VERSION_2(...) "{ \"version\": 2, \"state\": \"assigned\"" __VA_ARGS__ " }"

static void a_damaged_file_is_told_and_nothing_is_taken(void **state) {
        static const char *const damaged[] = {
                "",
                "{",
                "[]",
                "null",
                "{}",
                "{ \"state\": \"assigned\" }",
                "{ \"version\": 2 }",
                "{ \"version\": 2, \"state\": 1 }",
                "{ \"version\": 2, \"state\": \"failed\" }",
                VERSION_2(""),
                "{ \"version\": 2, \"state\": \"handed-off\" }",
                VERSION_2(", \"intended\": null"),
                VERSION_2(", \"intended\": \"hub\""),
                VERSION_2(", \"intended\": {}"),
                VERSION_2(", \"confirmed\": { \"hub\": \"h\" }"),
                VERSION_2(", \"confirmed\": 1"),
                VERSION_2(", \"leftKeyName\": 1"),
                VERSION_2(", \"leftKeyName\": \"?\""),
        };

        for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
                Record r = {};

                if (load(&r, damaged[i]) != -EBADMSG)
                        fail_msg("%s", damaged[i]);
        }
}

static void a_name_that_no_tpm_makes_is_refused(void **state) {
        CLEANUP(record_deinit) Record r = {}, again = {};
        CLEANUP(freep) char *last = NULL;
        uint8_t name[67] = {};

        assert_int_equal(bytes_copy(&r.left_key_name, name, sizeof(name)), 0);
        assert_int_equal(record_save(&r, path, &last, NULL), 0);
        assert_true(record_load(&again, path, NULL) < 0);
}

static void a_newer_version_is_refused(void **state) {
        Record r = {};

        assert_int_equal(load(&r, "{ \"version\": 3, \"state\": \"handed-off\" }"), -EBADMSG);
        assert_int_equal(load(&r, "{ \"version\": 0, \"state\": \"handed-off\" }"), -EBADMSG);
}

static void a_file_without_an_end_is_refused(void **state) {
        static char text[300 * 1024];
        Record r = {};

        memset(text, ' ', sizeof(text) - 1);
        assert_int_equal(load(&r, text), -EFBIG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_state_of_version_1_is_the_same_in_version_2),
                cmocka_unit_test(version_1_s_values_come_along),
                cmocka_unit_test(what_version_1_handed_off_has_a_snapshot),
                cmocka_unit_test(a_reset_that_version_1_began_goes_on),
                cmocka_unit_test(version_1_is_written_back_as_version_2),
                cmocka_unit_test(a_damaged_file_of_version_1_is_told),
                cmocka_unit_test(version_2_keeps_everything),
                cmocka_unit_test(an_empty_record_stays_empty),
                cmocka_unit_test(what_is_on_disk_is_not_written_again),
                cmocka_unit_test(a_write_that_failed_is_tried_again),
                cmocka_unit_test(a_file_that_is_not_there_is_no_failure),
                cmocka_unit_test(a_damaged_file_is_told_and_nothing_is_taken),
                cmocka_unit_test(a_name_that_no_tpm_makes_is_refused),
                cmocka_unit_test(a_newer_version_is_refused),
                cmocka_unit_test(a_file_without_an_end_is_refused),
        };

        return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
