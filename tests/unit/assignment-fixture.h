/* Assignments in which every member has another value. */
#pragma once

#include "test.h"

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
        size_t offset;
        Kind kind;
        bool on_bus, required;
} members[] = {
        { "idScope", offsetof(Assignment, target.id_scope), TEXT, true, true },
        { "globalEndpoint", offsetof(Assignment, target.endpoint), TEXT, true, true },
        { "registrationId", offsetof(Assignment, target.registration_id), TEXT, true, true },
        { "endorsementKeyHash", offsetof(Assignment, target.ek_hash), TEXT, false, false },
        { "hub", offsetof(Assignment, hub), TEXT, true, true },
        { "deviceId", offsetof(Assignment, device_id), TEXT, true, true },
        { "substatus", offsetof(Assignment, substatus), TEXT, false, false },
        { "payload", offsetof(Assignment, payload), TEXT, false, false },
        { "keyReceived", offsetof(Assignment, key.received), BLOB, false, false },
        { "keyPrivate", offsetof(Assignment, key.private_area), BLOB, false, false },
        { "keyPublic", offsetof(Assignment, key.public_area), BLOB, false, false },
        { "keyName", offsetof(Assignment, key.name), BLOB, true, false },
        { "keyChanged", offsetof(Assignment, key.changed), FLAG, true, false },
        { "handOver", offsetof(Assignment, hand_over), HAND_OVER_NAME, true, false },
        { "forced", offsetof(Assignment, forced), FLAG, true, false },
        { "snapshot", offsetof(Assignment, snapshot.taken), FLAG, true, false },
        { "snapshotKeyName", offsetof(Assignment, snapshot.key_name), BLOB, false, false },
        { "snapshotHub", offsetof(Assignment, snapshot.hub), TEXT, true, false },
        { "snapshotDeviceId", offsetof(Assignment, snapshot.device_id), TEXT, true, false },
        { "snapshotProof", offsetof(Assignment, snapshot.proof), TEXT, true, false },
        { "target", offsetof(Assignment, handed_to), TEXT, false, false },
        { "identity", offsetof(Assignment, identity), TEXT, false, false },
        { "hubKeyHandle", offsetof(Assignment, hub_key_handle), NUMBER, false, false },
        { "edgeFlagMissing", offsetof(Assignment, edge_flag_missing), TEXT, false, false },
        { "adoptionRefused", offsetof(Assignment, adoption_refused), TEXT, false, false },
        { "dataMoved", offsetof(Assignment, data_moved), TEXT, false, false },
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
