/*
 * Memory that runs out, for the libraries as well.
 */
#pragma once

#include <stdbool.h>

/* So many allocations still succeed, then one fails, or all that follow. */
void memory_limit(unsigned count, bool once);
bool memory_unlimit(void); /* back to normal; true: it had run out */

/* What is allocated between these calls may leak. */
void memory_ignore_leaks(void);
void memory_report_leaks(void);
