/*
 * X509Rsa: certificates of RSA keys whose algorithm names the key's use, which mbedtls refuses.
 *
 * Manufacturers write id-RSAES-OAEP (RFC 4055, section 4) for an endorsement key, and id-RSASSA-PSS for an
 * issuer's. The key itself looks as with rsaEncryption.
 */
#pragma once

#include "util.h"

/* Copies the certificate with rsaEncryption as the algorithm of its key. -ENOENT: the key has another
 * algorithm than those two; -EBADMSG: it is not a certificate. */
int x509_rsa_copy(Bytes *ret, const uint8_t *der, size_t size);

/* The part of a certificate that is signed, within der; -EBADMSG. */
int x509_signed_part(const uint8_t *der, size_t size, const uint8_t **ret, size_t *ret_size);
