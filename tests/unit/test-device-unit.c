#include "device-unit.h"

#include <errno.h>

#include "test.h"

/* The names are those that 'systemd-escape --path --suffix=device' prints. */
static void units_are_named_as_systemd_does(void **state) {
        static const struct {
                const char *tcti, *name;
        } cases[] = {
                { NULL, "dev-tpmrm0.device" },
                { "", "dev-tpmrm0.device" },
                { "device", "dev-tpmrm0.device" },
                { "device:", "dev-tpmrm0.device" },
                { "device:/dev/tpmrm1", "dev-tpmrm1.device" },
                { "device:/dev/tpm0", "dev-tpm0.device" },
                { "device:/tmp/.a-b c/t:p_m.0", "tmp-.a\\x2db\\x20c-t:p_m.0.device" },
                { "device:/.x", "\\x2ex.device" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *name = NULL;

                assert_int_equal(device_unit_name(&name, cases[i].tcti), 0);
                assert_string_equal(name, cases[i].name);
        }
}

static void other_tctis_have_no_unit(void **state) {
        char *name = NULL;

        assert_int_equal(device_unit_name(&name, "swtpm:path=/tmp/tpm"), -ENOENT);
        assert_int_equal(device_unit_name(&name, "tabrmd"), -ENOENT);
        assert_int_equal(device_unit_name(&name, "devices:/dev/tpm0"), -ENOENT);
        assert_null(name);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(units_are_named_as_systemd_does),
                cmocka_unit_test(other_tctis_have_no_unit),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
