#include "test.h"

#include <errno.h>

#include <json-c/json.h>

#include "enrollment.h"

#define MARK "\xef\xbb\xbf" /* byte order mark */
#define HEADER                                                                                              \
        "\"registration_id\",\"device_id\",\"endorsement_key\",\"iot_edge\",\"iot_hub\",\"serial_number\"," \
        "\"mac\",\"host_name\",\"asset\",\"ek_certificate\"\n"

static const Enrollment enrollment = {
        .registration_id = "gw-7",
        .ek_public = "\x01\x3a\x00\x01",
        .ek_public_size = 4,
        .ek_persistent = true,
        .ek_tcg_template = true,
};

static const char *string_at(json_object *object, const char *a, const char *b, const char *c) {
        for (const char *const *key = (const char *[]){ a, b, c, NULL }; *key; key++)
                assert_true(json_object_object_get_ex(object, *key, &object));
        return json_object_get_string(object);
}

static void json_is_one_individual_enrollment(void **state) {
        CLEANUP(freep) char *text = NULL;
        Enrollment e = enrollment;
        json_object *root;

        e.hub = "h.azure-devices.net";
        assert_int_equal(enrollment_to_json(&text, &e), 0);
        root = json_tokener_parse(text);
        assert_non_null(root);
        assert_string_equal(string_at(root, "registrationId", NULL, NULL), "gw-7");
        assert_string_equal(string_at(root, "attestation", "type", NULL), "tpm");
        assert_string_equal(string_at(root, "attestation", "tpm", "endorsementKey"), "AToAAQ==");
        assert_string_equal(string_at(root, "capabilities", "iotEdge", NULL), "true");
        assert_string_equal(string_at(root, "iotHubHostName", NULL, NULL), "h.azure-devices.net");
        assert_false(json_object_object_get_ex(root, "deviceId", NULL));
        json_object_put(root);
}

static void text_says_both_values_and_what_to_do(void **state) {
        CLEANUP(freep) char *text = NULL;

        assert_int_equal(enrollment_to_text(&text, &enrollment), 0);
        assert_non_null(strstr(text, "gw-7\n"));
        assert_non_null(strstr(text, "AToAAQ==\n"));
        assert_non_null(strstr(text, "IoT Edge device"));
}

static void az_quotes_for_a_shell(void **state) {
        CLEANUP(freep) char *line = NULL;
        Enrollment e = enrollment;

        e.device_id = "a'b";
        assert_int_equal(enrollment_to_az(&line, &e), 0);
        assert_non_null(strstr(line, " --device-id 'a'\\''b'"));
        assert_non_null(strstr(line, " --dps-name \"${DPS_NAME:?}\""));
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void csv_quotes_everything_and_defuses_formulas(void **state) {
        CLEANUP(freep) char *text = NULL;
        Enrollment e = enrollment;

        e.serial_number = "a \"b\", c\nd";
        e.asset = "=HYPERLINK(1)";
        e.host_name = "\xff\xc3\xa9\xc3";
        assert_int_equal(enrollment_to_csv(&text, &e), 0);
        assert_string_equal(
                text,
                HEADER "\"gw-7\",\"\",\"AToAAQ==\",\"true\",\"\",\"a \"\"b\"\", c d\",\"\",\"?\xc3\xa9?\","
                       "\"'=HYPERLINK(1)\",\"\"\n");
}

static void a_table_is_looked_through(void **state) {
        static const struct {
                const char *table;
                int r;
                size_t end, line;
        } cases[] = {
                { "", 0, 0, 0 },
                { "\"regis", 0, 0, 0 },
                { MARK, 0, 0, 0 },
                { MARK "\"regis", 0, 0, 0 },
                { MARK HEADER, 0, sizeof(MARK HEADER) - 1, 0 },
                { HEADER, 0, sizeof(HEADER) - 1, 0 },
                { HEADER "\"a\",,b,,,,,,,", 0, sizeof(HEADER) - 1, 0 },
                { HEADER "a,,b,,,,,,,x", 0, sizeof(HEADER) - 1 + 12, 0 },
                { HEADER "\"a\",,b,,,,,,,\"x", 0, sizeof(HEADER) - 1, 0 },
                { HEADER "a,,b,,,,,,,\"x", -EBADMSG, 0, 2 },
                { HEADER "a,,b,,,,,,,\r\n", 0, sizeof(HEADER) - 1 + 13, 0 },
                { HEADER "a,\"1\n2\",b,,,,,,,\nGW-7,,c,,,,,,,\n", -EEXIST, 0, 4 },
                { HEADER "a,,AToAAQ==,,,,,,,\n", -EEXIST, 0, 2 },
                { HEADER "a,gw-7,b,,,,,,,\n", -EEXIST, 0, 2 },
                { HEADER "a,GW-7,b,,,,,,,\n", 0, sizeof(HEADER) - 1 + 16, 0 },
                { HEADER "a,b\n", -EBADMSG, 0, 2 },
                { HEADER "a,,b,,,,,,,,,\n", -EBADMSG, 0, 2 },
                { "x" HEADER, -EBADMSG, 0, 1 },
                { "\"registration-id\"", -EBADMSG, 0, 1 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                size_t end = 0, line = 0, size = strlen(cases[i].table);
                const char *why = NULL;

                assert_int_equal(enrollment_csv_check(cases[i].table, size, &enrollment, &end, &line, &why),
                                 cases[i].r);
                assert_int_equal(end, cases[i].end);
                if (cases[i].r < 0) {
                        assert_int_equal(line, cases[i].line);
                        assert_non_null(why);
                }
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(json_is_one_individual_enrollment),
                cmocka_unit_test(text_says_both_values_and_what_to_do),
                cmocka_unit_test(az_quotes_for_a_shell),
                cmocka_unit_test(csv_quotes_everything_and_defuses_formulas),
                cmocka_unit_test(a_table_is_looked_through),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
