/*
 * Record: what the daemon remembers over a restart and a power cut, one JSON file written atomically.
 *
 * The assignment (hub, device, wrapped hub key) is stored together with whom it was made for: scope,
 * endpoint, registration ID and a hash of the endorsement key. The wrapped key is worthless outside this
 * TPM.
 */
#pragma once

#include "machine.h"

typedef struct Record {
        State state;
        usec_t state_changed_usec; /* CLOCK_REALTIME */
        /* whom the assignment is for; NULL without one */
        char *id_scope, *endpoint, *registration_id, *ek_hash;
        /* what the service assigned */
        char *hub, *device_id, *substatus, *payload;
        Bytes key_private, key_public; /* the wrapped hub key, TPM2B; size 0: none */
        Bytes key_name;                /* of the key that we made persistent; size 0: none */
        bool key_changed;              /* made persistent since IoT Edge was last handed over to */
        /* what IoT Edge has proven */
        char *proven_hub, *proven_device_id;
        usec_t last_success_usec; /* CLOCK_REALTIME */
        /* what this assignment was handed off with, to notice a change of the configuration */
        uint32_t hub_key_handle;
        char *target, *identity;
        /* the sentences of the warnings that this assignment came with; NULL for none */
        char *edge_flag_missing, *adoption_refused, *data_moved;
        /* retry policy */
        Retry retry;
        bool throttled;           /* the last failure was the service asking everybody to wait */
        usec_t next_attempt_usec; /* CLOCK_REALTIME */
        /* a factory reset that is not complete, and whether it takes config.toml's provisioning along */
        bool reset, reset_provisioning;
        uint64_t server_time; /* the service's last Date, seconds since the epoch; 0: none */
} Record;

/* -ENOENT: no file yet. A file that can't be understood is reported as FAILURE_STORAGE; the caller begins
 * anew. */
int record_load(Record *ret, const char *path, Failure *reterr);

/* Writes when the content differs from *last (what is on disk; updated, caller frees). */
int record_save(const Record *record, const char *path, char **last, Failure *reterr);

void record_forget_assignment(Record *record);
void record_deinit(Record *record);
