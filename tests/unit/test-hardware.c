#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "hardware.h"
#include "store.h"

static char root[] = "/tmp/test-hardware-XXXXXX";

static void put(const char *path, const char *text) {
        CLEANUP(freep) char *full = NULL, *directory = NULL;

        assert_true(asprintf(&full, "%s/sys/%s", root, path) > 0);
        directory = strndup(full, (size_t) (strrchr(full, '/') - full));
        assert_non_null(directory);
        assert_int_equal(store_make_directory(directory, 0755), 0);
        assert_int_equal(store_write(full, text, strlen(text), 0644), 0);
}

static void put_interface(const char *name, const char *type, const char *index, const char *mac) {
        char path[128];

        for (const char *const *file =
                     (const char *[]){ "type", type, "ifindex", index, "address", mac, NULL };
             *file; file += 2) {
                (void) snprintf(path, sizeof(path), "class/net/%s/%s", name, file[0]);
                put(path, file[1]);
        }
}

static void nothing_is_known_of_a_bare_machine(void **state) {
        CLEANUP(hardware_deinit) Hardware h = {};
        CLEANUP(freep) char *serial = NULL;

        assert_int_equal(hardware_read(&h, root), 0);
        assert_null(h.serial_number);
        assert_null(h.mac);
        assert_null(h.asset);
        assert_non_null(h.host_name);
        assert_int_equal(hardware_serial_number(&serial, root), -ENOENT);
}

static void the_firmware_and_the_first_device_are_read(void **state) {
        CLEANUP(hardware_deinit) Hardware h = {};

        put("firmware/devicetree/base/serial-number", "tree-1");
        put("class/dmi/id/product_serial", "  SN 4711 \n");
        put("class/dmi/id/chassis_asset_tag", " \n");
        put_interface("lo", "772\n", "1\n", "00:00:00:00:00:00\n");
        put_interface("br0", "1\n", "2\n", "02:00:00:00:00:02\n"); /* without a device behind it */
        put_interface("eth1", "1\n", "10\n", "02:00:00:00:00:10\n");
        put("class/net/eth1/device/vendor", "");
        put_interface("eth0", "1\n", "9\n", "02:00:00:00:00:09\n");
        put("class/net/eth0/device/vendor", "");
        put_interface("can0", "280\n", "3\n", "\n");
        put("class/net/can0/device/vendor", "");
        assert_int_equal(hardware_read(&h, root), 0);
        assert_string_equal(h.serial_number, "SN 4711");
        assert_string_equal(h.mac, "02:00:00:00:00:09");
        assert_null(h.asset);
}

static void a_device_tree_has_a_serial_number_too(void **state) {
        CLEANUP(freep) char *serial = NULL, *path = NULL;

        assert_true(asprintf(&path, "%s/sys/class/dmi/id/product_serial", root) > 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(hardware_serial_number(&serial, root), 0);
        assert_string_equal(serial, "tree-1");
}

static int make_root(void **state) {
        assert_non_null(mkdtemp(root));
        return 0;
}

static int remove_root(void **state) {
        CLEANUP(freep) char *command = NULL;

        assert_true(asprintf(&command, "rm -r %s", root) > 0);
        return system(command);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nothing_is_known_of_a_bare_machine),
                cmocka_unit_test(the_firmware_and_the_first_device_are_read),
                cmocka_unit_test(a_device_tree_has_a_serial_number_too),
        };

        return cmocka_run_group_tests(tests, make_root, remove_root);
}
