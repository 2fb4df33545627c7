#include "record.h"

#include <errno.h>
#include <stdlib.h>

#include "dps-json.h"
#include "dps.h"
#include "store.h"

#define RECORD_MAX_SIZE ((size_t) 256 * 1024)
#define RECORD_VERSION  2

/* The numbers, by name, as the file has them. Retry's counters are small: 64 bits hold all. */
typedef struct RecordNumber {
        const char *key;
        size_t offset;
} RecordNumber;

typedef struct Numbers {
        uint64_t state_changed, last_success, attempts, transients, throttled_waited, operators,
                operator_waited, throttled, next_attempt, throttled_until, throttled_rest, server_time,
                reset, reset_provisioning, forced, budget_spent, budget_since, budget_by_date;
} Numbers;

static const RecordNumber numbers[] = {
        { "stateChangedUSec", offsetof(Numbers, state_changed) },
        { "lastSuccessUSec", offsetof(Numbers, last_success) },
        { "attempts", offsetof(Numbers, attempts) },
        { "transientFailures", offsetof(Numbers, transients) },
        { "throttledWaitedUSec", offsetof(Numbers, throttled_waited) },
        { "operatorFailures", offsetof(Numbers, operators) },
        { "operatorWaitedUSec", offsetof(Numbers, operator_waited) },
        { "throttledUntilUSec", offsetof(Numbers, throttled_until) },
        { "throttledRestUSec", offsetof(Numbers, throttled_rest) },
        { "registrationsSpent", offsetof(Numbers, budget_spent) },
        { "registrationsSinceUSec", offsetof(Numbers, budget_since) },
        { "registrationsByDate", offsetof(Numbers, budget_by_date) },
        { "serverTime", offsetof(Numbers, server_time) },
        { "reset", offsetof(Numbers, reset) },
        { "resetProvisioning", offsetof(Numbers, reset_provisioning) },
        { "forced", offsetof(Numbers, forced) },
};

/* Members that older versions wrote; read, but never written. */
static const RecordNumber older_numbers[] = {
        { "throttled", offsetof(Numbers, throttled) },
        { "nextAttemptUSec", offsetof(Numbers, next_attempt) },
};

static uint64_t *number_of(Numbers *n, const RecordNumber *s) {
        return (void *) ((char *) n + s->offset);
}

static void numbers_from_record(Numbers *n, const Record *r) {
        *n = (Numbers){ .state_changed = r->state_changed_usec,
                        .last_success = r->last_success_usec,
                        .attempts = r->retry.attempts,
                        .transients = r->retry.transient_count,
                        .throttled_waited = r->retry.throttled_waited_usec,
                        .operators = r->retry.operator_count,
                        .operator_waited = r->retry.operator_waited_usec,
                        .throttled_until = r->throttled_until_usec,
                        .throttled_rest = r->throttled_rest_usec,
                        .budget_spent = r->budget.spent,
                        .budget_since = r->budget.since_usec,
                        .budget_by_date = r->budget.by_date,
                        .server_time = r->server_time,
                        .reset = r->reset,
                        .reset_provisioning = r->reset_provisioning,
                        .forced = r->forced };
}

static void numbers_to_record(Record *r, const Numbers *n) {
        r->state_changed_usec = n->state_changed;
        r->last_success_usec = n->last_success;
        r->retry = (Retry){ .attempts = (uint32_t) n->attempts,
                            .transient_count = (uint32_t) n->transients,
                            .throttled_waited_usec = n->throttled_waited,
                            .operator_count = (uint32_t) n->operators,
                            .operator_waited_usec = n->operator_waited };
        r->throttled_until_usec = n->throttled ? n->next_attempt : n->throttled_until;
        r->throttled_rest_usec = n->throttled ? DPS_RETRY_AFTER_MAX_USEC : n->throttled_rest;
        r->budget = (Budget){ .spent = (uint32_t) n->budget_spent,
                              .since_usec = n->budget_since,
                              .by_date = n->budget_by_date };
        r->server_time = n->server_time;
        r->reset = n->reset;
        r->reset_provisioning = n->reset_provisioning;
        r->forced = n->forced;
}

/* --- version 1 --- */

/* Version 1 kept the old key's name until the new key was persistent. */
static int keep_older_name(Record *record) {
        CLEANUP(bytes_deinit) Bytes wrapped = {};
        HubKey *key = &record->intended.key;
        int r;

        r = assignment_wrapped_name(&record->intended, &wrapped);
        if (r == -ENOMEM)
                return r;
        if (bytes_equal(&key->name, &wrapped))
                return 0;
        record->left_key_name = key->name;
        key->name = (Bytes){};
        return 0;
}

/* What the hub had accepted before, and its key, are older than the assignment. */
static int reconstruct_snapshot(Record *record) {
        Snapshot then = { .taken = true,
                          .key_name = record->left_key_name,
                          .hub = record->confirmed.hub,
                          .device_id = record->confirmed.device_id };

        if (!record_has_confirmed(record) || record->confirmed.key.name.size == 0)
                return 0;
        return snapshot_copy(&record->intended.snapshot, &then);
}

/* Version 1 has one assignment at its top level, beside the State. */
static int convert_assignment(Record *record, json_object *root, Assignment *a) {
        json_object *hub, *device;
        int r;

        r = assignment_from_json(a, root);
        if (r < 0)
                return r;
        a->hand_over = a->key.private_area.size > 0        ? HAND_OVER_ADOPT
                       : record->state == STATE_HANDED_OFF ? HAND_OVER_KEEP
                                                           : HAND_OVER_REGISTER;
        if (record->state == STATE_HANDED_OFF) {
                a->snapshot.taken = true; /* a key or a device that differs from ours is newer */
                record_intend(record, a);
                return record_confirm(record);
        }
        if (json_object_object_get_ex(root, "provenHub", &hub) &&
            json_object_object_get_ex(root, "provenDeviceId", &device)) {
                r = assignment_copy(&record->confirmed, a);
                if (r >= 0)
                        r = string_replace(&record->confirmed.hub, json_object_get_string(hub));
                if (r >= 0)
                        r = string_replace(&record->confirmed.device_id, json_object_get_string(device));
                if (r < 0)
                        return r;
                bytes_deinit(&record->confirmed.key.private_area);
                bytes_deinit(&record->confirmed.key.public_area);
                record->confirmed.generation = 1;
        }
        record_intend(record, a);
        if (record->state != STATE_ASSIGNED)
                return record_discard(record);
        r = keep_older_name(record);
        return r < 0 ? r : reconstruct_snapshot(record);
}

static int read_version_1(Record *record, json_object *root) {
        CLEANUP(assignment_deinit) Assignment a = {};

        if (!json_object_object_get_ex(root, "hub", NULL))
                return 0;
        return convert_assignment(record, root, &a);
}

/* --- the file --- */

static int read_assignment(Assignment *ret, json_object *root, const char *key) {
        json_object *value;

        return json_object_object_get_ex(root, key, &value) ? assignment_from_json(ret, value) : 0;
}

static int read_name(Bytes *ret, json_object *root, const char *key) {
        json_object *value;

        if (!json_object_object_get_ex(root, key, &value))
                return 0;
        return json_object_is_type(value, json_type_string)
                       ? base64_decode(ret, json_object_get_string(value), KEY_NAME_MAX)
                       : -EBADMSG;
}

static int read_text(char **ret, json_object *root, const char *key) {
        json_object *value;

        if (!json_object_object_get_ex(root, key, &value))
                return 0;
        return json_object_is_type(value, json_type_string)
                       ? string_replace(ret, json_object_get_string(value))
                       : -EBADMSG;
}

static int read_version_2(Record *record, json_object *root) {
        int r;

        r = read_assignment(&record->intended, root, "intended");
        if (r >= 0)
                r = read_assignment(&record->confirmed, root, "confirmed");
        if (r >= 0)
                r = read_name(&record->left_key_name, root, "leftKeyName");
        if (r >= 0)
                r = read_name(&record->left_wrapped_name, root, "leftWrappedName");
        if (r >= 0)
                r = read_text(&record->former_id, root, "formerRegistrationId");
        return r < 0 ? r : read_text(&record->former_ek_hash, root, "formerEndorsementKeyHash");
}

static void read_numbers(Numbers *n, json_object *root, const RecordNumber *list, size_t count) {
        json_object *value;

        for (size_t i = 0; i < count; i++)
                if (json_object_object_get_ex(root, list[i].key, &value))
                        *number_of(n, &list[i]) = json_object_get_uint64(value);
}

static int read_record(Record *record, json_object *root) {
        Numbers n = {};
        json_object *value;
        int version;

        if (!json_object_is_type(root, json_type_object) ||
            !json_object_object_get_ex(root, "version", &value))
                return -EBADMSG;
        version = json_object_get_int(value);
        if (!json_object_object_get_ex(root, "state", &value) ||
            !json_object_is_type(value, json_type_string))
                return -EBADMSG;
        record->state = state_from_string(json_object_get_string(value));
        if (record->state == _STATE_INVALID)
                return -EBADMSG;
        read_numbers(&n, root, numbers, ARRAY_SIZE(numbers));
        read_numbers(&n, root, older_numbers, ARRAY_SIZE(older_numbers));
        numbers_to_record(record, &n);
        return version == RECORD_VERSION ? read_version_2(record, root)
               : version == 1            ? read_version_1(record, root)
                                         : -EBADMSG;
}

/* The State and the assignment are written together. */
static bool is_consistent(const Record *r) {
        return record_has_intent(r) || (r->state != STATE_ASSIGNED && r->state != STATE_HANDED_OFF);
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
                (void) failure_set_errno(reterr, FAILURE_STORAGE, r, "Failed to read the state in '%s'",
                                         path);
                return r;
        }
        root = json_tokener_parse(text);
        r = root ? read_record(&record, root) : -EBADMSG;
        json_object_put(root);
        if (r >= 0 && !is_consistent(&record))
                r = -EBADMSG;
        if (r < 0) {
                (void) failure_set_errno(reterr, FAILURE_STORAGE, r, "The state in '%s' is damaged", path);
                return r;
        }
        *ret = record;
        record = (Record){};
        return 0;
}

static int add_text(json_object *root, const char *key, const char *text) {
        return text ? dps_json_add(root, key, json_object_new_string(text)) : 0;
}

static int add_assignment(json_object *root, const char *key, const Assignment *a) {
        json_object *value;
        int r;

        if (a->generation == 0)
                return 0;
        r = assignment_to_json(a, &value);
        return r < 0 ? r : dps_json_add(root, key, value);
}

static int add_name(json_object *root, const char *key, const Bytes *name) {
        CLEANUP(freep) char *text = NULL;
        int r;

        if (name->size == 0)
                return 0;
        r = base64_encode(&text, name->data, name->size);
        return r < 0 ? r : add_text(root, key, text);
}

static int record_to_json(json_object *root, const Record *record) {
        Numbers n;
        int r;

        numbers_from_record(&n, record);
        r = dps_json_add(root, "version", json_object_new_int(RECORD_VERSION));
        if (r >= 0)
                r = add_text(root, "state", state_to_string(record->state));
        if (r >= 0)
                r = add_assignment(root, "intended", &record->intended);
        if (r >= 0)
                r = add_assignment(root, "confirmed", &record->confirmed);
        if (r >= 0)
                r = add_name(root, "leftKeyName", &record->left_key_name);
        if (r >= 0)
                r = add_name(root, "leftWrappedName", &record->left_wrapped_name);
        if (r >= 0)
                r = add_text(root, "formerRegistrationId", record->former_id);
        if (r >= 0)
                r = add_text(root, "formerEndorsementKeyHash", record->former_ek_hash);
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(numbers); i++)
                r = dps_json_add(root, numbers[i].key, json_object_new_uint64(*number_of(&n, &numbers[i])));
        return r;
}

int record_save(const Record *record, const char *path, char **last, Failure *reterr) {
        json_object *root = json_object_new_object();
        const char *text = NULL;
        int r = root ? record_to_json(root, record) : -ENOMEM;

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
                (void) failure_set_errno(reterr, FAILURE_STORAGE, r, "Failed to write the state to '%s'",
                                         path);
        return r;
}

void record_deinit(Record *record) {
        record_forget_assignments(record);
        *record = (Record){};
}

/* --- the assignments --- */

bool record_has_intent(const Record *record) {
        return record->intended.generation > 0;
}

bool record_has_confirmed(const Record *record) {
        return record->confirmed.generation > 0;
}

bool record_is_confirmed(const Record *record) {
        return record_has_intent(record) && record->intended.generation == record->confirmed.generation;
}

const Assignment *record_assignment(const Record *record) {
        return record_has_intent(record) ? &record->intended : &record->confirmed;
}

static uint64_t next_generation(const Record *record) {
        uint64_t a = record->intended.generation, b = record->confirmed.generation;

        return (a > b ? a : b) + 1;
}

void record_intend(Record *record, Assignment *assignment) {
        uint64_t generation = next_generation(record);

        assignment_deinit(&record->intended);
        record->intended = *assignment;
        record->intended.generation = generation;
        record->forced = false;
        *assignment = (Assignment){};
}

void record_forget_former(Record *record) {
        free(TAKE(record->former_id));
        free(TAKE(record->former_ek_hash));
}

static void forget_left_keys(Record *record) {
        bytes_deinit(&record->left_key_name);
        bytes_deinit(&record->left_wrapped_name);
}

int record_confirm(Record *record) {
        Assignment copy;
        int r;

        record->intended.key.changed = record->intended.forced = false;
        r = assignment_copy(&copy, &record->intended);
        if (r < 0)
                return r;
        assignment_deinit(&record->confirmed);
        record->confirmed = copy;
        forget_left_keys(record);
        record_forget_former(record);
        return 0;
}

void record_reopen(Record *record) {
        record->intended.generation = next_generation(record);
}

int record_discard(Record *record) {
        CLEANUP(bytes_deinit) Bytes wrapped = {};
        Bytes *name = &record->intended.key.name;
        int r;

        r = assignment_wrapped_name(&record->intended, &wrapped);
        if (r == -ENOMEM)
                return r;
        if (name->size > 0) {
                bytes_deinit(&record->left_key_name);
                record->left_key_name = *name;
                *name = (Bytes){};
        } else if (r >= 0) {
                bytes_deinit(&record->left_wrapped_name);
                record->left_wrapped_name = wrapped;
                wrapped = (Bytes){};
        }
        assignment_deinit(&record->intended);
        return 0;
}

int record_forget_device(Record *record) {
        const Target *target = &record_assignment(record)->target;
        Bytes *name = &record->confirmed.key.name;
        int r;

        r = string_replace(&record->former_id, target->registration_id);
        if (r >= 0)
                r = string_replace(&record->former_ek_hash, target->ek_hash);
        if (r >= 0)
                r = record_discard(record);
        if (r < 0)
                return r;
        if (record->left_key_name.size == 0) {
                record->left_key_name = *name;
                *name = (Bytes){};
        }
        assignment_deinit(&record->confirmed);
        return 0;
}

void record_forget_assignments(Record *record) {
        assignment_deinit(&record->intended);
        assignment_deinit(&record->confirmed);
        forget_left_keys(record);
        record_forget_former(record);
        record->forced = false;
}

static bool is_key_of(const Assignment *a, const Bytes *name) {
        CLEANUP(bytes_deinit) Bytes wrapped = {};

        return bytes_equal(name, &a->key.name) ||
               (assignment_wrapped_name(a, &wrapped) >= 0 && bytes_equal(name, &wrapped));
}

bool record_is_our_key(const Record *record, const Bytes *name) {
        return name->size > 0 &&
               (is_key_of(&record->intended, name) || is_key_of(&record->confirmed, name) ||
                bytes_equal(name, &record->left_key_name) || bytes_equal(name, &record->left_wrapped_name));
}

void record_facts(const Record *record, Facts *ret) {
        ret->reset = record->reset;
        ret->resting = record->resting;
        ret->intended = record_has_intent(record);
        ret->confirmed = record_is_confirmed(record);
        ret->hand_over = record->intended.hand_over;
        ret->key = assignment_key_state(&record->intended);
}
