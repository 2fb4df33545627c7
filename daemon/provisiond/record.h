/*
 * Record: the state that survives a restart and a power cut, in one JSON file that is replaced atomically.
 *
 * The record holds two assignments: the intended one, which the daemon hands off, and the confirmed one,
 * the last that was confirmed by the hub. They are the same assignment when their generations are equal. The
 * State follows from them (machine.h).
 */
#pragma once

#include "budget.h"
#include "machine.h"

typedef struct Record {
        Assignment intended, confirmed; /* generation 0: none */
        bool forced;  /* a person asked for the registration that DPS has not answered yet */
        bool resting; /* Facts.resting; not on disk, since the daemon's start ends it */
        /* names of a discarded hub key that was adopted, and of one that was wrapped and may be at the
         * handle */
        Bytes left_key_name, left_wrapped_name;
        /* of the device before its endorsement key changed, until the hub confirms the new one; NULL: it did
         * not change */
        char *former_id, *former_ek_hash;
        State state;               /* as published last */
        usec_t state_changed_usec; /* CLOCK_REALTIME */
        usec_t last_success_usec;  /* CLOCK_REALTIME */
        /* retry policy */
        Retry retry;
        Budget budget; /* of registrations */
        /* The end of the wait after a 429, by the local clock or the best estimate, whichever is later; 0:
         * none. The rest is the remaining time when the record was written, and limits the wait after a
         * start. */
        usec_t throttled_until_usec, throttled_rest_usec;
        /* a factory reset that is due, and whether it removes config.toml's provisioning too */
        bool reset, reset_provisioning;
        uint64_t server_time; /* DPS' last Date, seconds since the epoch; 0: none */
} Record;

/* Also reads version 1. -ENOENT: no file yet. FAILURE_STORAGE: the file is damaged or of a newer version;
 * the caller begins with an empty record. */
int record_load(Record *ret, const char *path, Failure *reterr);

/* Writes when the content differs from *last (what is on disk; updated, caller frees). */
int record_save(const Record *record, const char *path, char **last, Failure *reterr);
void record_deinit(Record *record);

bool record_has_intent(const Record *record);
bool record_has_confirmed(const Record *record);
bool record_is_confirmed(const Record *record); /* the intended assignment is the confirmed one */
/* The intended assignment, else the confirmed one, else one without any member. */
const Assignment *record_assignment(const Record *record);

/* Moves the assignment to the intended one and gives it a new generation. */
void record_intend(Record *record, Assignment *assignment);
/* The intended assignment becomes the confirmed one. */
int record_confirm(Record *record);
/* The intended assignment has to be handed off and confirmed again. */
void record_reopen(Record *record);
/* Drops the intended assignment. Its key at the handle is still known as ours. */
int record_discard(Record *record);
/* Drops both assignments, which were made for another TPM. A key of theirs at the handle is still known as
 * ours, and their device as the former one. */
int record_forget_device(Record *record);
void record_forget_former(Record *record);
void record_forget_assignments(Record *record);

/* True for the name of a hub key that an assignment made persistent, or may have made persistent. */
bool record_is_our_key(const Record *record, const Bytes *name);

/* Facts that follow from the record. */
void record_facts(const Record *record, Facts *ret);
