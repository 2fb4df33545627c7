/* The state of an assignment's hub key, and the comparison of an assignment with what the gateway has. */
#include "assignment.h"

#include <errno.h>
#include <strings.h>

#define ALG_SHA256 0x0b

HubKeyState assignment_key_state(const Assignment *a) {
        const HubKey *key = &a->key;

        if (key->private_area.size > 0)
                return key->name.size > 0 ? HUB_KEY_ADOPTED : HUB_KEY_WRAPPED;
        return key->received.size > 0 ? HUB_KEY_RECEIVED : HUB_KEY_ABSENT;
}

void assignment_drop_key(Assignment *a) {
        bytes_deinit(&a->key.received);
        bytes_deinit(&a->key.private_area);
        bytes_deinit(&a->key.public_area);
        bytes_deinit(&a->key.name);
        a->key.changed = false;
}

int assignment_wrapped_name(const Assignment *a, Bytes *ret) {
        const Bytes *public = &a->key.public_area;
        uint8_t name[2 + SHA256_SIZE] = { 0, ALG_SHA256 };
        int r;

        /* TPM2B_PUBLIC: two bytes of size, then TPMT_PUBLIC, which begins with type and nameAlg */
        if (public->size <= 6 || public->data[4] != name[0] || public->data[5] != name[1])
                return -ENOENT;
        r = sha256(public->data + 2, public->size - 2, name + 2);
        return r < 0 ? r : bytes_copy(ret, name, sizeof(name));
}

/* A key that is neither the snapshot's nor ours was imported after the snapshot. */
static bool imported_since(const Assignment *a, const Bytes *name) {
        CLEANUP(bytes_deinit) Bytes wrapped = {};

        if (name->size == 0 || bytes_equal(name, &a->snapshot.key_name) || bytes_equal(name, &a->key.name))
                return false;
        return assignment_wrapped_name(a, &wrapped) < 0 || !bytes_equal(name, &wrapped);
}

bool assignment_superseded(const Assignment *a, const Found *found) {
        const Snapshot *s = &a->snapshot;
        bool imported = imported_since(a, found->key_name),
             other = found->hub && found->device_id &&
                     !assignment_same_device(a, found->hub, found->device_id),
             as_before = found->hub && s->hub && strcasecmp(found->hub, s->hub) == 0 &&
                         str_equal(found->device_id, s->device_id);

        if (!s->taken)
                return false;
        return imported ? !found->same_key || other : other && !as_before;
}

bool assignment_needs_registration(const Assignment *a, const char *hub, const char *device_id) {
        bool had_identity = a->snapshot.hub || !a->snapshot.taken;

        return a->hand_over == HAND_OVER_REGISTER && hub && device_id &&
               (!assignment_same_device(a, hub, device_id) || (a->forced && had_identity));
}
