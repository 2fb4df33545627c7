/*
 * Failure: what went wrong, for people and for policy. errno says which way the code goes; a Failure says
 * which kind it was, the native code, and one sentence that names the subject.
 *
 * One table (failure.c) holds for each kind: its class, the remedy, the MESSAGE_ID. The journal catalog, the
 * D-Bus properties, `dps-provision status` and `check` and the man page all speak from it. A Failure is a
 * plain value: copy it, there is nothing to free.
 */
#pragma once

#include "util.h"

typedef enum FailureKind {
        FAILURE_NONE,
        FAILURE_CONFIG,
        FAILURE_TPM_MISSING,
        FAILURE_TPM_BUSY,
        FAILURE_TPM_LOCKOUT,
        FAILURE_TPM_AUTH,
        FAILURE_TPM_HANDLE_TAKEN,
        FAILURE_TPM_FULL,
        FAILURE_TPM_FAILED,
        FAILURE_DNS,
        FAILURE_CONNECT,
        FAILURE_PROXY,
        FAILURE_TLS_CLOCK,
        FAILURE_TLS_TRUST,
        FAILURE_TIMEOUT,
        FAILURE_HTTP_THROTTLED,
        FAILURE_HTTP_SERVER,
        FAILURE_PROTOCOL,
        FAILURE_ENROLLMENT_MISSING,
        FAILURE_IDENTITY_MISMATCH,
        FAILURE_SCOPE_UNKNOWN,
        FAILURE_DISABLED,
        FAILURE_ASSIGNMENT_FAILED,
        FAILURE_RUNTIME_MISSING,
        FAILURE_CONFIG_CONFLICT,
        FAILURE_HUB_NOT_ALLOWED,
        FAILURE_APPLY_FAILED,
        FAILURE_RESTART_FAILED,
        FAILURE_CLOCK_BEHIND,
        FAILURE_CONFIRM_TIMEOUT,
        FAILURE_HUB_UNREACHABLE,
        FAILURE_STORAGE,
        FAILURE_REGISTRATION_BUDGET,
        FAILURE_DISRUPTION_BUDGET,
        FAILURE_ENGINE_UNREACHABLE,
        FAILURE_TPM_HIERARCHY,
        FAILURE_ENGINE_UNSUITABLE,
        /* warnings: they never stop the work */
        WARNING_EDGE_FLAG_MISSING,
        WARNING_ADOPTION_REFUSED,
        WARNING_REPROVISIONS_ITSELF,
        WARNING_DATA_MOVED,
        WARNING_SRK_UNSUITABLE,
        WARNING_CONFIG_IGNORED,
        WARNING_EK_CERTIFICATE,
        WARNING_PAYLOAD_IGNORED,
        WARNING_EK_CHANGED,
        WARNING_PROXY_MISSING,
        WARNING_REGISTRY_UNREACHABLE,
        WARNING_EDGE_CONFIG,
        _FAILURE_KIND_MAX,
        _FAILURE_KIND_INVALID = -22,
} FailureKind;

/* Which retry rule applies (retry.h). */
typedef enum FailureClass {
        FAILURE_CLASS_TRANSIENT, /* goes away by itself */
        FAILURE_CLASS_LOCAL,     /* the same, and a retry sends nothing out of this machine */
        FAILURE_CLASS_THROTTLED, /* root may end the wait early, except after a 429 */
        FAILURE_CLASS_OPERATOR,  /* somebody has to do something */
        FAILURE_CLASS_WARNING,
        _FAILURE_CLASS_MAX,
} FailureClass;

/* The events that can cure a failure: such an event shortens the wait (see retry.h). */
typedef enum FailureCure {
        FAILURE_CURE_NONE = 0,
        FAILURE_CURE_NETWORK = 1 << 0, /* a default route appears, or an address where there is none */
        FAILURE_CURE_CLOCK = 1 << 1,   /* the clock is set */
        FAILURE_CURE_TPM = 1 << 2,     /* the TPM's device appears */
        FAILURE_CURE_ENGINE = 1 << 3,  /* the container engine starts */
} FailureCure;

typedef struct Failure {
        FailureKind kind;
        char code[64];           /* the other side's own: "0x921", "401002", "HTTP 503", "ENOSPC"; or "" */
        char sentence[512];      /* one sentence, names its subject, no full stop at the end, UTF-8 */
        usec_t retry_after_usec; /* the other side asked for this much patience (a duration); 0: it did not
                                  */
        const char *remedy;      /* lives as long as the program; NULL: what the table says for the kind */
} Failure;

const char *failure_kind_to_string(FailureKind kind);   /* "tpm-missing", …; FAILURE_NONE gives "" */
FailureKind failure_kind_from_string(const char *name); /* _FAILURE_KIND_INVALID for an unknown one */

FailureClass failure_class(FailureKind kind);
unsigned failure_cures(FailureKind kind);         /* mask of FailureCure */
const char *failure_summary(FailureKind kind);    /* what it means, half a line */
const char *failure_remedy(FailureKind kind);     /* what to do, a sentence or two */
const char *failure_advice(const Failure *f);     /* what to do about this one */
const char *failure_message_id(FailureKind kind); /* 32 hex digits */

/* Fills the failure and returns the negative errno that stands for its kind, so that it can be returned:
 *     return failure_set(reterr, FAILURE_DNS, "6", "The name '%s' can't be resolved", host);
 * reterr may be NULL; code may be NULL. The sentence is cut to fit and made valid, printable text. */
int failure_set(Failure *reterr, FailureKind kind, const char *code, const char *format, ...)
        PRINTF_LIKE(4, 5);

/* The same for an errno: code is its name. the text of the errno is appended to the sentence. */
int failure_set_errno(Failure *reterr, FailureKind kind, int error, const char *format, ...)
        PRINTF_LIKE(4, 5);

int failure_to_errno(FailureKind kind); /* negative */

/* For a hint that another process sent, so that a Failure can hold it: one copy of each text, for the life
 * of the program. NULL for "", and when there are too many. */
const char *failure_keep_hint(const char *text);
