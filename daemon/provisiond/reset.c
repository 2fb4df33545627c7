#include "reset.h"

#include <stdarg.h>
#include <stdio.h>

#include "bus.h"
#include "log.h"

void reset_deinit(Reset *reset) {
        (void) sd_bus_message_unref(reset->call);
        *reset = (Reset){};
}

void reset_begin_round(Reset *reset, bool provisioning) {
        reset->note_count = 0;
        reset->provisioning = provisioning;
}

void reset_add_note(Reset *reset, const char *format, ...) {
        char *note;
        va_list ap;

        if (reset->note_count >= RESET_NOTES_MAX)
                return;
        note = reset->notes[reset->note_count++];
        va_start(ap, format);
        (void) vsnprintf(note, RESET_NOTE_SIZE, format, ap);
        va_end(ap);
        log_notice("%s", note);
}

static int answer_notes(const Reset *reset, sd_bus_message *call) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "s");
        for (size_t i = 0; r >= 0 && i < reset->note_count; i++)
                r = sd_bus_message_append(reply, "s", reset->notes[i]);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

void reset_answer(Reset *reset, const Failure *failure) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *call = TAKE(reset->call);

        if (!call)
                return;
        if (!failure)
                (void) answer_notes(reset, call);
        else {
                (void) bus_error_set_failure(&error, failure);
                (void) sd_bus_reply_method_error(call, &error);
        }
}

void reset_replace_call(Reset *reset, sd_bus_message *call, const Failure *failure) {
        reset_answer(reset, failure);
        reset->call = sd_bus_message_ref(call);
}
