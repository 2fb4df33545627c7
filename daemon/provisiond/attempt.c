#include "attempt.h"

#include <stdlib.h>

#define DPS_ANSWERS_USEC (60 * USEC_PER_SEC)
#define HOLD_MAX_USEC    (20 * 60 * USEC_PER_SEC) /* from CONFIRM to ADOPT, for one registration */

void attempt_end(Attempt *a) {
        a->http = http_free(a->http);
        bytes_deinit(&a->challenge);
        secret_freep(&a->token);
        free(a->operation_id);
        snapshot_deinit(&a->snapshot);
        (void) sd_event_source_disable_unref(a->renewal);
        *a = (Attempt){ .held_usec = a->held_usec, .unbudgeted = a->unbudgeted };
}

void attempt_deinit(Attempt *a) {
        attempt_end(a);
        *a = (Attempt){};
}

bool attempt_token_expired(const Attempt *a) {
        return a->token_expires_usec > 0 && now_usec(CLOCK_BOOTTIME) >= a->token_expires_usec;
}

bool attempt_dps_answers(const Attempt *a) {
        return a->dps_answered_usec > 0 &&
               now_usec(CLOCK_BOOTTIME) - a->dps_answered_usec < DPS_ANSWERS_USEC;
}

int attempt_take_snapshot(Attempt *a, const Bytes *key_name, const char *hub, const char *device_id,
                          const char *proof) {
        Snapshot *s = &a->snapshot;
        int r;

        snapshot_deinit(s);
        r = bytes_copy(&s->key_name, key_name->data, key_name->size);
        if (r >= 0)
                r = string_replace(&s->hub, hub);
        if (r >= 0)
                r = string_replace(&s->device_id, device_id);
        if (r >= 0)
                r = string_replace(&s->proof, proof);
        s->taken = r >= 0;
        a->looked_usec = now_usec(CLOCK_BOOTTIME);
        return r;
}

int attempt_update_key_name(Attempt *a, const Bytes *key_name) {
        bytes_deinit(&a->snapshot.key_name);
        return bytes_copy(&a->snapshot.key_name, key_name->data, key_name->size);
}

static usec_t held_usec(const Attempt *a) {
        return a->held_usec + (a->quiesced ? now_usec(CLOCK_BOOTTIME) - a->quiesced_usec : 0);
}

void attempt_begin_hold(Attempt *a) {
        a->quiesced = true;
        a->quiesced_usec = now_usec(CLOCK_BOOTTIME);
}

void attempt_end_hold(Attempt *a) {
        a->held_usec = held_usec(a);
        a->quiesced = a->keyless = false;
}

usec_t attempt_hold_left(const Attempt *a) {
        usec_t held = held_usec(a);

        return held < HOLD_MAX_USEC ? HOLD_MAX_USEC - held : 0;
}
