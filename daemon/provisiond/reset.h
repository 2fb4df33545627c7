/*
 * Reset: the factory reset under way: the call that waits for its end, and what the reset found. The record
 * says that a reset is due.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "failure.h"

#define RESET_NOTES_MAX 8
#define RESET_NOTE_SIZE 512

typedef struct Reset {
        sd_bus_message *call;                         /* FactoryReset() that waits for the end */
        char notes[RESET_NOTES_MAX][RESET_NOTE_SIZE]; /* what it left where it was, for people */
        size_t note_count;
        bool provisioning; /* what the round under way was begun with */
} Reset;

void reset_deinit(Reset *reset);

void reset_begin_round(Reset *reset, bool provisioning);
void reset_add_note(Reset *reset, const char *format, ...) PRINTF_LIKE(2, 3); /* logged as well */

/* Another call waits from now on. The one before gets the failure. */
void reset_replace_call(Reset *reset, sd_bus_message *call, const Failure *failure);
/* Answers the call, if there is one: with the notes, or with the failure. */
void reset_answer(Reset *reset, const Failure *failure);
