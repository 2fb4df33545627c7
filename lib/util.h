/*
 * Util: what every module needs and libc lacks: ownership, time, and the few encodings of the protocol.
 *
 * Nothing here logs. Functions return 0 or a negative errno; outputs are untouched on failure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* Ownership */
#define CLEANUP(func)     __attribute__((cleanup(func)))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* Hands a pointer over: its value, leaving NULL behind. */
#define TAKE(pointer)                                                                                       \
        ({                                                                                                  \
                __typeof__(pointer) *_taken_from = &(pointer);                                              \
                __typeof__(pointer) _taken = *_taken_from;                                                  \
                *_taken_from = NULL;                                                                        \
                _taken;                                                                                     \
        })

static inline bool streq(const char *a, const char *b) {
        return strcmp(a, b) == 0;
}

/* True when both are NULL, or both are the same string. */
static inline bool str_equal(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

/* NULL equals nothing, not even NULL. */
static inline bool str_set_and_equal(const char *a, const char *b) {
        return a && b && streq(a, b);
}

void freep(void *pointer);        /* for CLEANUP(freep) on any malloc()ed pointer */
void secret_freep(char **string); /* wipes up to the terminating NUL, then frees */
void closep(const int *fd);       /* closes when >= 0, keeps errno */
void fclosep(FILE **file);
int string_replace(char **target,
                   const char *value); /* frees the old one; value may be NULL; -ENOMEM keeps it */

/* Bytes: an owned buffer. It may hold key material, so it is wiped whenever it is released. */
typedef struct Bytes {
        uint8_t *data;
        size_t size;
} Bytes;

int bytes_copy(Bytes *ret, const void *data, size_t size); /* size 0 gives { NULL, 0 } */
void bytes_deinit(Bytes *bytes);
bool bytes_equal(const Bytes *a, const Bytes *b); /* not constant time */

/* Time. usec_t is microseconds; what it counts from is said where it is used. */
typedef uint64_t usec_t;
#define USEC_PER_SEC  ((usec_t) 1000000)
#define USEC_PER_MSEC ((usec_t) 1000)
#define USEC_INFINITY UINT64_MAX

usec_t now_usec(clockid_t clock);

/* "2026-11-30 20:15:01 UTC" for a time of CLOCK_REALTIME, rounded up to the second; "" for one without a
 * year. */
#define UTC_TEXT_SIZE 40
void utc_text(char ret[static UTC_TEXT_SIZE], usec_t realtime_usec);

/* Encodings */
#define SHA256_SIZE 32

int base64_encode(char **ret, const void *data, size_t size);     /* RFC 4648 section 4, padded, one line */
int base64_decode(Bytes *ret, const char *text, size_t max_size); /* -EBADMSG, -E2BIG over max_size bytes */
int hex_encode(char **ret, const void *data, size_t size);        /* lower case */
int hex_decode(Bytes *ret, const char *text, size_t max_size);    /* -EBADMSG, -E2BIG */
int sha256(const void *data, size_t size, uint8_t ret[static SHA256_SIZE]);

/* Strings and numbers from outside */
bool chars_valid(const char *string, const char *allowed, size_t min,
                 size_t max);                                  /* length and character set */
int parse_uint(const char *text, uint64_t max, uint64_t *ret); /* decimal or 0x…; -EINVAL, -ERANGE */

/* How many bytes the UTF-8 character at the beginning has, 0 when it is none (Unicode 15, table 3-7: no
 * overlong forms, no surrogates, nothing above U+10FFFF). The NUL at the end of the text ends one that is
 * cut short. */
size_t utf8_length(const char *text);

/* Reads a whole regular file of at most max bytes; NUL-terminated, ret_size (may be NULL) without the NUL.
 * -EFBIG when larger. ret_stat is that of the file that was read. */
int read_file(const char *path, size_t max, char **ret, size_t *ret_size);
int read_file_stat(const char *path, size_t max, char **ret, size_t *ret_size, struct stat *ret_stat);
