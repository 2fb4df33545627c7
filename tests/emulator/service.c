/* The Device Provisioning Service's side of TPM attestation: challenge, confirmation, operation, lookup. */
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "emulator.h"
#include "sas.h"

#define API_VERSION_MAX   32
#define TOO_LONG_KEY_SIZE 72 /* a TPM takes 64 bytes, the block size of SHA-256 */

/* The service's codes begin with the HTTP status; which ones it uses beyond these is not published. */
#define ERROR_UNAUTHORIZED         401002
#define ERROR_ENROLLMENT_NOT_FOUND 404201
#define ERROR_SCOPE_NOT_FOUND      404202
#define ERROR_OPERATION_NOT_FOUND  404203
#define ERROR_ASSIGNMENT_FAILED    400209

static void unauthorized(Emulator *emulator, Response *response, const char *why) {
        response_dps_error(response, 401, ERROR_UNAUTHORIZED, emulator_now(emulator), "Unauthorized");
        /* the service doesn't say more, our log does */
        (void) string_replace(&response->error, why);
}

static void internal_error(Emulator *emulator, Response *response, int error) {
        response_dps_error(response, 500, 500000, emulator_now(emulator), "Internal error: %s",
                           strerror(-error));
}

static void answer_status(Emulator *emulator, Response *response, unsigned status, int code,
                          const char *message, const char *retry_after) {
        static const struct {
                unsigned status;
                int code;
                const char *message;
        } usual[] = {
                { 400, 400004, "Bad request" },
                { 401, ERROR_UNAUTHORIZED, "Unauthorized" },
                { 403, 403001, "Forbidden" },
                { 404, ERROR_ENROLLMENT_NOT_FOUND, "Enrollment not found" },
                { 429, 429001, "Operation rate exceeded, try again later" },
                { 500, 500001, "Internal server error" },
                { 503, 503001, "Service unavailable" },
        };
        const char *text = "Error made by a rule or fault";
        int number = (int) status * 1000 + 1;

        for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
                if (usual[i].status == status) {
                        number = usual[i].code;
                        text = usual[i].message;
                }
        response_dps_error(response, status, code ? code : number, emulator_now(emulator), "%s",
                           message ? message : text);
        response_set_retry_after(response, retry_after, emulator_now(emulator));
        if (status < 400 && asprintf(&response->location, "%s/elsewhere", emulator->base_url) < 0)
                response->location = NULL;
}

/* What holds for every request before it is looked at closely. NULL: it has been answered. */
static Enrollment *find_enrollment(Emulator *emulator, const Request *request, Response *response) {
        time_t now = emulator_now(emulator);
        const char *id = request->segments[2], *version = request->api_version;
        Enrollment *enrollment;

        if (!version ||
            !chars_valid(version, "0123456789-abcdefghijklmnopqrstuvwxyz", 10, API_VERSION_MAX)) {
                response_dps_error(response, 400, 400000, now, "The api-version is missing or not valid");
                return NULL;
        }
        if (!registration_id_valid(id)) {
                response_dps_error(response, 400, 400004, now, "The registration ID is not valid");
                return NULL;
        }
        (void) string_replace(&response->registration_id, id);
        if (strcasecmp(request->segments[0], emulator->scope) != 0) {
                response_dps_error(response, 404, ERROR_SCOPE_NOT_FOUND, now,
                                   "Provisioning service instance for ID scope '%s' not found",
                                   request->segments[0]);
                return NULL;
        }
        enrollment = enrollments_find(emulator->enrollments, id);
        if (!enrollment)
                response_dps_error(response, 404, ERROR_ENROLLMENT_NOT_FOUND, now, "Enrollment not found");
        return enrollment;
}

/* registrationId must be the path's; -EBADMSG when it has been answered. */
static int check_body(Emulator *emulator, const Request *request, Response *response) {
        const char *id = json_string(request->body, "registrationId", REGISTRATION_ID_MAX);
        json_object *payload;

        if (!id || strcasecmp(id, request->segments[2]) != 0) {
                response_dps_error(
                        response, 400, 400004, emulator_now(emulator),
                        request->body ? "The body's registrationId is missing or not the one in the path"
                                      : "The body is not JSON");
                return -EBADMSG;
        }
        if (json_object_object_get_ex(request->body, "payload", &payload)) {
                json_object_put(response->payload);
                response->payload = json_object_get(payload);
        }
        return 0;
}

static int parse_key(TpmStorageKey *ret, Bytes *ret_public, json_object *tpm, const char *name,
                     char **ret_why) {
        const char *text = json_string(tpm, name, 4 * TPM_CRYPTO_PUBLIC_MAX), *why = "is not base64";

        if (text && base64_decode(ret_public, text, TPM_CRYPTO_PUBLIC_MAX) == 0 &&
            tpm_storage_key_parse(ret, ret_public->data, ret_public->size, &why) == 0)
                return 0;
        if (asprintf(ret_why, "tpm.%s %s", name, text ? why : "is missing") < 0)
                *ret_why = NULL;
        return -EBADMSG;
}

/* The `tpm` object of a body against the enrolment: -EBADMSG malformed, -EKEYREJECTED another EK. */
static int parse_keys(const Enrollment *enrollment, json_object *body, TpmStorageKey *ret_ek,
                      TpmStorageKey *ret_srk, char **ret_why) {
        CLEANUP(bytes_deinit) Bytes ek = {}, srk = {};
        json_object *tpm = NULL;
        int r;

        (void) json_object_object_get_ex(body, "tpm", &tpm);
        r = parse_key(ret_ek, &ek, tpm, "endorsementKey", ret_why);
        if (r == 0)
                r = parse_key(ret_srk, &srk, tpm, "storageRootKey", ret_why);
        if (r < 0)
                return r;
        return bytes_equal(&ek, &enrollment->endorsement_key) ? 0 : -EKEYREJECTED;
}

static int add_blob(json_object *object, const char *name, const TpmStorageKey *ek, const TpmStorageKey *srk,
                    const TpmHmacKey *key) {
        CLEANUP(bytes_deinit) Bytes blob = {};
        CLEANUP(secret_freep) char *text = NULL;
        int r;

        r = tpm_crypto_wrap_key(&blob, ek, srk, key);
        if (r == 0)
                r = base64_encode(&text, blob.data, blob.size);
        if (r == 0)
                json_add_string(object, name, text);
        return r;
}

/* The 401 that is none: the key whose HMAC is to prove the TPM. One SDK recognises it by the absence of
 * `status`, others by that of `errorCode`. */
static void answer_challenge(Emulator *emulator, const Request *request, const Enrollment *enrollment,
                             Response *response) {
        CLEANUP(freep) char *why = NULL;
        TpmStorageKey ek, srk, target;
        Attempt *attempt;
        json_object *body;
        int r;

        r = parse_keys(enrollment, request->body, &ek, &srk, &why);
        if (r == -EBADMSG) {
                response_dps_error(response, 400, 400004, emulator_now(emulator), "%s",
                                   why ? why : "Bad request");
                return;
        }
        if (r == -EKEYREJECTED) {
                unauthorized(emulator, response, "the endorsement key is not the enrolment's");
                return;
        }
        r = attempts_add(emulator->attempts, enrollment->registration_id, &attempt);
        target = ek;
        if (r == 0 && faults_use(emulator->faults, FAULT_WRONG_EK_CHALLENGE, request->kind))
                r = tpm_storage_key_random(&target);
        body = json_object_new_object();
        json_add_string(body, "message", "Authorization required, resend request using supplied key");
        if (r == 0)
                r = add_blob(body, "authenticationKey", &target, &srk,
                             &(TpmHmacKey){ attempt->key, sizeof(attempt->key), TPM_CRYPTO_ATTRIBUTES });
        json_add(body, "unencryptedAuthenticationKey", NULL);
        json_add_string(body, "keyName", "registration");
        if (r < 0) {
                json_object_put(body);
                internal_error(emulator, response, r);
                return;
        }
        attempt->ek = ek;
        attempt->srk = srk;
        response_json(response, 401, body);
}

/* The attempt whose challenge signed the request's token; NULL: answered. */
static Attempt *authorize(Emulator *emulator, const Request *request, Response *response) {
        CLEANUP(sas_deinit) SasToken token = {};
        CLEANUP(freep) char *resource = NULL, *expected = NULL;
        const char *id = request->segments[2], *why = "the request has no token";
        Attempt *attempt = NULL;

        if (!request->authorization || sas_parse(&token, request->authorization, &why) < 0) {
                unauthorized(emulator, response, why);
                return NULL;
        }
        resource = sas_resource(&token);
        if (asprintf(&expected, "%s/registrations/%s", emulator->scope, id) < 0)
                expected = NULL;
        if (!resource || !expected || strcasecmp(resource, expected) != 0) {
                unauthorized(emulator, response, "the token is for another resource");
                return NULL;
        }
        /* one SDK leaves it empty */
        if (token.key_name[0] != '\0' && !streq(token.key_name, "registration")) {
                unauthorized(emulator, response, "the token's skn is not 'registration'");
                return NULL;
        }
        why = "there was no challenge";
        while ((attempt = attempts_next(emulator->attempts, id, attempt))) {
                int r = sas_verify(&token, attempt->key, sizeof(attempt->key),
                                   (uint64_t) emulator_now(emulator), &why);

                if (r == 0) {
                        response->authorized = true;
                        return attempt;
                }
                if (r == -EKEYEXPIRED)
                        break;
        }
        unauthorized(emulator, response, why);
        return NULL;
}

static json_object *new_state(const Enrollment *enrollment, Outcome status, const char *created,
                              const char *updated) {
        json_object *state = json_object_new_object();

        if (enrollment->state) { /* first, so that it can't replace what follows */
                json_object_object_foreach(enrollment->state, name, value) {
                        json_add(state, name, json_object_get(value));
                }
        }
        json_add_string(state, "registrationId", enrollment->registration_id);
        if (created)
                json_add_string(state, "createdDateTimeUtc", created);
        json_add_string(state, "status", outcome_to_string(status));
        if (updated)
                json_add_string(state, "lastUpdatedDateTimeUtc", updated);
        return state;
}

static json_object *new_operation(const Attempt *attempt, Outcome status, json_object *state) {
        json_object *body = json_object_new_object();

        json_add_string(body, "operationId", attempt->operation_id);
        json_add_string(body, "status", outcome_to_string(status));
        json_add(body, "registrationState", state);
        return body;
}

/* registrationState is there from the beginning: aziot-identityd can't read a reply without its
 * registrationId. */
static void answer_pending(Emulator *emulator, const Attempt *attempt, const Enrollment *enrollment,
                           Outcome status, Response *response) {
        response_json(response, 202,
                      new_operation(attempt, status, new_state(enrollment, status, NULL, NULL)));
        response_set_retry_after(response, emulator->retry_after, emulator_now(emulator));
        if (asprintf(&response->location, "%s/%s/registrations/%s/register", emulator->base_url,
                     emulator->scope, enrollment->registration_id) < 0)
                response->location = NULL;
}

static int start_operation(Attempt *attempt) {
        char id[37];

        /* the form that the documentation shows: "5.", 16 hex digits, a GUID */
        guid(id);
        if (asprintf(&attempt->operation_id, "5.%.8s%.4s%.4s.%s", id, id + 9, id + 14, id) < 0) {
                attempt->operation_id = NULL;
                return -ENOMEM;
        }
        return 0;
}

/* The 202. The body may come with or without `tpm`; when it is there, the EK must still be the right one. */
static void answer_confirm(Emulator *emulator, const Request *request, const Enrollment *enrollment,
                           Attempt *attempt, Response *response) {
        CLEANUP(freep) char *why = NULL;
        TpmStorageKey ek, srk;
        int r = 0;

        if (json_object_object_get_ex(request->body, "tpm", NULL))
                r = parse_keys(enrollment, request->body, &ek, &srk, &why);
        if (r == -EBADMSG) {
                response_dps_error(response, 400, 400004, emulator_now(emulator), "%s",
                                   why ? why : "Bad request");
                return;
        }
        if (r == -EKEYREJECTED) {
                unauthorized(emulator, response, "the endorsement key is not the enrolment's");
                return;
        }
        if (!attempt->operation_id)
                r = start_operation(attempt);
        if (r < 0)
                internal_error(emulator, response, r);
        else
                answer_pending(emulator, attempt, enrollment, OUTCOME_ASSIGNING, response);
}

/* registrationState.tpm with the hub's key, or what a fault makes of it. */
static int add_hub_key(Emulator *emulator, const Attempt *attempt, const Device *device,
                       json_object *state) {
        const Fault *bad = faults_use(emulator->faults, FAULT_BAD_HUB_KEY, REQUEST_POLL);
        uint8_t bytes[TOO_LONG_KEY_SIZE] = {};
        TpmHmacKey key = { device->key, sizeof(device->key), TPM_CRYPTO_ATTRIBUTES };
        TpmStorageKey ek = attempt->ek;
        json_object *tpm;
        int r = 0;

        if (faults_use(emulator->faults, FAULT_NO_HUB_KEY, REQUEST_POLL))
                return 0;
        if (bad && streq(bad->text, "fixed"))
                key.attributes |= TPM_CRYPTO_FIXED_TPM;
        else if (bad && streq(bad->text, "lockout"))
                key.attributes &= ~TPM_CRYPTO_NO_DA;
        else if (bad && streq(bad->text, "long")) {
                key.data = memcpy(bytes, device->key, sizeof(device->key));
                key.size = sizeof(bytes);
        }
        tpm = json_object_new_object();
        if (bad && streq(bad->text, "garbage"))
                json_add_string(tpm, "authenticationKey", "bm90IGEga2V5");
        else if (bad && streq(bad->text, "not-base64"))
                json_add_string(tpm, "authenticationKey", "!not base64!");
        else {
                if (bad && (streq(bad->text, "") || streq(bad->text, "other-ek")))
                        r = tpm_storage_key_random(&ek);
                if (r == 0)
                        r = add_blob(tpm, "authenticationKey", &ek, &attempt->srk, &key);
        }
        json_add(state, "tpm", tpm);
        return r;
}

static json_object *new_assigned_state(const Enrollment *enrollment, const Device *device) {
        CLEANUP(freep) char *etag = NULL;
        json_object *state = new_state(enrollment, OUTCOME_ASSIGNED, device->created, device->updated);

        json_add_string(state, "assignedHub", device->hub);
        json_add_string(state, "deviceId", device->device_id);
        json_add_string(state, "substatus", device->substatus);
        if (base64_encode(&etag, device->etag, strlen(device->etag)) == 0)
                json_add_string(state, "etag", etag);
        if (enrollment->payload)
                json_add(state, "payload", json_object_get(enrollment->payload));
        return state;
}

static int finish(Emulator *emulator, const Enrollment *enrollment, Attempt *attempt,
                  const EnrollmentRule *rule) {
        Outcome outcome = rule ? rule->result : enrollment->enabled ? OUTCOME_ASSIGNED : OUTCOME_DISABLED;
        char now[TIMESTAMP_SIZE];
        json_object *state;
        Device *device;
        int r = 0;

        timestamp(now, emulator_now(emulator));
        if (outcome == OUTCOME_ASSIGNED) {
                r = registry_assign(emulator->registry, enrollment, emulator->hub_keys,
                                    faults_use(emulator->faults, FAULT_KEEP_OLD_DEVICE, REQUEST_POLL),
                                    emulator_now(emulator), &device);
                if (r < 0)
                        return r;
                state = new_assigned_state(enrollment, device);
                r = add_hub_key(emulator, attempt, device, state);
                (void) string_replace(&attempt->hub, device->hub);
                (void) string_replace(&attempt->device_id, device->device_id);
        } else {
                state = new_state(enrollment, outcome, now, now);
                if (outcome == OUTCOME_FAILED) {
                        const char *message = rule->error_message;

                        json_add(state, "errorCode",
                                 json_object_new_int(rule->error_code ? rule->error_code
                                                                      : ERROR_ASSIGNMENT_FAILED));
                        json_add_string(state, "errorMessage", message ? message : "Assignment failed");
                }
        }
        attempt->result = new_operation(attempt, outcome, state);
        return r;
}

static void answer_poll(Emulator *emulator, const Request *request, Enrollment *enrollment, Attempt *attempt,
                        Response *response) {
        const EnrollmentRule *rule = NULL;
        int r = 0;

        if (!attempt->operation_id || !streq(attempt->operation_id, request->segments[4])) {
                response_dps_error(response, 404, ERROR_OPERATION_NOT_FOUND, emulator_now(emulator),
                                   "Operation not found");
                return;
        }
        if (!attempt->result) {
                if (attempt->polls++ < emulator->polls) {
                        answer_pending(emulator, attempt, enrollment, OUTCOME_ASSIGNING, response);
                        return;
                }
                rule = enrollment_use_outcome(enrollment);
                if (rule && (rule->result == OUTCOME_ASSIGNING || rule->result == OUTCOME_UNASSIGNED)) {
                        answer_pending(emulator, attempt, enrollment, rule->result, response);
                        return;
                }
                r = finish(emulator, enrollment, attempt, rule);
        }
        if (r < 0 || !attempt->result) {
                internal_error(emulator, response, r < 0 ? r : -ENOMEM);
                return;
        }
        response_json(response, 200, json_object_get(attempt->result));
        (void) string_replace(&response->hub, attempt->hub);
        (void) string_replace(&response->device_id, attempt->device_id);
}

/* The last registration, without beginning another. It wants the same proof as a registration. */
static void answer_lookup(Emulator *emulator, const Enrollment *enrollment, Response *response) {
        const Device *device = registry_find(emulator->registry, enrollment->registration_id);

        if (!device)
                response_dps_error(response, 404, 404204, emulator_now(emulator), "Registration not found");
        else
                response_json(response, 200, new_assigned_state(enrollment, device));
}

void service_answer(Emulator *emulator, const Request *request, Response *response) {
        const Fault *fault = faults_use(emulator->faults, FAULT_STATUS, request->kind);
        const EnrollmentRule *rule;
        Enrollment *enrollment;
        Attempt *attempt;

        if (fault) {
                answer_status(emulator, response, (unsigned) fault->number, 0, NULL, NULL);
                return;
        }
        enrollment = find_enrollment(emulator, request, response);
        if (!enrollment)
                return;
        rule = enrollment_use_status(enrollment, request->kind);
        if (rule) {
                answer_status(emulator, response, rule->status, rule->error_code, rule->error_message,
                              rule->retry_after);
                return;
        }
        if (request->kind != REQUEST_POLL && check_body(emulator, request, response) < 0)
                return;
        if (request->kind == REQUEST_REGISTER &&
            faults_use(emulator->faults, FAULT_2XX_FIRST, request->kind)) {
                answer_pending(emulator, &(Attempt){ .operation_id = (char *) "5.0.0" }, enrollment,
                               OUTCOME_ASSIGNING, response);
                return;
        }
        if (request->kind == REQUEST_REGISTER ||
            (request->kind == REQUEST_LOOKUP && !request->authorization)) {
                answer_challenge(emulator, request, enrollment, response);
                return;
        }
        attempt = authorize(emulator, request, response);
        if (!attempt)
                return;
        if (request->kind == REQUEST_CONFIRM)
                answer_confirm(emulator, request, enrollment, attempt, response);
        else if (request->kind == REQUEST_POLL)
                answer_poll(emulator, request, enrollment, attempt, response);
        else
                answer_lookup(emulator, enrollment, response);
}
