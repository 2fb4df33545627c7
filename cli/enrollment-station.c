/* "dps-provision enrollment --station=FILE": a factory line's table of devices. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "enrollment-cli.h"

#define TABLE_MAX ((size_t) 64 * 1024 * 1024)

static int open_once(const char *path) {
        int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
        struct stat st;
        int r = 0;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                r = -errno;
        else if (!S_ISREG(st.st_mode))
                r = -EBADF;
        else if (flock(fd, LOCK_EX) < 0) /* another station is done in milliseconds */
                r = -errno;
        if (r >= 0)
                return fd;
        (void) close(fd);
        return r;
}

/* An editor that saved the table while we waited has put another file in its place. */
static int open_table(const char *path) {
        for (;;) {
                struct stat opened, there;
                int fd = open_once(path);

                if (fd < 0)
                        return fd;
                if (fstat(fd, &opened) == 0 && stat(path, &there) == 0 && opened.st_ino == there.st_ino &&
                    opened.st_dev == there.st_dev)
                        return fd;
                (void) close(fd);
        }
}

static int sync_directory(const char *path) {
        CLEANUP(freep) char *copy = strdup(path);
        CLEANUP(closep) int fd = -1;

        if (!copy)
                return -ENOMEM;
        fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int append(int fd, const char *text) {
        size_t size = strlen(text), written = 0;

        while (written < size) {
                ssize_t n = write(fd, text + written, size - written);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                written += (size_t) n;
        }
        return fsync(fd) < 0 ? -errno : 0;
}

static size_t count_lines(const char *text, size_t size) {
        size_t lines = 0;

        for (size_t i = 0; i < size; i++)
                lines += text[i] == '\n';
        return lines;
}

static int refuse(const char *path, size_t line, int r, const char *why) {
        if (r == -EEXIST)
                (void) fprintf(stderr,
                               "dps-provision: Line %zu of '%s' has this %s already: nothing was added.\n"
                               "Remove that line first if this device takes the place of the one in it.\n",
                               line, path, why);
        else if (r == -EBADMSG)
                (void) fprintf(stderr,
                               "dps-provision: Line %zu of '%s' is not %s: nothing was added.\n"
                               "Correct it (commas between the columns that --format=csv prints), or name "
                               "another file.\n",
                               line, path, why);
        else
                return report_errno(r, "'%s' can't be looked through", path);
        return EXIT_FAILED;
}

/* What a power cut left behind the last whole row goes: it was never reported as done. */
static int cut_off(int fd, const char *path, size_t end, size_t size) {
        if (end == size)
                return 0;
        if (ftruncate(fd, (off_t) end) < 0)
                return -errno;
        (void) fprintf(stderr, "dps-provision: The end of '%s' was an unfinished row: it was cut off.\n",
                       path);
        return 0;
}

int enrollment_station(const char *path, const Enrollment *e, size_t *ret_line) {
        CLEANUP(freep) char *table = NULL, *row = NULL, *text = NULL;
        CLEANUP(closep) int fd = -1;
        size_t size = 0, end = 0, line = 0;
        const char *why = NULL;
        char self[32];
        int r;

        fd = open_table(path);
        if (fd == -EBADF) {
                (void) fprintf(stderr, "dps-provision: '%s' is not a regular file. Name another one.\n",
                               path);
                return EXIT_FAILED;
        }
        if (fd < 0)
                return report_errno(fd, "'%s' can't be opened and locked", path);
        (void) snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
        r = read_file(self, TABLE_MAX, &table, &size);
        if (r < 0)
                return report_errno(r, "'%s' can't be read", path);
        r = enrollment_csv_check(table, size, e, &end, &line, &why);
        if (r < 0)
                return refuse(path, line, r, why);

        r = end == 0 ? enrollment_to_csv(&row, e) : enrollment_to_csv_row(&row, e);
        if (r >= 0 && asprintf(&text, "%s%s", end > 0 && table[end - 1] != '\n' ? "\n" : "", row) < 0) {
                text = NULL;
                r = -ENOMEM;
        }
        if (r >= 0)
                r = cut_off(fd, path, end, size);
        if (r >= 0)
                r = append(fd, text);
        if (r >= 0 && end == 0)
                r = sync_directory(path); /* the file may be new */
        if (r < 0) {
                (void) !ftruncate(fd, (off_t) end); /* else the next row cuts it off */
                return report_errno(r, "'%s' can't be written", path);
        }
        *ret_line = count_lines(table, end) + count_lines(text, strlen(text));
        return EXIT_OK;
}
