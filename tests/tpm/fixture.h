/*
 * Fixture: a swtpm of the test's own with tpm-proxy in front of it, the tpm2-tools as an independent way to
 * bring it into any state and to look at it, and the service's half of the cryptography.
 *
 * Everything asserts: what fails here fails the test. A swtpm serves one client at a time, so close the Tpm
 * before using the tools.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/types.h>

#include "tpm.h"

/* As read from the file "/creds/auth"; NULL: empty. */
TpmAuthValue auth_value(const char *text);

typedef struct Fixture {
        char dir[32];
        char tcti[64]; /* through the proxy */
        pid_t swtpm, proxy;
        unsigned counted; /* commands that commands_since_last() has reported */
        TpmSettings settings;
        TpmCache *cache;
} Fixture;

int fixture_setup(void **state);       /* endorsement key and storage root key are persistent */
int fixture_setup_fresh(void **state); /* nothing is */
int fixture_teardown(void **state);

/* A shell command with the directory as its working directory and TPM2TOOLS_TCTI set; its output (without
 * the last newline) is the caller's. */
void run(Fixture *f, const char *format, ...) PRINTF_LIKE(2, 3);
char *output_of(Fixture *f, const char *format, ...) PRINTF_LIKE(2, 3);

/* Commands for run(): somebody else's HMAC key, made by the TPM itself, at a handle. */
#define MAKE_HMAC_KEY(handle)                                                                               \
        "tpm2_createprimary -Q -C o -c parent && tpm2_create -Q -C parent -G hmac -c key && "               \
        "tpm2_flushcontext -t && tpm2_evictcontrol -Q -C o -c key " handle " && tpm2_flushcontext -t"

void set_faults(Fixture *f, const char *json); /* see tpm-proxy */
unsigned commands_since_last(Fixture *f);      /* that arrived at the proxy */
unsigned commands_named(Fixture *f, const char *name);

void power_cut(Fixture *f); /* the TPM loses its power without a Shutdown, and gets it back */

void assert_nothing_left(Fixture *f); /* no transient object, no session */

/* Open, one call, close, as dps-tpmd does it. With a failure's kind other than FAILURE_NONE the call has to
 * fail so. */
void identity(Fixture *f, TpmIdentity *ret);
void identity_fails(Fixture *f, FailureKind kind);
void sign(Fixture *f, const Bytes *blob, const char *message, uint8_t ret[static SHA256_SIZE]);
void sign_fails(Fixture *f, const Bytes *blob, FailureKind kind);
void import_key(Fixture *f, const Bytes *blob, Bytes *ret_private, Bytes *ret_public);
bool adopt(Fixture *f, const Bytes *private, const Bytes *public, const Bytes *names, size_t name_count,
           Bytes *ret_name);
void adopt_fails(Fixture *f, const Bytes *private, const Bytes *public, const Bytes *names,
                 size_t name_count, FailureKind kind);
TpmHubKeyState hub_key_state(Fixture *f, Bytes *ret_name); /* ret_name may be NULL */
extern Failure last_failure;                               /* of the last of these that failed */

/* What the service would send to this TPM for an HMAC key of 32 times this byte. */
void make_blob(Fixture *f, uint8_t key, Bytes *ret);
/* Imports and adopts the key. Replaces the HMAC key at the handle, if there is one. */
void adopt_new(Fixture *f, uint8_t key, Bytes *ret_name);
/* The name of what sits at the hub key's handle as the tools print it, "" for nothing. */
char *hub_key_name(Fixture *f);
void read_hub_key_name(Fixture *f, Bytes *ret);
