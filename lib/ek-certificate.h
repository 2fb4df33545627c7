/*
 * EkCertificate: does a manufacturer vouch for the endorsement key? X.509 by mbedtls, without a network.
 *
 * All of it is advice. DPS does not look at the certificate, many firmware TPMs have none, and a factory's
 * clock may be wrong.
 */
#pragma once

#include "tpm.h"

typedef enum EkCertificateVerdict {
        EK_CERTIFICATE_MISSING,    /* the TPM has none for an RSA key */
        EK_CERTIFICATE_UNREADABLE, /* it is not X.509, or of a kind that mbedtls does not know */
        EK_CERTIFICATE_OTHER_KEY,  /* it is for another key */
        EK_CERTIFICATE_MATCHES,    /* it is for the key; who issued it was not looked at */
        EK_CERTIFICATE_UNTRUSTED,  /* it is for the key, but nothing in the directory leads to its issuer */
        EK_CERTIFICATE_TRUSTED,
        _EK_CERTIFICATE_VERDICT_MAX,
} EkCertificateVerdict;

typedef struct EkCertificate {
        EkCertificateVerdict verdict;
        char sentence[512]; /* about "it", the certificate; without a full stop */
} EkCertificate;

/* "missing", "unreadable", "other-key", "matches", "untrusted", "trusted" */
const char *ek_certificate_verdict_to_string(EkCertificateVerdict verdict);

/* Worth a warning (WARNING_EK_CERTIFICATE)? */
bool ek_certificate_is_warning(const EkCertificate *certificate);

/* ek_public is the TPM2B_PUBLIC of the endorsement key. ca_dir has certificates of issuers, roots or not, as
 * PEM or DER, and all of them are trusted; NULL: who issued it is not looked at. Certificates that the TPM
 * has besides lead to them. Errors: -ENOMEM, and what opening ca_dir gives. */
int ek_certificate_examine(EkCertificate *ret, const TpmCertificates *held, const Bytes *ek_public,
                           const char *ca_dir);

/* All that the TPM has as PEM: those of keys first, then the issuers'. -ENODATA when there is none. */
int ek_certificate_to_pem(char **ret, const TpmCertificates *held);
