/* The documents name what the code has. */
#include "config.h"
#include "test.h"

static char *read_text(const char *name) {
        CLEANUP(freep) char *path = NULL;
        char *text = NULL;

        assert_true(asprintf(&path, "%s/%s", SOURCE_ROOT, name) > 0);
        assert_int_equal(read_file(path, 1024 * 1024, &text, NULL), 0);
        return text;
}

static void every_key_is_documented(void **state) {
        CLEANUP(freep)
        char *template = read_text("config/provisiond.conf"), *manual = read_text("docs/provisiond.conf.5");
        CLEANUP(config_freep) Config *config = NULL;
        const char *section, *key, *source;
        size_t i = 0;

        assert_int_equal(config_load(&config, &(ConfigPaths){ .file = "/dev/null" }), 0);
        for (char *value = NULL; config_describe(config, i, &section, &key, &value, &source); i++) {
                CLEANUP(freep) char *line = NULL, *tag = NULL, *header = NULL, *owned = value;

                assert_true(asprintf(&line, "#%s=%s\n", key, owned ? owned : "") > 0);
                assert_true(asprintf(&tag, "Cm %s=", key) > 0);
                assert_true(asprintf(&header, ".Sh [%s]", section) > 0);
                if (!strstr(template, line))
                        fail_msg("config/provisiond.conf has no line %s", line);
                if (!strstr(manual, tag))
                        fail_msg("docs/provisiond.conf.5 does not describe %s=", key);
                assert_non_null(strstr(manual, header));
                value = NULL;
        }
        assert_true(i > 15);
}

int main(void) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(every_key_is_documented) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
