/*
 * Moment: a point in time that can be compared with a later one, also after a reboot. Pure code, except for
 * moment_now().
 *
 * Within a boot CLOCK_BOOTTIME tells how much time has passed. Across boots only CLOCK_REALTIME could tell,
 * and it may be wrong by decades, so its answer is bounded on both sides by the caller.
 */
#pragma once

#include "util.h"

typedef struct Moment {
        char boot_id[40]; /* "": unknown */
        usec_t boottime_usec, realtime_usec;
} Moment;

void moment_now(Moment *ret);

bool moment_same_boot(const Moment *a, const Moment *b);

/* The time between the two. Across a reboot it is the difference of the local clock's readings (0 when one
 * is older than this program, or when the clock went backwards), bounded by `least` and `most`, and at least
 * the time since the boot. */
usec_t moment_elapsed(const Moment *since, const Moment *now, usec_t least, usec_t most);
