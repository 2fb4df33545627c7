#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "util.h"

static void base64_round_trip_and_known_values(void **state) {
        static const struct {
                const char *plain, *encoded;
        } cases[] = {
                { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" }, { "foobar", "Zm9vYmFy" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *text = NULL;
                CLEANUP(bytes_deinit) Bytes back = {};

                assert_int_equal(base64_encode(&text, cases[i].plain, strlen(cases[i].plain)), 0);
                assert_string_equal(text, cases[i].encoded);
                assert_int_equal(base64_decode(&back, text, 100), 0);
                assert_int_equal(back.size, strlen(cases[i].plain));
        }
}

static void base64_refuses_what_is_not_base64(void **state) {
        Bytes b = {};

        assert_int_equal(base64_decode(&b, "Zg=", 100), -EBADMSG);
        assert_int_equal(base64_decode(&b, "Zm9v\nZm9", 100), -EBADMSG);
        assert_int_equal(base64_decode(&b, "Zm9%", 100), -EBADMSG);
        assert_int_equal(base64_decode(&b, "Zm9vYmFy", 5), -E2BIG);
        assert_int_equal(base64_decode(&b, "Zm9vYmFyZm9vYmFy", 5), -E2BIG);
        assert_null(b.data);
}

static void hex_round_trip(void **state) {
        CLEANUP(freep) char *text = NULL;
        CLEANUP(bytes_deinit) Bytes back = {};
        Bytes none = {};

        assert_int_equal(hex_encode(&text, "\x00\xff\x1a", 3), 0);
        assert_string_equal(text, "00ff1a");
        assert_int_equal(hex_decode(&back, "00FF1a", 3), 0);
        assert_memory_equal(back.data, "\x00\xff\x1a", 3);
        assert_int_equal(hex_decode(&none, "00f", 3), -EBADMSG);
        assert_int_equal(hex_decode(&none, "00fg", 3), -EBADMSG);
        assert_int_equal(hex_decode(&none, "00ff1a22", 3), -E2BIG);
}

static void numbers_are_strict(void **state) {
        uint64_t n = 7;

        assert_int_equal(parse_uint("0x81000100", UINT32_MAX, &n), 0);
        assert_int_equal(n, 0x81000100);
        assert_int_equal(parse_uint("600", 604800, &n), 0);
        assert_int_equal(n, 600);
        assert_int_equal(parse_uint("604801", 604800, &n), -ERANGE);
        assert_int_equal(parse_uint("99999999999999999999999", UINT64_MAX, &n), -ERANGE);
        for (const char *const *bad = (const char *[]){ "", " 1", "-1", "+1", "1s", "0x", "x", NULL }; *bad;
             bad++)
                assert_int_equal(parse_uint(*bad, 100, &n), -EINVAL);
        assert_int_equal(n, 600);
}

static void files_are_read_up_to_their_limit(void **state) {
        char path[] = "/tmp/test-util-XXXXXX";
        CLEANUP(closep) int fd = mkstemp(path);
        CLEANUP(freep) char *text = NULL;
        size_t size = 0;

        assert_true(fd >= 0);
        assert_int_equal(write(fd, "hello", 5), 5);
        assert_int_equal(read_file(path, 4, &text, &size), -EFBIG);
        assert_null(text);
        assert_int_equal(read_file(path, 5, &text, &size), 0);
        assert_string_equal(text, "hello");
        assert_int_equal(size, 5);
        (void) unlink(path);
        assert_int_equal(read_file(path, 5, &text, &size), -ENOENT);
        assert_int_equal(read_file("/tmp", 5, &text, &size), -EISDIR);
}

static void large_files_are_read_whole(void **state) {
        char path[] = "/tmp/test-util-XXXXXX";
        CLEANUP(closep) int fd = mkstemp(path);
        CLEANUP(freep) char *text = NULL;
        size_t size = 0, large = 300000;

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, (off_t) large), 0);
        assert_int_equal(pwrite(fd, "end", 3, (off_t) large - 3), 3);
        assert_int_equal(read_file(path, large - 1, &text, &size), -EFBIG);
        assert_int_equal(read_file(path, large, &text, &size), 0);
        assert_int_equal(size, large);
        assert_string_equal(text + large - 3, "end");
        (void) unlink(path);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(base64_round_trip_and_known_values),
                cmocka_unit_test(base64_refuses_what_is_not_base64),
                cmocka_unit_test(hex_round_trip),
                cmocka_unit_test(numbers_are_strict),
                cmocka_unit_test(files_are_read_up_to_their_limit),
                cmocka_unit_test(large_files_are_read_whole),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
