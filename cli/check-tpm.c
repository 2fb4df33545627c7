/* The TPM, read only. The first probes find out whether this user can use it; the others need that. */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "ek-certificate.h"
#include "identity.h"

#define HELPER_USER  "dps-tpm"
#define HELPER_GROUP "tss"
#define HELPER_UNIT  "dps-tpmd.service"
#define AS_TSS       "Run it as root, or as a member of the group " HELPER_GROUP
#define OWNER_AUTH   "dps.tpm_owner_auth"
#define EK_AUTH      "dps.tpm_endorsement_auth"

static const char *node_of(const Check *c) {
        const char *tcti = c->config->tcti;

        if (streq(tcti, "device") || streq(tcti, "device:"))
                return "/dev/tpmrm0";
        return strncmp(tcti, "device:", 7) == 0 ? tcti + 7 : NULL;
}

/* Of a device it is known; another TCTI gives no reason. */
static bool is_permission(const Check *c, const Failure *failure) {
        return streq(failure->code, "EACCES") || streq(failure->code, "EPERM") ||
               (!node_of(c) && geteuid() != 0 && failure->kind == FAILURE_TPM_MISSING);
}

/* Empty when there is none, or it is not for this user. */
static TpmAuthValue read_auth(const Check *c, const char *name, ConfigAuth *auth) {
        ConfigPaths paths = {};

        if (find_credential(&c->paths, name, &paths.credentials_dir) > 0)
                (void) config_read_auth(auth, &paths, name);
        return (TpmAuthValue){ .data = auth->value.data, .size = auth->value.size, .source = auth->path };
}

static int open_tpm(Check *c, Failure *reterr) {
        CLEANUP(config_auth_deinit) ConfigAuth owner = {}, endorsement = {};

        return tpm_open(&c->tpm,
                        &(TpmSettings){ .tcti = c->config->tcti,
                                        .hub_key_handle = c->config->hub_key_handle,
                                        .owner_auth = read_auth(c, OWNER_AUTH, &owner),
                                        .endorsement_auth = read_auth(c, EK_AUTH, &endorsement),
                                        .read_only = true },
                        NULL, reterr);
}

static void probe_device(Check *c) {
        const char *node = node_of(c), *last = node ? strrchr(node, '/') : NULL;
        Failure failure = {};
        struct stat st;

        if (!node)
                check_ok(c, "'%s', which is not a device of this machine", c->config->tcti);
        else if (stat(node, &st) < 0) {
                if (check_key_hidden(c, "Tcti"))
                        return;
                if (open_tpm(c, &failure) >= 0)
                        c->tpm = tpm_close(c->tpm); /* it has just come: the next lines look again */
                else if (is_permission(c, &failure)) {
                        c->tpm_denied = true;
                        check_skip(c, AS_TSS, "%s", failure.sentence);
                } else
                        check_failure(c, &failure); /* which knows more */
        } else if (last && strncmp(last, "/tpm", 4) == 0 && strncmp(last, "/tpmrm", 6) != 0)
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Use /dev/tpmrm0, the kernel's resource manager: whoever opens /dev/tpm0 shuts "
                          "IoT Edge out",
                          "'%s' has no resource manager", node);
        else
                check_ok(c, "'%s'", node);
}

/* A drop-in may have put the helper into another group. The caller frees. */
static char **read_helper_groups(const Check *c) {
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        char **groups = NULL;
        const char *path;

        if (!c->bus ||
            sd_bus_call_method(c->bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                               "org.freedesktop.systemd1.Manager", "LoadUnit", NULL, &reply, "s",
                               HELPER_UNIT) < 0 ||
            sd_bus_message_read(reply, "o", &path) < 0 ||
            sd_bus_get_property_strv(c->bus, "org.freedesktop.systemd1", path,
                                     "org.freedesktop.systemd1.Service", "SupplementaryGroups", NULL,
                                     &groups) < 0)
                return NULL;
        return groups;
}

static void copy_name(char *ret, size_t size, const char *name, unsigned id) {
        if (name)
                (void) snprintf(ret, size, "%s", name);
        else
                (void) snprintf(ret, size, "%u", id);
}

static bool is_helpers(const Check *c, const char *group) {
        char **groups = read_helper_groups(c);
        bool found = streq(group, HELPER_GROUP);

        for (char **g = groups; g && *g; g++) {
                found = found || streq(group, *g);
                free(*g);
        }
        free(groups);
        return found;
}

static bool may_open(const Check *c, const struct stat *st, const char *group) {
        const struct passwd *user = getpwnam(HELPER_USER);

        return (st->st_mode & 0006) == 0006 ||
               (user && user->pw_uid == st->st_uid && (st->st_mode & 0600) == 0600) ||
               ((st->st_mode & 0060) == 0060 && is_helpers(c, group));
}

/* Of the helper, which is not who runs this. */
static void probe_access(Check *c) {
        const char *node = node_of(c);
        const struct group *group_entry;
        const struct passwd *user_entry;
        char group[64], owner[64];
        struct stat st;

        if (!node || stat(node, &st) < 0)
                return; /* the line before has said it */
        group_entry = getgrgid(st.st_gid);
        copy_name(group, sizeof(group), group_entry ? group_entry->gr_name : NULL, st.st_gid);
        user_entry = getpwuid(st.st_uid);
        copy_name(owner, sizeof(owner), user_entry ? user_entry->pw_name : NULL, st.st_uid);
        if (!may_open(c, &st, group))
                check_bad(c, CHECK_FAIL, FAILURE_TPM_MISSING, NULL,
                          "'%s' belongs to %s:%s with the mode %04o, so dps-tpmd (group " HELPER_GROUP
                          ") can't open it",
                          node, owner, group, st.st_mode & 07777);
        else if ((st.st_mode & 0006) != 0)
                check_bad(c, CHECK_WARN, FAILURE_NONE, "Set its mode to 0660, with a udev rule",
                          "'%s' is open to every user: each of them can clear the TPM", node);
        else
                check_ok(c, "%s:%s, mode %04o", owner, group, st.st_mode & 07777);
}

/* What can't be seen as this user is no failure of the machine. */
static void probe_answers(Check *c) {
        const char *node = node_of(c);
        Failure failure = { .kind = FAILURE_TPM_FAILED };
        int r;

        if (node && access(node, F_OK) < 0)
                return;
        r = open_tpm(c, &failure);
        if (r < 0 && is_permission(c, &failure)) {
                c->tpm_denied = true;
                check_skip(c, AS_TSS, "%s", failure.sentence);
                return;
        }
        if (r >= 0)
                r = tpm_properties(c->tpm, &c->tpm_properties, &failure);
        if (r < 0) {
                c->tpm = tpm_close(c->tpm);
                check_failure(c, &failure);
                return;
        }
        c->tpm_usable = true;
        check_ok(c, "A TPM 2.0 by '%s', firmware %u.%u.%u.%u", c->tpm_properties.manufacturer,
                 c->tpm_properties.firmware[0] >> 16, c->tpm_properties.firmware[0] & 0xffff,
                 c->tpm_properties.firmware[1] >> 16, c->tpm_properties.firmware[1] & 0xffff);
}

static void probe_lockout(Check *c) {
        const TpmProperties *p = &c->tpm_properties;
        char recovery[96] = "it does not end by itself";

        if (!c->tpm_usable)
                return;
        if (p->lockout_interval_sec > 0)
                (void) snprintf(recovery, sizeof(recovery), "one is taken back every %u s",
                                p->lockout_interval_sec);
        if (p->in_lockout || (p->lockout_limit > 0 && p->lockout_counter >= p->lockout_limit))
                check_bad(c, CHECK_FAIL, FAILURE_TPM_LOCKOUT, NULL,
                          "The TPM is in lockout after %u wrong authorization values; %s",
                          p->lockout_counter, recovery);
        else if (p->lockout_counter > 0)
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Find the program that uses a wrong value, before the TPM locks up",
                          "%u of %u wrong authorization values until lockout; %s", p->lockout_counter,
                          p->lockout_limit, recovery);
        else
                check_ok(c, "No wrong authorization values (locked from %u on; %s)", p->lockout_limit,
                         recovery);
}

/* A disabled hierarchy closes several handles, and is one fault. */
static void fail_key(Check *c, const Failure *failure) {
        if (c->tpm_hierarchy_told && failure->kind == FAILURE_TPM_HIERARCHY) {
                check_skip(c, CHECK_LOOK_ABOVE, "%s", failure->sentence);
                return;
        }
        c->tpm_hierarchy_told = failure->kind == FAILURE_TPM_HIERARCHY;
        check_failure(c, failure);
}

/* Returns whether the line is written. */
static bool judge_value(Check *c, TpmHierarchy hierarchy, CheckResult result) {
        Failure failure = { .kind = FAILURE_TPM_FAILED };
        char fault[TPM_AUTH_FAULT_MAX];

        if (tpm_test_auth(c->tpm, hierarchy, fault, &failure) < 0) {
                fail_key(c, &failure);
                return true;
        }
        if (!fault[0])
                return false;
        c->endorsement_rejected = c->endorsement_rejected || hierarchy == TPM_HIERARCHY_ENDORSEMENT;
        check_bad(c, result, FAILURE_TPM_AUTH, TPM_AUTH_HINT, "%s authorization: %s",
                  hierarchy == TPM_HIERARCHY_OWNER ? "Owner" : "Endorsement", fault);
        return true;
}

/* An authorization value that is set needs a credential. Returns whether the line is written. */
static bool judge_auth(Check *c, TpmHierarchy hierarchy, CheckResult result) {
        bool owner = hierarchy == TPM_HIERARCHY_OWNER,
             set = owner ? c->tpm_properties.owner_auth_set : c->tpm_properties.endorsement_auth_set;
        const char *credential = owner ? OWNER_AUTH : EK_AUTH, *where = NULL;
        int r = set ? find_credential(&c->paths, credential, &where) : 0;

        if (!set)
                check_ok(c, "Empty");
        else if (r > 0 && judge_value(c, hierarchy, result))
                return true;
        else if (r > 0)
                check_ok(c, "Set, and the credential %s is in '%s'", credential, where);
        else if (r < 0)
                check_skip(c, CHECK_AS_ROOT, "Set; whether there is the credential %s only root can see",
                           credential);
        return !set || r != 0;
}

static void probe_owner(Check *c) {
        bool needed = c->config->target == TARGET_NONE && c->config->identity == IDENTITY_ADOPT;

        if (!c->tpm_usable || judge_auth(c, TPM_HIERARCHY_OWNER, needed ? CHECK_FAIL : CHECK_WARN))
                return;
        if (needed)
                check_bad(c, CHECK_FAIL, FAILURE_TPM_AUTH, NULL,
                          "The owner authorization is set and there is no credential, so no key can be made "
                          "persistent");
        else
                check_bad(c, CHECK_WARN, FAILURE_TPM_AUTH, NULL,
                          "The owner authorization is set and there is no credential, so IoT Edge can't "
                          "adopt an identity and has to register by itself");
}

static void probe_endorsement(Check *c) {
        if (!c->tpm_usable || judge_auth(c, TPM_HIERARCHY_ENDORSEMENT, CHECK_FAIL))
                return;
        check_bad(c, CHECK_FAIL, FAILURE_TPM_AUTH, NULL,
                  "The endorsement authorization is set and there is no credential, so no challenge can be "
                  "answered");
}

/* false: it has said why not. */
static bool look(Check *c, uint32_t handle, TpmObject *ret) {
        Failure failure = { .kind = FAILURE_TPM_FAILED };

        if (tpm_object(c->tpm, handle, ret, &failure) >= 0)
                return true;
        fail_key(c, &failure);
        return false;
}

static void take_daemons_ek(Check *c) {
        const Status *s = &c->status;

        if (!c->daemon_runs || !s->endorsement_key || !s->endorsement_key[0] ||
            base64_decode(&c->ek, s->endorsement_key, 4096) < 0)
                check_skip(c, c->tpm_denied ? AS_TSS : CHECK_LOOK_ABOVE,
                           "Neither this user nor the daemon has read it");
        else if (string_replace(&c->registration_id, s->registration_id) >= 0)
                check_ok(c, "As the daemon has read it; registration ID %s", c->registration_id);
}

/* Since the daemon read it. The daemon warns of a change that it knows. Returns whether the line is written.
 */
static bool judge_change(Check *c, const TpmIdentity *identity) {
        CLEANUP(bytes_deinit) Bytes known = {};
        CLEANUP(freep) char *registration_id = NULL;
        const Status *s = &c->status;

        if (!c->daemon_runs || !s->endorsement_key || !s->endorsement_key[0] ||
            base64_decode(&known, s->endorsement_key, 4096) < 0 || bytes_equal(&known, &identity->ek_public))
                return false;
        (void) identity_registration_id(&registration_id, c->config, &c->paths, identity->ek_public.data,
                                        identity->ek_public.size, NULL);
        check_bad(
                c, CHECK_FAIL, WARNING_EK_CHANGED, NULL,
                "The TPM has another endorsement key than when '%s' was provisioned; the registration ID is "
                "'%s' now",
                s->registration_id, registration_id ? registration_id : "unknown");
        return true;
}

static void take_ek(Check *c, const TpmIdentity *identity) {
        Failure failure = {};

        (void) bytes_copy(&c->ek, identity->ek_public.data, identity->ek_public.size);
        (void) bytes_copy(&c->srk, identity->srk_public.data, identity->srk_public.size);
        if (c->daemon_runs && c->status.registration_id && c->status.registration_id[0])
                (void) string_replace(&c->registration_id, c->status.registration_id); /* it knows %s */
        else if (identity_registration_id(&c->registration_id, c->config, &c->paths,
                                          identity->ek_public.data, identity->ek_public.size, &failure) < 0)
                check_bad(c, CHECK_SKIP, FAILURE_NONE, "Start the daemon, which is given what is missing",
                          "%s", failure.sentence);
}

static void probe_ek(Check *c) {
        CLEANUP(tpm_identity_deinit) TpmIdentity identity = {};
        Failure failure = { .kind = FAILURE_TPM_FAILED };
        const char *node = node_of(c), *where = NULL;
        TpmObject object;

        if (!c->tpm_usable) {
                if (!node || access(node, F_OK) == 0)
                        take_daemons_ek(c);
                return;
        }
        if (!look(c, TPM_EK_HANDLE, &object))
                return;
        if (!object.present && c->tpm_properties.endorsement_auth_set &&
            (c->endorsement_rejected || find_credential(&c->paths, EK_AUTH, &where) <= 0)) {
                check_skip(
                        c, "Provide the credential " EK_AUTH,
                        "None at 0x%08x yet, and it can't be created without the endorsement authorization",
                        TPM_EK_HANDLE);
                return;
        }
        if (tpm_identity(c->tpm, &identity, &failure) < 0) {
                fail_key(c, &failure);
                return;
        }
        if (judge_change(c, &identity))
                return;
        take_ek(c, &identity);
        if (!identity.ek_tcg_template)
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "If IoT Edge or an enrolment made elsewhere expects another key: remove this one "
                          "(tpm2_evictcontrol -c 0x81010001), a standard one is made then, and enrol anew",
                          "The key at 0x%08x is not made from the TCG's template; registration ID %s",
                          TPM_EK_HANDLE, c->registration_id ? c->registration_id : "unknown");
        else
                check_ok(c, "%s, TCG template L-1; registration ID %s",
                         object.present ? "At 0x81010001" : "Made for this run (none at 0x81010001 yet)",
                         c->registration_id ? c->registration_id : "unknown");
}

/* Advice: DPS does not look at it. */
static void probe_certificate(Check *c) {
        CLEANUP(tpm_certificates_deinit) TpmCertificates held = {};
        EkCertificate certificate = {};
        Failure failure = { .kind = FAILURE_TPM_FAILED };

        if (!c->tpm_usable || c->ek.size == 0)
                return;
        if (tpm_certificates(c->tpm, &held, &failure) < 0) {
                check_bad(c, CHECK_WARN, WARNING_EK_CERTIFICATE, NULL, "%s", failure.sentence);
                return;
        }
        if (ek_certificate_examine(&certificate, &held, &c->ek, NULL) < 0)
                return;
        /* many have none, and that is nothing to worry about */
        if (certificate.verdict != EK_CERTIFICATE_MISSING && ek_certificate_is_warning(&certificate))
                check_bad(c, CHECK_WARN, WARNING_EK_CERTIFICATE, NULL, "%s", certificate.sentence);
        else
                check_ok(c, "%s", certificate.sentence);
}

static void probe_srk(Check *c) {
        TpmObject object;

        if (!c->tpm_usable || !look(c, TPM_SRK_HANDLE, &object))
                return;
        if (!object.present)
                check_ok(c, "None at 0x%08x yet; it is made when it is needed", TPM_SRK_HANDLE);
        else if (object.is_srk)
                check_ok(c, "%s at 0x%08x", object.description, TPM_SRK_HANDLE);
        else
                check_bad(c, CHECK_WARN, WARNING_SRK_UNSUITABLE, NULL,
                          "The handle 0x%08x holds %s; it is left alone, and a transient key serves",
                          TPM_SRK_HANDLE, object.description);
}

/* The last that uses the TPM. */
static void probe_hub_key(Check *c) {
        uint32_t handle = c->config->hub_key_handle;
        TpmObject object;

        if (!c->tpm_usable || check_key_refused(c, "HubKeyHandle") || !look(c, handle, &object))
                return;
        if (!object.present && check_is_handed_off(c) && c->config->identity == IDENTITY_ADOPT)
                check_bad(c, CHECK_FAIL, FAILURE_NONE, CHECK_RESTART_DAEMON,
                          "The key of '%s' is gone from 0x%08x: somebody has removed it, or cleared the TPM",
                          c->status.hub, handle);
        else if (!object.present && c->tpm_properties.persistent_available == 0)
                check_bad(c, CHECK_WARN, FAILURE_TPM_FULL, NULL,
                          "Nothing at 0x%08x, and the TPM has no room left", handle);
        else if (!object.present)
                check_ok(c, "Nothing at 0x%08x yet", handle);
        else if (object.is_hub_key)
                check_ok(c, "%s at 0x%08x", object.description, handle);
        else
                check_bad(c, c->config->identity == IDENTITY_REGISTER ? CHECK_WARN : CHECK_FAIL,
                          FAILURE_TPM_HANDLE_TAKEN, NULL, "The hub key's handle 0x%08x holds %s", handle,
                          object.description);
}

const Probe check_tpm_probes[] = {
        { "tpm-device", "Device", probe_device },
        { "tpm-access", "Permissions", probe_access },
        { "tpm-answers", "Answers", probe_answers },
        { "tpm-lockout", "Lockout", probe_lockout },
        { "tpm-owner-auth", "Owner authorization", probe_owner },
        { "tpm-endorsement-auth", "Endorsement authorization", probe_endorsement },
        { "ek", "Endorsement key", probe_ek },
        { "ek-certificate", "Its certificate", probe_certificate },
        { "srk", "Storage root key", probe_srk },
        { "hub-key", "Hub key", probe_hub_key },
        {},
};
