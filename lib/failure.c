#include "failure.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>

typedef struct FailureInfo {
        const char *name;
        FailureClass class;
        unsigned cures;
        int error;
        const char *message_id;
        const char *summary;
        const char *remedy;
} FailureInfo;

#define TRANSIENT FAILURE_CLASS_TRANSIENT
#define LOCAL     FAILURE_CLASS_LOCAL
#define OPERATOR  FAILURE_CLASS_OPERATOR
#define WARNING   FAILURE_CLASS_WARNING
#define NETWORK   FAILURE_CURE_NETWORK
#define CLOCK     FAILURE_CURE_CLOCK
#define TPM       FAILURE_CURE_TPM
#define ENGINE    FAILURE_CURE_ENGINE

static const FailureInfo failures[] = {
        [FAILURE_NONE] = { "", TRANSIENT, 0, 0, "", "", "" },
        [FAILURE_CONFIG] = { "config", OPERATOR, 0, EINVAL, "31f8c22827854f2f8c4ed08c9d48a801",
                             "The configuration has an error",
                             "Correct the named line, or the file if it can't be read; the daemon notices "
                             "the change by itself." },
        [FAILURE_TPM_MISSING] = { "tpm-missing", TRANSIENT, TPM, ENODEV, "31f8c22827854f2f8c4ed08c9d48a802",
                                  "No TPM can be reached",
                                  "Enable the TPM 2.0 in the firmware, and check that /dev/tpmrm0 exists "
                                  "and that its group is tss (mode 0660). When a udev rule gives it to "
                                  "another group, take GROUP= out of the rule, or name that group with "
                                  "SupplementaryGroups= in a drop-in of dps-tpmd.service. A TPM elsewhere "
                                  "is "
                                  "named with Tcti=." },
        [FAILURE_TPM_BUSY] = { "tpm-busy", TRANSIENT, 0, EBUSY, "31f8c22827854f2f8c4ed08c9d48a803",
                               "The TPM asks to try again later",
                               "Nothing to do unless it stays: then look for another program that keeps the "
                               "TPM occupied." },
        [FAILURE_TPM_LOCKOUT] = { "tpm-lockout", OPERATOR, 0, EPERM, "31f8c22827854f2f8c4ed08c9d48a804",
                                  "The TPM is in dictionary-attack lockout",
                                  "Wait for the recovery time, or reset it with tpm2_dictionarylockout "
                                  "--clear-lockout." },
        [FAILURE_TPM_AUTH] = { "tpm-auth", OPERATOR, 0, EACCES, "31f8c22827854f2f8c4ed08c9d48a805",
                               "The TPM refuses an authorization value",
                               "Provide the owner or endorsement authorization value as the systemd "
                               "credential dps.tpm_owner_auth "
                               "or dps.tpm_endorsement_auth of dps-tpmd.service." },
        [FAILURE_TPM_HANDLE_TAKEN] = { "tpm-handle-taken", OPERATOR, 0, EEXIST,
                                       "31f8c22827854f2f8c4ed08c9d48a806",
                                       "A TPM handle that is needed holds somebody else's object",
                                       "Find out whose object it is (tpm2_readpublic -c HANDLE). Move it "
                                       "away, choose another "
                                       "HubKeyHandle=, or allow its replacement with "
                                       "ReplaceProvisioning=yes." },
        [FAILURE_TPM_FULL] = { "tpm-full", OPERATOR, 0, ENOSPC, "31f8c22827854f2f8c4ed08c9d48a807",
                               "The TPM has no room for another persistent key",
                               "List the persistent objects with tpm2_getcap handles-persistent and remove "
                               "one that nobody uses "
                               "(tpm2_evictcontrol)." },
        [FAILURE_TPM_FAILED] = { "tpm-failed", TRANSIENT, TPM, EIO, "31f8c22827854f2f8c4ed08c9d48a808",
                                 "The TPM reported an error",
                                 "If it stays, power-cycle the device; then look the code up with "
                                 "tpm2_rc_decode." },
        [FAILURE_DNS] = { "dns", TRANSIENT, NETWORK, EHOSTUNREACH, "31f8c22827854f2f8c4ed08c9d48a809",
                          "The name of the service can't be resolved",
                          "Check the name server (resolvectl status) and GlobalEndpoint=." },
        [FAILURE_CONNECT] = { "connect", TRANSIENT, NETWORK, ECONNREFUSED,
                              "31f8c22827854f2f8c4ed08c9d48a80a", "No connection to the service",
                              "Check the route and that the site's firewall lets TCP port 443 out to the "
                              "service." },
        [FAILURE_PROXY] = { "proxy", TRANSIENT, NETWORK, ECONNREFUSED, "31f8c22827854f2f8c4ed08c9d48a80b",
                            "The proxy does not let the request through",
                            "Check the scheme, the name and the port in Proxy= (or https_proxy in the "
                            "environment of dps-provisiond.service), and what the proxy allows; credentials "
                            "for it come as the systemd credential dps.proxy." },
        [FAILURE_TLS_CLOCK] = { "tls-clock", TRANSIENT, NETWORK | CLOCK, ETIME,
                                "31f8c22827854f2f8c4ed08c9d48a80c",
                                "The service's certificate is not valid at the local time, and the clock "
                                "looks wrong",
                                "Set the clock: let NTP (UDP port 123) out or provide a local time "
                                "server." },
        [FAILURE_TLS_TRUST] = { "tls-trust", OPERATOR, NETWORK | CLOCK, EKEYREJECTED,
                                "31f8c22827854f2f8c4ed08c9d48a80d",
                                "The service's certificate is not trusted",
                                "If the issuer is a proxy of the site that opens TLS, exempt DPS from it, "
                                "or "
                                "name the proxy's root certificate with CAFile=. Else update the package "
                                "ca-certificates; where CAFile= is set, which replaces the system's "
                                "certificates, add the issuer's root certificate to that file." },
        [FAILURE_TIMEOUT] = { "timeout", TRANSIENT, NETWORK, ETIMEDOUT, "31f8c22827854f2f8c4ed08c9d48a80e",
                              "The other side did not answer in time",
                              "Check the quality of the network; a slow link may need a larger "
                              "RequestTimeoutSec=." },
        [FAILURE_HTTP_THROTTLED] = { "http-throttled", FAILURE_CLASS_THROTTLED, 0, EBUSY,
                                     "31f8c22827854f2f8c4ed08c9d48a80f",
                                     "The service has too many requests and asks to wait",
                                     "Nothing to do on the device. For a large rollout spread the devices "
                                     "over several DPS instances." },
        [FAILURE_HTTP_SERVER] = { "http-server", TRANSIENT, 0, EREMOTEIO, "31f8c22827854f2f8c4ed08c9d48a810",
                                  "The service has a fault of its own",
                                  "Nothing to do on the device; see the status page of Azure if it stays." },
        [FAILURE_PROTOCOL] = { "protocol", OPERATOR, 0, EPROTO, "31f8c22827854f2f8c4ed08c9d48a811",
                               "The reply is not what the service answers",
                               "Check that GlobalEndpoint= names a Device Provisioning Service and that no "
                               "captive portal or "
                               "proxy answers in its place." },
        [FAILURE_ENROLLMENT_MISSING] = { "enrollment-missing", OPERATOR, 0, ENOENT,
                                         "31f8c22827854f2f8c4ed08c9d48a812",
                                         "The service knows no such enrolment",
                                         "Create an individual enrolment with what 'dps-provision "
                                         "enrollment' prints, in the DPS instance "
                                         "that the ID scope belongs to; its overview page shows the ID "
                                         "scope "
                                         "that IdScope= has to have." },
        [FAILURE_IDENTITY_MISMATCH] = { "identity-mismatch", OPERATOR, 0, EACCES,
                                        "31f8c22827854f2f8c4ed08c9d48a813",
                                        "The enrolment does not fit this TPM",
                                        "Compare the enrolment's endorsement key with what 'dps-provision "
                                        "enrollment' prints; after a "
                                        "replaced mainboard the enrolment has to be created anew." },
        [FAILURE_SCOPE_UNKNOWN] = { "scope-unknown", OPERATOR, 0, ENOENT, "31f8c22827854f2f8c4ed08c9d48a814",
                                    "The service does not know the ID scope",
                                    "Compare IdScope= with the ID scope on the overview page of the DPS "
                                    "instance, and GlobalEndpoint= "
                                    "with its cloud." },
        [FAILURE_DISABLED] = { "disabled", OPERATOR, 0, EPERM, "31f8c22827854f2f8c4ed08c9d48a815",
                               "The enrolment is disabled", "Enable the enrolment in the DPS instance." },
        [FAILURE_ASSIGNMENT_FAILED] = { "assignment-failed", OPERATOR, 0, EREMOTEIO,
                                        "31f8c22827854f2f8c4ed08c9d48a816",
                                        "The service could not assign a hub",
                                        "Check the DPS instance's linked hubs, the enrolment's allocation "
                                        "policy and the access rights of "
                                        "DPS on the hub." },
        [FAILURE_RUNTIME_MISSING] = { "runtime-missing", OPERATOR, ENGINE, ENOPKG,
                                      "31f8c22827854f2f8c4ed08c9d48a817",
                                      "Azure IoT Edge is not installed or can't be used",
                                      "Install the packages aziot-edge and aziot-identity-service and "
                                      "unmask their units, or set "
                                      "Target=none when the device's own software takes over." },
        [FAILURE_CONFIG_CONFLICT] = { "config-conflict", OPERATOR, 0, EEXIST,
                                      "31f8c22827854f2f8c4ed08c9d48a818",
                                      "IoT Edge is configured in a way that must not be overwritten",
                                      "Remove or correct the named part of the named file. Somebody "
                                      "else's provisioning in /etc/aziot/config.toml is replaced when "
                                      "ReplaceProvisioning=yes is set." },
        [FAILURE_HUB_NOT_ALLOWED] = { "hub-not-allowed", OPERATOR, 0, EPERM,
                                      "31f8c22827854f2f8c4ed08c9d48a819",
                                      "The assigned hub is not one that this device may use",
                                      "If the hub is right, add it to AllowedHubs=; else correct the "
                                      "enrolment." },
        [FAILURE_APPLY_FAILED] = { "apply-failed", TRANSIENT, 0, EIO, "31f8c22827854f2f8c4ed08c9d48a81a",
                                   "The configuration could not be applied to IoT Edge",
                                   "See 'journalctl -u dps-iotedge-apply'. Applying it again needs the "
                                   "container engine to run." },
        [FAILURE_RESTART_FAILED] = { "restart-failed", TRANSIENT, 0, EIO, "31f8c22827854f2f8c4ed08c9d48a81b",
                                     "A unit of IoT Edge could not be stopped or started",
                                     "See 'systemctl status' and 'journalctl -u' of the named unit." },
        [FAILURE_CLOCK_BEHIND] = { "clock-behind", TRANSIENT, CLOCK, ETIME,
                                   "31f8c22827854f2f8c4ed08c9d48a81c",
                                   "The clock is too far behind for IoT Edge to sign in",
                                   "Set the clock: let NTP (UDP port 123) out or provide a local time "
                                   "server. It goes on by itself "
                                   "then." },
        [FAILURE_CONFIRM_TIMEOUT] = { "confirm-timeout", TRANSIENT, 0, ETIMEDOUT,
                                      "31f8c22827854f2f8c4ed08c9d48a81d",
                                      "IoT Edge did not report its identity in time",
                                      "See 'journalctl -u aziot-identityd -u aziot-tpmd'." },
        [FAILURE_HUB_UNREACHABLE] = { "hub-unreachable", TRANSIENT, NETWORK, EHOSTUNREACH,
                                      "31f8c22827854f2f8c4ed08c9d48a81e",
                                      "IoT Edge has its identity but the hub has not accepted it yet",
                                      "Check that the site's firewall lets the hub through on TCP ports "
                                      "443, 5671 or 8883, not only the "
                                      "provisioning service." },
        [FAILURE_STORAGE] = { "storage", TRANSIENT, 0, EIO, "31f8c22827854f2f8c4ed08c9d48a81f",
                              "A file could not be read or written",
                              "Check the free space, the permissions and the health of the named file's "
                              "file system." },
        [FAILURE_REGISTRATION_BUDGET] = { "registration-budget", FAILURE_CLASS_THROTTLED, 0, EBUSY,
                                          "31f8c22827854f2f8c4ed08c9d48a820",
                                          "This gateway has used up its registration budget",
                                          "Run 'dps-provision status' and 'dps-provision check' and mend "
                                          "the cause that they show. Then run 'dps-provision retry' as "
                                          "root to register at once." },
        [FAILURE_DISRUPTION_BUDGET] = { "disruption-budget", FAILURE_CLASS_THROTTLED, 0, EBUSY,
                                        "31f8c22827854f2f8c4ed08c9d48a821",
                                        "IoT Edge has been disrupted too often",
                                        "Run 'dps-provision status' and 'dps-provision check' and mend the "
                                        "cause that they show. Then run 'dps-provision retry' as root to "
                                        "allow another disruption at once." },
        [FAILURE_ENGINE_UNREACHABLE] = { "engine-unreachable", LOCAL, ENGINE, ECONNREFUSED,
                                         "31f8c22827854f2f8c4ed08c9d48a822",
                                         "The container engine does not answer",
                                         "Start the container engine (systemctl start docker), or correct "
                                         "uri in [moby_runtime] of /etc/aziot/config.toml. The daemon goes "
                                         "on at once when the engine starts, and tries again every 10 "
                                         "seconds." },
        [FAILURE_TPM_HIERARCHY] = { "tpm-hierarchy", OPERATOR, TPM, EPERM,
                                    "31f8c22827854f2f8c4ed08c9d48a830", "A hierarchy of the TPM is disabled",
                                    "Enable the TPM's storage and endorsement hierarchies in the firmware "
                                    "setup, then reboot. A hierarchy that a program has disabled "
                                    "(tpm2_hierarchycontrol) comes back with the reboot alone." },
        [FAILURE_ENGINE_UNSUITABLE] = { "engine-unsuitable", OPERATOR, ENGINE, EPROTONOSUPPORT,
                                        "31f8c22827854f2f8c4ed08c9d48a823",
                                        "The container engine refuses IoT Edge's version of the Docker API",
                                        "Upgrade IoT Edge to 1.6 or later. Or let the engine accept older "
                                        "clients: run 'systemctl edit docker', add the lines '[Service]' "
                                        "and 'Environment=DOCKER_MIN_API_VERSION=1.24', and run "
                                        "'systemctl restart docker'." },
        [WARNING_EDGE_FLAG_MISSING] = { "edge-flag-missing", WARNING, 0, ENOENT,
                                        "31f8c22827854f2f8c4ed08c9d48a840",
                                        "The device is not an IoT Edge device in its hub",
                                        "Set 'IoT Edge device' in the enrolment (az: --edge-enabled true), "
                                        "then run 'dps-provision "
                                        "reprovision'." },
        [WARNING_ADOPTION_REFUSED] = { "adoption-refused", WARNING, 0, EPERM,
                                       "31f8c22827854f2f8c4ed08c9d48a841",
                                       "IoT Edge registered by itself instead of adopting the identity",
                                       "Nothing has to be done: the device works. 'journalctl -u "
                                       "aziot-identityd' says why." },
        [WARNING_REPROVISIONS_ITSELF] = { "reprovisions-itself", WARNING, 0, EINVAL,
                                          "31f8c22827854f2f8c4ed08c9d48a842",
                                          "IoT Edge is configured to register anew at every start",
                                          "Remove auto_reprovisioning_mode = \"AlwaysOnStartup\" from the "
                                          "named file to let it adopt the identity." },
        [WARNING_DATA_MOVED] = { "data-moved", WARNING, 0, EINVAL, "31f8c22827854f2f8c4ed08c9d48a843",
                                 "The service moved or reset the device's data",
                                 "Check the device twin and the deployment in the new hub." },
        [WARNING_SRK_UNSUITABLE] = { "srk-unsuitable", WARNING, 0, EINVAL,
                                     "31f8c22827854f2f8c4ed08c9d48a844",
                                     "IoT Edge can't register by itself on this TPM",
                                     "If an unsuitable key has the handle 0x81000001 and no program uses "
                                     "it, "
                                     "remove it with 'tpm2_evictcontrol -C o -c 0x81000001': what it wraps "
                                     "is lost, and dps-tpmd makes an RSA storage root key with noDA and "
                                     "without an authorization value in its place. If the owner "
                                     "authorization is set, give it to dps-tpmd and to aziot-tpmd "
                                     "([tpm.hierarchy_authorization]). Until then only this daemon restores "
                                     "a lost identity." },
        [WARNING_CONFIG_IGNORED] = { "config-ignored", WARNING, 0, EINVAL,
                                     "31f8c22827854f2f8c4ed08c9d48a845",
                                     "Part of the configuration has no effect",
                                     "Correct or remove what is named; provisiond.conf(5) says what is "
                                     "read." },
        [WARNING_EK_CERTIFICATE] = { "ek-certificate", WARNING, 0, EINVAL,
                                     "31f8c22827854f2f8c4ed08c9d48a846",
                                     "The endorsement key certificate is missing or does not fit",
                                     "Nothing has to be done for DPS, which does not look at it; for your "
                                     "own assurance ask the "
                                     "manufacturer." },
        [WARNING_PAYLOAD_IGNORED] = { "payload-ignored", WARNING, 0, EINVAL,
                                      "31f8c22827854f2f8c4ed08c9d48a847",
                                      "This release of IoT Edge ignores Payload=",
                                      "Upgrade to IoT Edge 1.4 or later and run 'iotedge config apply', or "
                                      "remove Payload=. Until then the daemon sends the payload, but a "
                                      "self-registration of IoT Edge lacks it." },
        [WARNING_EK_CHANGED] = { "ek-changed", WARNING, 0, EINVAL, "31f8c22827854f2f8c4ed08c9d48a850",
                                 "The endorsement key has changed",
                                 "Create or update the enrollment with what 'dps-provision enrollment' "
                                 "prints "
                                 "now, then run 'dps-provision retry'. Delete the enrollment of the former "
                                 "registration ID and its device in the hub, unless the disk comes from "
                                 "another machine that still uses them." },
        [WARNING_PROXY_MISSING] = { "proxy-missing", WARNING, 0, ENETUNREACH,
                                    "31f8c22827854f2f8c4ed08c9d48a848",
                                    "IoT Edge or the container engine lacks the proxy of dps-provisiond",
                                    "Run 'systemctl edit UNIT' for each that is named (aziot-identityd, "
                                    "aziot-edged, docker) and add the lines '[Service]' and "
                                    "'Environment=https_proxy=URL' with the URL of Proxy=. For edgeAgent "
                                    "set https_proxy = \"URL\" and UpstreamProtocol = \"AmqpWs\" in "
                                    "[agent.env] of /etc/aziot/config.toml ([agent] then needs name, type "
                                    "and config, as in config.toml.edge.template) and run 'iotedge config "
                                    "apply'. Then run 'systemctl restart docker' and 'iotedge system "
                                    "restart'. What needs no proxy gets Environment=NO_PROXY=HOST, with "
                                    "the host that it asks." },
        [WARNING_REGISTRY_UNREACHABLE] = { "registry-unreachable", WARNING, 0, EHOSTUNREACH,
                                           "31f8c22827854f2f8c4ed08c9d48a849",
                                           "The registry of IoT Edge's images can't be reached",
                                           "Let the container engine reach the registry on TCP port 443, "
                                           "or give it the site's proxy ('systemctl edit docker' with "
                                           "'Environment=https_proxy=URL' below '[Service]'). Or load the "
                                           "image with 'docker load', or name a registry of the site with "
                                           "image in [agent.config] of /etc/aziot/config.toml." },
        [WARNING_EDGE_CONFIG] = { "edge-config", WARNING, 0, EINVAL, "31f8c22827854f2f8c4ed08c9d48a851",
                                  "IoT Edge's configuration says something that does not work as meant",
                                  "Correct the named key in /etc/aziot/config.toml and run 'iotedge config "
                                  "apply'." },
};
static_assert(ARRAY_SIZE(failures) == _FAILURE_KIND_MAX, "every kind of failure has a row");

static const FailureInfo *failure_info(FailureKind kind) {
        assert(kind >= 0 && kind < _FAILURE_KIND_MAX);
        return &failures[kind];
}

const char *failure_kind_to_string(FailureKind kind) {
        return failure_info(kind)->name;
}

FailureKind failure_kind_from_string(const char *name) {
        for (int k = 0; k < _FAILURE_KIND_MAX; k++)
                if (streq(failures[k].name, name))
                        return (FailureKind) k;
        return _FAILURE_KIND_INVALID;
}

FailureClass failure_class(FailureKind kind) {
        return failure_info(kind)->class;
}

unsigned failure_cures(FailureKind kind) {
        return failure_info(kind)->cures;
}

const char *failure_summary(FailureKind kind) {
        return failure_info(kind)->summary;
}

const char *failure_remedy(FailureKind kind) {
        return failure_info(kind)->remedy;
}

const char *failure_advice(const Failure *f) {
        return f->remedy ? f->remedy : failure_remedy(f->kind);
}

/* The helpers send the hints of their source. More than these come from no helper of ours. */
#define HINTS_MAX 128

const char *failure_keep_hint(const char *text) {
        static char *kept[HINTS_MAX];
        size_t i = 0;

        while (i < HINTS_MAX && kept[i] && !streq(kept[i], text))
                i++;
        if (!text[0] || i == HINTS_MAX)
                return NULL;
        if (!kept[i])
                kept[i] = strdup(text);
        return kept[i];
}

const char *failure_message_id(FailureKind kind) {
        return failure_info(kind)->message_id;
}

int failure_to_errno(FailureKind kind) {
        return -failure_info(kind)->error;
}

/* Sentences quote what the other side sent. D-Bus takes valid UTF-8 only and a terminal obeys control
 * characters, so everything outside printable ASCII becomes a question mark. */
static void make_printable(char *text) {
        for (; *text; text++)
                if (!isascii((unsigned char) *text) || !isprint((unsigned char) *text))
                        *text = '?';
}

PRINTF_LIKE(4, 0)
static int failure_fill(Failure *reterr, FailureKind kind, const char *code, const char *format,
                        va_list ap) {
        if (reterr) {
                *reterr = (Failure){ .kind = kind };
                (void) snprintf(reterr->code, sizeof(reterr->code), "%s", code ? code : "");
                (void) vsnprintf(reterr->sentence, sizeof(reterr->sentence), format, ap);
                make_printable(reterr->code);
                make_printable(reterr->sentence);
        }
        return failure_to_errno(kind);
}

int failure_set(Failure *reterr, FailureKind kind, const char *code, const char *format, ...) {
        va_list ap;
        int r;

        va_start(ap, format);
        r = failure_fill(reterr, kind, code, format, ap);
        va_end(ap);
        return r;
}

int failure_set_errno(Failure *reterr, FailureKind kind, int error, const char *format, ...) {
        va_list ap;
        int r;

        if (error < 0)
                error = -error;
        va_start(ap, format);
        r = failure_fill(reterr, kind, strerrorname_np(error), format, ap);
        va_end(ap);
        if (reterr) {
                size_t used = strlen(reterr->sentence);

                (void) snprintf(reterr->sentence + used, sizeof(reterr->sentence) - used, ": %s",
                                strerror(error));
        }
        return r;
}
