#include <errno.h>
#include <stdlib.h>

#include "url.h"

#include "test.h"

/* What the crate url 2.5 makes of it, without the slash that it appends; written by hand from the URL
 * Standard. */
static void endpoints_are_canonical(void **state) {
        static const struct {
                const char *text, *canonical;
        } cases[] = {
                { "https://global.azure-devices-provisioning.net",
                  "https://global.azure-devices-provisioning.net" },
                { "https://h/", "https://h" },
                { "https://h:443", "https://h" },
                { "https://h:0443/", "https://h" },
                { "https://h:", "https://h" },
                { "https://h:8443", "https://h:8443" },
                { "https://h:08443", "https://h:8443" },
                { "https://h:80", "https://h:80" },
                { "HTTPS://HOST.Example:443", "https://host.example" },
                { "https:h", "https://h" },
                { "https:\\\\h\\", "https://h" },
                { "https:////h", "https://h" },
                { " https://h\n", "https://h" },
                { "https://h.", "https://h." },
                { "https://127.0.0.1:443", "https://127.0.0.1" },
                { "https://127.1", "https://127.0.0.1" },
                { "https://0x7f.1.", "https://127.0.0.1" },
                { "https://010.0.0.1", "https://8.0.0.1" },
                { "https://[::1]:443", "https://[::1]" },
                { "https://[2001:DB8:0:0:1:0:0:0]", "https://[2001:db8:0:0:1::]" },
                { "https://[1:0:2:0:3:0:4:0]", "https://[1:0:2:0:3:0:4:0]" },
                { "https://[0:0:1:0:0:0:0:2]:1", "https://[0:0:1::2]:1" },
                { "https://[::ffff:1.2.3.4]", "https://[::ffff:102:304]" },
                { "https://[::]", "https://[::]" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *canonical = NULL, *again = NULL;

                if (url_canonical_endpoint(&canonical, cases[i].text) < 0)
                        fail_msg("'%s' is not taken", cases[i].text);
                assert_string_equal(canonical, cases[i].canonical);
                assert_int_equal(url_canonical_endpoint(&again, canonical), 0);
                assert_string_equal(again, canonical);
                assert_true(url_same_endpoint(cases[i].text, cases[i].canonical));
        }
}

static void other_urls_are_no_endpoints(void **state) {
        static const char *const texts[] = { "",
                                             "https:",
                                             "https://",
                                             "http://h",
                                             "https://h/x",
                                             "https://h//",
                                             "https://u@h",
                                             "https://h?",
                                             "https://h#",
                                             "https://%68",
                                             "https://a b",
                                             "https://a\001b",
                                             "https://\xc3\xa4",
                                             "https://h:65536",
                                             "https://h:x",
                                             "https://h:0x1bb",
                                             "https://[::1",
                                             "https://[::1]x",
                                             "https://[1]",
                                             "https://1.2.3.4.5",
                                             "https://256.1.1.1",
                                             "https://h.1" };

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                char *canonical = NULL;

                assert_int_equal(url_canonical_endpoint(&canonical, texts[i]), -EINVAL);
                assert_null(canonical);
                assert_true(url_same_endpoint(texts[i], texts[i]));
                assert_false(url_same_endpoint(texts[i], "https://h"));
        }
        assert_false(url_same_endpoint("https://h", "https://h:8443"));
        assert_false(url_same_endpoint("https://h", "https://g"));
}

static void paths_become_urls(void **state) {
        static const struct {
                const char *path, *url;
        } cases[] = {
                { "/etc/aziot/payload.json", "file:///etc/aziot/payload.json" },
                { "/a b", "file:///a%20b" },
                { "/\xc3\xa4", "file:///%C3%A4" },
                { "/100%25", "file:///100%2525" },
                { "/%20", "file:///%2520" },
                { "/a\\b", "file:///a%5Cb" },
                { "/#?`{}\"<>", "file:///%23%3F%60%7B%7D%22%3C%3E" },
                { "/\t\x7f\xff", "file:///%09%7F%FF" },
                { "/-._~!$&'()*+,;=:@[]|", "file:///-._~!$&'()*+,;=:@[]|" },
                { "/...", "file:///..." },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                CLEANUP(freep) char *url = NULL;

                assert_true(url_path_valid(cases[i].path));
                assert_int_equal(url_from_path(&url, cases[i].path), 0);
                assert_string_equal(url, cases[i].url);
                assert_true(url_same_file(url, cases[i].url));
        }
}

static void each_byte_of_a_path_survives(void **state) {
        for (int c = 1; c < 256; c++)
                for (int d = 1; d < 256; d++) {
                        const char path[] = { '/', 'x', (char) c, (char) d, '/', 'y', '\0' };
                        CLEANUP(freep) char *url = NULL;
                        char other[64];

                        if (!url_path_valid(path))
                                continue;
                        assert_int_equal(url_from_path(&url, path), 0);
                        (void) snprintf(other, sizeof(other), "FILE://localhost/x%%%02x%%%02x/./y", c, d);
                        assert_true(url_same_file(url, other));
                        assert_false(url_same_file(url, "file:///x/y"));
                }
}

static void paths_with_dots_are_not_valid(void **state) {
        static const char *const paths[] = { "",    "a",     "/",    "//a", "/a/", "/a//b",  "/.",
                                             "/..", "/a/..", "/./a", "a/b", "./a", "/a/./b", "/a/../b" };

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
                assert_false(url_path_valid(paths[i]));
        assert_true(url_path_valid("/.a/..b/c..d/e.f"));
}

static void urls_of_one_file_are_the_same(void **state) {
        static const struct {
                const char *url, *same;
        } cases[] = {
                { "file:///a%20b", "file:///a b" },
                { "file:///%C3%A4", "file:///\xc3\xa4" },
                { "file:///%c3%a4", "file:///%C3%A4" },
                { "file:///a/c", "file:///a/b/../c" },
                { "file:///a/c", "file:///a/b/%2E%2e/c" },
                { "file:///a/c", "file:///./a/.%2e/../a/%2e/c" },
                { "file:///c", "file:///../../c" },
                { "file:///a/", "file:///a/b/.." },
                { "file:///a/", "file:///a/." },
                { "file:///a/b", "file:\\\\\\a\\b" },
                { "file:///a", "file:/a" },
                { "file:///a", "file:a" },
                { "file:///a", "File://LOCALHOST/a" },
                { "file:///a", "file:///a?b#c" },
                { "file:///a", " file:///%61\t" },
                { "file:///a%25b", "file:///a%b" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (!url_same_file(cases[i].url, cases[i].same) ||
                    !url_same_file(cases[i].same, cases[i].url))
                        fail_msg("%s is not %s", cases[i].url, cases[i].same);
}

static void urls_of_other_files_differ(void **state) {
        static const char *const urls[] = { "file:///a",    "file:///b",  "file:///A",     "file:///a/",
                                            "file:///a%20", "file://h/a", "https://h/a",   "/a",
                                            "file:///a%00", "",           "file:///a%2520" };

        for (size_t i = 0; i < ARRAY_SIZE(urls); i++)
                for (size_t j = 0; j < ARRAY_SIZE(urls); j++)
                        assert_int_equal(url_same_file(urls[i], urls[j]), i == j);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(endpoints_are_canonical),
                cmocka_unit_test(other_urls_are_no_endpoints),
                cmocka_unit_test(paths_become_urls),
                cmocka_unit_test(each_byte_of_a_path_survives),
                cmocka_unit_test(paths_with_dots_are_not_valid),
                cmocka_unit_test(urls_of_one_file_are_the_same),
                cmocka_unit_test(urls_of_other_files_differ),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
