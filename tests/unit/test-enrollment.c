#include "test.h"

#include <json-c/json.h>

#include "enrollment.h"

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

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(json_is_one_individual_enrollment),
                cmocka_unit_test(text_says_both_values_and_what_to_do),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
