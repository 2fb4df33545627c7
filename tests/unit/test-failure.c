#include "test.h"

#include <errno.h>

#include "failure.h"

static void every_kind_has_all_its_columns(void **state) {
        for (int kind = FAILURE_CONFIG; kind < _FAILURE_KIND_MAX; kind++) {
                assert_true(strlen(failure_kind_to_string(kind)) > 0);
                assert_int_equal(failure_kind_from_string(failure_kind_to_string(kind)), kind);
                assert_true(strlen(failure_summary(kind)) > 10);
                assert_true(strlen(failure_remedy(kind)) > 20);
                assert_int_equal(strlen(failure_message_id(kind)), 32);
                assert_true(failure_to_errno(kind) < 0);
                for (int other = FAILURE_CONFIG; other < kind; other++) {
                        assert_string_not_equal(failure_message_id(kind), failure_message_id(other));
                        assert_string_not_equal(failure_kind_to_string(kind), failure_kind_to_string(other));
                }
        }
        assert_int_equal(failure_kind_from_string("no-such-kind"), _FAILURE_KIND_INVALID);
}

static void sentences_are_printable_and_bounded(void **state) {
        char big[2000];
        Failure f;

        memset(big, 'x', sizeof(big) - 1);
        big[sizeof(big) - 1] = '\0';
        assert_int_equal(failure_set(&f, FAILURE_PROTOCOL, "a\033[2Jb", "\xff\n%s", big), -EPROTO);
        assert_string_equal(f.code, "a?[2Jb");
        assert_int_equal(strlen(f.sentence), sizeof(f.sentence) - 1);
        assert_memory_equal(f.sentence, "??xx", 4);
}

static void errno_is_named(void **state) {
        Failure f;

        assert_int_equal(failure_set_errno(&f, FAILURE_STORAGE, -ENOSPC, "'%s' can't be written", "x"),
                         -EIO);
        assert_string_equal(f.code, "ENOSPC");
        assert_string_equal(f.sentence, "'x' can't be written: No space left on device");
}

static void hints_that_were_sent_are_kept_once_and_not_without_end(void **state) {
        char text[16] = "Do it.";
        const char *kept = failure_keep_hint(text);

        text[0] = 'd';
        assert_string_equal(kept, "Do it.");
        assert_ptr_equal(failure_keep_hint("Do it."), kept);
        assert_null(failure_keep_hint(""));
        for (int i = 0; i < 200; i++) {
                (void) snprintf(text, sizeof(text), "%d", i);
                (void) failure_keep_hint(text);
        }
        assert_null(failure_keep_hint("one more"));
        assert_ptr_equal(failure_keep_hint("Do it."), kept);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(hints_that_were_sent_are_kept_once_and_not_without_end),
                cmocka_unit_test(every_kind_has_all_its_columns),
                cmocka_unit_test(sentences_are_printable_and_bounded),
                cmocka_unit_test(errno_is_named),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
