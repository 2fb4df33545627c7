/*
 * Assignment: the device that DPS assigned for a target, its hub key, and how IoT Edge gets them.
 *
 * A plain value. The daemon makes one from the reply of DPS, its record holds two (intended and confirmed),
 * and the hand-off calls carry one. NULL, or Bytes of size 0, means that the member is absent.
 */
#pragma once

#include <json-c/json_object.h>

#include "config.h"

#define KEY_NAME_MAX ((size_t) 66) /* nameAlg and the largest digest */

/* The DPS instance, and the device that registers there. */
typedef struct Target {
        char *id_scope, *endpoint, *registration_id;
        char *ek_hash; /* SHA-256 of the endorsement key's TPM2B_PUBLIC, in hexadecimal */
} Target;

/* How IoT Edge gets its identity. */
typedef enum HandOver {
        HAND_OVER_ADOPT,    /* it adopts ours: the hub key at its handle, and device_info */
        HAND_OVER_REGISTER, /* it registers with DPS itself */
        HAND_OVER_KEEP,     /* it keeps its own, which is newer than ours */
        _HAND_OVER_MAX,
} HandOver;

typedef enum HubKeyState {
        HUB_KEY_ABSENT,
        HUB_KEY_RECEIVED, /* as DPS sent it */
        HUB_KEY_WRAPPED,  /* by this TPM's storage root key, worthless outside this TPM */
        HUB_KEY_ADOPTED,  /* made persistent at the hub key's handle */
        _HUB_KEY_STATE_MAX,
} HubKeyState;

typedef struct HubKey {
        Bytes received;                  /* the decoded authenticationKey */
        Bytes private_area, public_area; /* marshalled TPM2B, both or none */
        Bytes name;                      /* of the persistent object: nameAlg and digest, big-endian */
        bool changed;                    /* made persistent since the last hand-off */
} HubKey;

/* What the gateway had before the confirming request, taken while IoT Edge is quiesced. */
typedef struct Snapshot {
        bool taken;
        Bytes key_name;        /* of the object at the hub key's handle */
        char *hub, *device_id; /* of identityd's device_info */
        char *proof;           /* the mark of identityd's prev_state, see device-info.h */
} Snapshot;

typedef struct Assignment {
        uint64_t generation; /* orders the values within one record; 0: not an assignment */
        Target target;
        char *hub, *device_id, *substatus, *payload; /* the last two may be NULL; payload is JSON text */
        HubKey key;
        HandOver hand_over;
        bool forced; /* a person asked for this registration */
        Snapshot snapshot;
        /* Target=, Identity= and HubKeyHandle= of its hand-off; NULL and 0: unknown */
        char *handed_to, *identity;
        uint32_t hub_key_handle;
        /* messages of the warnings about it; NULL: no such warning */
        char *edge_flag_missing, *adoption_refused, *data_moved;
} Assignment;

bool target_equal(const Target *a, const Target *b);
/* True when both have a member and the values differ. An absent member differs from nothing. */
bool target_differs(const Target *a, const Target *b);
int target_copy(Target *ret, const Target *target);
void target_deinit(Target *target);

int snapshot_copy(Snapshot *ret, const Snapshot *snapshot); /* frees what *ret held */
void snapshot_deinit(Snapshot *snapshot);

int assignment_copy(Assignment *ret, const Assignment *assignment);
/* Compares every member but the generation. */
bool assignment_equal(const Assignment *a, const Assignment *b);
/* True when the assignment is for this device. The case of host names does not count; NULL is no device. */
bool assignment_same_device(const Assignment *a, const char *hub, const char *device_id);
void assignment_deinit(Assignment *assignment); /* wipes it */

/* -ENOMEM is the only error. The JSON holds the hub key. */
int assignment_to_json(const Assignment *assignment, json_object **ret);
/* -EBADMSG: a member has the wrong type or is not base64, or a required member is missing. */
int assignment_from_json(Assignment *ret, json_object *json);

/* The members that the hand-off helper needs, as a{sv}. The received and the wrapped hub key are not among
 * them. */
typedef struct sd_bus_message sd_bus_message;
int assignment_append(const Assignment *assignment, sd_bus_message *message);
/* -ENOENT: unknown member; -EBADMSG: member of the wrong type. The caller has to check the values. */
int assignment_read(Assignment *ret, sd_bus_message *message);

HubKeyState assignment_key_state(const Assignment *assignment);
void assignment_drop_key(Assignment *assignment);
/* The name that the TPM gives to the wrapped key (TPM 2.0 part 1, 16); -ENOENT: there is no wrapped key. */
int assignment_wrapped_name(const Assignment *assignment, Bytes *ret);

const char *hand_over_to_string(HandOver hand_over);

/* True when IoT Edge has to give up its identity (hub and device_id) and register to become the assigned
 * device. */
bool assignment_needs_registration(const Assignment *assignment, const char *hub, const char *device_id);

/* What the gateway has now, for the comparison with an assignment. */
typedef struct Found {
        const Bytes *key_name;       /* of the object at the hub key's handle; size 0: none */
        bool same_key;               /* it signs as ours does */
        const char *hub, *device_id; /* of device_info; NULL: none */
} Found;

/* True when the gateway has something newer than the assignment: an object at the handle that differs from
 * the snapshot's and signs differently from our key, or a device that is neither the snapshot's nor the
 * assigned one. An object with a new name was imported after the snapshot. The device is then newer than the
 * snapshot, even if it is the same one. False without a snapshot. */
bool assignment_superseded(const Assignment *assignment, const Found *found);
