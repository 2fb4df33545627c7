#include "bus.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "dps.h"
#include "identity.h"
#include "log.h"
#include "tpmd.h"

#define TPM_PUBLIC_MAX 1024
#define NAMES_MAX      8
#define TPM_NAME_MAX   66 /* nameAlg and the largest digest */

/* What one call needs: the configuration and the open TPM. */
typedef struct Call {
        Config *config;
        Tpm *tpm;
        ConfigAuth owner_auth, endorsement_auth;
} Call;

static void call_deinit(Call *call) {
        call->tpm = tpm_close(call->tpm); /* has commands for the TPM as well */
        (void) alarm(0);
        call->config = config_free(call->config);
        config_auth_deinit(&call->owner_auth);
        config_auth_deinit(&call->endorsement_auth);
}

/* A command that never comes back can't be cancelled from user space. The process ends instead; the bus
 * starts a new one for the next call. */
static void on_stuck(int signal_number) {
        static const char message[] = "<3>dps-tpmd: The TPM does not answer; the helper ends\n";

        (void) !write(STDERR_FILENO, message, sizeof(message) - 1);
        _exit(EXIT_FAILURE);
}

static int read_auth(ConfigAuth *ret, const ConfigPaths *paths, const char *name, Failure *reterr) {
        int r = config_read_auth(ret, paths, name);

        if (r >= 0 || r == -ENOENT)
                return 0;
        r = failure_set_errno(reterr, FAILURE_TPM_AUTH, r, "The credential '%s/%s' can't be read",
                              paths->credentials_dir, name);
        reterr->remedy = TPM_AUTH_HINT;
        return r;
}

static TpmAuthValue auth_value(const ConfigAuth *auth) {
        return (TpmAuthValue){ .data = auth->value.data, .size = auth->value.size, .source = auth->path };
}

static int read_settings(Call *call, const Tpmd *tpmd, Failure *reterr) {
        const ConfigPaths *paths = &tpmd->options->config;
        int r;

        r = config_load(&call->config, &tpmd->options->config);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "The configuration can't be read");
        if (config_failure(call->config, reterr))
                return failure_to_errno(reterr->kind);
        r = read_auth(&call->owner_auth, paths, "dps.tpm_owner_auth", reterr);
        return r < 0 ? r : read_auth(&call->endorsement_auth, paths, "dps.tpm_endorsement_auth", reterr);
}

static int call_begin(Call *call, const Tpmd *tpmd, Failure *reterr) {
        TpmSettings settings;
        int r;

        r = read_settings(call, tpmd, reterr);
        if (r < 0)
                return r;
        (void) signal(SIGALRM, on_stuck);
        (void) alarm((unsigned) (tpmd->options->command_timeout_usec / USEC_PER_SEC));
        settings = (TpmSettings){ .tcti = call->config->tcti,
                                  .hub_key_handle = call->config->hub_key_handle,
                                  .owner_auth = auth_value(&call->owner_auth),
                                  .endorsement_auth = auth_value(&call->endorsement_auth) };
        return tpm_open(&call->tpm, &settings, tpmd->cache, reterr);
}

/* The rights of a process are those of its start: the groups, and the drivers that DeviceAllow=char-tpm was
 * looked up in. A drop-in, or a driver whose module is loaded later, helps another process only. */
static bool needs_other_rights(const Failure *failure) {
        return failure->kind == FAILURE_TPM_MISSING &&
               (streq(failure->code, "EPERM") || streq(failure->code, "EACCES"));
}

/* Logged where it happened; the caller handles it. What has no failure to show (no memory) gets one here. */
static int fail(sd_bus_message *m, int r, Failure *failure) {
        if (failure->kind == FAILURE_NONE)
                (void) failure_set_errno(failure, FAILURE_TPM_FAILED, r, "The TPM can't be used");
        log_info("%s failed: %s", sd_bus_message_get_member(m), failure->sentence);
        if (needs_other_rights(failure)) {
                Tpmd *tpmd = sd_bus_get_current_userdata(sd_bus_message_get_bus(m));

                tpmd->outdated = true;
        }
        /* The message says when a lockout ends. An operator can end the lockout at once, so Retry does not
         * wait. */
        failure->retry_after_usec = 0;
        return bus_reply_failure(m, failure);
}

static int bad_argument(sd_bus_message *m, sd_bus_error *error, const char *what) {
        log_warning("%s was called with a bad argument: %s", sd_bus_message_get_member(m), what);
        return sd_bus_error_setf(error, SD_BUS_ERROR_INVALID_ARGS, "Bad argument: %s", what);
}

/* The key in the TPM is IoT Edge's own business then. */
static int hub_key_allowed(const Call *call, Failure *reterr) {
        if (call->config->identity == IDENTITY_REGISTER)
                return failure_set(reterr, FAILURE_CONFIG, NULL,
                                   "Identity=register: the hub key at 0x%08x is not touched",
                                   call->config->hub_key_handle);
        return 0;
}

static int read_bytes(sd_bus_message *m, Bytes *ret, size_t max) {
        const void *data;
        size_t size;
        int r;

        r = sd_bus_message_read_array(m, 'y', &data, &size);
        if (r < 0)
                return r;
        if (size > max)
                return -E2BIG;
        *ret = (Bytes){ .data = (uint8_t *) data, .size = size }; /* borrowed from the message */
        return 0;
}

static int append_variant_bytes(sd_bus_message *reply, const char *key, const Bytes *bytes) {
        int r;

        r = sd_bus_message_open_container(reply, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(reply, "s", key);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'v', "ay");
        if (r >= 0)
                r = sd_bus_message_append_array(reply, 'y', bytes->data, bytes->size);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static const char *const hub_key_states[] = {
        [TPM_HUB_KEY_EMPTY] = "empty",
        [TPM_HUB_KEY_HMAC] = "hmac",
        [TPM_HUB_KEY_FOREIGN] = "foreign",
};

static int append_identity(sd_bus_message *reply, const TpmIdentity *id) {
        int r;

        r = sd_bus_message_open_container(reply, 'a', "{sv}");
        if (r >= 0)
                r = append_variant_bytes(reply, "endorsementKey", &id->ek_public);
        if (r >= 0)
                r = append_variant_bytes(reply, "storageRootKey", &id->srk_public);
        if (r >= 0)
                r = append_variant_bytes(reply, "hubKeyName", &id->hub_key_name);
        if (r >= 0)
                r = sd_bus_message_append(reply, "{sv}{sv}{sv}{sv}{sv}{sv}", "endorsementKeyPersistent", "b",
                                          id->ek_persistent, "storageRootKeyPersistent", "b",
                                          id->srk_persistent, "endorsementKeyTcgTemplate", "b",
                                          id->ek_tcg_template, "ownerAuthUsable", "b", id->owner_auth_usable,
                                          "storageRootKeyUnsuitable", "b", id->srk_unsuitable, "hubKeyState",
                                          "s", hub_key_states[id->hub_key_state]);
        if (r >= 0 && id->owner_auth_fault[0])
                r = sd_bus_message_append(reply, "{sv}", "ownerAuthFault", "s", id->owner_auth_fault);
        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int method_identity(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        CLEANUP(call_deinit) Call call = {};
        CLEANUP(tpm_identity_deinit) TpmIdentity identity = {};
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Failure failure = {};
        int r;

        r = bus_check_caller(m, error);
        if (r < 0)
                return r;
        r = call_begin(&call, userdata, &failure);
        if (r >= 0)
                r = tpm_identity(call.tpm, &identity, &failure);
        if (r < 0)
                return fail(m, r, &failure);
        r = sd_bus_message_new_method_return(m, &reply);
        if (r >= 0)
                r = append_identity(reply, &identity);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int sign_registration(Call *call, const Bytes *challenge, const char *registration_id,
                             uint64_t expiry, char **ret_token, Failure *reterr) {
        CLEANUP(freep) char *text = NULL;
        uint8_t signature[SHA256_SIZE];
        int r;

        if (!call->config->id_scope)
                return failure_set(reterr, FAILURE_CONFIG, NULL, "IdScope= is not set");
        r = dps_string_to_sign(&text, call->config->id_scope, registration_id, expiry);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_TPM_FAILED, r, "The token can't be made");
        r = tpm_sign_challenge(call->tpm, challenge, text, strlen(text), signature, reterr);
        if (r < 0)
                return r;
        r = dps_token(ret_token, call->config->id_scope, registration_id, expiry, signature);
        explicit_bzero(signature, sizeof(signature));
        return r < 0 ? failure_set_errno(reterr, FAILURE_TPM_FAILED, r, "The token can't be made") : 0;
}

static int method_sign_registration(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        CLEANUP(call_deinit) Call call = {};
        CLEANUP(secret_freep) char *token = NULL;
        const char *registration_id;
        Bytes challenge;
        uint64_t expiry;
        Failure failure = {};
        int r;

        r = bus_check_caller(m, error);
        if (r < 0)
                return r;
        r = read_bytes(m, &challenge, TPM_BLOB_MAX);
        if (r < 0)
                return bad_argument(m, error, "the challenge is too large");
        r = sd_bus_message_read(m, "st", &registration_id, &expiry);
        if (r < 0)
                return r;
        if (!identity_registration_id_valid(registration_id))
                return bad_argument(m, error, "not a registration ID");
        if (expiry == 0 || expiry > UINT32_MAX)
                return bad_argument(m, error, "the expiry is not a time in seconds");

        r = call_begin(&call, userdata, &failure);
        if (r >= 0)
                r = sign_registration(&call, &challenge, registration_id, expiry, &token, &failure);
        return r < 0 ? fail(m, r, &failure) : sd_bus_reply_method_return(m, "s", token);
}

static int method_import_hub_key(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        CLEANUP(call_deinit) Call call = {};
        CLEANUP(bytes_deinit) Bytes private_area = {}, public_area = {};
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Bytes blob;
        Failure failure = {};
        int r;

        r = bus_check_caller(m, error);
        if (r < 0)
                return r;
        r = read_bytes(m, &blob, TPM_BLOB_MAX);
        if (r < 0)
                return bad_argument(m, error, "the blob is too large");
        r = call_begin(&call, userdata, &failure);
        if (r >= 0)
                r = hub_key_allowed(&call, &failure);
        if (r >= 0)
                r = tpm_import_hub_key(call.tpm, &blob, &private_area, &public_area, &failure);
        if (r < 0)
                return fail(m, r, &failure);
        r = sd_bus_message_new_method_return(m, &reply);
        if (r >= 0)
                r = sd_bus_message_append_array(reply, 'y', private_area.data, private_area.size);
        if (r >= 0)
                r = sd_bus_message_append_array(reply, 'y', public_area.data, public_area.size);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* The names of keys, borrowed from the message. */
typedef struct Names {
        Bytes list[NAMES_MAX];
        size_t count;
} Names;

static int read_names(sd_bus_message *m, Names *ret) {
        int r;

        r = sd_bus_message_enter_container(m, 'a', "ay");
        while (r >= 0 && (r = sd_bus_message_at_end(m, false)) == 0) {
                if (ret->count == NAMES_MAX)
                        return -E2BIG;
                r = read_bytes(m, &ret->list[ret->count++], TPM_NAME_MAX);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_adoption(sd_bus_message *m, Bytes *private_area, Bytes *public_area, Names *names) {
        int r;

        r = read_bytes(m, private_area, TPM_BLOB_MAX);
        if (r >= 0)
                r = read_bytes(m, public_area, TPM_PUBLIC_MAX);
        return r < 0 ? r : read_names(m, names);
}

static int method_adopt_hub_key(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        CLEANUP(call_deinit) Call call = {};
        CLEANUP(bytes_deinit) Bytes name = {};
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Bytes private_area, public_area;
        bool changed = false;
        Failure failure = {};
        Names names = {};
        int r;

        r = bus_check_caller(m, error);
        if (r < 0)
                return r;
        r = read_adoption(m, &private_area, &public_area, &names);
        if (r < 0)
                return bad_argument(m, error, "a key or a name is too large, or there are too many names");
        r = call_begin(&call, userdata, &failure);
        if (r >= 0)
                r = hub_key_allowed(&call, &failure);
        if (r >= 0)
                r = tpm_adopt_hub_key(call.tpm, &private_area, &public_area, names.list, names.count,
                                      &changed, &name, &failure);
        if (r < 0)
                return fail(m, r, &failure);
        if (changed)
                log_info("Made the hub key persistent at 0x%08x", call.config->hub_key_handle);
        r = sd_bus_message_new_method_return(m, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "b", changed);
        if (r >= 0)
                r = sd_bus_message_append_array(reply, 'y', name.data, name.size);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_hub_key(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        CLEANUP(call_deinit) Call call = {};
        CLEANUP(bytes_deinit) Bytes name = {};
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        TpmHubKeyState state;
        Failure failure = {};
        int r;

        r = bus_check_caller(m, error);
        if (r < 0)
                return r;
        r = call_begin(&call, userdata, &failure);
        if (r >= 0)
                r = tpm_hub_key(call.tpm, &state, &name, &failure);
        if (r < 0)
                return fail(m, r, &failure);
        r = sd_bus_message_new_method_return(m, &reply);
        if (r >= 0)
                r = sd_bus_message_append(reply, "s", hub_key_states[state]);
        if (r >= 0)
                r = sd_bus_message_append_array(reply, 'y', name.data, name.size);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_forget_hub_key(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        CLEANUP(call_deinit) Call call = {};
        Failure failure = {};
        Names names = {};
        int r;

        r = bus_check_caller(m, error);
        if (r < 0)
                return r;
        r = read_names(m, &names);
        if (r < 0)
                return bad_argument(m, error, "a name is too large, or there are too many names");
        r = call_begin(&call, userdata, &failure);
        if (r >= 0)
                r = tpm_forget_hub_key(call.tpm, names.list, names.count, &failure);
        return r < 0 ? fail(m, r, &failure) : sd_bus_reply_method_return(m, NULL);
}

#define OPEN SD_BUS_VTABLE_UNPRIVILEGED /* who may call is checked in each method */

const sd_bus_vtable tpmd_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Identity", SD_BUS_NO_ARGS, SD_BUS_RESULT("a{sv}", identity),
                                method_identity, OPEN),
        SD_BUS_METHOD_WITH_ARGS(
                "SignRegistration", SD_BUS_ARGS("ay", challenge, "s", registrationId, "t", expiry),
                SD_BUS_RESULT("s", token), method_sign_registration, OPEN | SD_BUS_VTABLE_SENSITIVE),
        SD_BUS_METHOD_WITH_ARGS("ImportHubKey", SD_BUS_ARGS("ay", blob),
                                SD_BUS_RESULT("ay", private, "ay", public), method_import_hub_key,
                                OPEN | SD_BUS_VTABLE_SENSITIVE),
        SD_BUS_METHOD_WITH_ARGS("AdoptHubKey", SD_BUS_ARGS("ay", private, "ay", public, "aay", replaceable),
                                SD_BUS_RESULT("b", changed, "ay", name), method_adopt_hub_key,
                                OPEN | SD_BUS_VTABLE_SENSITIVE),
        SD_BUS_METHOD_WITH_ARGS("HubKey", SD_BUS_NO_ARGS, SD_BUS_RESULT("s", state, "ay", name),
                                method_hub_key, OPEN),
        SD_BUS_METHOD_WITH_ARGS("ForgetHubKey", SD_BUS_ARGS("aay", names), SD_BUS_NO_RESULT,
                                method_forget_hub_key, OPEN),
        SD_BUS_VTABLE_END,
};
