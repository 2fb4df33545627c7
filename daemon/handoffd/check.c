/* Check and Verify: what can be said without changing anything. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "handoffd.h"
#include "paths.h"

#define TPM_PERSISTENT_FIRST 0x81000000u

static bool exists(const char *root, const char *path) {
        CLEANUP(freep) char *full = NULL;
        struct stat st;

        return path_under(&full, root, path) >= 0 && lstat(full, &st) >= 0;
}

int step_survey(Operation *op) {
        int r;

        r = situation_read_files(&op->situation, op->h->options->root, &op->h->options->config,
                                 &op->failure);
        return r < 0 ? r : situation_read_units(&op->situation, op->h->units, &op->failure);
}

static void on_provisioning(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;

        op->situation.provisioning = *answer;
        operation_run(op);
}

static void on_device(void *userdata, const IdentitydAnswer *answer) {
        Operation *op = userdata;

        op->situation.device = *answer;
        if (answer->status != 200 ||
            identityd_ask(op->h->identityd, IDENTITYD_PROVISIONING, on_provisioning, op) < 0)
                operation_run(op);
}

/* Asking would start it. */
int step_ask_device(Operation *op) {
        int r;

        if (!op->situation.identityd.active)
                return 0;
        r = identityd_ask(op->h->identityd, IDENTITYD_DEVICE, on_device, op);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_APPLY_FAILED, r, "identityd can't be asked")
                     : FLOW_WAIT;
}

static int refuse_runtime(const Situation *s, Units *units, const char *root, Failure *reterr) {
        UnitState other = {};

        if (s->edged.masked || s->identityd.masked)
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "masked",
                                   "'%s' is masked, so IoT Edge can't be started",
                                   s->edged.masked ? UNIT_EDGED : UNIT_IDENTITYD);
        if (s->edged.exists && s->identityd.exists)
                return 0;
        if (units_query(units, UNIT_SNAP, &other, NULL) >= 0 && other.exists)
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "snap",
                                   "IoT Edge is installed as a snap, which is not supported; install its "
                                   "packages");
        if (exists(root, PATH_LEGACY))
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, "legacy",
                                   "'%s' belongs to IoT Edge 1.1, which is not supported; upgrade IoT Edge",
                                   PATH_LEGACY);
        return failure_set(reterr, FAILURE_RUNTIME_MISSING, NULL,
                           "Azure IoT Edge is not installed: there is no unit '%s'",
                           s->edged.exists ? UNIT_IDENTITYD : UNIT_EDGED);
}

static int refuse_edit(const Situation *s, const Provisioning *wanted, Failure *reterr) {
        CLEANUP(freep) char *edited = NULL;

        if (!s->text || config_toml_matches(&s->toml, wanted))
                return 0;
        return config_toml_edit(&edited, PATH_CONFIG, s->text, s->text_size, wanted, reterr);
}

static int refuse_config(const Situation *s, const Provisioning *wanted, const char *root, Failure *reterr) {
        uint64_t index = s->config->hub_key_handle - TPM_PERSISTENT_FIRST;
        int r;

        if (!s->text && exists(root, PATH_LEGACY))
                return failure_set(
                        reterr, FAILURE_CONFIG_CONFLICT, "legacy",
                        "'%s' of IoT Edge 1.1 was never imported; run 'iotedge config import', or "
                        "remove it",
                        PATH_LEGACY);
        if (s->toml.parent_hostname)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, "parent_hostname",
                                   "'%s%s' sets parent_hostname, and IoT Edge can't use DPS below a parent",
                                   root, PATH_CONFIG);
        if (s->config->identity == IDENTITY_ADOPT && s->text && s->toml.auth_key_index != index)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, "auth_key_index",
                                   "'%s%s' has IoT Edge's key at auth_key_index 0x%llx of [tpm], but "
                                   "HubKeyHandle= is 0x%08x; make them the same",
                                   root, PATH_CONFIG, (unsigned long long) s->toml.auth_key_index,
                                   s->config->hub_key_handle);
        r = refuse_edit(s, wanted, reterr); /* known now what it would refuse later, with its line */
        if (r < 0)
                return r;
        if (!situation_provisioning_ours(s, wanted) && !s->config->replace_provisioning)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, s->toml.source,
                                   "'%s%s' is provisioned by somebody else (source \"%s\"%s%s)", root,
                                   PATH_CONFIG, s->toml.source ? s->toml.source : "?",
                                   s->toml.id_scope ? ", scope " : "",
                                   s->toml.id_scope ? s->toml.id_scope : "");
        return 0;
}

static int connect_unix(const char *path) {
        CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (fd < 0)
                return -errno;
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        return connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
}

/* `iotedge config apply` asks the container runtime before it changes anything, except the first time. */
static int refuse_apply(const Situation *s, const char *root, Failure *reterr) {
        static const char scheme[] = "unix://";
        const char *uri = s->toml.runtime_uri;
        CLEANUP(freep) char *path = NULL;
        int r;

        if (!s->apply.exists || s->apply.masked)
                return failure_set(reterr, FAILURE_RUNTIME_MISSING, NULL,
                                   "The unit '%s', which applies IoT Edge's configuration, is %s",
                                   UNIT_APPLY, s->apply.masked ? "masked" : "not installed");
        if (!s->applied_exists || (uri && strncmp(uri, scheme, strlen(scheme)) != 0))
                return 0;
        r = path_under(&path, root, uri ? uri + strlen(scheme) : PATH_DOCKER);
        if (r >= 0)
                r = connect_unix(path);
        if (r == -EAGAIN)
                r = 0;
        return r < 0 ? failure_set_errno(reterr, FAILURE_RUNTIME_MISSING, r,
                                         "The container runtime at '%s' does not answer, and without it "
                                         "'iotedge config apply' fails",
                                         path ? path : PATH_DOCKER)
                     : 0;
}

int check_refusals(Operation *op) {
        const char *root = op->h->options->root;
        Situation *s = &op->situation;
        Plan *plan = &op->plan;
        bool itself;
        int r;

        if (s->config->target == TARGET_NONE)
                return failure_set(&op->failure, FAILURE_CONFIG, NULL,
                                   "Target=none is set, so IoT Edge is left alone");
        plan->wanted = situation_wanted(s, op->registration_id);
        r = refuse_runtime(s, op->h->units, root, &op->failure);
        if (r >= 0)
                r = refuse_config(s, &plan->wanted, root, &op->failure);
        if (r < 0)
                return r;
        plan->write_config = !s->text || !config_toml_matches(&s->toml, &plan->wanted);
        plan->run_apply = plan->write_config || !config_toml_matches(&s->applied, &plan->wanted);
        if (plan->write_config)
                r = config_file_refusals(root, &op->failure);
        if (r >= 0)
                r = device_info_refusal(root, &op->failure);
        if (r >= 0 && plan->run_apply)
                r = refuse_apply(s, root, &op->failure);

        itself = s->toml.auto_reprovisioning_mode &&
                 streq(s->toml.auto_reprovisioning_mode, "AlwaysOnStartup");
        if (itself)
                operation_warn(op, WARNING_REPROVISIONS_ITSELF,
                               "'%s%s' sets auto_reprovisioning_mode = \"AlwaysOnStartup\", so IoT Edge "
                               "registers by itself at each start",
                               root, PATH_CONFIG);
        plan->adopt = s->config->identity == IDENTITY_ADOPT && !itself;
        return r;
}

static bool names_us(const Situation *s, const Provisioning *wanted) {
        return config_toml_same_endpoint(s->provisioning.endpoint, wanted->endpoint) &&
               streq(s->provisioning.id_scope, wanted->id_scope) &&
               strcasecmp(s->provisioning.registration_id, wanted->registration_id) == 0;
}

static int set_device(Operation *op, const char *hub, const char *device_id) {
        int r = string_replace(&op->plan.hub, hub);

        if (r >= 0)
                r = string_replace(&op->plan.device_id, device_id);
        return r < 0 ? failure_set_errno(&op->failure, FAILURE_STORAGE, r, "%s can't be answered", op->name)
                     : 0;
}

static int step_decide(Operation *op) {
        const Situation *s = &op->situation;
        int r;

        r = check_refusals(op);
        if (r < 0)
                return r;
        op->result = "ready";
        if (!s->record.hub && !op->plan.run_apply && s->device.status == 200 && s->prev_state.text[0] &&
            names_us(s, &op->plan.wanted)) {
                op->result = "already";
                return set_device(op, s->device.hub, s->device.device_id);
        }
        if (situation_moved(s)) {
                op->result = "moved";
                return set_device(op, s->device_info.hub, s->device_info.device_id);
        }
        return 0;
}

const FlowStep check_steps[] = { step_survey, step_ask_device, step_decide, NULL };

/* Names what is lost, or NULL. */
static const char *what_is_lost(const Situation *s, const Provisioning *wanted) {
        const Record *rec = &s->record;

        if (!s->text)
                return PATH_CONFIG " does not exist";
        if (!config_toml_matches(&s->toml, wanted))
                return PATH_CONFIG " names another provisioning";
        if (!config_toml_matches(&s->applied, wanted))
                return PATH_APPLIED " names another provisioning";
        if (!s->device_info.hub)
                return PATH_IDENTITYD "/device_info does not exist";
        if (rec->hub &&
            (!streq(rec->hub, s->device_info.hub) || !streq(rec->device_id, s->device_info.device_id)))
                return PATH_IDENTITYD "/device_info names another device";
        return NULL;
}

static int step_verify(Operation *op) {
        Situation *s = &op->situation;
        const char *lost, *id;
        Provisioning wanted;
        int r;

        r = situation_read_files(s, op->h->options->root, &op->h->options->config, &op->failure);
        if (r < 0)
                return r;
        id = s->record.registration_id ? s->record.registration_id
             : s->toml.registration_id ? s->toml.registration_id
                                       : "";
        wanted = situation_wanted(s, id);
        if (situation_moved(s)) {
                op->result = "moved";
                return set_device(op, s->device_info.hub, s->device_info.device_id);
        }
        lost = what_is_lost(s, &wanted);
        op->result = lost ? "lost" : "intact";
        op->detail = lost;
        return 0;
}

const FlowStep verify_steps[] = { step_verify, NULL };
