#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mbedtls/base64.h>
#include <mbedtls/md.h>

void freep(void *pointer) {
        void **p = pointer;

        free(*p);
        *p = NULL;
}

void secret_freep(char **string) {
        if (*string)
                explicit_bzero(*string, strlen(*string));
        free(*string);
        *string = NULL;
}

void closep(const int *fd) {
        int saved_errno = errno;

        if (*fd >= 0)
                (void) close(*fd);
        errno = saved_errno;
}

void fclosep(FILE **file) {
        if (*file)
                (void) fclose(*file);
        *file = NULL;
}

int string_replace(char **target, const char *value) {
        char *copy = NULL;

        if (value) {
                copy = strdup(value);
                if (!copy)
                        return -ENOMEM;
        }
        free(*target);
        *target = copy;
        return 0;
}

int bytes_copy(Bytes *ret, const void *data, size_t size) {
        uint8_t *copy = NULL;

        if (size > 0) {
                copy = malloc(size);
                if (!copy)
                        return -ENOMEM;
                memcpy(copy, data, size);
        }
        *ret = (Bytes){ .data = copy, .size = size };
        return 0;
}

void bytes_deinit(Bytes *bytes) {
        if (bytes->data)
                explicit_bzero(bytes->data, bytes->size);
        free(bytes->data);
        *bytes = (Bytes){};
}

bool bytes_equal(const Bytes *a, const Bytes *b) {
        return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

usec_t now_usec(clockid_t clock) {
        struct timespec ts = {};

        (void) clock_gettime(clock, &ts);
        return (usec_t) ts.tv_sec * USEC_PER_SEC + (usec_t) ts.tv_nsec / 1000;
}

void utc_text(char ret[static UTC_TEXT_SIZE], usec_t realtime_usec) {
        const time_t when = (time_t) ((realtime_usec + USEC_PER_SEC - 1) / USEC_PER_SEC);
        struct tm tm;

        if (!gmtime_r(&when, &tm) || strftime(ret, UTC_TEXT_SIZE, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
                ret[0] = '\0';
}

int base64_encode(char **ret, const void *data, size_t size) {
        CLEANUP(freep) char *text = NULL;
        size_t room = 4 * ((size + 2) / 3) + 1, written = 0;

        text = malloc(room);
        if (!text)
                return -ENOMEM;
        if (mbedtls_base64_encode((unsigned char *) text, room, &written, data, size) != 0)
                return -EINVAL;
        text[written] = '\0';
        *ret = TAKE(text);
        return 0;
}

int base64_decode(Bytes *ret, const char *text, size_t max_size) {
        CLEANUP(bytes_deinit) Bytes b = {};
        size_t length = strlen(text), room = length / 4 * 3 + 3;

        if (length % 4 != 0 || strpbrk(text, "\r\n "))
                return -EBADMSG;
        if (length / 4 * 3 > max_size + 2)
                return -E2BIG;

        b.data = malloc(room);
        if (!b.data)
                return -ENOMEM;
        if (mbedtls_base64_decode(b.data, room, &b.size, (const unsigned char *) text, length) != 0)
                return -EBADMSG;
        if (b.size > max_size)
                return -E2BIG;
        *ret = b;
        b = (Bytes){};
        return 0;
}

int hex_encode(char **ret, const void *data, size_t size) {
        static const char digits[] = "0123456789abcdef";
        const uint8_t *bytes = data;
        char *text = malloc(2 * size + 1);

        if (!text)
                return -ENOMEM;
        for (size_t i = 0; i < size; i++) {
                text[2 * i] = digits[bytes[i] >> 4];
                text[2 * i + 1] = digits[bytes[i] & 0xf];
        }
        text[2 * size] = '\0';
        *ret = text;
        return 0;
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -EBADMSG;
}

int hex_decode(Bytes *ret, const char *text, size_t max_size) {
        CLEANUP(bytes_deinit) Bytes b = {};
        size_t length = strlen(text);

        if (length % 2 != 0)
                return -EBADMSG;
        if (length / 2 > max_size)
                return -E2BIG;

        b.data = malloc(length / 2 + 1);
        if (!b.data)
                return -ENOMEM;
        b.size = length / 2;
        for (size_t i = 0; i < b.size; i++) {
                int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return -EBADMSG;
                b.data[i] = (uint8_t) (high << 4 | low);
        }
        *ret = b;
        b = (Bytes){};
        return 0;
}

int sha256(const void *data, size_t size, uint8_t ret[static SHA256_SIZE]) {
        const mbedtls_md_info_t *md = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);

        return md && mbedtls_md(md, data, size, ret) == 0 ? 0 : -EIO;
}

bool chars_valid(const char *string, const char *allowed, size_t min, size_t max) {
        size_t length = strlen(string);

        return length >= min && length <= max && strspn(string, allowed) == length;
}

size_t utf8_length(const char *text) {
        const unsigned char *p = (const unsigned char *) text;
        unsigned char low = 0x80, high = 0xbf;
        size_t length;

        if (p[0] < 0x80)
                return 1;
        if (p[0] < 0xc2 || p[0] > 0xf4)
                return 0;
        length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
        switch (p[0]) {
        case 0xe0:
                low = 0xa0;
                break;
        case 0xed:
                high = 0x9f;
                break;
        case 0xf0:
                low = 0x90;
                break;
        case 0xf4:
                high = 0x8f;
                break;
        }
        if (p[1] < low || p[1] > high)
                return 0;
        for (size_t i = 2; i < length; i++)
                if (p[i] < 0x80 || p[i] > 0xbf)
                        return 0;
        return length;
}

int parse_uint(const char *text, uint64_t max, uint64_t *ret) {
        unsigned long long value;
        char *end;
        int base = strncmp(text, "0x", 2) == 0 ? 16 : 10;

        /* strtoull() takes white space and signs, which no number of ours has */
        if (!strchr("0123456789", text[0]) || text[0] == '\0')
                return -EINVAL;
        errno = 0;
        value = strtoull(text, &end, base);
        if (errno == ERANGE || value > max)
                return -ERANGE;
        if (*end != '\0' || end == text)
                return -EINVAL;
        *ret = value;
        return 0;
}

#define READ_FIRST ((size_t) 64 * 1024) /* a secret is shorter: realloc() leaves no copy of it behind */

int read_file(const char *path, size_t max, char **ret, size_t *ret_size) {
        struct stat st;

        return read_file_stat(path, max, ret, ret_size, &st);
}

int read_file_stat(const char *path, size_t max, char **ret, size_t *ret_size, struct stat *ret_stat) {
        CLEANUP(closep) int fd = -1;
        CLEANUP(freep) char *text = NULL;
        struct stat st;
        size_t size = 0, room = 0;

        /* O_NONBLOCK: a FIFO in the file's place must not hang the caller */
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return S_ISDIR(st.st_mode) ? -EISDIR : -EBADF;

        /* The size is not taken from stat: sysfs reports a page for every file, and files grow. */
        for (;;) {
                ssize_t n;

                if (size == room) {
                        char *larger;

                        /* a file that fills this last byte is too large */
                        room = room == 0 ? READ_FIRST : 2 * room;
                        if (room > max + 1)
                                room = max + 1;
                        larger = realloc(text, room + 1);
                        if (!larger)
                                return -ENOMEM;
                        text = larger;
                }
                n = read(fd, text + size, room - size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                size += (size_t) n;
                if (size > max)
                        return -EFBIG;
        }
        text[size] = '\0';
        *ret = TAKE(text);
        *ret_stat = st;
        if (ret_size)
                *ret_size = size;
        return 0;
}
