#include "record.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "dps-json.h"
#include "paths.h"
#include "store.h"

#define RECORD_MAX 16384

static const struct {
        const char *key;
        size_t offset;
} texts[] = {
        { "registrationId", offsetof(Record, registration_id) },
        { "provisioningDigest", offsetof(Record, digest) },
        { "previousProvisioningDigest", offsetof(Record, previous_digest) },
        { "payloadIgnoredDigest", offsetof(Record, ignored_digest) },
        { "hub", offsetof(Record, hub) },
        { "deviceId", offsetof(Record, device_id) },
        { "previousHub", offsetof(Record, previous_hub) },
        { "previousDeviceId", offsetof(Record, previous_device_id) },
        { "keyName", offsetof(Record, key_name) },
        { "pending", offsetof(Record, pending) },
        { "pendingProof", offsetof(Record, pending_proof) },
        { "started", offsetof(Record, started) },
};

static char **text_of(const Record *record, size_t i) {
        return (char **) (void *) ((char *) record + texts[i].offset);
}

static int read_members(Record *record, json_object *json) {
        json_object *value;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                if (!json_object_object_get_ex(json, texts[i].key, &value) || !value)
                        continue;
                if (!json_object_is_type(value, json_type_string))
                        return -EBADMSG;
                r = string_replace(text_of(record, i), json_object_get_string(value));
                if (r < 0)
                        return r;
        }
        record->handed_off =
                json_object_object_get_ex(json, "handedOff", &value) && json_object_get_boolean(value);
        record->applying =
                json_object_object_get_ex(json, "applying", &value) && json_object_get_boolean(value);
        return 0;
}

int handoff_record_load(Record *ret, const char *root, Failure *reterr) {
        CLEANUP(handoff_record_deinit) Record record = {};
        CLEANUP(freep) char *path = NULL, *text = NULL;
        json_object *json = NULL;
        int r;

        r = path_under(&path, root, PATH_RECORD);
        if (r >= 0)
                r = read_file(path, RECORD_MAX, &text, NULL);
        if (r == -ENOENT) {
                *ret = (Record){};
                return 0;
        }
        if (r >= 0) {
                json = json_tokener_parse(text);
                r = json_object_is_type(json, json_type_object) ? read_members(&record, json) : -EBADMSG;
                (void) json_object_put(json);
        }
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r,
                                         "'%s' can't be read; remove it and run 'dps-provision reprovision'",
                                         path ? path : PATH_RECORD);
        *ret = record;
        record = (Record){};
        return 0;
}

int handoff_record_save(const Record *record, const char *root, Failure *reterr) {
        CLEANUP(freep) char *path = NULL;
        json_object *json = json_object_new_object();
        const char *text;
        int r = json ? 0 : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(texts); i++)
                if (*text_of(record, i))
                        r = dps_json_add(json, texts[i].key, json_object_new_string(*text_of(record, i)));
        if (r >= 0)
                r = dps_json_add(json, "handedOff", json_object_new_boolean(record->handed_off));
        if (r >= 0 && record->applying)
                r = dps_json_add(json, "applying", json_object_new_boolean(true));
        if (r >= 0)
                r = path_under(&path, root, PATH_RECORD);
        if (r >= 0) {
                text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PRETTY |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE);
                r = text ? store_write(path, text, strlen(text), 0600) : -ENOMEM;
        }
        (void) json_object_put(json);
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be written",
                                         path ? path : PATH_RECORD)
                     : 0;
}

void handoff_record_deinit(Record *record) {
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                free(*text_of(record, i));
        *record = (Record){};
}
