/*
 * Reset: the factory reset under way: the call that waits for its end, and the findings of the reset. The
 * record says that a reset is due.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "failure.h"

#define RESET_NOTES_MAX 8
#define RESET_NOTE_SIZE 512

typedef struct Reset {
        sd_bus_message *call;                         /* FactoryReset() that waits for the end */
        char notes[RESET_NOTES_MAX][RESET_NOTE_SIZE]; /* things that the reset left in place, for people */
        size_t note_count;
        bool provisioning; /* the argument of the round under way */
} Reset;

void reset_deinit(Reset *reset);

void reset_begin_round(Reset *reset, bool provisioning);
void reset_add_note(Reset *reset, const char *format, ...) PRINTF_LIKE(2, 3); /* logged as well */

/* Makes another call wait. The call before gets the failure. */
void reset_replace_call(Reset *reset, sd_bus_message *call, const Failure *failure);
/* Answers the waiting call, if any, with the notes or with the failure. */
void reset_answer(Reset *reset, const Failure *failure);
