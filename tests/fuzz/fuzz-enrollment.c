/* A factory line's table, and the enrolments of many devices. */
#include <errno.h>

#include "enrollment.h"
#include "fuzz.h"

static void note(void *userdata, bool refused, const char *sentence) {
        unsigned *notes = userdata;

        PROMISE(sentence[0] != '\0');
        (*notes)++;
}

static void merge(const char *text, size_t size) {
        EnrollmentMerge *m = NULL;
        unsigned notes = 0;

        if (enrollment_merge_new(&m) < 0)
                return;
        PROMISE(enrollment_merge_add(m, "one", text, size, note, &notes) == 0);
        PROMISE(enrollment_merge_add(m, "two", text, size, note, &notes) ==
                0); /* everything is known by now */
        for (size_t at = 0, before = 0;; before = at) {
                char *body = NULL;
                int r = enrollment_merge_body(&body, m, &at);

                if (r == 0)
                        break;
                PROMISE(r == 1 && body[0] == '{' && at > before && at <= before + ENROLLMENT_BULK_MAX);
                PROMISE(notes > 0);
                free(body);
        }
        (void) enrollment_merge_free(m);
}

static void check_table(const char *text, size_t size) {
        const Enrollment e = { .registration_id = "gw-7",
                               .ek_public = "\x01\x3a\x00\x01",
                               .ek_public_size = 4 };
        size_t end = 0, line = 0;
        const char *why = NULL;
        int r = enrollment_csv_check(text, size, &e, &end, &line, &why);

        PROMISE(r == 0 || ((r == -EEXIST || r == -EBADMSG) && why && line > 0));
        PROMISE(end <= size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text = malloc(size + 1), *exact = malloc(size > 0 ? size : 1);

        if (text && exact) {
                memcpy(text, data, size);
                memcpy(exact, data, size); /* without a NUL: it must not be read beyond its end */
                text[size] = '\0';
                merge(text, size);
                check_table(exact, size);
        }
        free(text);
        free(exact);
        return 0;
}
