#include "test.h"

#include <errno.h>
#include <stdlib.h>

#include "dps-fixture.h"
#include "memory.h"

static void urls_are_encoded(void **state) {
        CLEANUP(freep) char *reg = NULL, *op = NULL;

        assert_int_equal(dps_register_url(&reg, "https://h:1", "0ne00X", "a:b"), 0);
        assert_string_equal(reg, "https://h:1/0ne00X/registrations/a%3Ab/register?api-version=2021-06-01");
        assert_int_equal(dps_operation_url(&op, "https://h", "s", "r", "5.a/../b?"), 0);
        assert_string_equal(op,
                            "https://h/s/registrations/r/operations/5.a%2F..%2Fb%3F?api-version=2021-06-01");
}

static void body_and_token(void **state) {
        uint8_t key[SHA256_SIZE] = { 0xff, 0xfe };
        const Bytes ek = { (uint8_t *) "\x01", 1 }, srk = { (uint8_t *) "\x02", 1 };
        CLEANUP(freep) char *body = NULL, *sign = NULL, *token = NULL;

        assert_int_equal(dps_register_body(&body, "gw-7", &ek, &srk, "{\"site\":\"a/b\"}"), 0);
        assert_string_equal(body, "{\"tpm\":{\"endorsementKey\":\"AQ==\",\"storageRootKey\":\"Ag==\"},"
                                  "\"registrationId\":\"gw-7\",\"payload\":{\"site\":\"a/b\"}}");
        assert_int_equal(dps_string_to_sign(&sign, "0ne00X", "gw-7", 1700000000), 0);
        assert_string_equal(sign, "0ne00X%2Fregistrations%2Fgw-7\n1700000000");
        assert_int_equal(dps_token(&token, "0ne00X", "gw-7", 1700000000, key), 0);
        assert_string_equal(
                token, "SharedAccessSignature sr=0ne00X%2Fregistrations%2Fgw-7&sig="
                       "%2F%2F4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D&se=1700000000&skn=registration");
}

static void payloads_are_json(void **state) {
        const Bytes key = { (uint8_t *) "\x01", 1 };
        char *unset = NULL;

        for (const char *const *good = (const char *[]){ "null", " [1, 2]\n", "\"\u00fc\"", "1.10",
                                                         "99999999999999999999", "{\"a\":1,\"a\":2}", NULL };
             *good; good++) {
                CLEANUP(freep) char *body = NULL;

                assert_int_equal(dps_register_body(&body, "gw-7", &key, &key, *good), 0);
                assert_non_null(strstr(body, "\"payload\":"));
                assert_non_null(strstr(body, *good)); /* as it was written */
        }
        for (const char *const *bad =
                     (const char *[]){ "", "{", "{} {}", "{\"a\":NaN}", "-Infinity", "[1,]", "/**/1", "\xff",
                                       "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"",
                                       "\"\xe2\x82", "'a'", "-01", "1.", "\"\x01\"", "{\"a\":1,}",
                                       "\xef\xbb\xbf"
                                       "1",
                                       NULL };
             *bad; bad++)
                assert_int_equal(dps_register_body(&unset, "gw-7", &key, &key, *bad), -EINVAL);
        assert_null(unset);
}

static void the_challenge_is_taken_from_a_401(void **state) {
        CLEANUP(dps_reply_deinit) DpsReply reply = {};
        Failure f;

        assert_int_equal(parse(&reply, DPS_REQUEST_REGISTER, 401,
                               "{\"message\":\"x\",\"authenticationKey\":\"AAEC\","
                               "\"unencryptedAuthenticationKey\":null,\"keyName\":\"registration\"}",
                               0, &f),
                         0);
        assert_int_equal(reply.type, DPS_REPLY_CHALLENGE);
        assert_int_equal(reply.challenge.size, 3);
}

/* What the real service sent, captured by the authors of two SDKs. */
static void real_challenges_are_taken(void **state) {
        static const struct {
                const char *path;
                size_t size;
        } cases[] = { { TEST_DATA "/challenge-1.b64", 920 }, { TEST_DATA "/challenge-2.b64", 956 } };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(dps_reply_deinit) DpsReply reply = {};
                CLEANUP(freep) char *blob = NULL, *body = NULL;
                Failure f;

                assert_int_equal(read_file(cases[i].path, 4096, &blob, NULL), 0);
                blob[strcspn(blob, "\n")] = '\0';
                assert_true(asprintf(&body,
                                     "{\"message\":\"Authorization required, resend request using supplied "
                                     "key\",\"authenticationKey\":\"%s\","
                                     "\"unencryptedAuthenticationKey\":null,\"keyName\":\"registration\"}",
                                     blob) > 0);
                assert_int_equal(parse(&reply, DPS_REQUEST_REGISTER, 401, body, 0, &f), 0);
                assert_int_equal(reply.type, DPS_REPLY_CHALLENGE);
                assert_int_equal(reply.challenge.size, cases[i].size);
        }
}

static int parse_state(DpsReply *ret, const char *members, Failure *f) {
        CLEANUP(freep) char *body = NULL;

        assert_true(asprintf(&body, "{\"status\":\"assigned\",\"registrationState\":{%s}}", members) > 0);
        return parse(ret, DPS_REQUEST_POLL, 200, body, 0, f);
}

static void a_hub_is_a_host_name(void **state) {
        static const char *const good[] = { "h", "h.azure-devices.net", "localhost:8443", "127.0.0.1:1",
                                            "A-1.b" };
        static const char *const bad[] = {
                "",        ".",
                "a..b",    "-a",
                "a-",      "a.",
                ".a",      ":1",
                "a:",      "a:0",
                "a:1:2",   "a:0x1",
                "a:65536", "a:+1",
                "[::1]",   "a b",
                "a/b",     "a@b",
                "a_b",     "\\u00e4",
                "\\u0000", "a234567890123456789012345678901234567890123456789012345678901234"
        };

        for (size_t i = 0; i < ARRAY_SIZE(good) + ARRAY_SIZE(bad); i++) {
                bool is_good = i < ARRAY_SIZE(good);
                CLEANUP(dps_reply_deinit) DpsReply reply = {};
                CLEANUP(freep) char *members = NULL;
                Failure f;

                assert_true(asprintf(&members, "\"deviceId\":\"d\",\"assignedHub\":\"%s\"",
                                     is_good ? good[i] : bad[i - ARRAY_SIZE(good)]) > 0);
                if (is_good != (parse_state(&reply, members, &f) == 0))
                        fail_msg("%s", members);
                if (is_good)
                        assert_string_equal(reply.hub, good[i]);
                else
                        assert_int_equal(f.kind, FAILURE_PROTOCOL);
        }
}

static void the_hub_key_may_be_missing_but_not_unusable(void **state) {
        static const struct {
                const char *member;
                bool good;
        } cases[] = {
                { "\"x\":1", true },
                { "\"tpm\":null", true },
                { "\"tpm\":{}", true },
                { "\"tpm\":{\"authenticationKey\":null}", true },
                { "\"tpm\":\"AAEC\"", false },
                { "\"tpm\":[]", false },
                { "\"tpm\":{\"authenticationKey\":\"\"}", false },
                { "\"tpm\":{\"authenticationKey\":7}", false },
                { "\"tpm\":{\"authenticationKey\":\"AAE\"}", false },
                { "\"tpm\":{\"authenticationKey\":\"AAEC\\u0000\"}", false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(dps_reply_deinit) DpsReply reply = {};
                CLEANUP(freep) char *members = NULL;
                Failure f;

                assert_true(asprintf(&members, "\"deviceId\":\"d\",\"assignedHub\":\"h\",%s",
                                     cases[i].member) > 0);
                if (cases[i].good != (parse_state(&reply, members, &f) == 0))
                        fail_msg("%s", members);
                assert_int_equal(reply.hub_key.size, 0);
                if (!cases[i].good)
                        assert_int_equal(f.kind, FAILURE_PROTOCOL);
        }
}

static void a_key_of_any_length_is_bounded(void **state) {
        CLEANUP(freep) char *members = NULL, *key = malloc(DPS_BODY_MAX);
        DpsReply reply = {};
        Failure f;

        assert_non_null(key);
        (void) memset(key, 'A', DPS_BODY_MAX);
        key[4 * (DPS_CHALLENGE_MAX / 3 + 2)] = '\0';
        assert_true(
                asprintf(&members,
                         "\"deviceId\":\"d\",\"assignedHub\":\"h\",\"tpm\":{\"authenticationKey\":\"%s\"}",
                         key) > 0);
        assert_true(parse_state(&reply, members, &f) < 0);
        assert_int_equal(f.kind, FAILURE_PROTOCOL);
}

static void assigned_with_everything(void **state) {
        CLEANUP(dps_reply_deinit) DpsReply reply = {};
        Failure f;

        assert_int_equal(parse(&reply, DPS_REQUEST_POLL, 200, ASSIGNED, 0, &f), 0);
        assert_int_equal(reply.type, DPS_REPLY_ASSIGNED);
        assert_string_equal(reply.hub, "h.azure-devices.net");
        assert_string_equal(reply.device_id, "gw-7");
        assert_string_equal(reply.substatus, "initialAssignment");
        assert_string_equal(reply.payload, "{\"a\":[1]}");
        assert_int_equal(reply.hub_key.size, 3);
}

static void polls_are_clamped(void **state) {
        static const struct {
                usec_t asked, expected;
        } cases[] = {
                { 0, 3 }, { 1, 1 }, { 5, 5 }, { 300, 300 }, { 4000, 300 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(dps_reply_deinit) DpsReply reply = {};
                Failure f;

                assert_int_equal(parse(&reply, DPS_REQUEST_CONFIRM, 202,
                                       "{\"operationId\":\"5.a-b\",\"status\":\"assigning\"}",
                                       cases[i].asked * USEC_PER_SEC, &f),
                                 0);
                assert_int_equal(reply.type, DPS_REPLY_PENDING);
                assert_string_equal(reply.operation_id, "5.a-b");
                assert_int_equal(reply.poll_usec, cases[i].expected * USEC_PER_SEC);
        }
}

static void a_nul_in_the_body_is_refused(void **state) {
        static const char body[] = "{\"operationId\":\"1\",\"status\":\"assigning\"}\0{}";
        DpsReply reply = {};
        Failure f = {};

        assert_true(dps_parse_reply(&reply, DPS_REQUEST_POLL, "s", "r",
                                    &(DpsRawReply){ .status = 200, .body = body, .size = sizeof(body) - 1 },
                                    &f) < 0);
        assert_int_equal(f.kind, FAILURE_PROTOCOL);
}

/* As deep as a body may be long, closed or not; json-c would recurse as deep to free it. */
static void deeply_nested_json_is_refused(void **state) {
        const size_t depths[] = { 33, 1000, DPS_BODY_MAX / 2 - 2 };

        for (size_t i = 0; i < ARRAY_SIZE(depths); i++) {
                for (int closed = 0; closed < 2; closed++) {
                        CLEANUP(freep) char *body = calloc(1, DPS_BODY_MAX + 1);
                        DpsReply reply = {};
                        Failure f = {};

                        assert_non_null(body);
                        (void) memset(body, '[', depths[i]);
                        if (closed)
                                (void) memset(body + depths[i], ']', depths[i]);
                        assert_true(parse(&reply, DPS_REQUEST_POLL, 200, body, 0, &f) < 0);
                        assert_int_equal(f.kind, FAILURE_PROTOCOL);
                        assert_non_null(strstr(f.sentence, "not a JSON object"));
                }
        }
}

static void strings_with_a_nul_are_refused(void **state) {
        static const char *const bodies[] = {
                "{\"operationId\":\"1\\u0000\",\"status\":\"assigning\"}",
                "{\"operationId\":\"1\",\"status\":\"assigning\\u0000\"}",
                ("{\"status\":\"assigned\",\"registrationState\":{\"assignedHub\":\"h.net\\u0000.evil\","
                 "\"deviceId\":\"d\"}}"),
        };

        for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
                DpsReply reply = {};
                Failure f = {};

                assert_true(parse(&reply, DPS_REQUEST_POLL, 200, bodies[i], 0, &f) < 0);
                assert_int_equal(f.kind, FAILURE_PROTOCOL);
        }
}

static void retry_after_comes_in_two_forms(void **state) {
        const uint64_t noon = 1445428800; /* Wed, 21 Oct 2015 12:00:00 GMT */

        assert_int_equal(dps_parse_retry_after("120", 0, noon), 120 * USEC_PER_SEC);
        assert_int_equal(dps_parse_retry_after("Wed, 21 Oct 2015 12:01:00 GMT", noon, 7), 60 * USEC_PER_SEC);
        assert_int_equal(dps_parse_retry_after("Wed, 21 Oct 2015 12:01:00 GMT", 0, noon - 5),
                         65 * USEC_PER_SEC);
        assert_int_equal(dps_parse_retry_after("Wed, 21 Oct 2015 11:00:00 GMT", noon, 7), 0);
        assert_int_equal(dps_parse_retry_after("Wednesday, 21-Oct-15 12:01:00 GMT", noon, 7),
                         60 * USEC_PER_SEC);
        assert_int_equal(dps_parse_retry_after("Wed Oct 21 12:01:00 2015", noon, 7), 60 * USEC_PER_SEC);
        for (const char *const *bad =
                     (const char *[]){ "", "soon", "-1", "1.5", "0x10", " 5", "0", "Wed, 21 Oct", NULL };
             *bad; bad++)
                assert_int_equal(dps_parse_retry_after(*bad, noon, noon), 0);
        for (const char *const *far =
                     (const char *[]){ "86401", "18446744073709551615", "99999999999999999999",
                                       "Wed, 21 Oct 9999 12:01:00 GMT", NULL };
             *far; far++)
                assert_int_equal(dps_parse_retry_after(*far, noon, noon), DPS_RETRY_AFTER_MAX_USEC);
}

/* json-c fails when there is memory again a moment later, and leaks when there is none. */
static void no_memory_is_an_error(void **state) {
        const Bytes key = { (uint8_t *) "key", 3 };
        bool enough = false;

        memory_ignore_leaks();
        for (unsigned n = 0; !enough; n++) {
                char *body = NULL;
                DpsReply reply = {};
                Failure f;

                memory_limit(n, false);
                (void) dps_register_body(&body, "gw-1", &key, &key, "{\"x\": [1.5, 2]}");
                (void) parse(&reply, DPS_REQUEST_POLL, 200, "{\"status\":\"assigned\",\"x\":1.5}", 0, &f);
                enough = !memory_unlimit();
                dps_reply_deinit(&reply);
                free(body);
        }
        memory_report_leaks();
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(urls_are_encoded),
                cmocka_unit_test(body_and_token),
                cmocka_unit_test(payloads_are_json),
                cmocka_unit_test(the_challenge_is_taken_from_a_401),
                cmocka_unit_test(real_challenges_are_taken),
                cmocka_unit_test(a_hub_is_a_host_name),
                cmocka_unit_test(the_hub_key_may_be_missing_but_not_unusable),
                cmocka_unit_test(a_key_of_any_length_is_bounded),
                cmocka_unit_test(assigned_with_everything),
                cmocka_unit_test(polls_are_clamped),
                cmocka_unit_test(a_nul_in_the_body_is_refused),
                cmocka_unit_test(deeply_nested_json_is_refused),
                cmocka_unit_test(strings_with_a_nul_are_refused),
                cmocka_unit_test(retry_after_comes_in_two_forms),
                cmocka_unit_test(no_memory_is_an_error),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
