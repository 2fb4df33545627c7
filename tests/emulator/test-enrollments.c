/* The file of enrolments: every form of it that the service's API and our own tools have, and every mistake.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "enrollments.h"
#include "tpm-crypto.h"

#define DEFAULT_HUB "localhost:8443"
#define TPM         "\"attestation\":{\"type\":\"tpm\",\"tpm\":{\"endorsementKey\":\"%EK%\"}}"
#define GW_1        "{\"registrationId\":\"gw-1\"," TPM "}"

/* The TPM2B_PUBLIC of an endorsement key with some modulus, in base64: nobody has to open anything here. */
static char *endorsement_key(void) {
        static const uint8_t head[] = { 0x01, 0x3a, 0x00, 0x01, 0x00, 0x0b,
                                        0x00, 0x03, 0x00, 0xb2, 0x00, 0x20 };
        static const uint8_t parameters[] = { 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10,
                                              0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00 };
        uint8_t public[316] = {};
        char *text = NULL;

        memcpy(public, head, sizeof(head));
        memcpy(public + sizeof(head) + 32, parameters, sizeof(parameters));
        memset(public + 60, 0xc5, sizeof(public) - 60);
        assert_int_equal(base64_encode(&text, public, sizeof(public)), 0);
        return text;
}

/* The template with the endorsement key in place of each %EK%. */
static char *expand(const char *template) {
        CLEANUP(freep) char *ek = endorsement_key();
        char *text = NULL, *at;
        size_t size;
        FILE *out = open_memstream(&text, &size);

        assert_non_null(out);
        while ((at = strstr(template, "%EK%"))) {
                (void) fprintf(out, "%.*s%s", (int) (at - template), template, ek);
                template = at + strlen("%EK%");
        }
        (void) fputs(template, out);
        (void) fclose(out);
        return text;
}

static int parse(Enrollments *enrollments, const char *template, char **ret_why) {
        CLEANUP(freep) char *text = expand(template);

        *ret_why = NULL;
        return enrollments_parse(enrollments, text, strlen(text), ret_why);
}

static Enrollments *parsed(const char *template) {
        CLEANUP(freep) char *why = NULL;
        Enrollments *enrollments;

        assert_int_equal(enrollments_new(&enrollments, "/nonexistent/enrolments.json", DEFAULT_HUB), 0);
        if (parse(enrollments, template, &why) < 0)
                fail_msg("%s", why);
        return enrollments;
}

static void every_form_of_the_file_is_read(void **state) {
        static const struct {
                const char *text;
                unsigned n;
        } cases[] = {
                { GW_1, 1 },
                { "[" GW_1 "]", 1 },
                { "[]", 0 },
                { "[" GW_1 ",{\"registrationId\":\"gw-2\"," TPM "}]\n", 2 },
                { "{\"enrollments\":[" GW_1 "]}", 1 },
                { "{\"mode\":\"create\",\"enrollments\":[" GW_1 "]}", 1 }, /* the bulk API's body */
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                Enrollments *enrollments = parsed(cases[i].text);

                assert_int_equal(enrollments_find(enrollments, "gw-1") != NULL, cases[i].n > 0);
                assert_int_equal(enrollments_find(enrollments, "gw-2") != NULL, cases[i].n > 1);
                assert_null(enrollments_find(enrollments, "gw"));
                enrollments_free(enrollments);
        }
}

static void what_is_left_out_has_the_services_defaults(void **state) {
        Enrollments *enrollments = parsed(GW_1);
        const Enrollment *e = enrollments_find(enrollments, "GW-1"); /* IDs have no case */

        assert_non_null(e);
        assert_string_equal(e->registration_id, "gw-1");
        assert_string_equal(e->device_id, "gw-1");
        assert_string_equal(e->hub, DEFAULT_HUB);
        assert_int_equal(e->endorsement_key.size, 316);
        assert_true(e->enabled && e->update_hub && e->migrate_data);
        assert_false(e->iot_edge);
        assert_null(e->payload);
        assert_int_equal(e->n_rules, 0);
        enrollments_free(enrollments);
}

static void every_member_counts(void **state) {
        Enrollments *enrollments =
                parsed("{\"registrationId\":\"gw-1\",\"deviceId\":\"Truck_7\",\"etag\":\"x\"," TPM
                       ",\"capabilities\":{\"iotEdge\":true},\"iotHubHostName\":\"h.azure-devices.net\","
                       "\"provisioningStatus\":\"disabled\",\"payload\":{\"a\":[1]},"
                       "\"reprovisionPolicy\":{\"updateHubAssignment\":false,\"migrateDeviceData\":false}}");

        const Enrollment *e = enrollments_find(enrollments, "gw-1");

        assert_string_equal(e->device_id, "Truck_7");
        assert_string_equal(e->hub, "h.azure-devices.net");
        assert_true(e->iot_edge);
        assert_false(e->enabled || e->update_hub || e->migrate_data);
        assert_string_equal(json_object_to_json_string_ext(e->payload, JSON_C_TO_STRING_PLAIN),
                            "{\"a\":[1]}");
        enrollments_free(enrollments);
}

/* As `az iot dps enrollment show` prints one: nothing is left out, much is null or empty. */
static void null_and_empty_are_absent(void **state) {
        Enrollments *enrollments = parsed(
                "{\"registrationId\":\"gw-1\",\"deviceId\":\"\",\"iotHubHostName\":null,\"iotHubs\":[null],"
                "\"attestation\":{\"type\":\"tpm\",\"symmetricKey\":null,\"x509\":null,"
                "\"tpm\":{\"endorsementKey\":\"%EK%\",\"storageRootKey\":null}},"
                "\"capabilities\":null,\"reprovisionPolicy\":null,\"emulator\":null,\"payload\":null}");
        const Enrollment *e = enrollments_find(enrollments, "gw-1");

        assert_string_equal(e->device_id, "gw-1");
        assert_string_equal(e->hub, DEFAULT_HUB);
        assert_null(e->payload);
        enrollments_free(enrollments);

        enrollments = parsed("{\"registrationId\":\"gw-1\",\"iotHubs\":[\"h.example\"]," TPM "}");
        assert_string_equal(enrollments_find(enrollments, "gw-1")->hub, "h.example");
        enrollments_free(enrollments);
}

static void mistakes_are_told_and_change_nothing(void **state) {
        static const struct {
                const char *text, *why;
        } cases[] = {
                { "", "line 1: it ends" },
                { "[" GW_1 ",\n", "line 2: it ends" },
                { "[" GW_1 "\n}", "line 2" },
                { "[] []", "after the end" },
                { "[] \n\nx", "after the end" },
                { "\"x\"", "neither" },
                { "[7]", "enrolment 1" },
                { "{\"enrollments\":{}}", "no array" },
                { "[" GW_1 ",{}]", "enrolment 2" },
                { "{\"registrationId\":\"gw 1\"," TPM "}", "registrationId" },
                { "{\"registrationId\":7," TPM "}", "registrationId" },
                { "[" GW_1 ",{\"registrationId\":\"GW-1\"," TPM "}]", "twice" },
                { "{\"registrationId\":\"g\"}", "attestation is missing" },
                { "{\"registrationId\":\"g\",\"attestation\":{\"type\":\"x509\"}}", "'x509'" },
                { "{\"registrationId\":\"g\",\"attestation\":{}}", "attestation.tpm" },
                { "{\"registrationId\":\"g\",\"attestation\":{\"tpm\":{\"endorsementKey\":\"!\"}}}",
                  "base64" },
                { "{\"registrationId\":\"g\",\"attestation\":{\"tpm\":{\"endorsementKey\":\"AAAA\"}}}",
                  "endorsementKey" },
                { "{\"registrationId\":\"g\",\"deviceId\":\"a/b\"," TPM "}", "deviceId" },
                { "{\"registrationId\":\"g\",\"iotHubHostName\":\"a b\"," TPM "}", "host name" },
                { "{\"registrationId\":\"g\",\"iotHubHostName\":7," TPM "}", "host name" },
                { "{\"registrationId\":\"g\",\"iotHubs\":[7]," TPM "}", "host name" },
                { "{\"registrationId\":\"g\",\"iotHubs\":\"h\"," TPM "}", "iotHubs" },
                { "{\"registrationId\":\"g\",\"provisioningStatus\":\"on\"," TPM "}", "provisioningStatus" },
                { "{\"registrationId\":\"g\",\"emulator\":7," TPM "}", "emulator" },
                { "{\"registrationId\":\"g\",\"emulator\":{}," TPM "}", "either" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"status\":429,\"result\":\"failed\"}," TPM "}",
                  "either" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"status\":200}," TPM "}", "status" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"stat\":429}," TPM "}", "'stat'" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"result\":\"assigned\"}," TPM "}", "result" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"status\":429,\"on\":\"hub\"}," TPM "}", "on" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"status\":429,\"times\":-1}," TPM "}", "times" },
                { "{\"registrationId\":\"g\",\"emulator\":{\"status\":429,\"times\":1.5}," TPM "}",
                  "times" },
                { "{\"registrationId\":\"g\",\"emulator\":[{\"status\":429},{\"status\":429},{\"status\":"
                  "429},"
                  "{\"status\":429},{\"status\":429},{\"status\":429},{\"status\":429},{\"status\":429},"
                  "{\"status\":429}]," TPM "}",
                  "more than 8" },
        };
        Enrollments *enrollments = parsed(GW_1);

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *why = NULL;

                assert_int_equal(parse(enrollments, cases[i].text, &why), -EBADMSG);
                if (!why || !strstr(why, cases[i].why))
                        fail_msg("%s: '%s' instead of '%s'", cases[i].text, why, cases[i].why);
                assert_non_null(enrollments_find(enrollments, "gw-1"));
        }
        enrollments_free(enrollments);
}

static void rules_are_used_in_order_and_up(void **state) {
        static const char text[] =
                "{\"registrationId\":\"gw-1\"," TPM ",\"emulator\":["
                "{\"status\":429,\"on\":\"register\",\"times\":1,\"retryAfter\":7,\"errorCode\":429002},"
                "{\"status\":503,\"times\":2,\"retryAfter\":\"+9\",\"errorMessage\":\"busy\"},"
                "{\"result\":\"failed\",\"times\":1},{\"result\":\"unassigned-forever\"}]}";
        Enrollments *enrollments = parsed(text);
        CLEANUP(freep) char *why = NULL;
        Enrollment *e = enrollments_find(enrollments, "gw-1");
        const EnrollmentRule *rule = enrollment_use_status(e, REQUEST_REGISTER);

        assert_int_equal(rule->status, 429);
        assert_int_equal(rule->error_code, 429002);
        assert_string_equal(rule->retry_after, "7");
        assert_null(enrollment_use_status(e, REQUEST_POLL)); /* `on` is register when it is left out */
        rule = enrollment_use_status(e, REQUEST_REGISTER);
        assert_int_equal(rule->status, 503);
        assert_string_equal(rule->retry_after, "+9");
        assert_string_equal(rule->error_message, "busy");
        assert_int_equal(enrollment_use_outcome(e)->result, OUTCOME_FAILED);

        /* the same file again: what is left stays */
        assert_int_equal(parse(enrollments, text, &why), 0);
        e = enrollments_find(enrollments, "gw-1");
        assert_int_equal(enrollment_use_status(e, REQUEST_REGISTER)->status, 503);
        assert_null(enrollment_use_status(e, REQUEST_REGISTER));
        assert_int_equal(enrollment_use_outcome(e)->result, OUTCOME_UNASSIGNED);
        assert_int_equal(enrollment_use_outcome(e)->result, OUTCOME_UNASSIGNED);
        enrollments_free(enrollments);
}

static void write_file(const char *path, const char *template) {
        CLEANUP(freep) char *text = expand(template), *temporary = NULL;
        FILE *file;

        assert_true(asprintf(&temporary, "%s.new", path) > 0);
        file = fopen(temporary, "w");
        assert_non_null(file);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(rename(temporary, path), 0);
}

static void the_file_is_read_again_when_it_changes(void **state) {
        char dir[] = "/tmp/enrolments.XXXXXX", path[64];
        char *why = NULL;
        Enrollments *enrollments;

        assert_non_null(mkdtemp(dir));
        (void) snprintf(path, sizeof(path), "%s/e.json", dir);
        assert_int_equal(enrollments_new(&enrollments, path, DEFAULT_HUB), 0);
        assert_int_equal(enrollments_refresh(enrollments, &why), 0); /* none yet: an empty one */
        assert_null(enrollments_find(enrollments, "gw-1"));

        write_file(path, GW_1);
        assert_int_equal(enrollments_refresh(enrollments, &why), 0);
        assert_non_null(enrollments_find(enrollments, "gw-1"));

        write_file(path, "[" GW_1);
        assert_int_equal(enrollments_refresh(enrollments, &why), -EBADMSG);
        free(TAKE(why));
        assert_non_null(enrollments_find(enrollments, "gw-1"));
        assert_int_equal(enrollments_refresh(enrollments, &why), 0); /* told once */

        write_file(path, "{\"registrationId\":\"gw-2\"," TPM "}");
        assert_int_equal(enrollments_refresh(enrollments, &why), 0);
        assert_null(enrollments_find(enrollments, "gw-1"));
        assert_non_null(enrollments_find(enrollments, "gw-2"));

        assert_int_equal(unlink(path), 0);
        assert_int_equal(enrollments_refresh(enrollments, &why), 0);
        assert_null(enrollments_find(enrollments, "gw-2"));
        assert_int_equal(rmdir(dir), 0);
        enrollments_free(enrollments);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_form_of_the_file_is_read),
                cmocka_unit_test(what_is_left_out_has_the_services_defaults),
                cmocka_unit_test(every_member_counts),
                cmocka_unit_test(null_and_empty_are_absent),
                cmocka_unit_test(mistakes_are_told_and_change_nothing),
                cmocka_unit_test(rules_are_used_in_order_and_up),
                cmocka_unit_test(the_file_is_read_again_when_it_changes),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
