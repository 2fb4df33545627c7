/* The table of a factory line: add a device, add it again, add another device. */
#include <errno.h>
#include <stdarg.h>

#include "enrollment-cli.h"
#include "enrollment-internal.h"
#include "fuzz.h"
#include "scratch.h"

static const Enrollment first = { .registration_id = "gw-7",
                                  .ek_public = "\x01\x3a\x00\x01",
                                  .ek_public_size = 4,
                                  .host_name = "=gw" },
                        second = { .registration_id = "gw-8",
                                   .device_id = "line 2",
                                   .ek_public = "\x01\x3a\x00\x02",
                                   .ek_public_size = 4 };

/* Replaces the function in cli.c. It reports an I/O error, and there is none here. */
int report_errno(int error, const char *format, ...) {
        PROMISE(false);
        return EXIT_FAILED;
}

static int station(const char *path, const Enrollment *e, size_t *ret_line) {
        FILE *before = stderr, *quiet = fopen("/dev/null", "we");
        int status;

        PROMISE(quiet);
        stderr = quiet; /* the verb explains there why it added nothing */
        status = enrollment_station(path, e, ret_line);
        stderr = before;
        (void) fclose(quiet);
        PROMISE(status == EXIT_OK || status == EXIT_FAILED);
        return status;
}

static char *content(const char *path, size_t *ret_size) {
        char *text = NULL;

        PROMISE(read_file(path, (size_t) 1024 * 1024, &text, ret_size) == 0);
        return text;
}

static int find(void *userdata, const EnrollmentRow *row) {
        size_t *line = userdata;

        if (streq(row->registration_id, first.registration_id))
                *line = row->line;
        return 0;
}

/* The table is complete, and its last row is the device. */
static void check_added(const char *path, size_t line) {
        CLEANUP(freep) char *text = NULL;
        const char *why = NULL;
        size_t size, end = 0, bad = 0, found = 0;

        text = content(path, &size);
        PROMISE(enrollment_csv_each(text, size, find, &found, &end, &bad, &why) == 0);
        PROMISE(end == size && found == line && text[size - 1] == '\n');
}

static void check_unchanged(const char *path, const void *data, size_t size) {
        size_t size_now;
        CLEANUP(freep) char *text = content(path, &size_now);

        PROMISE(size_now == size && (size == 0 || memcmp(text, data, size) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const char *path = scratch_write("table.csv", data, size), *table = (const char *) data, *why = NULL;
        size_t line = 0, end = 0, ignored, size_then;
        CLEANUP(freep) char *then = NULL;
        int r = enrollment_csv_check(size > 0 ? table : "", size, &first, &end, &ignored, &why);
        int other = enrollment_csv_check(size > 0 ? table : "", size, &second, &end, &ignored, &why);

        if (station(path, &first, &line) == EXIT_FAILED) {
                PROMISE(r == -EEXIST || r == -EBADMSG);
                check_unchanged(path, data, size);
                return 0;
        }
        PROMISE(r == 0);
        check_added(path, line);
        then = content(path, &size_then);
        PROMISE(end == 0 || memcmp(then, data, end) == 0);
        PROMISE(station(path, &first, &line) == EXIT_FAILED);
        check_unchanged(path, then, size_then);
        PROMISE((station(path, &second, &line) == EXIT_OK) == (other == 0));
        return 0;
}
