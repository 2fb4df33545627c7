#include "dps.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>

#include "dps-json.h"
#include "identity.h"

#define OPERATION_ID_MAX 512
#define HOST_MAX         253
#define HUB_MAX          (HOST_MAX + 6) /* with a port */
#define SUBSTATUS_MAX    64
#define TRACKING_MAX     64
#define SENTENCE_MAX     340
#define SAYS             "; it says: "
#define ALNUM            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#define HUB_CHARS        ALNUM "-.:"
/* what IoT Hub allows in a device ID */
#define DEVICE_ID_CHARS ALNUM "-._:%+!*()=@$',?#"
#define PRINTABLE       " \"&;</>[\\]^`{|}~" DEVICE_ID_CHARS

void dps_reply_deinit(DpsReply *reply) {
        bytes_deinit(&reply->challenge);
        bytes_deinit(&reply->hub_key);
        free(reply->operation_id);
        free(reply->registration_id);
        free(reply->hub);
        free(reply->device_id);
        free(reply->substatus);
        free(reply->payload);
        *reply = (DpsReply){};
}

/* What a reply is parsed with, for the sentences. */
typedef struct Context {
        const char *id_scope, *registration_id;
        const DpsRawReply *raw;
        json_object *root; /* NULL: the body is not a JSON object */
        Failure *reterr;
} Context;

/* The one place where a string of the reply is checked. 0: absent or null (then *ret is NULL) or good. */
static int get_string(json_object *object, const char *key, const char *allowed, size_t max,
                      const char **ret) {
        json_object *value;
        const char *text;

        *ret = NULL;
        if (!object || !json_object_object_get_ex(object, key, &value) || !value)
                return 0;
        if (!json_object_is_type(value, json_type_string))
                return -EBADMSG;
        text = json_object_get_string(value);
        if (strlen(text) != (size_t) json_object_get_string_len(value)) /* a NUL inside */
                return -EBADMSG;
        if (!chars_valid(text, allowed, 1, max))
                return -EBADMSG;
        *ret = text;
        return 0;
}

/* "host[:port]" as RFC 1123 has host names; an IPv4 address passes as well. */
static bool hub_valid(const char *hub) {
        const char *p = hub;
        uint64_t port;

        for (;;) {
                size_t n = strspn(p, ALNUM "-");

                if (n == 0 || n > 63 || p[0] == '-' || p[n - 1] == '-')
                        return false;
                p += n;
                if (*p != '.')
                        break;
                p++;
        }
        if (p - hub > HOST_MAX)
                return false;
        if (*p == '\0')
                return true;
        return *p == ':' && chars_valid(p + 1, "0123456789", 1, 5) && parse_uint(p + 1, 65535, &port) >= 0 &&
               port > 0;
}

static json_object *get_object(json_object *object, const char *key) {
        json_object *value;

        if (!object || !json_object_object_get_ex(object, key, &value) ||
            !json_object_is_type(value, json_type_object))
                return NULL;
        return value;
}

/* 1: decoded, 0: absent or null, negative: present and unusable. */
static int get_blob(json_object *object, const char *key, Bytes *ret) {
        json_object *value;
        int r;

        if (!object || !json_object_object_get_ex(object, key, &value) || !value)
                return 0;
        if (!json_object_is_type(value, json_type_string) ||
            strlen(json_object_get_string(value)) != (size_t) json_object_get_string_len(value))
                return -EBADMSG;
        r = base64_decode(ret, json_object_get_string(value), DPS_CHALLENGE_MAX);
        if (r < 0)
                return r;
        return ret->size > 0 ? 1 : -EBADMSG;
}

/* NULL when the body is not a JSON object. */
static json_object *parse_object(const char *body, size_t size) {
        json_object *root = NULL;

        if (size > DPS_BODY_MAX || dps_json_parse(&root, body, size) < 0)
                return NULL;
        if (!json_object_is_type(root, json_type_object)) {
                json_object_put(root);
                return NULL;
        }
        return root;
}

/* errorCode, an integer, as text; "HTTP 404" where there is none. */
static const char *error_code(char *buffer, size_t size, json_object *object, unsigned status) {
        json_object *code;

        if (object && json_object_object_get_ex(object, "errorCode", &code) &&
            json_object_is_type(code, json_type_int))
                (void) snprintf(buffer, size, "%lld", (long long) json_object_get_int64(code));
        else
                (void) snprintf(buffer, size, "HTTP %u", status);
        return buffer;
}

static int fail(const Context *c, FailureKind kind, json_object *details, const char *message_key,
                const char *format, ...) PRINTF_LIKE(5, 6);

/* "SENTENCE; it says: MESSAGE (tracking ID …)" as far as the service said. The message is for people, so it
 * is taken as it comes and cut to what the others leave; failure_set() makes it printable. */
static int fail(const Context *c, FailureKind kind, json_object *details, const char *message_key,
                const char *format, ...) {
        json_object *value;
        char code[32], sentence[SENTENCE_MAX], trail[TRACKING_MAX + 32] = "";
        const char *message = "", *tracking = NULL;
        size_t used;
        va_list ap;
        int r;

        va_start(ap, format);
        (void) vsnprintf(sentence, sizeof(sentence), format, ap);
        va_end(ap);
        if (details && json_object_object_get_ex(details, message_key, &value) &&
            json_object_is_type(value, json_type_string))
                message = json_object_get_string(value);
        if (get_string(c->root, "trackingId", PRINTABLE, TRACKING_MAX, &tracking) < 0 || !tracking)
                tracking = c->raw->request_id;
        if (tracking && strlen(tracking) <= TRACKING_MAX)
                (void) snprintf(trail, sizeof(trail), " (tracking ID %s)", tracking);
        used = strlen(sentence) + strlen(SAYS) + strlen(trail);
        r = failure_set(c->reterr, kind, error_code(code, sizeof(code), details, c->raw->status),
                        "%s%s%.*s%s", sentence, message[0] ? SAYS : "",
                        (int) (sizeof(c->reterr->sentence) - 1 - used), message, trail);
        if (c->reterr)
                c->reterr->retry_after_usec = c->raw->retry_after_usec;
        return r;
}

static int malformed(const Context *c, const char *what) {
        return fail(c, FAILURE_PROTOCOL, c->root, "message",
                    "The service's reply to the registration '%s' is malformed: %s", c->registration_id,
                    what);
}

#define HINT_LET_IN                                                                                         \
        "Check on the networking page of the DPS instance who may reach it: its IP filter has to let "      \
        "this gateway's address in, or public access has to be allowed. Through a private endpoint set "    \
        "GlobalEndpoint=https://NAME.azure-devices-provisioning.net, with the instance's own name."

static int set_remedy(const Context *c, int r, const char *remedy) {
        if (c->reterr)
                c->reterr->remedy = remedy;
        return r;
}

/* A registration in a network that the DPS instance shuts out. Its words differ from day to day, so they
 * only make the advice shorter. */
static bool speaks_of_network(const Context *c) {
        static const char *const words[] = { "network access", "private endpoint", "private link",
                                             "IP filter",      "IpFilter",         "IP address" };
        json_object *message;

        if (!c->root || !json_object_object_get_ex(c->root, "message", &message) ||
            !json_object_is_type(message, json_type_string))
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strcasestr(json_object_get_string(message), words[i]))
                        return true;
        return false;
}

static int not_let_in(const Context *c, FailureKind kind) {
        const char *cause = speaks_of_network(c) ? ""
                                                 : ": an IP filter or a private endpoint may shut this "
                                                   "gateway out";

        return set_remedy(c,
                          fail(c, kind, c->root, "message",
                               "DPS refused the registration '%s' with HTTP status %u%s", c->registration_id,
                               c->raw->status, cause),
                          HINT_LET_IN " Azure's support asks for the tracking ID.");
}

/* The causes of a 401 without a challenge can't be told apart from outside: DPS' six-digit codes are not
 * documented, it is not known whether a missing enrollment gives 401 or 404, and an instance with an IP
 * filter or without public access answers 401 without a word about it. So the message names all. */
static int parse_unauthorized(const Context *c, DpsRequest request) {
        if (speaks_of_network(c))
                return not_let_in(c, FAILURE_IDENTITY_MISMATCH);
        if (request == DPS_REQUEST_REGISTER)
                return set_remedy(
                        c,
                        fail(c, FAILURE_IDENTITY_MISMATCH, c->root, "message",
                             "DPS gave '%s' no challenge: its enrollment is missing or for another "
                             "endorsement key, the ID scope '%s' is wrong, or DPS shuts this network out",
                             c->registration_id, c->id_scope),
                        "Compare the enrollment's endorsement key with what 'dps-provision enrollment' "
                        "prints, IdScope= with the ID scope on the overview page of the DPS instance, and "
                        "GlobalEndpoint= with its cloud. Create another enrollment after a replaced "
                        "mainboard. If all of them fit: " HINT_LET_IN);
        return fail(c, FAILURE_IDENTITY_MISMATCH, c->root, "message",
                    "DPS did not accept the token of '%s' in the ID scope '%s'", c->registration_id,
                    c->id_scope);
}

/* The documentation has one 404 for an instance and an enrolment that don't exist. Only the service's words
 * may tell them apart, and they are not documented either. Nothing but the name of the failure hangs on
 * them. */
static bool speaks_of_scope(const Context *c) {
        json_object *message;

        return c->root && json_object_object_get_ex(c->root, "message", &message) &&
               json_object_is_type(message, json_type_string) &&
               strcasestr(json_object_get_string(message), "scope");
}

static int parse_not_found(const Context *c, DpsRequest request) {
        if (speaks_of_scope(c))
                return fail(c, FAILURE_SCOPE_UNKNOWN, c->root, "message",
                            "DPS does not know the ID scope '%s', or no enrollment '%s' in it", c->id_scope,
                            c->registration_id);
        if (request == DPS_REQUEST_POLL)
                return fail(c, FAILURE_ENROLLMENT_MISSING, c->root, "message",
                            "DPS forgot the registration '%s' in the ID scope '%s' while it was "
                            "assigning; its enrollment may have been deleted",
                            c->registration_id, c->id_scope);
        return fail(c, FAILURE_ENROLLMENT_MISSING, c->root, "message",
                    "DPS has no enrollment '%s' in the ID scope '%s', or no such scope", c->registration_id,
                    c->id_scope);
}

/* Branches on the HTTP status; the service's codes are shown only (see parse_unauthorized()). */
static int parse_error(const Context *c, DpsRequest request) {
        unsigned status = c->raw->status;
        int r;

        if (status == 401)
                return parse_unauthorized(c, request);
        if (status == 404)
                return parse_not_found(c, request);
        if (status == 403 && c->root && json_object_object_get_ex(c->root, "errorCode", NULL))
                return not_let_in(c, FAILURE_PROTOCOL);
        if (status == 429)
                return fail(c, FAILURE_HTTP_THROTTLED, c->root, "message",
                            "The service throttles the registration '%s'", c->registration_id);
        if (status >= 500)
                return fail(c, FAILURE_HTTP_SERVER, c->root, "message",
                            "The service failed with HTTP status %u on the registration '%s'", status,
                            c->registration_id);
        r = fail(c, FAILURE_PROTOCOL, c->root, "message",
                 status < 400 ? "The registration '%s' was answered with the unexpected HTTP status %u"
                              : "DPS refused the registration '%s' with HTTP status %u",
                 c->registration_id, status);
        /* No proxy talks like that, so the kind's hint would lead astray. */
        if (status >= 400 && c->root && json_object_object_get_ex(c->root, "errorCode", NULL))
                return set_remedy(c, r,
                                  "DPS itself says why. Check the registration ID; Azure's support asks for "
                                  "the tracking ID.");
        return r;
}

static int copy_optional(char **ret, const char *text) {
        return text ? string_replace(ret, text) : 0;
}

static int copy_payload(DpsReply *reply, json_object *state) {
        json_object *payload;
        const char *text;

        if (!json_object_object_get_ex(state, "payload", &payload) || !payload)
                return 0;
        text = json_object_to_json_string_ext(payload,
                                              JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;
        return strlen(text) > DPS_PAYLOAD_MAX ? -EBADMSG : string_replace(&reply->payload, text);
}

static int parse_assigned(DpsReply *reply, const Context *c, json_object *state) {
        const char *hub, *device_id, *substatus, *id;
        json_object *tpm = NULL;
        int r;

        if (!state)
                return malformed(c, "it says assigned, without registrationState");
        if (get_string(state, "assignedHub", HUB_CHARS, HUB_MAX, &hub) < 0 || !hub || !hub_valid(hub))
                return malformed(c, "assignedHub is missing or not a host name");
        if (get_string(state, "deviceId", DEVICE_ID_CHARS, 128, &device_id) < 0 || !device_id)
                return malformed(c, "deviceId is missing or not a device ID");
        if (get_string(state, "substatus", PRINTABLE, SUBSTATUS_MAX, &substatus) < 0)
                return malformed(c, "substatus is not a word");
        if (get_string(state, "registrationId", DEVICE_ID_CHARS, REGISTRATION_ID_MAX, &id) < 0)
                return malformed(c, "registrationId is not a registration ID");
        if (id && strcasecmp(id, c->registration_id) != 0)
                return malformed(c, "it is about another registration");
        if (json_object_object_get_ex(state, "tpm", &tpm) && tpm &&
            !json_object_is_type(tpm, json_type_object))
                return malformed(c, "tpm is not an object");
        r = get_blob(tpm, "authenticationKey", &reply->hub_key);
        if (r < 0)
                return malformed(c, "the hub's authenticationKey is unusable");
        r = copy_payload(reply, state);
        if (r == -EBADMSG)
                return malformed(c, "the payload is too large");
        if (r < 0 || copy_optional(&reply->hub, hub) < 0 ||
            copy_optional(&reply->device_id, device_id) < 0 ||
            copy_optional(&reply->substatus, substatus) < 0 ||
            copy_optional(&reply->registration_id, id) < 0)
                return -ENOMEM;
        reply->type = DPS_REPLY_ASSIGNED;
        return 0;
}

static int parse_pending(DpsReply *reply, const Context *c, DpsRequest request) {
        const char *operation_id;
        usec_t wait = c->raw->retry_after_usec;

        if (get_string(c->root, "operationId", PRINTABLE, OPERATION_ID_MAX, &operation_id) < 0)
                return malformed(c, "operationId is unusable");
        if (!operation_id && request == DPS_REQUEST_CONFIRM)
                return malformed(c, "operationId is missing");
        if (copy_optional(&reply->operation_id, operation_id) < 0)
                return -ENOMEM;
        if (wait == 0)
                wait = DPS_POLL_DEFAULT_USEC;
        reply->poll_usec = wait < USEC_PER_SEC        ? USEC_PER_SEC
                           : wait > DPS_POLL_MAX_USEC ? DPS_POLL_MAX_USEC
                                                      : wait;
        reply->type = DPS_REPLY_PENDING;
        return 0;
}

static int parse_status(DpsReply *reply, const Context *c, DpsRequest request) {
        json_object *state = get_object(c->root, "registrationState");
        const char *status;
        char unknown[64];

        if (get_string(c->root, "status", PRINTABLE, 32, &status) < 0)
                return malformed(c, "status is not a word");
        if (!status && get_string(state, "status", PRINTABLE, 32, &status) < 0)
                return malformed(c, "status is not a word");
        if (!status)
                return malformed(c, "status is missing");

        if (streq(status, "assigned"))
                return parse_assigned(reply, c, state);
        if (streq(status, "assigning") || streq(status, "unassigned"))
                return parse_pending(reply, c, request);
        if (streq(status, "failed"))
                return fail(c, FAILURE_ASSIGNMENT_FAILED, state, "errorMessage",
                            "The service could not assign the registration '%s' to a hub",
                            c->registration_id);
        if (streq(status, "disabled"))
                return fail(c, FAILURE_DISABLED, state, "errorMessage",
                            "The enrolment of the registration '%s' is disabled", c->registration_id);
        (void) snprintf(unknown, sizeof(unknown), "the status '%s' is unknown", status);
        return malformed(c, unknown);
}

static int parse_reply(DpsReply *reply, DpsRequest request, const Context *c) {
        unsigned status = c->raw->status;
        int r;

        if (status == 401 && request == DPS_REQUEST_REGISTER && c->root) {
                r = get_blob(c->root, "authenticationKey", &reply->challenge);
                if (r < 0)
                        return malformed(c, "the challenge is unusable");
                if (r > 0) {
                        reply->type = DPS_REPLY_CHALLENGE;
                        return 0;
                }
        }
        if (status != 200 && status != 202)
                return parse_error(c, request);
        if (request == DPS_REQUEST_REGISTER)
                /* TPM attestation has to prove something: a reply without a challenge is not the service's.
                 */
                return malformed(c, "it asks for no proof");
        if (!c->root)
                return malformed(c, "it is not a JSON object");
        return parse_status(reply, c, request);
}

int dps_parse_reply(DpsReply *ret, DpsRequest request, const char *id_scope, const char *registration_id,
                    const DpsRawReply *raw, Failure *reterr) {
        Context context = {
                .id_scope = id_scope, .registration_id = registration_id, .raw = raw, .reterr = reterr
        };
        DpsReply reply = {};
        int r;

        context.root = parse_object(raw->body, raw->size);
        r = parse_reply(&reply, request, &context);
        json_object_put(context.root);
        if (r < 0) {
                dps_reply_deinit(&reply);
                if (r == -ENOMEM)
                        (void) failure_set_errno(reterr, FAILURE_STORAGE, -ENOMEM,
                                                 "The reply can't be read");
                return r;
        }
        *ret = reply;
        return 0;
}
