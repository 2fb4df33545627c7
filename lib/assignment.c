#include "assignment.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include <systemd/sd-bus.h>

#include "bus.h"
#include "dps-json.h"
#include "url.h"

#define BLOB_MAX ((size_t) 8192)

typedef enum MemberType {
        MEMBER_TEXT,   /* char * */
        MEMBER_BLOB,   /* Bytes */
        MEMBER_FLAG,   /* bool */
        MEMBER_NUMBER, /* uint32_t */
        MEMBER_SERIAL, /* uint64_t */
        MEMBER_HAND_OVER,
} MemberType;

typedef struct Member {
        const char *key;
        size_t offset;
        MemberType type;
        bool on_bus;     /* passed to the hand-off helper */
        size_t size_max; /* of a MEMBER_BLOB in JSON */
} Member;

#define M(key, type, member, on_bus)                                                                        \
        { key, offsetof(Assignment, member), MEMBER_##type, on_bus, BLOB_MAX }
#define NAME(key, member, on_bus)                                                                           \
        { key, offsetof(Assignment, member), MEMBER_BLOB, on_bus, KEY_NAME_MAX }

/* Version 1 of the daemon's state file has most of these at its top level. */
static const Member members[] = {
        M("generation", SERIAL, generation, false),
        M("idScope", TEXT, target.id_scope, true),
        M("globalEndpoint", TEXT, target.endpoint, true),
        M("registrationId", TEXT, target.registration_id, true),
        M("endorsementKeyHash", TEXT, target.ek_hash, false),
        M("hub", TEXT, hub, true),
        M("deviceId", TEXT, device_id, true),
        M("substatus", TEXT, substatus, false),
        M("payload", TEXT, payload, false),
        M("keyReceived", BLOB, key.received, false),
        M("keyPrivate", BLOB, key.private_area, false),
        M("keyPublic", BLOB, key.public_area, false),
        NAME("keyName", key.name, true),
        M("keyChanged", FLAG, key.changed, true),
        M("handOver", HAND_OVER, hand_over, true),
        M("forced", FLAG, forced, true),
        M("snapshot", FLAG, snapshot.taken, true),
        NAME("snapshotKeyName", snapshot.key_name, false),
        M("snapshotHub", TEXT, snapshot.hub, true),
        M("snapshotDeviceId", TEXT, snapshot.device_id, true),
        M("snapshotProof", TEXT, snapshot.proof, true),
        M("target", TEXT, handed_to, false),
        M("identity", TEXT, identity, false),
        M("hubKeyHandle", NUMBER, hub_key_handle, false),
        M("edgeFlagMissing", TEXT, edge_flag_missing, false),
        M("adoptionRefused", TEXT, adoption_refused, false),
        M("dataMoved", TEXT, data_moved, false),
};

static const char *const hand_overs[] = {
        [HAND_OVER_ADOPT] = "adopt",
        [HAND_OVER_REGISTER] = "register",
        [HAND_OVER_KEEP] = "keep",
};
static_assert(ARRAY_SIZE(hand_overs) == _HAND_OVER_MAX, "every way to hand over has a name");

const char *hand_over_to_string(HandOver hand_over) {
        assert(hand_over >= 0 && hand_over < _HAND_OVER_MAX);
        return hand_overs[hand_over];
}

static int hand_over_from_string(HandOver *ret, const char *name) {
        for (int i = 0; i < _HAND_OVER_MAX; i++)
                if (streq(hand_overs[i], name)) {
                        *ret = (HandOver) i;
                        return 0;
                }
        return -EBADMSG;
}

static void *member_of(const Assignment *a, const Member *m) {
        return (char *) a + m->offset;
}

static char **text_of(const Assignment *a, const Member *m) {
        return member_of(a, m);
}

/* --- the target --- */

/* Earlier versions stored the endpoint as it was configured. */
static bool endpoint_equal(const char *a, const char *b) {
        return a && b ? url_same_endpoint(a, b) : a == b;
}

bool target_equal(const Target *a, const Target *b) {
        return str_equal(a->id_scope, b->id_scope) && endpoint_equal(a->endpoint, b->endpoint) &&
               str_equal(a->registration_id, b->registration_id) && str_equal(a->ek_hash, b->ek_hash);
}

static bool both_differ(const char *a, const char *b) {
        return a && b && !streq(a, b);
}

bool target_differs(const Target *a, const Target *b) {
        return both_differ(a->id_scope, b->id_scope) ||
               (a->endpoint && b->endpoint && !url_same_endpoint(a->endpoint, b->endpoint)) ||
               both_differ(a->registration_id, b->registration_id) || both_differ(a->ek_hash, b->ek_hash);
}

int target_copy(Target *ret, const Target *target) {
        CLEANUP(target_deinit) Target copy = {};
        int r;

        r = string_replace(&copy.id_scope, target->id_scope);
        if (r >= 0)
                r = string_replace(&copy.endpoint, target->endpoint);
        if (r >= 0)
                r = string_replace(&copy.registration_id, target->registration_id);
        if (r >= 0)
                r = string_replace(&copy.ek_hash, target->ek_hash);
        if (r < 0)
                return r;
        *ret = copy;
        copy = (Target){};
        return 0;
}

void target_deinit(Target *target) {
        free(target->id_scope);
        free(target->endpoint);
        free(target->registration_id);
        free(target->ek_hash);
        *target = (Target){};
}

/* --- the value --- */

int snapshot_copy(Snapshot *ret, const Snapshot *snapshot) {
        CLEANUP(snapshot_deinit) Snapshot s = { .taken = snapshot->taken };
        int r;

        r = bytes_copy(&s.key_name, snapshot->key_name.data, snapshot->key_name.size);
        if (r >= 0)
                r = string_replace(&s.hub, snapshot->hub);
        if (r >= 0)
                r = string_replace(&s.device_id, snapshot->device_id);
        if (r >= 0)
                r = string_replace(&s.proof, snapshot->proof);
        if (r < 0)
                return r;
        snapshot_deinit(ret);
        *ret = s;
        s = (Snapshot){};
        return 0;
}

void snapshot_deinit(Snapshot *s) {
        bytes_deinit(&s->key_name);
        free(s->hub);
        free(s->device_id);
        free(s->proof);
        *s = (Snapshot){};
}

static int copy_member(Assignment *copy, const Assignment *a, const Member *m) {
        const Bytes *bytes;

        switch (m->type) {
        case MEMBER_TEXT:
                return string_replace(text_of(copy, m), *text_of(a, m));
        case MEMBER_BLOB:
                bytes = member_of(a, m);
                return bytes_copy(member_of(copy, m), bytes->data, bytes->size);
        case MEMBER_FLAG:
                *(bool *) member_of(copy, m) = *(const bool *) member_of(a, m);
                return 0;
        case MEMBER_NUMBER:
                *(uint32_t *) member_of(copy, m) = *(const uint32_t *) member_of(a, m);
                return 0;
        case MEMBER_SERIAL:
                *(uint64_t *) member_of(copy, m) = *(const uint64_t *) member_of(a, m);
                return 0;
        case MEMBER_HAND_OVER:
                *(HandOver *) member_of(copy, m) = *(const HandOver *) member_of(a, m);
                return 0;
        }
        assert(false);
        return -EINVAL;
}

int assignment_copy(Assignment *ret, const Assignment *a) {
        CLEANUP(assignment_deinit) Assignment copy = {};
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
                r = copy_member(&copy, a, &members[i]);
                if (r < 0)
                        return r;
        }
        *ret = copy;
        copy = (Assignment){};
        return 0;
}

static bool member_equal(const Assignment *a, const Assignment *b, const Member *m) {
        switch (m->type) {
        case MEMBER_TEXT:
                return str_equal(*text_of(a, m), *text_of(b, m));
        case MEMBER_BLOB:
                return bytes_equal(member_of(a, m), member_of(b, m));
        case MEMBER_FLAG:
                return *(const bool *) member_of(a, m) == *(const bool *) member_of(b, m);
        case MEMBER_NUMBER:
                return *(const uint32_t *) member_of(a, m) == *(const uint32_t *) member_of(b, m);
        case MEMBER_SERIAL:
                return true; /* a place in one record's history, not a part of the value */
        case MEMBER_HAND_OVER:
                return *(const HandOver *) member_of(a, m) == *(const HandOver *) member_of(b, m);
        }
        assert(false);
        return false;
}

bool assignment_equal(const Assignment *a, const Assignment *b) {
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (!member_equal(a, b, &members[i]))
                        return false;
        return true;
}

bool assignment_same_device(const Assignment *a, const char *hub, const char *device_id) {
        return a->hub && a->device_id && hub && device_id && strcasecmp(a->hub, hub) == 0 &&
               streq(a->device_id, device_id);
}

void assignment_deinit(Assignment *a) {
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (members[i].type == MEMBER_TEXT)
                        free(*text_of(a, &members[i]));
                else if (members[i].type == MEMBER_BLOB)
                        bytes_deinit(member_of(a, &members[i]));
        *a = (Assignment){};
}

/* --- JSON --- */

static int blob_to_json(const Bytes *bytes, json_object **ret) {
        CLEANUP(secret_freep) char *text = NULL;
        int r;

        r = base64_encode(&text, bytes->data, bytes->size);
        if (r < 0)
                return r;
        *ret = json_object_new_string(text);
        return 0;
}

/* *ret is NULL when the member is absent. */
static int member_to_json(const Assignment *a, const Member *m, json_object **ret) {
        const char *text;

        *ret = NULL;
        switch (m->type) {
        case MEMBER_TEXT:
                text = *text_of(a, m);
                *ret = text ? json_object_new_string(text) : NULL;
                return text && !*ret ? -ENOMEM : 0;
        case MEMBER_BLOB:
                return ((const Bytes *) member_of(a, m))->size > 0 ? blob_to_json(member_of(a, m), ret) : 0;
        case MEMBER_FLAG:
                *ret = json_object_new_boolean(*(const bool *) member_of(a, m));
                return *ret ? 0 : -ENOMEM;
        case MEMBER_NUMBER:
                *ret = json_object_new_int64(*(const uint32_t *) member_of(a, m));
                return *ret ? 0 : -ENOMEM;
        case MEMBER_SERIAL:
                *ret = json_object_new_uint64(*(const uint64_t *) member_of(a, m));
                return *ret ? 0 : -ENOMEM;
        case MEMBER_HAND_OVER:
                *ret = json_object_new_string(hand_over_to_string(a->hand_over));
                return *ret ? 0 : -ENOMEM;
        }
        assert(false);
        return -EINVAL;
}

int assignment_to_json(const Assignment *a, json_object **ret) {
        json_object *object = json_object_new_object(), *value;
        int r = object ? 0 : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(members); i++) {
                r = member_to_json(a, &members[i], &value);
                if (r >= 0 && value)
                        r = dps_json_add(object, members[i].key, value);
        }
        if (r < 0) {
                json_object_put(object);
                return r;
        }
        *ret = object;
        return 0;
}

static int member_from_json(Assignment *a, const Member *m, json_object *value) {
        bool is_text = json_object_is_type(value, json_type_string),
             is_number = json_object_is_type(value, json_type_int);

        switch (m->type) {
        case MEMBER_TEXT:
                return is_text ? string_replace(text_of(a, m), json_object_get_string(value)) : -EBADMSG;
        case MEMBER_BLOB:
                return is_text ? base64_decode(member_of(a, m), json_object_get_string(value), m->size_max)
                               : -EBADMSG;
        case MEMBER_FLAG: /* version 1 wrote 0 and 1 */
                if (!is_number && !json_object_is_type(value, json_type_boolean))
                        return -EBADMSG;
                *(bool *) member_of(a, m) = json_object_get_boolean(value);
                return 0;
        case MEMBER_NUMBER:
                if (!is_number || json_object_get_uint64(value) > UINT32_MAX)
                        return -EBADMSG;
                *(uint32_t *) member_of(a, m) = (uint32_t) json_object_get_uint64(value);
                return 0;
        case MEMBER_SERIAL:
                if (!is_number)
                        return -EBADMSG;
                *(uint64_t *) member_of(a, m) = json_object_get_uint64(value);
                return 0;
        case MEMBER_HAND_OVER:
                return is_text ? hand_over_from_string(&a->hand_over, json_object_get_string(value))
                               : -EBADMSG;
        }
        assert(false);
        return -EINVAL;
}

/* A wrapped key has both areas or none. The target and the device are required. */
static bool is_complete(const Assignment *a) {
        return !a->key.private_area.size == !a->key.public_area.size && a->target.id_scope &&
               a->target.endpoint && a->target.registration_id && a->hub && a->device_id;
}

int assignment_from_json(Assignment *ret, json_object *json) {
        CLEANUP(assignment_deinit) Assignment a = {};
        json_object *value;
        int r;

        if (!json_object_is_type(json, json_type_object))
                return -EBADMSG;
        for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
                if (!json_object_object_get_ex(json, members[i].key, &value))
                        continue;
                r = member_from_json(&a, &members[i], value);
                if (r < 0)
                        return r == -ENOMEM ? r : -EBADMSG;
        }
        if (!is_complete(&a))
                return -EBADMSG;
        *ret = a;
        a = (Assignment){};
        return 0;
}

/* --- the bus --- */

static int append_blob(sd_bus_message *message, const char *key, const Bytes *bytes) {
        int r;

        r = sd_bus_message_open_container(message, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(message, "s", key);
        if (r >= 0)
                r = sd_bus_message_open_container(message, 'v', "ay");
        if (r >= 0)
                r = sd_bus_message_append_array(message, 'y', bytes->data, bytes->size);
        if (r >= 0)
                r = sd_bus_message_close_container(message);
        return r < 0 ? r : sd_bus_message_close_container(message);
}

static int append_member(sd_bus_message *message, const Assignment *a, const Member *m) {
        const char *text;

        switch (m->type) {
        case MEMBER_TEXT:
                text = *text_of(a, m);
                return text ? sd_bus_message_append(message, "{sv}", m->key, "s", text) : 0;
        case MEMBER_BLOB:
                return append_blob(message, m->key, member_of(a, m));
        case MEMBER_FLAG:
                return sd_bus_message_append(message, "{sv}", m->key, "b",
                                             (int) *(const bool *) member_of(a, m));
        case MEMBER_HAND_OVER:
                return sd_bus_message_append(message, "{sv}", m->key, "s",
                                             hand_over_to_string(a->hand_over));
        default:
                assert(false); /* no number is passed */
                return -EINVAL;
        }
}

int assignment_append(const Assignment *a, sd_bus_message *message) {
        int r;

        r = sd_bus_message_open_container(message, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(members); i++)
                if (members[i].on_bus)
                        r = append_member(message, a, &members[i]);
        return r < 0 ? r : sd_bus_message_close_container(message);
}

static int read_blob(sd_bus_message *message, Bytes *ret) {
        const void *data;
        size_t size;
        int r;

        r = sd_bus_message_enter_container(message, 'v', "ay");
        if (r >= 0)
                r = sd_bus_message_read_array(message, 'y', &data, &size);
        if (r >= 0)
                r = size > BLOB_MAX ? -E2BIG : bytes_copy(ret, data, size);
        return r < 0 ? r : sd_bus_message_exit_container(message);
}

static int read_member(sd_bus_message *message, Assignment *a, const Member *m) {
        const char *text;
        int flag, r;

        switch (m->type) {
        case MEMBER_BLOB:
                bytes_deinit(member_of(a, m)); /* an entry may come twice */
                return read_blob(message, member_of(a, m));
        case MEMBER_FLAG:
                r = sd_bus_message_read(message, "v", "b", &flag);
                if (r >= 0)
                        *(bool *) member_of(a, m) = flag;
                return r;
        default:
                r = sd_bus_message_read(message, "v", "s", &text);
                if (r < 0)
                        return r;
                return m->type == MEMBER_HAND_OVER ? hand_over_from_string(&a->hand_over, text)
                                                   : string_replace(text_of(a, m), text);
        }
}

static int read_entry(sd_bus_message *message, const char *key, void *userdata) {
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (members[i].on_bus && streq(members[i].key, key))
                        return read_member(message, userdata, &members[i]);
        return -ENOENT;
}

int assignment_read(Assignment *ret, sd_bus_message *message) {
        CLEANUP(assignment_deinit) Assignment a = {};
        int r;

        r = bus_read_entries(message, read_entry, &a);
        if (r < 0)
                return r == -ENOENT || r == -ENOMEM ? r : -EBADMSG;
        *ret = a;
        a = (Assignment){};
        return 0;
}
