/* Assignments in which every member has another value. Include test.h first. */
#pragma once

#include "assignment.h"

/* Every member of an assignment: its key in the JSON and in the a{sv}, its type, and its place. */
typedef enum Kind {
        TEXT,
        BLOB,
        FLAG,
        NUMBER,
        HAND_OVER_NAME,
} Kind;

static const struct {
        const char *key;
        Kind kind;
        size_t offset;
        bool on_bus, required;
} members[] = {
        { "idScope", TEXT, offsetof(Assignment, target.id_scope), true, true },
        { "globalEndpoint", TEXT, offsetof(Assignment, target.endpoint), true, true },
        { "registrationId", TEXT, offsetof(Assignment, target.registration_id), true, true },
        { "endorsementKeyHash", TEXT, offsetof(Assignment, target.ek_hash), false, false },
        { "hub", TEXT, offsetof(Assignment, hub), true, true },
        { "deviceId", TEXT, offsetof(Assignment, device_id), true, true },
        { "substatus", TEXT, offsetof(Assignment, substatus), false, false },
        { "payload", TEXT, offsetof(Assignment, payload), false, false },
        { "keyReceived", BLOB, offsetof(Assignment, key.received), false, false },
        { "keyPrivate", BLOB, offsetof(Assignment, key.private_area), false, false },
        { "keyPublic", BLOB, offsetof(Assignment, key.public_area), false, false },
        { "keyName", BLOB, offsetof(Assignment, key.name), true, false },
        { "keyChanged", FLAG, offsetof(Assignment, key.changed), true, false },
        { "handOver", HAND_OVER_NAME, offsetof(Assignment, hand_over), true, false },
        { "forced", FLAG, offsetof(Assignment, forced), true, false },
        { "snapshot", FLAG, offsetof(Assignment, snapshot.taken), true, false },
        { "snapshotKeyName", BLOB, offsetof(Assignment, snapshot.key_name), false, false },
        { "snapshotHub", TEXT, offsetof(Assignment, snapshot.hub), true, false },
        { "snapshotDeviceId", TEXT, offsetof(Assignment, snapshot.device_id), true, false },
        { "snapshotProof", TEXT, offsetof(Assignment, snapshot.proof), true, false },
        { "target", TEXT, offsetof(Assignment, handed_to), false, false },
        { "identity", TEXT, offsetof(Assignment, identity), false, false },
        { "hubKeyHandle", NUMBER, offsetof(Assignment, hub_key_handle), false, false },
        { "edgeFlagMissing", TEXT, offsetof(Assignment, edge_flag_missing), false, false },
        { "adoptionRefused", TEXT, offsetof(Assignment, adoption_refused), false, false },
        { "dataMoved", TEXT, offsetof(Assignment, data_moved), false, false },
};

static inline void *member_of(Assignment *a, size_t i) {
        return (char *) a + members[i].offset;
}

/* Gives the member another value. */
static inline void change(Assignment *a, size_t i) {
        void *member = member_of(a, i);

        switch (members[i].kind) {
        case TEXT:
                assert_int_equal(string_replace(member, *(char **) member ? "another" : members[i].key), 0);
                break;
        case BLOB: {
                bool was = ((Bytes *) member)->size > 0;

                bytes_deinit(member);
                assert_int_equal(bytes_copy(member, was ? "another" : members[i].key, 4), 0);
                break;
        }
        case FLAG:
                *(bool *) member = !*(bool *) member;
                break;
        case NUMBER:
                *(uint32_t *) member ^= UINT32_MAX;
                break;
        case HAND_OVER_NAME:
                *(HandOver *) member = (*(HandOver *) member + 1) % _HAND_OVER_MAX;
                break;
        }
}

static inline void make(Assignment *ret) {
        *ret = (Assignment){ .generation = 7 };
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                change(ret, i);
}

static inline void make_smallest(Assignment *ret) {
        *ret = (Assignment){};
        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (members[i].required)
                        change(ret, i);
}
