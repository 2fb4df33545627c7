/*
 * Memory that runs out, for the libraries, too. Not with AddressSanitizer, which has a malloc() of its own.
 */
#pragma once

#include <stdbool.h>

#ifndef __SANITIZE_ADDRESS__
#define MEMORY_CAN_RUN_OUT
#endif

/* So many allocations still succeed, then one fails, or all that follow. */
void memory_limit(unsigned count, bool once);
bool memory_unlimit(void); /* back to normal; true: it had run out */
