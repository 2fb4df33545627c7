/*
 * Judge: what IoT Edge should look like (Wanted), compared with what it looks like (Situation), as a list of
 * findings.
 *
 * Check, Verify and Apply of the hand-off helper and `dps-provision check` decide by this list and by
 * nothing else. Whether a file can be written is no finding: the helper tries that (prepare.c).
 */
#pragma once

#include "assignment.h"
#include "situation.h"

/* What our configuration and the assignment ask for, URLs in canonical form. A comparison skips what is not
 * known: members of the provisioning (see there), and the device. */
typedef struct Wanted {
        Provisioning provisioning;
        char *endpoint, *payload_uri; /* what the provisioning borrows */
        const char *hub, *device_id;  /* borrowed; NULL: not known */
        const Config *config;         /* borrowed */
} Wanted;

/* registration_id and assignment may be NULL; everything is borrowed. -ENOMEM is the only error. */
int wanted_make(Wanted *ret, const Config *config, const char *registration_id,
                const Assignment *assignment);
void wanted_deinit(Wanted *wanted);

typedef enum FindingType {
        /* the installation */
        FINDING_RUNTIME_UNUSABLE, /* IoT Edge is not installed, not supported, or masked */
        FINDING_APPLY_UNIT_UNUSABLE,
        /* config.toml, or the base of a new one */
        FINDING_CONFIG_UNUSABLE, /* it can't be edited, or has a setting that contradicts the hand-off */
        FINDING_CONFIG_MISSING,
        FINDING_CONFIG_UNPROVISIONED,
        FINDING_CONFIG_OUTDATED, /* another provisioning, which we may replace */
        FINDING_CONFIG_FOREIGN,  /* another provisioning, which we may not replace */
        FINDING_CONFIG_REPLACED, /* not ours, and we may replace it: ReplaceProvisioning=yes */
        FINDING_BASE_REPLACED,   /* the base has a provisioning, which ours replaces */
        FINDING_OVERRIDDEN,      /* a file of a service wins over what we want */
        FINDING_REPROVISIONS_ITSELF,
        FINDING_STRAY_KEYS,
        FINDING_HOST_NAME,
        FINDING_TPM_OTHER,
        FINDING_AUTHORIZATION_MISSING, /* with Identity=register */
        FINDING_AUTHORIZATION_LACKING, /* with Identity=adopt */
        /* what `iotedge config apply` made of it */
        FINDING_APPLIED_OUTDATED,
        FINDING_PAYLOAD_IGNORED, /* IoT Edge 1.3 knows no payload */
        FINDING_CONFIG_PLACE,    /* config.toml can't be replaced: immutable, a mount point, … */
        FINDING_DEVICE_PLACE,    /* device_info can't be replaced: a link, a mount point, … */
        FINDING_APPLY_REFUSES,   /* `iotedge config apply` refuses something in config.toml or around it */
        FINDING_ENGINE_UNUSABLE, /* no container engine, or one that refuses IoT Edge */
        FINDING_ENGINE_SILENT,   /* the container engine does not answer */
        /* the proxy of the site */
        FINDING_PROXY_MISSING, /* IoT Edge, or the container engine, lacks the proxy that we have */
        /* the device */
        FINDING_DEVICE_MISSING, /* no device_info */
        FINDING_DEVICE_OTHER,   /* device_info of another device */
        FINDING_DEVICE_MOVED,   /* the same, and IoT Edge has it with our provisioning */
        /* identityd, when it was asked */
        FINDING_IDENTITYD_SILENT,
        FINDING_IDENTITY_MISSING,
        FINDING_IDENTITY_OTHER,
        _FINDING_TYPE_MAX,
} FindingType;

/* Who mends it. */
#define HINT_RESTART_IOTEDGE                                                                                \
        "Run 'iotedge system restart', which starts all services and sockets. If that does not help, "      \
        "'journalctl -u aziot-edged' says why"

typedef enum FindingOwner {
        OWNER_US,       /* Apply mends it */
        OWNER_OPERATOR, /* nothing is handed off until an operator has mended it */
        OWNER_NOBODY,   /* harmless; a warning when its kind is one */
} FindingOwner;

typedef enum FindingSubject {
        SUBJECT_INSTALLATION,
        SUBJECT_CONFIG,
        SUBJECT_APPLIED,
        SUBJECT_PROXY,
        SUBJECT_DEVICE,
        SUBJECT_IDENTITY,
} FindingSubject;

/* How Apply mends it. */
typedef enum Mend {
        MEND_CONFIG = 1 << 0,      /* write config.toml */
        MEND_APPLY = 1 << 1,       /* run `iotedge config apply` */
        MEND_DEVICE_INFO = 1 << 2, /* write device_info, unless IoT Edge registers itself */
} Mend;

typedef struct Finding {
        FindingType type;
        FindingOwner owner;
        FindingSubject subject;
        Failure failure;
} Finding;

#define FINDINGS_MAX 24

typedef struct Verdict {
        Finding findings[FINDINGS_MAX]; /* in the order of the steps of a hand-off */
        size_t count;
        unsigned mends; /* mask of Mend: those of all findings */
} Verdict;

/* Looks at the places of files, and connects to the container engine, when a mend needs them. */
void judge(Verdict *ret, const Wanted *wanted, Situation *situation);

const Finding *verdict_find(const Verdict *verdict, FindingType type); /* NULL: none */

/* Why nothing can be handed off; NULL: it can. */
const Finding *verdict_refusal(const Verdict *verdict);

/* What a gateway that was handed off has lost; NULL: nothing. */
const Finding *verdict_loss(const Verdict *verdict);

/* True when the copy that `iotedge config apply` made lacks the wanted payload and nothing else. */
bool judge_payload_ignored(const Wanted *wanted, const ConfigToml *applied, Failure *reterr);

/* True when identityd has answered that it uses the wanted provisioning. */
bool judge_identityd_provisioned(const Wanted *wanted, const Situation *situation);
