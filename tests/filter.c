/*
 * TEST_FILTER=NAME chooses the cases that have NAME in theirs, in each test program that does not have it in
 * its own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unit/test.h"

__attribute__((constructor)) static void filter_cases(void) {
        static char pattern[256]; /* cmocka keeps the pointer */
        const char *name = getenv("TEST_FILTER");

        if (!name || strstr(program_invocation_short_name, name))
                return;
        (void) snprintf(pattern, sizeof(pattern), "*%s*", name);
        cmocka_set_test_filter(pattern);
}
