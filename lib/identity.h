/*
 * Identity: the registration ID, from the endorsement key or from the operator's pattern. Pure code.
 *
 * The hash of both derived forms runs over the marshalled TPM2B_PUBLIC of the EK, its two size bytes
 * included: hex is what `sha256sum` over the file of `tpm2_readpublic -f tss` gives (the IoT Edge
 * documentation), base32 (RFC 4648, lower case, without padding) is what the device SDKs' tools print.
 */
#pragma once

#include "config.h"

#define REGISTRATION_ID_MAX 128

/* What the specifiers %H, %m and %s stand for; a NULL member makes its specifier an error. Borrowed. */
typedef struct IdentitySources {
        const char *host_name;  /* %H */
        const char *machine_id; /* %m: 32 hex digits */
        const char *serial;     /* %s: of the product, from the firmware */
} IdentitySources;

int identity_derive(char **ret, RegistrationIdFormat format, const void *ek_public, size_t ek_public_size);

/* FAILURE_CONFIG when a specifier has no value or the result is not a legal registration ID (1 to 128 of
 * letters, digits and -._: ; the first and the last a letter or a digit, the last may be a dash). */
int identity_expand(char **ret, const char *pattern, const IdentitySources *sources, Failure *reterr);

/* What a daemon and the command-line tool do alike: expand RegistrationId= if it is set (reading host name,
 * machine ID and serial number from this machine), else derive. */
int identity_registration_id(char **ret, const Config *config, const ConfigPaths *paths,
                             const void *ek_public, size_t ek_public_size, Failure *reterr);

bool identity_registration_id_valid(const char *id);
