#include "test.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

#define ID "00112233445566778899aabbccddeeff"

static int saved_stderr, logged;

static int catch_stderr(void **state) {
        logged = memfd_create("logged", MFD_CLOEXEC);
        saved_stderr = dup(STDERR_FILENO);
        return logged < 0 || dup2(logged, STDERR_FILENO) < 0 ? -1 : 0;
}

static int restore_stderr(void **state) {
        (void) dup2(saved_stderr, STDERR_FILENO);
        (void) close(saved_stderr);
        return close(logged);
}

/* Returns the lines since the last call. */
static const char *lines(void) {
        static char text[1024];
        ssize_t n = pread(logged, text, sizeof(text) - 1, 0);

        assert_true(n >= 0);
        text[n] = '\0';
        assert_true(ftruncate(logged, 0) == 0 && lseek(logged, 0, SEEK_SET) == 0);
        return text;
}

static void names_and_numbers_are_levels(void **state) {
        assert_int_equal(log_level_from_string("emerg"), LOG_EMERG);
        assert_int_equal(log_level_from_string("debug"), LOG_DEBUG);
        assert_int_equal(log_level_from_string("4"), LOG_WARNING);
        assert_int_equal(log_level_from_string("8"), -EINVAL);
        assert_int_equal(log_level_from_string("loud"), -EINVAL);
        assert_int_equal(log_target_from_string("journal"), LOG_TARGET_JOURNAL);
        assert_int_equal(log_target_from_string("stderr"), LOG_TARGET_STDERR);
        assert_int_equal(log_target_from_string("file"), -EINVAL);
}

static void what_is_above_the_level_is_left_out(void **state) {
        log_init("test", LOG_TARGET_STDERR, LOG_NOTICE);
        errno = EXDEV;
        log_info("no");
        log_notice("%s %d", "yes", 1);
        log_error("also");
        assert_int_equal(errno, EXDEV);
        assert_string_equal(lines(), "<5>test: yes 1\n<3>test: also\n");
}

static void fields_follow_an_event_in_brackets(void **state) {
        static const char *const fields[] = { "DPS_STATE=assigned", "DPS_CODE=1", NULL };

        log_init("test", LOG_TARGET_STDERR, LOG_INFO);
        log_event(LOG_INFO, ID, fields, "an event");
        log_event(LOG_INFO, ID, NULL, "without fields");
        log_event(LOG_DEBUG, ID, fields, "not this one");
        assert_string_equal(lines(), "<6>test: an event [MESSAGE_ID=" ID " DPS_STATE=assigned DPS_CODE=1]\n"
                                     "<6>test: without fields [MESSAGE_ID=" ID "]\n");
}

/* Without a journal the lines are lost. */
static void the_journal_is_another_target(void **state) {
        static const char *const fields[] = { "DPS_STATE=assigned", NULL };

        log_init("test-log", LOG_TARGET_JOURNAL, LOG_DEBUG);
        log_event(LOG_DEBUG, ID, fields, "an event of a test");
        log_debug("a line of a test");
        assert_string_equal(lines(), "");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_and_numbers_are_levels),
                cmocka_unit_test_setup_teardown(what_is_above_the_level_is_left_out, catch_stderr,
                                                restore_stderr),
                cmocka_unit_test_setup_teardown(fields_follow_an_event_in_brackets, catch_stderr,
                                                restore_stderr),
                cmocka_unit_test_setup_teardown(the_journal_is_another_target, catch_stderr, restore_stderr),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
