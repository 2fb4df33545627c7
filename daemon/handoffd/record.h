/*
 * Record: what this helper has written, so that it knows its own work again: also after the scope changed,
 * and after identityd has changed its identity by itself.
 *
 * A change is recorded before it is made, the old beside the new: whichever a power cut leaves is ours.
 */
#pragma once

#include "failure.h"

typedef struct Record {
        char *registration_id;
        char *digest, *previous_digest; /* of config.toml's provisioning tables, config-toml.h */
        char *ignored_digest;           /* of applied tables whose payload IoT Edge ignored */
        char *hub, *device_id, *previous_hub, *previous_device_id; /* device_info */
        char *key_name;                                            /* of the adopted key, for people */
        bool handed_off;                                           /* IoT Edge was seen to work with it */

        /* What IoT Edge is to become, until its hub has accepted that: hub, device and key, and identityd's
         * prev_state before. started: the same, once IoT Edge was restarted for it. */
        char *pending, *pending_proof, *started;
        bool applying; /* `iotedge config apply` was begun, and has not succeeded as far as we know */
} Record;

/* 0 with an empty record when there is none. One that can't be understood is a FAILURE_STORAGE. */
int handoff_record_load(Record *ret, const char *root, Failure *reterr);
int handoff_record_save(const Record *record, const char *root, Failure *reterr);
void handoff_record_deinit(Record *record);
