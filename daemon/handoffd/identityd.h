/*
 * Identityd: questions to aziot-identityd over its unix socket (API versions 2020-09-01 and 2021-12-01).
 *
 * Connecting starts identityd through its socket unit. One question at a time.
 */
#pragma once

#include "http.h"

typedef struct Identityd Identityd;

typedef enum IdentitydQuestion {
        IDENTITYD_DEVICE,       /* POST /identities/device: hub and device, from its memory */
        IDENTITYD_SETTLED,      /* the same, once it has registered if it is about to */
        IDENTITYD_PROVISIONING, /* GET /identities/provisioning: what it is configured with */
        IDENTITYD_EDGE_AGENT,   /* GET /identities/modules/$edgeAgent: asks the hub */
        IDENTITYD_REPROVISION,  /* POST /identities/device/reprovision: forgets who it is, asks DPS */
} IdentitydQuestion;

typedef struct IdentitydAnswer {
        unsigned status;               /* of HTTP; 0: it could not be reached in time */
        char hub[256], device_id[256]; /* IDENTITYD_DEVICE, _SETTLED with 200, when valid; else "" */
        char endpoint[256], id_scope[256],
                registration_id[256]; /* IDENTITYD_PROVISIONING with 200; else "" */
        char message[256];            /* what went wrong, in its words or ours */
} IdentitydAnswer;

typedef void (*IdentitydDone)(void *userdata, const IdentitydAnswer *answer);

int identityd_new(Identityd **ret, sd_event *event, const char *root);
Identityd *identityd_free(Identityd *identityd); /* done() is not called */

/* Its own registration takes 10.2 s, and it answers after that. */
#define IDENTITYD_LEAST_USEC (12 * USEC_PER_SEC)

/* CLOCK_MONOTONIC: no answer is waited for longer, but each question gets IDENTITYD_LEAST_USEC. */
void identityd_set_deadline(Identityd *identityd, usec_t deadline);

/* Waits 12 s for an answer, 120 s where identityd may register. done() is called from the loop. */
int identityd_ask(Identityd *identityd, IdentitydQuestion question, IdentitydDone done, void *userdata);
