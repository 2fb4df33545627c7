/* Replies of a newer DPS, and refusals. */
#include "test.h"

#include <stdlib.h>

#include "dps-fixture.h"

/* Replies of DPS since 2026-11-01, and what may follow. */
static void newer_members_are_ignored(void **state) {
        static const char *const inner[] = {
                "\"issuedCertificateChain\":[\"MIIB\",\"MIIC\"]",
                "\"issuedCertificateChain\":\"-----BEGIN CERTIFICATE-----\\nMIIB\"",
                "\"connectionProfile\":\"classic\"",
                "\"connectionProfile\":\"mqttV5\"",
                "\"connectionProfile\":null",
                "\"x\":{\"status\":\"failed\",\"assignedHub\":\"other.example\"}",
                "\"Status\":\"failed\"",
                "\"\u00fc\":[[[{}]]]",
        };

        for (size_t i = 0; i < ARRAY_SIZE(inner); i++) {
                CLEANUP(dps_reply_deinit) DpsReply reply = {};
                CLEANUP(freep) char *body = NULL;
                Failure f;

                assert_true(asprintf(&body,
                                     "{\"operationId\":\"5.1\",%s,\"status\":\"assigned\","
                                     "\"registrationState\":{%s,"
                                     "\"tpm\":{%s,\"authenticationKey\":\"AAEC\"},\"deviceId\":\"gw-7\","
                                     "\"assignedHub\":\"h.device.azure-devices.net\"}}",
                                     inner[i], inner[i], inner[i]) > 0);
                if (parse(&reply, DPS_REQUEST_POLL, 200, body, 0, &f) < 0)
                        fail_msg("%s: %s", inner[i], f.sentence);
                assert_int_equal(reply.type, DPS_REPLY_ASSIGNED);
                assert_string_equal(reply.hub, "h.device.azure-devices.net");
                assert_int_equal(reply.hub_key.size, 3);
        }
}

static void newer_members_of_other_replies_are_ignored(void **state) {
        static const struct {
                DpsRequest request;
                unsigned status;
                const char *body;
        } cases[] = {
                { DPS_REQUEST_REGISTER, 401,
                  "{\"authenticationKey\":\"AAEC\",\"connectionProfile\":\"classic\",\"info\":{\"a\":\"b\"}"
                  "}" },
                { DPS_REQUEST_CONFIRM, 202,
                  "{\"operationId\":\"5.1\",\"status\":\"assigning\",\"registrationState\":{"
                  "\"issuedCertificateChain\":["
                  "]},\"updates\":[1]}" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(dps_reply_deinit) DpsReply reply = {};
                Failure f;

                assert_int_equal(parse(&reply, cases[i].request, cases[i].status, cases[i].body, 0, &f), 0);
        }
}

static void refusals_are_told_apart(void **state) {
        static const struct {
                DpsRequest request;
                unsigned status;
                const char *body;
                FailureKind kind;
                const char *code, *says;
        } cases[] = {
                { DPS_REQUEST_REGISTER, 401,
                  "{\"errorCode\":401002,\"trackingId\":\"t-1\",\"message\":\"Unauthorized\"}",
                  FAILURE_IDENTITY_MISMATCH, "401002", "Unauthorized (tracking ID t-1)" },
                { DPS_REQUEST_REGISTER, 401, "", FAILURE_IDENTITY_MISMATCH, "HTTP 401",
                  "tracking ID req-1" },
                { DPS_REQUEST_REGISTER, 401, "{\"authenticationKey\":null}", FAILURE_IDENTITY_MISMATCH,
                  "HTTP 401", "scope '0ne00X'" },
                { DPS_REQUEST_REGISTER, 401, "{\"authenticationKey\":\"%%%\"}", FAILURE_PROTOCOL, "HTTP 401",
                  "challenge" },
                { DPS_REQUEST_REGISTER, 401, "{\"authenticationKey\":7}", FAILURE_PROTOCOL, "HTTP 401",
                  "challenge" },
                { DPS_REQUEST_CONFIRM, 401, "{\"authenticationKey\":\"AAEC\"}", FAILURE_IDENTITY_MISMATCH,
                  "HTTP 401", "token" },
                { DPS_REQUEST_REGISTER, 403, "", FAILURE_PROTOCOL, "HTTP 403", "403" },
                { DPS_REQUEST_POLL, 404, "", FAILURE_ENROLLMENT_MISSING, "HTTP 404",
                  "while it was assigning" },
                { DPS_REQUEST_CONFIRM, 429, "", FAILURE_HTTP_THROTTLED, "HTTP 429", "throttles" },
                { DPS_REQUEST_CONFIRM, 200, "{\"status\":\"assigned\",\"registrationState\":[]}",
                  FAILURE_PROTOCOL, "HTTP 200", "registrationState" },
                { DPS_REQUEST_CONFIRM, 202, "{\"status\":7}", FAILURE_PROTOCOL, "HTTP 202", "status" },
                { DPS_REQUEST_CONFIRM, 204, "", FAILURE_PROTOCOL, "HTTP 204", "unexpected HTTP status 204" },
                /* both causes are told, whichever of them the service's words are about */
                { DPS_REQUEST_REGISTER, 404, "{\"errorCode\":404202,\"message\":\"ID Scope not found\"}",
                  FAILURE_SCOPE_UNKNOWN, "404202", "ID scope '0ne00X', or no enrollment 'gw-7' in it" },
                { DPS_REQUEST_REGISTER, 404, "{\"message\":{\"scope\":1}}", FAILURE_ENROLLMENT_MISSING,
                  "HTTP 404", "or no such scope" },
                { DPS_REQUEST_REGISTER, 404, "{\"errorCode\":404201,\"message\":\"no\"}",
                  FAILURE_ENROLLMENT_MISSING, "404201", "'gw-7' in the ID scope '0ne00X'" },
                { DPS_REQUEST_REGISTER, 200, ASSIGNED, FAILURE_PROTOCOL, "HTTP 200", "no proof" },
                { DPS_REQUEST_REGISTER, 202, "{}", FAILURE_PROTOCOL, "HTTP 202", "no proof" },
                { DPS_REQUEST_REGISTER, 302, "", FAILURE_PROTOCOL, "HTTP 302", "302" },
                { DPS_REQUEST_REGISTER, 400, "", FAILURE_PROTOCOL, "HTTP 400", "400" },
                { DPS_REQUEST_REGISTER, 429, "", FAILURE_HTTP_THROTTLED, "HTTP 429", "throttles" },
                { DPS_REQUEST_POLL, 503, "<html>", FAILURE_HTTP_SERVER, "HTTP 503", "503" },
                { DPS_REQUEST_POLL, 200, "<html>", FAILURE_PROTOCOL, "HTTP 200", "not a JSON object" },
                { DPS_REQUEST_POLL, 200, "[]", FAILURE_PROTOCOL, "HTTP 200", "not a JSON object" },
                { DPS_REQUEST_POLL, 200, "{} {}", FAILURE_PROTOCOL, "HTTP 200", "not a JSON object" },
                { DPS_REQUEST_POLL, 200, "{}", FAILURE_PROTOCOL, "HTTP 200", "status is missing" },
                { DPS_REQUEST_POLL, 200, "{\"status\":\"blacklisted\"}", FAILURE_PROTOCOL, "HTTP 200",
                  "'blacklisted'" },
                { DPS_REQUEST_CONFIRM, 202, "{\"status\":\"assigning\"}", FAILURE_PROTOCOL, "HTTP 202",
                  "operationId" },
                { DPS_REQUEST_POLL, 200, "{\"status\":\"assigned\"}", FAILURE_PROTOCOL, "HTTP 200",
                  "registrationState" },
                { DPS_REQUEST_POLL, 200,
                  "{\"status\":\"assigned\",\"registrationState\":{\"assignedHub\":\"a/"
                  "b\",\"deviceId\":\"x\"}}",
                  FAILURE_PROTOCOL, "HTTP 200", "assignedHub" },
                { DPS_REQUEST_POLL, 200,
                  "{\"status\":\"assigned\",\"registrationState\":{\"assignedHub\":\"a\",\"deviceId\":"
                  "\"x\\u0000y\"}}",
                  FAILURE_PROTOCOL, "HTTP 200", "deviceId" },
                { DPS_REQUEST_POLL, 200,
                  "{\"status\":\"assigned\",\"registrationState\":{\"assignedHub\":\"a\",\"deviceId\":\"x\","
                  "\"registrationId\":\"other\"}}",
                  FAILURE_PROTOCOL, "HTTP 200", "another registration" },
                { DPS_REQUEST_POLL, 200,
                  "{\"status\":\"assigned\",\"registrationState\":{\"assignedHub\":\"a\",\"deviceId\":\"x\","
                  "\"tpm\":{\"authenticationKey\":\"\"}}}",
                  FAILURE_PROTOCOL, "HTTP 200", "authenticationKey" },
                { DPS_REQUEST_POLL, 200,
                  "{\"status\":\"failed\",\"registrationState\":{\"errorCode\":400208,\"errorMessage\":\"{"
                  "\\\"Message\\\":"
                  "\\\"no hub\\\"}\"}}",
                  FAILURE_ASSIGNMENT_FAILED, "400208", "no hub" },
                { DPS_REQUEST_POLL, 200, "{\"status\":\"disabled\"}", FAILURE_DISABLED, "HTTP 200",
                  "disabled" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                DpsReply reply = {};
                Failure f = {};

                assert_true(parse(&reply, cases[i].request, cases[i].status, cases[i].body, 7, &f) < 0);
                assert_string_equal(failure_kind_to_string(f.kind), failure_kind_to_string(cases[i].kind));
                assert_string_equal(f.code, cases[i].code);
                if (!strstr(f.sentence, cases[i].says))
                        fail_msg("%s", f.sentence);
                assert_int_equal(f.retry_after_usec, 7);
                assert_null(reply.hub);
        }
}

static void the_service_s_own_refusal_is_not_blamed_on_a_proxy(void **state) {
        DpsReply reply = {};
        Failure f = {};

        assert_true(parse(&reply, DPS_REQUEST_REGISTER, 400, "{\"errorCode\":400004}", 0, &f) < 0);
        assert_non_null(strstr(failure_advice(&f), "tracking ID"));
        assert_null(strstr(failure_advice(&f), "IP filter"));
        assert_true(parse(&reply, DPS_REQUEST_REGISTER, 403, "<html>", 0, &f) < 0);
        assert_ptr_equal(failure_advice(&f), failure_remedy(FAILURE_PROTOCOL));
}

static void a_closed_instance_is_told(void **state) {
        static const struct {
                DpsRequest request;
                unsigned status;
                const char *body;
                FailureKind kind;
        } cases[] = {
                { DPS_REQUEST_REGISTER, 401, "{\"errorCode\":401002,\"message\":\"Unauthorized\"}",
                  FAILURE_IDENTITY_MISMATCH },
                { DPS_REQUEST_REGISTER, 401, "", FAILURE_IDENTITY_MISMATCH },
                { DPS_REQUEST_CONFIRM, 401,
                  "{\"errorCode\":401002,\"message\":\"Public network access is disabled\"}",
                  FAILURE_IDENTITY_MISMATCH },
                { DPS_REQUEST_REGISTER, 403, "{\"errorCode\":403001,\"message\":\"Forbidden\"}",
                  FAILURE_PROTOCOL },
                { DPS_REQUEST_POLL, 403,
                  "{\"errorCode\":403000,\"message\":\"The IP address 192.0.2.1 is rejected\"}",
                  FAILURE_PROTOCOL },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                DpsReply reply = {};
                Failure f = {};

                assert_true(parse(&reply, cases[i].request, cases[i].status, cases[i].body, 0, &f) < 0);
                assert_int_equal(f.kind, cases[i].kind);
                assert_non_null(strstr(failure_advice(&f), "IP filter"));
                assert_non_null(strstr(failure_advice(&f), "GlobalEndpoint="));
        }
}

static void a_message_in_any_language_is_read(void **state) {
        DpsReply reply = {};
        Failure f = {};

        assert_true(parse(&reply, DPS_REQUEST_CONFIRM, 429,
                          "{\"errorCode\":429001,\"message\":\"Zu viele Ger\u00e4te \u5de5\u5834\"}", 0,
                          &f) < 0);
        assert_string_equal(f.code, "429001");
        assert_non_null(strstr(f.sentence, "Zu viele Ger"));
}

/* The longest names and the longest message: what identifies the case to the service's support is kept. */
static void long_sentences_keep_the_tracking_id(void **state) {
        char id[129], scope[65], message[4000];
        CLEANUP(freep) char *body = NULL;
        DpsReply reply = {};
        Failure f = {};

        (void) memset(id, 'i', sizeof(id));
        (void) memset(scope, 's', sizeof(scope));
        (void) memset(message, 'm', sizeof(message));
        id[sizeof(id) - 1] = scope[sizeof(scope) - 1] = message[sizeof(message) - 1] = '\0';
        assert_true(asprintf(&body, "{\"errorCode\":401002,\"trackingId\":\"t-1\",\"message\":\"%s\"}",
                             message) > 0);
        assert_true(dps_parse_reply(&reply, DPS_REQUEST_REGISTER, scope, id,
                                    &(DpsRawReply){ .status = 401, .body = body, .size = strlen(body) },
                                    &f) < 0);
        assert_non_null(strstr(f.sentence, "shuts this network out; it says: mmm"));
        assert_non_null(strstr(f.sentence, "m (tracking ID t-1)"));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(newer_members_are_ignored),
                cmocka_unit_test(newer_members_of_other_replies_are_ignored),
                cmocka_unit_test(refusals_are_told_apart),
                cmocka_unit_test(the_service_s_own_refusal_is_not_blamed_on_a_proxy),
                cmocka_unit_test(a_closed_instance_is_told),
                cmocka_unit_test(a_message_in_any_language_is_read),
                cmocka_unit_test(long_sentences_keep_the_tracking_id),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
