#include "enrollment.h"

#include <errno.h>
#include <stdlib.h>

#include <json-c/json.h>

int enrollment_to_text(char **ret, const Enrollment *e) {
        CLEANUP(freep) char *key = NULL;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        r = asprintf(
                ret,
                "Registration ID:  %s\n"
                "Endorsement key:  %s\n"
                "\n"
                "The endorsement key %s; %s.\n"
                "\n"
                "Next: create an individual enrolment (mechanism: TPM) with both values in the Device "
                "Provisioning\n"
                "Service that your ID scope belongs to, and set \"IoT Edge device\" to true. The device "
                "registers\n"
                "by itself, also when the enrolment is created later.\n",
                e->registration_id, key,
                e->ek_persistent
                        ? "was read from 0x81010001, where IoT Edge uses it too"
                        : "was created for this call from the TCG template; it will be the same each time",
                e->ek_tcg_template ? "it fits the TCG template for RSA-2048"
                                   : "it does NOT fit the TCG template, so no EK certificate will match it");
        return r < 0 ? -ENOMEM : 0;
}

static int add_string(json_object *object, const char *key, const char *value) {
        json_object *string = json_object_new_string(value);

        if (!string)
                return -ENOMEM;
        if (json_object_object_add(object, key, string) < 0) {
                json_object_put(string);
                return -ENOMEM;
        }
        return 0;
}

static json_object *add_object(json_object *object, const char *key) {
        json_object *child = json_object_new_object();

        if (child && json_object_object_add(object, key, child) < 0) {
                json_object_put(child);
                return NULL;
        }
        return child;
}

static int fill_json(json_object *root, const Enrollment *e, const char *key) {
        json_object *attestation, *tpm, *capabilities;
        int r;

        r = add_string(root, "registrationId", e->registration_id);
        if (r >= 0 && e->device_id)
                r = add_string(root, "deviceId", e->device_id);
        if (r < 0)
                return r;
        attestation = add_object(root, "attestation");
        if (!attestation || add_string(attestation, "type", "tpm") < 0)
                return -ENOMEM;
        tpm = add_object(attestation, "tpm");
        if (!tpm || add_string(tpm, "endorsementKey", key) < 0)
                return -ENOMEM;
        capabilities = add_object(root, "capabilities");
        if (!capabilities ||
            json_object_object_add(capabilities, "iotEdge", json_object_new_boolean(true)) < 0)
                return -ENOMEM;
        if (e->hub)
                r = add_string(root, "iotHubHostName", e->hub);
        return r < 0 ? r : add_string(root, "provisioningStatus", "enabled");
}

int enrollment_to_json(char **ret, const Enrollment *e) {
        CLEANUP(freep) char *key = NULL;
        json_object *root;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        root = json_object_new_object();
        if (!root)
                return -ENOMEM;
        r = fill_json(root, e, key);
        if (r >= 0 && asprintf(ret, "%s\n",
                               json_object_to_json_string_ext(
                                       root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE)) < 0)
                r = -ENOMEM;
        json_object_put(root);
        return r < 0 ? r : 0;
}
