#include "memory.h"

#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

static struct {
        bool limited, once, ran_out;
        unsigned left;
} memory;

void memory_limit(unsigned count, bool once) {
        memory.limited = true;
        memory.once = once;
        memory.ran_out = false;
        memory.left = count;
}

bool memory_unlimit(void) {
        memory.limited = false;
        return memory.ran_out;
}

static bool fails(void) {
        if (!memory.limited || (memory.ran_out && memory.once))
                return false;
        if (memory.left > 0) {
                memory.left--;
                return false;
        }
        memory.ran_out = true;
        return true;
}

#ifdef __SANITIZE_ADDRESS__
void memory_ignore_leaks(void) {
        __lsan_disable();
}

void memory_report_leaks(void) {
        __lsan_enable();
}
#else
void memory_ignore_leaks(void) {
}

void memory_report_leaks(void) {
}
#endif

/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl*,readability-inconsistent-declaration-parameter-name):
 * names and parameters are glibc's and the sanitizer's */
#ifdef __SANITIZE_ADDRESS__
#define real_malloc  __interceptor_malloc
#define real_calloc  __interceptor_calloc
#define real_realloc __interceptor_realloc
#else
#define real_malloc  __libc_malloc
#define real_calloc  __libc_calloc
#define real_realloc __libc_realloc
#endif

extern void *real_malloc(size_t size);
extern void *real_calloc(size_t count, size_t size);
extern void *real_realloc(void *old, size_t size);

void *malloc(size_t size) {
        return fails() ? NULL : real_malloc(size);
}

void *calloc(size_t count, size_t size) {
        return fails() ? NULL : real_calloc(count, size);
}

void *realloc(void *old, size_t size) {
        return fails() ? NULL : real_realloc(old, size);
}

#ifdef __SANITIZE_ADDRESS__
/* The sanitizer's own take memory past malloc(). */
char *strndup(const char *text, size_t size) {
        size_t length = strnlen(text, size);
        char *copy = malloc(length + 1);

        if (!copy)
                return NULL;
        copy[length] = '\0';
        return memcpy(copy, text, length);
}

char *strdup(const char *text) {
        return strndup(text, strlen(text));
}
#endif
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl*,readability-inconsistent-declaration-parameter-name) */
