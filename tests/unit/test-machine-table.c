/*
 * Prints the table of lib/machine.c and compares it with docs/architecture.md, section "The order of the
 * steps". After a change of the table:
 *
 *     build/tests/unit/test-machine-table --write
 *
 * This replaces the section's text between its two markers. All names come from the code.
 */
#include <stdlib.h>

#include "machine.c" /* NOLINT(bugprone-suspicious-include): the table is its own */
#include "test.h"

#define DOCUMENT SOURCE_ROOT "/docs/architecture.md"
#define BEGIN    "<!-- begin: printed by tests/unit/test-machine-table.c -->\n"
#define END      "<!-- end -->\n"

static const struct {
        const char *name, *text;
} hows[] = {
#define HOW(name, text) [HOW_##name] = { #name, text },
        HOWS
#undef HOW
};

static const char *const events[] = {
#define NAME(event) [EVENT_##event] = #event
        NAME(DONE),     NAME(PENDING),  NAME(FAILED),      NAME(START), NAME(CONFIGURED), NAME(UNCONFIGURED),
        NAME(RETARGET), NAME(REATTEST), NAME(REPROVISION), NAME(RESET), NAME(HOLD_SPENT),
#undef NAME
};
static_assert(ARRAY_SIZE(events) == _EVENT_MAX, "every event has a name");

/* Identifiers as words: "HOLD_SPENT" is "hold spent". */
static void print_words(FILE *f, const char *identifier) {
        for (const char *c = identifier; *c; c++)
                (void) fputc(*c == '_' ? ' ' : *c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c, f);
}

static void print_state(FILE *f, unsigned i) {
        (void) fputs(state_to_string((State) i), f);
}

static void print_step(FILE *f, unsigned i) {
        (void) fputs(i == NEXT_HAND_OVER ? "*hand over*"
                     : i == NEXT_REST    ? "*rest*"
                     : i == NEXT_SAME    ? "the same"
                                         : step_to_string((Step) i),
                     f);
}

static void print_event(FILE *f, unsigned i) {
        print_words(f, events[i]);
}

static unsigned bits(unsigned mask) {
        return (unsigned) __builtin_popcount(mask);
}

/* The members of a set of count, or those that it lacks when they are fewer. */
static void print_set(FILE *f, unsigned set, unsigned count, void (*print)(FILE *, unsigned)) {
        const unsigned all = (1u << count) - 1, rest = ~set & all,
                       wanted = bits(set & all) <= bits(rest) ? set : rest;
        const char *separator = wanted == set ? "" : "all but ";

        if (set == ANY) {
                (void) fputs("any", f);
                return;
        }
        for (unsigned i = 0; i < 32; i++) {
                if (!(wanted & 1u << i))
                        continue;
                (void) fputs(separator, f);
                print(f, i);
                separator = ", ";
        }
}

static void print_row(FILE *f, const Row *row) {
        (void) fputs("| ", f);
        print_set(f, row->states, _STATE_MAX, print_state);
        (void) fputs(" | ", f);
        print_set(f, row->steps, _STEP_MAX, print_step);
        (void) fputs(" | ", f);
        print_set(f, row->events, _EVENT_MAX, print_event);
        (void) fputs(" | ", f);
        print_words(f, row->when.name);
        (void) fputs(" | ", f);
        print_step(f, row->next);
        (void) fputs(" | ", f);
        print_words(f, hows[row->how].name);
        (void) fputs(" |\n", f);
}

static char *print_section(void) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        assert_non_null(f);
        (void) fputs(
                "| state | step | event | guard | next step | what happens |\n|---|---|---|---|---|---|\n",
                f);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                print_row(f, &rows[i]);
        (void) fputs("\nWhat happens:\n\n", f);
        for (size_t i = 0; i < ARRAY_SIZE(hows); i++) {
                (void) fputs("- *", f);
                print_words(f, hows[i].name);
                (void) fprintf(f, "*: %s\n", hows[i].text);
        }
        assert_int_equal(fclose(f), 0);
        return text;
}

/* The document before and after the section's text, and that text. */
static void read_document(char **ret, char **ret_begin, char **ret_end) {
        assert_int_equal(read_file(DOCUMENT, 1024 * 1024, ret, NULL), 0);
        *ret_begin = strstr(*ret, BEGIN);
        assert_non_null(*ret_begin);
        *ret_begin += strlen(BEGIN);
        *ret_end = strstr(*ret_begin, END);
        assert_non_null(*ret_end);
}

static void the_table_is_printed_in_the_document(void **state) {
        CLEANUP(freep) char *document = NULL, *section = print_section();
        char *begin, *end;

        read_document(&document, &begin, &end);
        *end = '\0';
        if (!streq(begin, section))
                fail_msg("docs/architecture.md differs from the table of lib/machine.c; run this test with "
                         "--write");
}

static void every_name_is_unique(void **state) {
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                for (size_t j = 0; j < i; j++)
                        assert_true((rows[i].when.holds == rows[j].when.holds) ==
                                    streq(rows[i].when.name, rows[j].when.name));
}

static void write_document(void **state) {
        CLEANUP(freep) char *document = NULL, *section = print_section();
        char *begin, *end;
        FILE *f;

        read_document(&document, &begin, &end);
        f = fopen(DOCUMENT, "we");
        assert_non_null(f);
        assert_int_equal(fwrite(document, 1, (size_t) (begin - document), f), begin - document);
        assert_true(fputs(section, f) >= 0 && fputs(end, f) >= 0 && fclose(f) == 0);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_table_is_printed_in_the_document),
                cmocka_unit_test(every_name_is_unique),
        };
        const struct CMUnitTest write[] = { cmocka_unit_test(write_document) };

        if (argc > 1 && streq(argv[1], "--write"))
                return cmocka_run_group_tests(write, NULL, NULL);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
