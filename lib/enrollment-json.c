/* Enrolments as the service's API takes them. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "dps-json.h"
#include "enrollment-internal.h"
#include "identity.h"

#define KEY_MAX ((size_t) 1024) /* bytes of a TPM2B_PUBLIC */

static int add_string(json_object *object, const char *key, const char *value) {
        return dps_json_add(object, key, json_object_new_string(value));
}

static json_object *add_object(json_object *object, const char *key) {
        json_object *child = json_object_new_object();

        return dps_json_add(object, key, child) < 0 ? NULL : child;
}

static int fill_attestation(json_object *root, const char *key) {
        json_object *attestation = add_object(root, "attestation"), *tpm;

        if (!attestation || add_string(attestation, "type", "tpm") < 0)
                return -ENOMEM;
        tpm = add_object(attestation, "tpm");
        return tpm ? add_string(tpm, "endorsementKey", key) : -ENOMEM;
}

/* The policy is the service's default, written down so that nobody has to know it. */
static int fill_policy(json_object *root) {
        json_object *policy = add_object(root, "reprovisionPolicy");

        if (!policy || dps_json_add(policy, "updateHubAssignment", json_object_new_boolean(true)) < 0)
                return -ENOMEM;
        return dps_json_add(policy, "migrateDeviceData", json_object_new_boolean(true));
}

/* "" as device ID or hub is none. */
static int fill_row(json_object *root, const EnrollmentRow *row) {
        json_object *capabilities;
        int r;

        r = add_string(root, "registrationId", row->registration_id);
        if (r >= 0 && row->device_id[0])
                r = add_string(root, "deviceId", row->device_id);
        if (r >= 0)
                r = fill_attestation(root, row->endorsement_key);
        if (r < 0)
                return r;
        capabilities = add_object(root, "capabilities");
        if (!capabilities ||
            dps_json_add(capabilities, "iotEdge", json_object_new_boolean(row->iot_edge)) < 0)
                return -ENOMEM;
        if (row->hub[0])
                r = add_string(root, "iotHubHostName", row->hub);
        if (r >= 0)
                r = add_string(root, "provisioningStatus", "enabled");
        return r < 0 ? r : fill_policy(root);
}

static int fill(json_object *root, const Enrollment *e) {
        CLEANUP(freep) char *key = NULL;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        return r < 0 ? r
                     : fill_row(root, &(EnrollmentRow){ .registration_id = e->registration_id,
                                                        .device_id = e->device_id ? e->device_id : "",
                                                        .endorsement_key = key,
                                                        .hub = e->hub ? e->hub : "",
                                                        .iot_edge = true });
}

static int to_text(char **ret, json_object *object, int flags) {
        const char *text = json_object_to_json_string_ext(object, flags | JSON_C_TO_STRING_NOSLASHESCAPE);

        if (!text || asprintf(ret, "%s\n", text) < 0)
                return -ENOMEM;
        return 0;
}

static void json_putp(json_object **object) {
        (void) json_object_put(*object);
}

static int one_to_text(char **ret, const Enrollment *e, int flags) {
        CLEANUP(json_putp) json_object *root = json_object_new_object();
        int r;

        if (!root)
                return -ENOMEM;
        r = fill(root, e);
        return r < 0 ? r : to_text(ret, root, flags);
}

int enrollment_to_json(char **ret, const Enrollment *e) {
        return one_to_text(ret, e, JSON_C_TO_STRING_PRETTY);
}

int enrollment_to_compact_json(char **ret, const Enrollment *e) {
        return one_to_text(ret, e, JSON_C_TO_STRING_PLAIN);
}

/* Takes over enrollments. */
static int bulk_body(char **ret, json_object *enrollments) {
        CLEANUP(json_putp) json_object *root = json_object_new_object();
        int r;

        if (!root) {
                (void) json_object_put(enrollments);
                return -ENOMEM;
        }
        r = dps_json_add(root, "enrollments", enrollments);
        if (r >= 0)
                r = add_string(root, "mode", "create");
        return r < 0 ? r : to_text(ret, root, JSON_C_TO_STRING_PLAIN);
}

int enrollment_to_bulk(char **ret, const Enrollment *e) {
        CLEANUP(json_putp) json_object *enrollments = json_object_new_array();
        json_object *one = json_object_new_object();
        int r = -ENOMEM;

        if (enrollments && one)
                r = fill(one, e);
        if (r >= 0 && json_object_array_add(enrollments, one) < 0)
                r = -ENOMEM;
        if (r < 0) {
                (void) json_object_put(one);
                return r;
        }
        return bulk_body(ret, TAKE(enrollments));
}

/* What must not come twice, each with the source that it came from first. */
typedef struct Seen {
        json_object *registration_ids, *device_ids, *keys;
} Seen;

struct EnrollmentMerge {
        json_object *enrollments;
        Seen seen;
};

int enrollment_merge_new(EnrollmentMerge **ret) {
        EnrollmentMerge *m = calloc(1, sizeof(*m));

        if (!m)
                return -ENOMEM;
        *m = (EnrollmentMerge){ .enrollments = json_object_new_array(),
                                .seen = { .registration_ids = json_object_new_object(),
                                          .device_ids = json_object_new_object(),
                                          .keys = json_object_new_object() } };
        if (!m->enrollments || !m->seen.registration_ids || !m->seen.device_ids || !m->seen.keys) {
                (void) enrollment_merge_free(m);
                return -ENOMEM;
        }
        *ret = m;
        return 0;
}

EnrollmentMerge *enrollment_merge_free(EnrollmentMerge *m) {
        if (!m)
                return NULL;
        (void) json_object_put(m->enrollments);
        (void) json_object_put(m->seen.registration_ids);
        (void) json_object_put(m->seen.device_ids);
        (void) json_object_put(m->seen.keys);
        free(m);
        return NULL;
}

void enrollment_merge_freep(EnrollmentMerge **m) {
        *m = enrollment_merge_free(*m);
}

static json_object *member(json_object *object, const char *key) {
        json_object *value = NULL;

        if (json_object_is_type(object, json_type_object))
                (void) json_object_object_get_ex(object, key, &value);
        return value;
}

/* NULL when it is not there or no string. */
static const char *string_member(json_object *object, const char *key) {
        json_object *value = member(object, key);

        return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

/* The size of a TPM2B_PUBLIC, then the type of the key: RSA is 1. */
static bool is_endorsement_key(const char *text) {
        CLEANUP(bytes_deinit) Bytes key = {};

        return base64_decode(&key, text, KEY_MAX) == 0 && key.size > 4 &&
               (size_t) (key.data[0] << 8 | key.data[1]) == key.size - 2 && key.data[2] == 0 &&
               key.data[3] == 1;
}

/* Or not there. */
static bool string_is(json_object *e, const char *key, bool (*valid)(const char *value)) {
        const char *value = string_member(e, key);

        return !member(e, key) || (value && valid(value));
}

/* Why it is not an enrolment with a TPM, NULL when it is one. */
static const char *find_fault(json_object *e) {
        json_object *attestation = member(e, "attestation");
        const char *id = string_member(e, "registrationId"), *type = string_member(attestation, "type"),
                   *key = string_member(member(attestation, "tpm"), "endorsementKey");

        if (!json_object_is_type(e, json_type_object))
                return "it is not an object";
        if (!id || !identity_registration_id_valid(id))
                return "it has no registrationId, or not a legal one";
        if (!string_is(e, "deviceId", enrollment_device_id_valid))
                return "its deviceId is not a legal one";
        if (!string_is(e, "iotHubHostName", enrollment_hub_valid))
                return "its iotHubHostName is not a host name";
        if (!type || !streq(type, "tpm"))
                return "its attestation.type is not tpm";
        if (!key || !is_endorsement_key(key))
                return "its attestation.tpm.endorsementKey is not the base64 of an RSA key's TPM2B_PUBLIC";
        return NULL;
}

/* What a merge is saying. */
typedef struct Report {
        const char *source;
        EnrollmentNote *note;
        void *userdata;
} Report;

PRINTF_LIKE(3, 4)
static int say(const Report *report, bool refused, const char *format, ...) {
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        report->note(report->userdata, refused, text);
        return 0;
}

/* 1 when it is new, 0 when it was refused. */
static int see(json_object *seen, const char *what, const char *value, const char *id,
               const Report *report) {
        json_object *before;

        if (json_object_object_get_ex(seen, value, &before))
                return say(report, true, "%s: '%s' has the same %s as one from %s", report->source, id, what,
                           json_object_get_string(before));
        return add_string(seen, value, report->source) < 0 ? -ENOMEM : 1;
}

/* Registration IDs are the same whatever their case, device IDs are not. */
static int see_all(Seen *seen, json_object *e, const Report *report) {
        const char *id = string_member(e, "registrationId"), *device_id = string_member(e, "deviceId");
        CLEANUP(freep) char *lower = strdup(id);
        int r;

        if (!lower)
                return -ENOMEM;
        for (char *p = lower; *p; p++)
                *p = (char) tolower((unsigned char) *p);
        r = see(seen->registration_ids, "registrationId", lower, id, report);
        if (r > 0)
                r = see(seen->keys, "endorsementKey",
                        string_member(member(member(e, "attestation"), "tpm"), "endorsementKey"), id,
                        report);
        if (r > 0)
                r = see(seen->device_ids, "device ID", device_id ? device_id : id, id, report);
        return r;
}

static int merge_one(EnrollmentMerge *m, json_object *e, const Report *report) {
        const char *fault = find_fault(e), *id = string_member(e, "registrationId");
        json_object *edge = member(member(e, "capabilities"), "iotEdge");
        int r;

        if (fault)
                return say(report, true, "%s: %s%s%s is refused: %s", report->source, id ? "'" : "",
                           id ? id : "an enrolment", id ? "'" : "", fault);
        r = see_all(&m->seen, e, report);
        if (r <= 0)
                return r;
        if (!json_object_is_type(edge, json_type_boolean) || !json_object_get_boolean(edge))
                (void) say(report, false,
                           "%s: '%s' will not be an IoT Edge device: capabilities.iotEdge is not true",
                           report->source, id);
        if (json_object_array_add(m->enrollments, json_object_get(e)) < 0) {
                (void) json_object_put(e);
                return -ENOMEM;
        }
        return 0;
}

static int merge_json(EnrollmentMerge *m, const char *text, size_t size, const Report *report) {
        CLEANUP(json_putp) json_object *value = NULL;
        size_t mark = enrollment_mark_size(text, size);
        json_object *list;
        int r;

        r = dps_json_parse(&value, text + mark, size - mark);
        if (r == -EBADMSG)
                return say(report, true, "%s is neither one value of JSON nor a table of --station",
                           report->source);
        if (r < 0)
                return r;
        list = json_object_is_type(value, json_type_array) ? value : member(value, "enrollments");
        if (!json_object_is_type(list, json_type_array))
                return merge_one(m, value, report);
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                r = merge_one(m, json_object_array_get_idx(list, i), report);
                if (r < 0)
                        return r;
        }
        return 0;
}

typedef struct RowMerge {
        EnrollmentMerge *merge;
        const Report *report;
} RowMerge;

static int merge_row(void *userdata, const EnrollmentRow *row) {
        CLEANUP(json_putp) json_object *e = json_object_new_object();
        const RowMerge *rows = userdata;
        char source[300];
        int r;

        if (!e)
                return -ENOMEM;
        (void) snprintf(source, sizeof(source), "%s:%zu", rows->report->source, row->line);
        r = fill_row(e, row);
        return r < 0 ? r
                     : merge_one(rows->merge, e,
                                 &(Report){ source, rows->report->note, rows->report->userdata });
}

static int merge_csv(EnrollmentMerge *m, const char *text, size_t size, const Report *report) {
        size_t end = 0, line = 0;
        const char *why = NULL;
        int r;

        r = enrollment_csv_each(text, size, merge_row, &(RowMerge){ m, report }, &end, &line, &why);
        if (r == -EBADMSG)
                return say(report, true, "%s:%zu is not %s; it and what follows is left out", report->source,
                           line, why);
        if (r == 0 && end < size)
                return say(report, true, "%s:%zu is an unfinished row", report->source, line);
        return r;
}

int enrollment_merge_add(EnrollmentMerge *m, const char *source, const char *text, size_t size,
                         EnrollmentNote *note, void *userdata) {
        const Report report = { .source = source, .note = note, .userdata = userdata };

        return enrollment_is_csv(text, size) ? merge_csv(m, text, size, &report)
                                             : merge_json(m, text, size, &report);
}

/* What "{"enrollments":[],"mode":"create"}" and a comma for each take is little beside this. */
#define BODY_RESERVE ((size_t) 128)

int enrollment_merge_body(char **ret, const EnrollmentMerge *m, size_t *position) {
        size_t count = json_object_array_length(m->enrollments), size = BODY_RESERVE, at = *position;
        CLEANUP(json_putp) json_object *part = NULL;
        int r;

        if (at >= count)
                return 0;
        part = json_object_new_array();
        if (!part)
                return -ENOMEM;
        for (; at < count && at < *position + ENROLLMENT_BULK_MAX; at++) {
                json_object *e = json_object_array_get_idx(m->enrollments, at);
                const char *text = json_object_to_json_string_ext(e, JSON_C_TO_STRING_PLAIN |
                                                                             JSON_C_TO_STRING_NOSLASHESCAPE);

                if (!text)
                        return -ENOMEM;
                size += strlen(text);
                if (at > *position && size > ENROLLMENT_BULK_SIZE_MAX)
                        break;
                if (json_object_array_add(part, json_object_get(e)) < 0) {
                        (void) json_object_put(e);
                        return -ENOMEM;
                }
        }
        r = bulk_body(ret, TAKE(part));
        if (r < 0)
                return r;
        *position = at;
        return 1;
}
