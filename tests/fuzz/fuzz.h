/*
 * Fuzz: what the targets share. A target defines LLVMFuzzerTestOneInput() and aborts when a promise of the
 * header that it tests is broken. It is linked with libFuzzer, or with driver.c, which needs no clang.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Unlike assert() it stays with NDEBUG. */
#define PROMISE(expression)                                                                                 \
        do {                                                                                                \
                if (!(expression)) {                                                                        \
                        (void) fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__,           \
                                       #expression);                                                        \
                        abort();                                                                            \
                }                                                                                           \
        } while (0)
