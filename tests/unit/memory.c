#include "memory.h"

#ifdef MEMORY_CAN_RUN_OUT

#include <stdlib.h>

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

/* NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl*,readability-inconsistent-declaration-parameter-name):
 * glibc's own names, of which the parameters' are nobody else's business */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size) {
        return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
        return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
        return fails() ? NULL : __libc_realloc(old, size);
}
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl*,readability-inconsistent-declaration-parameter-name) */

#endif
