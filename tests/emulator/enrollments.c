#include "enrollments.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "dps-json.h"
#include "json-text.h"
#include "tpm-crypto.h"

#define LETTERS_AND_DIGITS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#define TEXT_MAX           ((size_t) 4096)

struct Enrollments {
        char *path, *default_hub;
        Enrollment *list;
        size_t n;
        struct stat seen; /* st_ino 0: no file */
        bool read;
};

static const char *const outcome_names[] = {
        [OUTCOME_ASSIGNED] = "assigned",   [OUTCOME_FAILED] = "failed",
        [OUTCOME_DISABLED] = "disabled",   [OUTCOME_UNASSIGNED] = "unassigned",
        [OUTCOME_ASSIGNING] = "assigning",
};
static_assert(ARRAY_SIZE(outcome_names) == _OUTCOME_MAX, "every outcome has a name");

const char *outcome_to_string(Outcome outcome) {
        assert(outcome >= 0 && outcome < _OUTCOME_MAX);
        return outcome_names[outcome];
}

/* In a rule the two that never end say so. */
static Outcome outcome_from_string(const char *name) {
        if (streq(name, "unassigned-forever"))
                return OUTCOME_UNASSIGNED;
        if (streq(name, "assigning-forever"))
                return OUTCOME_ASSIGNING;
        if (streq(name, "failed"))
                return OUTCOME_FAILED;
        if (streq(name, "disabled"))
                return OUTCOME_DISABLED;
        return _OUTCOME_INVALID;
}

bool registration_id_valid(const char *id) {
        return chars_valid(id, LETTERS_AND_DIGITS "-._:", 1, REGISTRATION_ID_MAX);
}

static bool hub_valid(const char *hub) {
        return chars_valid(hub, LETTERS_AND_DIGITS "-.:", 1, 255);
}

/* IoT Hub's device IDs allow more than registration IDs do. */
static bool device_id_valid(const char *id) {
        return chars_valid(id, LETTERS_AND_DIGITS "-._:+%#*?!(),=@$'", 1, REGISTRATION_ID_MAX);
}

PRINTF_LIKE(2, 3) static int broken(char **ret_why, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(ret_why, format, ap) < 0)
                *ret_why = NULL;
        va_end(ap);
        return -EBADMSG;
}

static void rule_deinit(EnrollmentRule *rule) {
        free(rule->retry_after);
        free(rule->error_message);
}

static void enrollment_deinit(Enrollment *e) {
        free(e->registration_id);
        free(e->device_id);
        free(e->hub);
        bytes_deinit(&e->endorsement_key);
        json_object_put(e->payload);
        json_object_put(e->state);
        for (size_t i = 0; i < e->n_rules; i++)
                rule_deinit(&e->rules[i]);
        free(e->rules_text);
        *e = (Enrollment){};
}

static void list_free(Enrollment *list, size_t n) {
        for (size_t i = 0; i < n; i++)
                enrollment_deinit(&list[i]);
        free(list);
}

static int parse_number(json_object *value, int64_t min, int64_t max, int64_t *ret) {
        int64_t number;

        if (!json_object_is_type(value, json_type_int))
                return -EBADMSG;
        number = json_object_get_int64(value);
        if (number < min || number > max)
                return -EBADMSG;
        *ret = number;
        return 0;
}

/* One member of a rule; 0, or a negative errno when its value is wrong. */
static int parse_rule_member(EnrollmentRule *rule, const char *name, json_object *value,
                             json_object *object) {
        const char *text = json_string(object, name, TEXT_MAX);
        int64_t number = 0;
        int r = 0;

        if (streq(name, "status")) {
                r = parse_number(value, 300, 599, &number);
                rule->status = (unsigned) number;
        } else if (streq(name, "times")) {
                r = parse_number(value, 0, INT32_MAX, &number);
                rule->limited = true;
                rule->left = (uint64_t) number;
        } else if (streq(name, "errorCode")) {
                r = parse_number(value, 1, INT32_MAX, &number);
                rule->error_code = (int) number;
        } else if (streq(name, "errorMessage"))
                r = text ? string_replace(&rule->error_message, text) : -EBADMSG;
        else if (streq(name, "retryAfter")) {
                if (!text && parse_number(value, 0, INT32_MAX, &number) == 0)
                        text = json_object_get_string(value);
                r = text ? string_replace(&rule->retry_after, text) : -EBADMSG;
        } else if (streq(name, "on")) {
                rule->on = text ? request_kind_from_string(text) : _REQUEST_KIND_INVALID;
                r = rule->on == REQUEST_REGISTER || rule->on == REQUEST_CONFIRM || rule->on == REQUEST_POLL
                            ? 0
                            : -EBADMSG;
        } else if (streq(name, "result")) {
                rule->result = text ? outcome_from_string(text) : _OUTCOME_INVALID;
                r = rule->result == _OUTCOME_INVALID ? -EBADMSG : 0;
        } else
                return -ENOENT;
        return r;
}

static int parse_rule(EnrollmentRule *rule, json_object *object, const char *id, char **ret_why) {
        if (!json_object_is_type(object, json_type_object))
                return broken(ret_why, "'%s': emulator must be an object or an array of at most %d", id,
                              ENROLLMENT_RULES_MAX);
        json_object_object_foreach(object, name, value) {
                int r = parse_rule_member(rule, name, value, object);

                if (r == -ENOENT)
                        return broken(ret_why, "'%s': emulator has no member '%s'", id, name);
                if (r < 0)
                        return broken(ret_why, "'%s': emulator.%s can't be %s", id, name,
                                      json_object_to_json_string(value));
        }
        if ((rule->status > 0) == (rule->result != OUTCOME_ASSIGNED))
                return broken(ret_why, "'%s': emulator needs either a status or a result", id);
        return 0;
}

static int parse_rules(Enrollment *e, json_object *rules, char **ret_why) {
        bool array = json_object_is_type(rules, json_type_array);
        size_t n = array ? json_object_array_length(rules) : 1;

        if (n > ENROLLMENT_RULES_MAX)
                return broken(ret_why, "'%s': emulator has more than %d rules", e->registration_id,
                              ENROLLMENT_RULES_MAX);
        if (string_replace(&e->rules_text, json_object_to_json_string(rules)) < 0)
                return -ENOMEM;
        while (e->n_rules < n) {
                json_object *rule = array ? json_object_array_get_idx(rules, e->n_rules) : rules;
                int r = parse_rule(&e->rules[e->n_rules++], rule, e->registration_id, ret_why);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int parse_attestation(Enrollment *e, json_object *object, char **ret_why) {
        json_object *attestation = NULL, *tpm = NULL;
        const char *type, *ek, *why = NULL;
        TpmStorageKey key;

        if (!json_object_object_get_ex(object, "attestation", &attestation) ||
            !json_object_is_type(attestation, json_type_object))
                return broken(ret_why, "'%s': attestation is missing", e->registration_id);
        type = json_string(attestation, "type", 64);
        if (type && !streq(type, "tpm"))
                return broken(ret_why, "'%s': attestation.type is '%s', only tpm is served",
                              e->registration_id, type);
        if (!json_object_object_get_ex(attestation, "tpm", &tpm))
                return broken(ret_why, "'%s': attestation.tpm is missing", e->registration_id);
        ek = json_string(tpm, "endorsementKey", TEXT_MAX);
        if (!ek || base64_decode(&e->endorsement_key, ek, TPM_CRYPTO_PUBLIC_MAX) < 0)
                return broken(ret_why, "'%s': attestation.tpm.endorsementKey is not base64",
                              e->registration_id);
        if (tpm_storage_key_parse(&key, e->endorsement_key.data, e->endorsement_key.size, &why) < 0)
                return broken(ret_why, "'%s': attestation.tpm.endorsementKey %s", e->registration_id, why);
        return 0;
}

/* The hub: iotHubHostName, else the first of iotHubs, else this emulator itself. */
static int parse_hub(Enrollment *e, json_object *object, const char *default_hub, char **ret_why) {
        json_object *value = NULL, *hubs = NULL;
        const char *hub;

        (void) json_object_object_get_ex(object, "iotHubHostName", &value);
        if (!value && json_object_object_get_ex(object, "iotHubs", &hubs) && hubs) {
                if (!json_object_is_type(hubs, json_type_array))
                        return broken(ret_why, "'%s': iotHubs is no array", e->registration_id);
                value = json_object_array_length(hubs) > 0 ? json_object_array_get_idx(hubs, 0) : NULL;
        }
        if (value && !json_object_is_type(value, json_type_string))
                return broken(ret_why, "'%s': the hub %s is no host name", e->registration_id,
                              json_object_to_json_string(value));
        hub = value ? json_object_get_string(value) : "";
        if (hub[0] == '\0')
                hub = default_hub;
        if (!hub_valid(hub))
                return broken(ret_why, "'%s': the hub '%s' is no host name", e->registration_id, hub);
        return string_replace(&e->hub, hub);
}

static bool member_bool(json_object *object, const char *outer, const char *name, bool otherwise) {
        json_object *inner, *value;

        if (!json_object_object_get_ex(object, outer, &inner) ||
            !json_object_is_type(inner, json_type_object) ||
            !json_object_object_get_ex(inner, name, &value) ||
            !json_object_is_type(value, json_type_boolean))
                return otherwise;
        return json_object_get_boolean(value);
}

static int parse_status(Enrollment *e, json_object *object, char **ret_why) {
        const char *status = json_string(object, "provisioningStatus", 64);

        if (status && !streq(status, "enabled") && !streq(status, "disabled"))
                return broken(ret_why, "'%s': provisioningStatus is '%s', neither enabled nor disabled",
                              e->registration_id, status);
        e->enabled = !status || streq(status, "enabled");
        return 0;
}

static int parse_enrollment(Enrollment *e, json_object *object, size_t number, const char *default_hub,
                            char **ret_why) {
        const char *id = json_string(object, "registrationId", REGISTRATION_ID_MAX), *device_id;
        json_object *value;
        int r;

        if (!id || !registration_id_valid(id))
                return broken(ret_why, "enrolment %zu has no valid registrationId", number);
        if (string_replace(&e->registration_id, id) < 0)
                return -ENOMEM;

        device_id = json_string(object, "deviceId", REGISTRATION_ID_MAX);
        if (json_object_object_get_ex(object, "deviceId", &value) && value &&
            (!device_id || (device_id[0] && !device_id_valid(device_id))))
                return broken(ret_why, "'%s': deviceId is not valid", id);
        if (string_replace(&e->device_id, device_id && device_id[0] ? device_id : id) < 0)
                return -ENOMEM;

        r = parse_attestation(e, object, ret_why);
        if (r == 0)
                r = parse_hub(e, object, default_hub, ret_why);
        if (r == 0)
                r = parse_status(e, object, ret_why);
        if (r < 0)
                return r;
        e->iot_edge = member_bool(object, "capabilities", "iotEdge", false);
        e->update_hub = member_bool(object, "reprovisionPolicy", "updateHubAssignment", true);
        e->migrate_data = member_bool(object, "reprovisionPolicy", "migrateDeviceData", true);
        if (json_object_object_get_ex(object, "payload", &value))
                e->payload = json_object_get(value);
        if (json_object_object_get_ex(object, "emulatorState", &value) && value) {
                if (!json_object_is_type(value, json_type_object))
                        return broken(ret_why, "'%s': emulatorState is not an object", id);
                e->state = json_object_get(value);
        }
        if (json_object_object_get_ex(object, "emulator", &value) && value)
                r = parse_rules(e, value, ret_why);
        return r;
}

static int compare_ids(const void *a, const void *b) {
        return strcasecmp(((const Enrollment *) a)->registration_id,
                          ((const Enrollment *) b)->registration_id);
}

static int parse_list(Enrollment **ret, size_t *ret_n, json_object *root, const char *default_hub,
                      char **ret_why) {
        json_object *array = NULL;
        bool single = false;
        Enrollment *list;
        size_t n;
        int r = 0;

        if (json_object_is_type(root, json_type_array))
                array = root;
        else if (!json_object_is_type(root, json_type_object))
                return broken(ret_why, "neither an enrolment nor an array of them");
        else if (json_object_object_get_ex(root, "enrollments", &array)) {
                if (!json_object_is_type(array, json_type_array))
                        return broken(ret_why, "enrollments is no array");
        } else
                single = true;

        n = single ? 1 : json_object_array_length(array);
        list = calloc(n + 1, sizeof(*list));
        if (!list)
                return -ENOMEM;
        for (size_t i = 0; r == 0 && i < n; i++)
                r = parse_enrollment(&list[i], single ? root : json_object_array_get_idx(array, i), i + 1,
                                     default_hub, ret_why);
        if (r == 0) {
                qsort(list, n, sizeof(*list), compare_ids);
                for (size_t i = 1; r == 0 && i < n; i++)
                        if (compare_ids(&list[i - 1], &list[i]) == 0)
                                r = broken(ret_why, "'%s' is enrolled twice", list[i].registration_id);
        }
        if (r < 0) {
                list_free(list, n);
                return r;
        }
        *ret = list;
        *ret_n = n;
        return 0;
}

static int parse_text(json_object **ret, const char *text, size_t size, char **ret_why) {
        const char *end = text;
        size_t line = 1;
        int r;

        if (dps_json_parse(ret, text, size) == 0)
                return 0;
        r = json_text_scan(text, DPS_JSON_DEPTH_MAX, &end);
        for (const char *p = text; p < end; p++)
                line += *p == '\n';
        if (r == 0)
                return broken(ret_why, "line %zu: there is something after the end", line);
        if (end == text + size)
                return broken(ret_why, "line %zu: it ends in the middle", line);
        return broken(ret_why, "line %zu: it is not JSON in UTF-8", line);
}

static void keep_counts(Enrollment *list, size_t n, Enrollments *old) {
        for (size_t i = 0; i < n; i++) {
                const Enrollment *before =
                        list[i].rules_text ? enrollments_find(old, list[i].registration_id) : NULL;

                if (!before || !before->rules_text || !streq(before->rules_text, list[i].rules_text))
                        continue;
                for (size_t j = 0; j < list[i].n_rules; j++)
                        list[i].rules[j].left = before->rules[j].left;
        }
}

int enrollments_parse(Enrollments *enrollments, const char *text, size_t size, char **ret_why) {
        json_object *root = NULL;
        Enrollment *list = NULL;
        size_t n = 0;
        int r;

        r = parse_text(&root, text, size, ret_why);
        if (r < 0)
                return r;
        r = parse_list(&list, &n, root, enrollments->default_hub, ret_why);
        json_object_put(root);
        if (r < 0)
                return r;
        keep_counts(list, n, enrollments);
        list_free(enrollments->list, enrollments->n);
        enrollments->list = list;
        enrollments->n = n;
        return 0;
}

int enrollments_refresh(Enrollments *enrollments, char **ret_why) {
        CLEANUP(freep) char *text = NULL;
        struct stat st = {}, *seen = &enrollments->seen;
        size_t size;
        int r;

        *ret_why = NULL;
        if (stat(enrollments->path, &st) < 0) {
                if (errno != ENOENT)
                        return broken(ret_why, "%s", strerror(errno));
                list_free(TAKE(enrollments->list), enrollments->n);
                enrollments->n = 0;
                enrollments->read = false;
                return 0;
        }
        if (enrollments->read && st.st_ino == seen->st_ino && st.st_size == seen->st_size &&
            st.st_mtim.tv_sec == seen->st_mtim.tv_sec && st.st_mtim.tv_nsec == seen->st_mtim.tv_nsec)
                return 0;

        enrollments->seen = st;
        enrollments->read = true;
        r = read_file(enrollments->path, ENROLLMENTS_FILE_MAX, &text, &size);
        if (r < 0)
                return broken(ret_why, "%s", strerror(-r));
        return enrollments_parse(enrollments, text, size, ret_why);
}

int enrollments_new(Enrollments **ret, const char *path, const char *default_hub) {
        Enrollments *e = calloc(1, sizeof(*e));

        if (!e)
                return -ENOMEM;
        e->path = strdup(path);
        e->default_hub = strdup(default_hub);
        if (!e->path || !e->default_hub) {
                enrollments_free(e);
                return -ENOMEM;
        }
        *ret = e;
        return 0;
}

Enrollments *enrollments_free(Enrollments *enrollments) {
        if (!enrollments)
                return NULL;
        list_free(enrollments->list, enrollments->n);
        free(enrollments->path);
        free(enrollments->default_hub);
        free(enrollments);
        return NULL;
}

Enrollment *enrollments_find(Enrollments *enrollments, const char *registration_id) {
        Enrollment wanted = { .registration_id = (char *) registration_id };

        if (enrollments->n == 0)
                return NULL;
        return bsearch(&wanted, enrollments->list, enrollments->n, sizeof(wanted), compare_ids);
}

static const EnrollmentRule *use(EnrollmentRule *rule) {
        if (rule->limited)
                rule->left--;
        return rule;
}

const EnrollmentRule *enrollment_use_status(Enrollment *enrollment, RequestKind kind) {
        for (size_t i = 0; i < enrollment->n_rules; i++) {
                EnrollmentRule *rule = &enrollment->rules[i];

                if (rule->status > 0 && rule->on == kind && (!rule->limited || rule->left > 0))
                        return use(rule);
        }
        return NULL;
}

const EnrollmentRule *enrollment_use_outcome(Enrollment *enrollment) {
        for (size_t i = 0; i < enrollment->n_rules; i++) {
                EnrollmentRule *rule = &enrollment->rules[i];

                if (rule->result != OUTCOME_ASSIGNED && (!rule->limited || rule->left > 0))
                        return use(rule);
        }
        return NULL;
}
