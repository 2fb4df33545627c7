#include "judge-settings.h"

#include <ctype.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "paths.h"

#define SEP           TOML_SEPARATOR
#define TABLE         "provisioning"
#define PATH_HOSTNAME "/etc/hostname"

static bool set(Failure *reterr, FailureKind kind, const char *code, const char *hint, const char *message) {
        (void) failure_set(reterr, kind, code, "%s", message);
        reterr->remedy = hint;
        return true;
}

/* --- keys in the wrong table --- */

/* The parts of a provisioning of any kind. */
static const char *const parts[] = { "always_reprovision_on_startup",
                                     "attestation",
                                     "authentication",
                                     "connection_string",
                                     "device_id",
                                     "dynamic_reprovisioning",
                                     "global_endpoint",
                                     "id_scope",
                                     "iothub_hostname",
                                     "payload",
                                     "scope_id",
                                     "source" },
                         *const attestation_parts[] = { "csr",         "device_id_pk", "identity_cert",
                                                        "identity_pk", "method",       "registration_id",
                                                        "subject",     "symmetric_key" };

static bool in_list(const char *const *list, size_t count, const char *key, size_t size) {
        for (size_t i = 0; i < count; i++)
                if (strlen(list[i]) == size && strncmp(list[i], key, size) == 0)
                        return true;
        return false;
}

static bool is_stray(const TomlEntry *entry) {
        static const char table[] = TABLE SEP, attestation[] = TABLE SEP "attestation" SEP;
        const char *key;

        if (strncmp(entry->path, attestation, strlen(attestation)) == 0) {
                key = entry->path + strlen(attestation);
                return !in_list(attestation_parts, ARRAY_SIZE(attestation_parts), key, strcspn(key, SEP));
        }
        if (strncmp(entry->path, table, strlen(table)) != 0)
                return false;
        key = entry->path + strlen(table);
        return !in_list(parts, ARRAY_SIZE(parts), key, strcspn(key, SEP));
}

bool judge_stray_keys(const Situation *s, Failure *reterr) {
        const Origin from = situation_origin(s);
        CLEANUP(toml_deinit) Toml toml = {};
        char names[256] = "", message[512];
        const char *why;
        unsigned line, first = 0;

        if (toml_parse(&toml, from.text, from.size, &line, &why) < 0)
                return false;
        for (size_t i = 0; i < toml.entry_count; i++) {
                size_t used = strlen(names);

                if (!is_stray(&toml.entries[i]))
                        continue;
                first = first ? first : toml.entries[i].line;
                (void) snprintf(names + used, sizeof(names) - used, "%s'%s'", used > 0 ? ", " : "",
                                strrchr(toml.entries[i].path, SEP[0]) + 1);
        }
        if (first == 0)
                return false;
        (void) snprintf(message, sizeof(message),
                        "'%s%s', line %u: IoT Edge does not read %s in [provisioning], and it goes when the "
                        "table is replaced",
                        s->root, from.path, first, names);
        return set(
                reterr, WARNING_EDGE_CONFIG, "provisioning",
                "Move the named lines to the table that they belong to: those that belong to no table stand "
                "above the first line that begins with '['.",
                message);
}

/* --- the host name --- */

static const char *const images[] = { "localhost",   "localhost.localdomain",
                                      "raspberrypi", "debian",
                                      "ubuntu",      "buildroot",
                                      "beaglebone",  "dietpi",
                                      "armbian",     "(none)",
                                      "linux",       "orangepi",
                                      "template",    "changeme" };

/* Below another root it is that root's. "": not known. */
static void read_own_name(const char *root, char name[static 256]) {
        CLEANUP(freep) char *path = NULL, *text = NULL;

        name[0] = '\0';
        if (!root[0]) {
                if (gethostname(name, 255) < 0)
                        name[0] = '\0';
                return;
        }
        if (path_under(&path, root, PATH_HOSTNAME) >= 0 && read_file(path, 256, &text, NULL) >= 0)
                (void) snprintf(name, 256, "%.*s", (int) strcspn(text, " \t\r\n"), text);
}

static bool is_address(const char *name) {
        return strchr(name, ':') || name[strspn(name, "0123456789.")] == '\0';
}

bool judge_host_name(const Situation *s, Failure *reterr) {
        const Origin from = situation_origin(s);
        const char *name = from.toml->hostname;
        char own[256], message[512];
        size_t label;

        read_own_name(s->root, own);
        label = strcspn(own, ".");
        for (size_t i = 0; i < ARRAY_SIZE(images); i++)
                if (strcasecmp(name ? name : own, images[i]) == 0) {
                        (void) snprintf(message, sizeof(message),
                                        "The host name '%s' of IoT Edge is that of an image: other machines "
                                        "have it too, and certificates of modules contain it",
                                        images[i]);
                        return set(reterr, WARNING_EDGE_CONFIG, "hostname",
                                   "Give the machine its own name with 'hostnamectl set-hostname "
                                   "NAME', and "
                                   "set hostname in /etc/aziot/config.toml to it before modules exist.",
                                   message);
                }
        if (!name || is_address(name) || label == 0 ||
            (strncasecmp(name, own, label) == 0 && (name[label] == '\0' || name[label] == '.')))
                return false;
        (void) snprintf(message, sizeof(message), "'%s%s' has hostname \"%s\", but this machine is '%s'",
                        s->root, from.path, name, own);
        return set(reterr, WARNING_EDGE_CONFIG, "hostname",
                   "Set hostname in /etc/aziot/config.toml to the name of the machine, or to its full name "
                   "that "
                   "begins with that, or correct the machine's name with 'hostnamectl set-hostname NAME'.",
                   message);
}

/* --- the TPM --- */

/* What is behind a TCTI: "0" is the first TPM of the system, which every form without a name means. */
static const char *tpm_of(const char *tcti) {
        const char *name = strrchr(tcti, '/');

        if (strncmp(tcti, "device", strlen("device")) == 0 && (tcti[6] == '\0' || tcti[6] == ':')) {
                name = name ? name + 1 : "tpm0";
                name += strncmp(name, "tpmrm", 5) == 0 ? 5 : strncmp(name, "tpm", 3) == 0 ? 3 : 0;
                return name;
        }
        return tcti[0] == '\0' || strncmp(tcti, "tabrmd", strlen("tabrmd")) == 0 ? "0" : tcti;
}

static const TomlValue *tpmd_value(const Situation *s, const Toml *toml, const char *path) {
        CLEANUP(freep) char *full = NULL;
        const TomlValue *value = overrides_get(&s->tpmd_files, true, path, NULL);

        if (!value && asprintf(&full, "tpm" SEP "%s", path) < 0)
                full = NULL;
        if (!value && full)
                value = toml_get(toml, full);
        return value ? value : overrides_get(&s->tpmd_files, false, path, NULL);
}

bool judge_tcti(const Situation *s, const char *tcti, Failure *reterr) {
        const Origin from = situation_origin(s);
        CLEANUP(toml_deinit) Toml toml = {};
        const TomlValue *value;
        const char *why, *theirs = "device";
        char message[512];
        unsigned line;

        if (!tcti || toml_parse(&toml, from.text, from.size, &line, &why) < 0)
                return false;
        value = tpmd_value(s, &toml, "tcti");
        if (value && value->type != TOML_STRING)
                return false; /* `iotedge config apply` refuses it */
        /* Without a tcti a simulator is one that its user has given to aziot-tpmd in another way. */
        if (!value && strncmp(tcti, "device", strlen("device")) != 0)
                return false;
        theirs = value ? value->text : theirs;
        if (streq(theirs, tcti) || streq(tpm_of(theirs), tpm_of(tcti)))
                return false;
        (void) snprintf(message, sizeof(message),
                        "aziot-tpmd uses the TPM '%s' (tcti in [tpm]), but dps-tpmd uses '%s' (Tcti=)",
                        theirs, tcti);
        return set(
                reterr, WARNING_EDGE_CONFIG, "tcti",
                "Set tcti in [tpm] of /etc/aziot/config.toml and Tcti= in provisiond.conf to the same TPM, "
                "and run 'iotedge config apply'.",
                message);
}

bool judge_authorization(const Situation *s, FailureKind kind, Failure *reterr) {
        const Origin from = situation_origin(s);
        const struct {
                const char *path, *name, *credential;
                bool ours;
        } values[] = {
                { "hierarchy_authorization" SEP "endorsement", "endorsement", "dps.tpm_endorsement_auth",
                  s->endorsement_auth },
                { "hierarchy_authorization" SEP "owner", "owner", "dps.tpm_owner_auth", s->owner_auth },
        };
        CLEANUP(toml_deinit) Toml toml = {};
        const char *why;
        unsigned line;
        char message[512];

        if (toml_parse(&toml, from.text, from.size, &line, &why) < 0)
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                if (!values[i].ours || tpmd_value(s, &toml, values[i].path))
                        continue;
                (void) snprintf(message, sizeof(message),
                                "dps-tpmd has the credential %s, but '%s%s' has no '%s' in "
                                "[tpm.hierarchy_authorization]: IoT Edge can't register alone",
                                values[i].credential, s->root, from.path, values[i].name);
                return set(
                        reterr, kind, "hierarchy_authorization",
                        "Add owner and endorsement with the values of the credentials to "
                        "[tpm.hierarchy_authorization] of /etc/aziot/config.toml, and run 'iotedge config "
                        "apply' if IoT Edge is provisioned.",
                        message);
        }
        return false;
}
