/*
 * Attempt: the observations and the results of the current attempt. An attempt begins with IDENTITY. It ends
 * when IDENTITY begins again, when the daemon comes to rest, or with a factory reset. Times are
 * CLOCK_BOOTTIME.
 */
#pragma once

#include <systemd/sd-event.h>

#include "assignment.h"
#include "http.h"

typedef struct Attempt {
        /* DPS */
        Http *http; /* one TLS connection */
        Bytes challenge;
        char *token, *operation_id;
        usec_t token_expires_usec; /* 0: no token yet */
        usec_t polling_since_usec;
        usec_t dps_answered_usec; /* DPS' last reply; 0: none */
        bool fresh;               /* see Facts */
        /* IoT Edge */
        usec_t looked_usec;           /* the time of the last look at IoT Edge; 0: none */
        usec_t disruption_until_usec; /* by that look: see FactsInput */
        Snapshot snapshot;            /* what the gateway has now */
        bool live;                    /* see Facts */
        bool may_adopt;               /* HandOff1.Check allows it */
        bool quiesced;
        bool keyless;             /* see Facts */
        bool key_was_changed;     /* HubKey.changed before AdoptHubKey */
        usec_t quiesced_usec;     /* the begin of the hold */
        sd_event_source *renewal; /* while IoT Edge is quiesced */
        /* These belong to the registration, which may take several attempts. */
        usec_t held_usec; /* the sum of the earlier holds */
        bool unbudgeted;  /* the next registration is counted, but not held back */
} Attempt;

/* Empties the attempt, except the members that belong to the registration. */
void attempt_end(Attempt *attempt);
void attempt_deinit(Attempt *attempt);

bool attempt_token_expired(const Attempt *attempt);

/* True when DPS answered within the last minute, so IoT Edge may give up its identity to register. */
bool attempt_dps_answers(const Attempt *attempt);

/* key_name: of the object at the hub key's handle */
int attempt_take_snapshot(Attempt *attempt, const Bytes *key_name, const char *hub, const char *device_id,
                          const char *proof);
int attempt_update_key_name(Attempt *attempt, const Bytes *key_name); /* in the snapshot */

/* Quiescing IoT Edge begins a hold, resuming it ends the hold. */
void attempt_begin_hold(Attempt *attempt);
void attempt_end_hold(Attempt *attempt);
usec_t attempt_hold_left(const Attempt *attempt); /* 0: see Facts.hold_spent */
