/*
 * Faults: what the emulator does wrong on purpose, for every device: NAME[:KIND][=ARG]. KIND limits a fault
 * to one kind of request. Those of the command line are in force unless a file exists: then its lines are,
 * instead.
 */
#pragma once

#include "exchange.h"

typedef enum FaultType {
        FAULT_EXPIRED_CERT, /* the first four: at each TLS handshake */
        FAULT_FUTURE_CERT,
        FAULT_WRONG_HOST_CERT,
        FAULT_UNTRUSTED_CERT,
        FAULT_GARBAGE_BODY,
        FAULT_OVERSIZED_BODY, /* =BYTES, default 1 MiB */
        FAULT_NO_DATE,
        FAULT_DROP_CONNECTION, /* =N: the first N requests; the request is not looked at */
        FAULT_LOSE_REPLY,      /* =N: the same, after the request has taken effect */
        FAULT_CUT_REPLY,       /* =N: the same, in the middle of the reply's body */
        FAULT_CAPTIVE_PORTAL,  /* =N: 403 and a web page, as a captive portal answers */
        FAULT_SLOW,            /* =SECONDS before the reply, or until it is gone */
        FAULT_STATUS,          /* =STATUS instead of an answer */
        FAULT_WRONG_EK_CHALLENGE,
        FAULT_NO_HUB_KEY,      /* =N: the first N */
        FAULT_BAD_HUB_KEY,     /* =other-ek (default), garbage, not-base64, fixed, long, lockout; each /N */
        FAULT_KEEP_OLD_DEVICE, /* a device that moves stays at its old hub as well */
        FAULT_2XX_FIRST,
        _FAULT_MAX,
        _FAULT_INVALID = -22,
} FaultType;

typedef struct Fault {
        FaultType type;
        RequestKind kind; /* _REQUEST_KIND_INVALID: any */
        char text[16];    /* the argument when it is a word */
        double number;    /* the argument when it is a number; 0 without one */
        bool limited;     /* only so often as left says */
        uint64_t left;
} Fault;

/* -EINVAL and *ret_why (static text). */
int fault_parse(Fault *ret, const char *text, const char **ret_why);
const char *fault_names(void); /* for a usage text */

typedef struct Faults Faults;

int faults_new(Faults **ret, const char *path);
Faults *faults_free(Faults *faults);
int faults_add(Faults *faults, const char *text, const char **ret_why); /* the command line's */

/* Reads the file if it changed. -EBADMSG and *ret_why (the caller's) for a line that is no fault; the others
 * hold. */
int faults_refresh(Faults *faults, char **ret_why);

/* The fault in force for that kind of request (_REQUEST_KIND_INVALID: for a TLS handshake), or NULL. A
 * limited one is used up by this. */
const Fault *faults_use(Faults *faults, FaultType type, RequestKind kind);
