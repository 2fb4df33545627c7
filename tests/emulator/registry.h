/*
 * Registry: which device is at which hub with which key, and its modules there: what IoT Hub keeps. It
 * outlives the process in one file of the state directory, which holds the keys: mode 0600.
 */
#pragma once

#include "enrollments.h"
#include "tpm-crypto.h"

typedef struct Device {
        char *registration_id, *device_id, *hub;
        uint8_t key[TPM_CRYPTO_KEY_SIZE];
        char created[TIMESTAMP_SIZE], updated[TIMESTAMP_SIZE];
        char etag[17];
        char generation[24];
        const char *substatus; /* of the last registration; static text */
        json_object *modules;  /* object: module ID → module */
} Device;

typedef struct Registry Registry;

int registry_open(Registry **ret, const char *path);
Registry *registry_close(Registry *registry);
int registry_save(Registry *registry);

Device *registry_find(Registry *registry, const char *registration_id);
/* The next device after `after` (NULL: the first) of that ID at that hub. */
Device *registry_next_at_hub(Registry *registry, const char *hub, const char *device_id,
                             const Device *after);

/* What becomes of a device's hub key when the device registers again. */
typedef enum HubKeys {
        HUB_KEYS_PER_HUB, /* it stays while the device stays at its hub */
        HUB_KEYS_ROTATE,  /* a new one each time */
        HUB_KEYS_KEEP,    /* it stays for ever, also when the device moves */
} HubKeys;

/* What DPS does when a registration ends well: a new device gets a key; one whose enrolment names another
 * hub moves there (unless its policy forbids it), which deletes it at the old one unless keep_old. Saved
 * before it returns. */
int registry_assign(Registry *registry, const Enrollment *enrollment, HubKeys keys, bool keep_old,
                    time_t now, Device **ret);

/* A module as the hub shows it; symmetric keys are made up when authentication is NULL. Takes
 * authentication. */
json_object *registry_new_module(const Device *device, const char *module_id, const char *managed_by,
                                 json_object *authentication);
