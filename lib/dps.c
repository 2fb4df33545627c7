#include "dps.h"

#include <errno.h>
#include <stdlib.h>

#include "dps-json.h"

#define REGISTRATIONS "registrations"

/* RFC 3986: everything but the unreserved characters, in upper-case hex. */
static int percent_encode(char **ret, const char *text) {
        static const char unreserved[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
        static const char digits[] = "0123456789ABCDEF";
        char *encoded = malloc(3 * strlen(text) + 1), *p = encoded;

        if (!encoded)
                return -ENOMEM;
        for (; *text; text++) {
                unsigned char c = (unsigned char) *text;

                if (strchr(unreserved, c))
                        *p++ = (char) c;
                else {
                        *p++ = '%';
                        *p++ = digits[c >> 4];
                        *p++ = digits[c & 0xf];
                }
        }
        *p = '\0';
        *ret = encoded;
        return 0;
}

static int registration_url(char **ret, const char *endpoint, const char *id_scope,
                            const char *registration_id, const char *operation, const char *operation_id) {
        CLEANUP(freep) char *scope = NULL, *id = NULL, *last = NULL;
        int r;

        r = percent_encode(&scope, id_scope);
        if (r >= 0)
                r = percent_encode(&id, registration_id);
        if (r >= 0)
                r = percent_encode(&last, operation_id);
        if (r < 0)
                return r;
        r = asprintf(ret, "%s/%s/" REGISTRATIONS "/%s/%s%s%s?api-version=" DPS_API_VERSION, endpoint, scope,
                     id, operation, last[0] ? "/" : "", last);
        return r < 0 ? -ENOMEM : 0;
}

int dps_register_url(char **ret, const char *endpoint, const char *id_scope, const char *registration_id) {
        return registration_url(ret, endpoint, id_scope, registration_id, "register", "");
}

int dps_operation_url(char **ret, const char *endpoint, const char *id_scope, const char *registration_id,
                      const char *operation_id) {
        return registration_url(ret, endpoint, id_scope, registration_id, "operations", operation_id);
}

static int add_base64(json_object *object, const char *key, const Bytes *bytes) {
        CLEANUP(freep) char *text = NULL;
        int r;

        r = base64_encode(&text, bytes->data, bytes->size);
        return r < 0 ? r : dps_json_add(object, key, json_object_new_string(text));
}

static int fill_body(json_object *root, const char *registration_id, const Bytes *ek_public,
                     const Bytes *srk_public) {
        json_object *tpm = json_object_new_object();
        int r;

        r = dps_json_add(root, "tpm", tpm);
        if (r >= 0)
                r = dps_json_add(root, "registrationId", json_object_new_string(registration_id));
        if (r >= 0)
                r = add_base64(tpm, "endorsementKey", ek_public);
        if (r >= 0)
                r = add_base64(tpm, "storageRootKey", srk_public);
        return r;
}

/* The payload is sent as it was written, not as json-c would write its numbers. */
static int body_to_string(char **ret, json_object *root, const char *payload) {
        const char *text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN |
                                                                        JSON_C_TO_STRING_NOSLASHESCAPE);

        if (!text)
                return -ENOMEM;
        if (!payload)
                return string_replace(ret, text);
        return asprintf(ret, "%.*s,\"payload\":%s}", (int) strlen(text) - 1, text, payload) < 0 ? -ENOMEM
                                                                                                : 0;
}

int dps_register_body(char **ret, const char *registration_id, const Bytes *ek_public,
                      const Bytes *srk_public, const char *payload) {
        json_object *root;
        int r;

        if (payload && dps_json_check(payload, strlen(payload)) < 0)
                return -EINVAL;
        root = json_object_new_object();
        if (!root)
                return -ENOMEM;
        r = fill_body(root, registration_id, ek_public, srk_public);
        if (r >= 0)
                r = body_to_string(ret, root, payload);
        json_object_put(root);
        return r < 0 ? r : 0;
}

/* The service verifies the signature over the text of sr as it was sent, so any spelling of the slashes
 * would do; the documentation's is the percent-encoded one. */
static int token_resource(char **ret, const char *id_scope, const char *registration_id) {
        CLEANUP(freep) char *text = NULL;

        if (asprintf(&text, "%s/" REGISTRATIONS "/%s", id_scope, registration_id) < 0) {
                text = NULL;
                return -ENOMEM;
        }
        return percent_encode(ret, text);
}

int dps_string_to_sign(char **ret, const char *id_scope, const char *registration_id, uint64_t expiry) {
        CLEANUP(freep) char *resource = NULL;
        int r;

        r = token_resource(&resource, id_scope, registration_id);
        if (r < 0)
                return r;
        return asprintf(ret, "%s\n%llu", resource, (unsigned long long) expiry) < 0 ? -ENOMEM : 0;
}

int dps_token(char **ret, const char *id_scope, const char *registration_id, uint64_t expiry,
              const uint8_t signature[static SHA256_SIZE]) {
        CLEANUP(freep) char *resource = NULL;
        CLEANUP(secret_freep) char *base64 = NULL, *encoded = NULL;
        int r;

        r = token_resource(&resource, id_scope, registration_id);
        if (r >= 0)
                r = base64_encode(&base64, signature, SHA256_SIZE);
        if (r >= 0)
                r = percent_encode(&encoded, base64);
        if (r < 0)
                return r;
        r = asprintf(ret, "SharedAccessSignature sr=%s&sig=%s&se=%llu&skn=registration", resource, encoded,
                     (unsigned long long) expiry);
        return r < 0 ? -ENOMEM : 0;
}

/* RFC 9110 section 5.6.7: the form in use, and the two that a recipient has to understand as well.
 * strptime() goes by the locale for the names; the programs stay in the C locale. */
static time_t parse_http_date(const char *text) {
        static const char *const forms[] = {
                "%a, %d %b %Y %H:%M:%S GMT",
                "%A, %d-%b-%y %H:%M:%S GMT",
                "%a %b %e %H:%M:%S %Y",
        };

        for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
                struct tm tm = {};
                const char *end = strptime(text, forms[i], &tm);

                if (end && *end == '\0')
                        return timegm(&tm);
        }
        return -1;
}

usec_t dps_parse_retry_after(const char *value, uint64_t date, uint64_t now) {
        uint64_t seconds = 0;
        time_t when;

        if (value[0] != '\0' && value[strspn(value, "0123456789")] == '\0') {
                if (parse_uint(value, UINT64_MAX, &seconds) < 0)
                        seconds = UINT64_MAX; /* too many digits */
        } else {
                when = parse_http_date(value);
                if (date == 0)
                        date = now;
                if (when > 0 && (uint64_t) when > date)
                        seconds = (uint64_t) when - date;
        }
        if (seconds > DPS_RETRY_AFTER_MAX_USEC / USEC_PER_SEC)
                return DPS_RETRY_AFTER_MAX_USEC;
        return seconds * USEC_PER_SEC;
}
