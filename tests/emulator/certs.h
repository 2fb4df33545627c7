/*
 * Certs: a certification authority of its own and what the server shows at a TLS handshake: a good
 * certificate or one of four bad ones. The CA is kept in the state directory (ca.pem, ca-key.pem); server
 * certificates are made anew at each start. Every name that a client asks for gets a certificate then: a hub
 * may have any, the SDKs want the services' real ones, and TLS libraries don't take a wildcard directly
 * below a top-level domain, as in *.localhost.
 */
#pragma once

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>

#include "util.h"

typedef enum CertVariant {
        CERT_GOOD,
        CERT_EXPIRED,
        CERT_FUTURE,
        CERT_WRONG_HOST,
        CERT_UNTRUSTED,
        _CERT_VARIANT_MAX,
} CertVariant;

typedef struct Certs Certs;

/* hosts: names and addresses beside localhost, 127.0.0.1 and ::1. *ret_why (static text) says what failed.
 */
int certs_new(Certs **ret, const char *dir, const char *const *hosts, size_t n_hosts, const char **ret_why);
Certs *certs_free(Certs *certs);

/* name: what the client asked for (SNI), or NULL. The results are the Certs'. */
int certs_get(Certs *certs, CertVariant variant, const char *name, gnutls_pcert_st **ret_cert,
              gnutls_privkey_t *ret_key);
