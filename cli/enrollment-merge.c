/* "dps-provision enrollment --format=bulk --merge FILE…" */
#include <errno.h>
#include <stdlib.h>

#include "enrollment-cli.h"

#define FILE_MAX ((size_t) 64 * 1024 * 1024)

typedef struct Count {
        unsigned refused;
} Count;

static void note(void *userdata, bool refused, const char *sentence) {
        CLEANUP(freep) char *shown = strdup(sentence);
        Count *count = userdata;

        if (shown)
                make_showable(shown);
        (void) fprintf(stderr, "dps-provision: %s\n", shown ? shown : "Out of memory");
        if (refused)
                count->refused++;
}

static int add_file(EnrollmentMerge *merge, const char *path, Count *count) {
        CLEANUP(freep) char *text = NULL;
        size_t size = 0;
        int r;

        r = read_file(path, FILE_MAX, &text, &size);
        if (r < 0) {
                if (r == -EBADF)
                        (void) fprintf(stderr, "dps-provision: '%s' is not a regular file.\n", path);
                else
                        (void) report_errno(r, "'%s' can't be read", path);
                count->refused++;
                return 0;
        }
        return enrollment_merge_add(merge, path, text, size, note, count);
}

static int join_bodies(char **ret, const EnrollmentMerge *merge) {
        CLEANUP(freep) char *all = NULL;
        size_t size = 0, position = 0;
        FILE *f = open_memstream(&all, &size);
        int r = 1;

        if (!f)
                return -ENOMEM;
        while (r > 0) {
                CLEANUP(freep) char *body = NULL;

                r = enrollment_merge_body(&body, merge, &position);
                if (r > 0)
                        (void) fputs(body, f);
        }
        if (fclose(f) != 0 || r < 0)
                return -ENOMEM;
        *ret = TAKE(all);
        return 0;
}

int enrollment_merge(const char *output, int count, char *files[]) {
        CLEANUP(enrollment_merge_freep) EnrollmentMerge *merge = NULL;
        CLEANUP(freep) char *bodies = NULL;
        Count counted = {};
        int r;

        r = enrollment_merge_new(&merge);
        for (int i = 0; r >= 0 && i < count; i++)
                r = add_file(merge, files[i], &counted);
        if (r >= 0)
                r = join_bodies(&bodies, merge);
        if (r < 0)
                return report_errno(r, "The files can't be merged");
        if (bodies[0]) {
                r = enrollment_write(output, bodies, strlen(bodies));
                if (r != EXIT_OK)
                        return r;
        }
        if (counted.refused == 0)
                return EXIT_OK;
        (void) fprintf(stderr, "dps-provision: %u refused; %s.\n", counted.refused,
                       bodies[0] ? "what is left was written" : "nothing was written");
        return EXIT_FAILED;
}
