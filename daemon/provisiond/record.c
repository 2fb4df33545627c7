#include "record.h"

#include <errno.h>
#include <stdlib.h>

#include "dps-json.h"
#include "store.h"

#define RECORD_MAX_SIZE ((size_t) 256 * 1024)
#define RECORD_VERSION  1

typedef struct RecordString {
        const char *key;
        size_t offset;
} RecordString;

#define STRING(key, member)                                                                                 \
        { key, offsetof(Record, member) }

static const RecordString strings[] = {
        STRING("idScope", id_scope),
        STRING("globalEndpoint", endpoint),
        STRING("registrationId", registration_id),
        STRING("endorsementKeyHash", ek_hash),
        STRING("hub", hub),
        STRING("deviceId", device_id),
        STRING("substatus", substatus),
        STRING("payload", payload),
        STRING("provenHub", proven_hub),
        STRING("provenDeviceId", proven_device_id),
        STRING("target", target),
        STRING("identity", identity),
        STRING("edgeFlagMissing", edge_flag_missing),
        STRING("adoptionRefused", adoption_refused),
        STRING("dataMoved", data_moved),
};

static const RecordString blobs[] = {
        STRING("keyPrivate", key_private),
        STRING("keyPublic", key_public),
        STRING("keyName", key_name),
};

static char **string_of(Record *record, const RecordString *s) {
        return (void *) ((char *) record + s->offset);
}

static Bytes *blob_of(Record *record, const RecordString *s) {
        return (void *) ((char *) record + s->offset);
}

/* The numbers, by name, as the file has them. Retry's counters are small: 64 bits hold all. */
typedef struct RecordNumbers {
        uint64_t state_changed, key_changed, last_success, handle, attempts, transients, throttles,
                operators, operator_waited, throttled, next_attempt, server_time, reset, reset_provisioning;
} RecordNumbers;

static const RecordString numbers[] = {
        { "stateChangedUSec", offsetof(RecordNumbers, state_changed) },
        { "keyChanged", offsetof(RecordNumbers, key_changed) },
        { "lastSuccessUSec", offsetof(RecordNumbers, last_success) },
        { "hubKeyHandle", offsetof(RecordNumbers, handle) },
        { "attempts", offsetof(RecordNumbers, attempts) },
        { "transientFailures", offsetof(RecordNumbers, transients) },
        { "throttledFailures", offsetof(RecordNumbers, throttles) },
        { "operatorFailures", offsetof(RecordNumbers, operators) },
        { "operatorWaitedUSec", offsetof(RecordNumbers, operator_waited) },
        { "throttled", offsetof(RecordNumbers, throttled) },
        { "nextAttemptUSec", offsetof(RecordNumbers, next_attempt) },
        { "serverTime", offsetof(RecordNumbers, server_time) },
        { "reset", offsetof(RecordNumbers, reset) },
        { "resetProvisioning", offsetof(RecordNumbers, reset_provisioning) },
};

static uint64_t *number_of(RecordNumbers *n, const RecordString *s) {
        return (void *) ((char *) n + s->offset);
}

static void numbers_from_record(RecordNumbers *n, const Record *r) {
        *n = (RecordNumbers){ .state_changed = r->state_changed_usec,
                              .key_changed = r->key_changed,
                              .last_success = r->last_success_usec,
                              .handle = r->hub_key_handle,
                              .attempts = r->retry.attempts,
                              .transients = r->retry.transient_count,
                              .throttles = r->retry.throttled_count,
                              .operators = r->retry.operator_count,
                              .operator_waited = r->retry.operator_waited_usec,
                              .throttled = r->throttled,
                              .next_attempt = r->next_attempt_usec,
                              .server_time = r->server_time,
                              .reset = r->reset,
                              .reset_provisioning = r->reset_provisioning };
}

static void numbers_to_record(Record *r, const RecordNumbers *n) {
        r->state_changed_usec = n->state_changed;
        r->key_changed = n->key_changed;
        r->last_success_usec = n->last_success;
        r->hub_key_handle = (uint32_t) n->handle;
        r->retry = (Retry){ .attempts = (uint32_t) n->attempts,
                            .transient_count = (uint32_t) n->transients,
                            .throttled_count = (uint32_t) n->throttles,
                            .operator_count = (uint32_t) n->operators,
                            .operator_waited_usec = n->operator_waited };
        r->throttled = n->throttled;
        r->next_attempt_usec = n->next_attempt;
        r->server_time = n->server_time;
        r->reset = n->reset;
        r->reset_provisioning = n->reset_provisioning;
}

static int read_strings(Record *record, json_object *root) {
        json_object *value;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(strings); i++)
                if (json_object_object_get_ex(root, strings[i].key, &value) &&
                    json_object_is_type(value, json_type_string))
                        r = string_replace(string_of(record, &strings[i]), json_object_get_string(value));
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(blobs); i++)
                if (json_object_object_get_ex(root, blobs[i].key, &value) &&
                    json_object_is_type(value, json_type_string))
                        r = base64_decode(blob_of(record, &blobs[i]), json_object_get_string(value),
                                          RECORD_MAX_SIZE);
        return r;
}

static int read_record(Record *record, json_object *root) {
        RecordNumbers n = {};
        json_object *value;

        if (!json_object_is_type(root, json_type_object) ||
            !json_object_object_get_ex(root, "version", &value) ||
            json_object_get_int(value) != RECORD_VERSION)
                return -EBADMSG;
        if (!json_object_object_get_ex(root, "state", &value) ||
            !json_object_is_type(value, json_type_string))
                return -EBADMSG;
        record->state = state_from_string(json_object_get_string(value));
        if (record->state == _STATE_INVALID)
                return -EBADMSG;
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                if (json_object_object_get_ex(root, numbers[i].key, &value))
                        *number_of(&n, &numbers[i]) = json_object_get_uint64(value);
        numbers_to_record(record, &n);
        return read_strings(record, root);
}

/* What is claimed must be there: a state with an assignment has one. */
static bool consistent(const Record *r) {
        if (!r->key_private.size != !r->key_public.size)
                return false;
        if (r->state == STATE_ASSIGNED || r->state == STATE_HANDED_OFF)
                return r->id_scope && r->endpoint && r->registration_id && r->hub && r->device_id;
        return true;
}

int record_load(Record *ret, const char *path, Failure *reterr) {
        CLEANUP(record_deinit) Record record = {};
        CLEANUP(freep) char *text = NULL;
        json_object *root;
        int r;

        r = read_file(path, RECORD_MAX_SIZE, &text, NULL);
        if (r == -ENOENT)
                return r;
        if (r < 0) {
                (void) failure_set_errno(reterr, FAILURE_STORAGE, r, "The state in '%s' can't be read",
                                         path);
                return r;
        }
        root = json_tokener_parse(text);
        r = root ? read_record(&record, root) : -EBADMSG;
        json_object_put(root);
        if (r >= 0 && !consistent(&record))
                r = -EBADMSG;
        if (r < 0) {
                (void) failure_set_errno(reterr, FAILURE_STORAGE, r, "The state in '%s' is damaged", path);
                return r;
        }
        *ret = record;
        record = (Record){};
        return 0;
}

static int fill(json_object *root, const Record *record) {
        Record *writable = (Record *) record; /* the accessors serve both ways */
        RecordNumbers n;
        int r;

        numbers_from_record(&n, record);
        r = dps_json_add(root, "version", json_object_new_int(RECORD_VERSION));
        if (r >= 0)
                r = dps_json_add(root, "state", json_object_new_string(state_to_string(record->state)));
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(strings); i++)
                if (*string_of(writable, &strings[i]))
                        r = dps_json_add(root, strings[i].key,
                                         json_object_new_string(*string_of(writable, &strings[i])));
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(blobs); i++) {
                const Bytes *b = blob_of(writable, &blobs[i]);
                CLEANUP(freep) char *text = NULL;

                if (b->size == 0)
                        continue;
                r = base64_encode(&text, b->data, b->size);
                if (r >= 0)
                        r = dps_json_add(root, blobs[i].key, json_object_new_string(text));
        }
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(numbers); i++)
                r = dps_json_add(root, numbers[i].key, json_object_new_uint64(*number_of(&n, &numbers[i])));
        return r;
}

int record_save(const Record *record, const char *path, char **last, Failure *reterr) {
        json_object *root = json_object_new_object();
        const char *text = NULL;
        int r = root ? fill(root, record) : -ENOMEM;

        if (r >= 0) {
                text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE);
                if (!text)
                        r = -ENOMEM;
        }
        if (r >= 0 && (!*last || !streq(*last, text))) {
                free(TAKE(*last)); /* a write that fails may have come as far as the rename */
                r = store_write(path, text, strlen(text), 0600);
                if (r >= 0)
                        r = string_replace(last, text);
        }
        json_object_put(root);
        if (r < 0)
                (void) failure_set_errno(reterr, FAILURE_STORAGE, r, "The state can't be written to '%s'",
                                         path);
        return r;
}

void record_forget_assignment(Record *record) {
        for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
                (void) string_replace(string_of(record, &strings[i]), NULL);
        for (size_t i = 0; i < ARRAY_SIZE(blobs); i++)
                bytes_deinit(blob_of(record, &blobs[i]));
        record->key_changed = false;
}

void record_deinit(Record *record) {
        record_forget_assignment(record);
        *record = (Record){};
}
