#include "certs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gnutls/x509.h>

#include "tpm-crypto.h"

#define DAY          ((time_t) 86400)
#define YEAR         (365 * DAY)
#define PEM_MAX      ((size_t) 16 * 1024)
#define NAMES_MAX    64 /* certificates made on demand */
#define NAME_MAX_LEN 253

typedef struct Authority {
        gnutls_x509_privkey_t key;
        gnutls_x509_crt_t cert;
} Authority;

typedef struct NamedCert {
        char *name;
        gnutls_pcert_st cert;
} NamedCert;

struct Certs {
        Authority authority, other;
        gnutls_x509_privkey_t key; /* the server's, the same for all its certificates */
        gnutls_privkey_t private_key;
        gnutls_pcert_st variants[_CERT_VARIANT_MAX];
        unsigned n_variants;
        NamedCert named[NAMES_MAX];
        size_t n_named;
        const char *const *hosts; /* borrowed */
        size_t n_hosts;
};

/* GnuTLS errors say nothing here that the caller's sentence doesn't: out of memory or a bug. */
static int from_gnutls(int r) {
        return r < 0 ? -EIO : 0;
}

static int new_key(gnutls_x509_privkey_t *ret) {
        int r = gnutls_x509_privkey_init(ret);

        if (r == 0)
                r = gnutls_x509_privkey_generate(*ret, GNUTLS_PK_ECDSA,
                                                 GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
        return from_gnutls(r);
}

static int begin_cert(gnutls_x509_crt_t *ret, gnutls_x509_privkey_t key, const char *name, time_t from,
                      time_t to) {
        uint8_t serial[16];
        int r;

        if (tpm_crypto_random(serial, sizeof(serial)) < 0)
                return -EIO;
        serial[0] = (serial[0] & 0x7f) | 0x40; /* positive and of full length */
        r = gnutls_x509_crt_init(ret);
        if (r == 0)
                r = gnutls_x509_crt_set_version(*ret, 3);
        if (r == 0)
                r = gnutls_x509_crt_set_serial(*ret, serial, sizeof(serial));
        if (r == 0)
                r = gnutls_x509_crt_set_dn_by_oid(*ret, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                                  (unsigned) strlen(name));
        if (r == 0)
                r = gnutls_x509_crt_set_activation_time(*ret, from);
        if (r == 0)
                r = gnutls_x509_crt_set_expiration_time(*ret, to);
        if (r == 0)
                r = gnutls_x509_crt_set_key(*ret, key);
        return from_gnutls(r);
}

static int set_key_id(gnutls_x509_crt_t cert) {
        uint8_t id[SHA256_SIZE];
        size_t size = sizeof(id);
        int r = gnutls_x509_crt_get_key_id(cert, GNUTLS_KEYID_USE_SHA256, id, &size);

        if (r == 0)
                r = gnutls_x509_crt_set_subject_key_id(cert, id, size);
        return r;
}

static int new_authority(Authority *ret, const char *name) {
        time_t now = time(NULL);
        int r = new_key(&ret->key);

        if (r == 0)
                r = begin_cert(&ret->cert, ret->key, name, now - 10 * YEAR, now + 20 * YEAR);
        if (r < 0)
                return r;
        r = gnutls_x509_crt_set_basic_constraints(ret->cert, 1, -1);
        if (r == 0)
                r = gnutls_x509_crt_set_key_usage(ret->cert, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
        if (r == 0)
                r = set_key_id(ret->cert);
        if (r == 0)
                r = gnutls_x509_crt_sign2(ret->cert, ret->cert, ret->key, GNUTLS_DIG_SHA256, 0);
        return from_gnutls(r);
}

static int add_name(gnutls_x509_crt_t cert, const char *name) {
        uint8_t address[16];

        if (inet_pton(AF_INET, name, address) == 1)
                return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_IPADDRESS, address, 4,
                                                            GNUTLS_FSAN_APPEND);
        if (inet_pton(AF_INET6, name, address) == 1)
                return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_IPADDRESS, address, 16,
                                                            GNUTLS_FSAN_APPEND);
        return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, name, (unsigned) strlen(name),
                                                    GNUTLS_FSAN_APPEND);
}

static int add_names(const Certs *certs, gnutls_x509_crt_t cert, const char *further) {
        static const char *const always[] = { "localhost", "*.localhost", "127.0.0.1", "::1" };
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(always); i++)
                r = add_name(cert, always[i]);
        for (size_t i = 0; r == 0 && i < certs->n_hosts; i++)
                r = add_name(cert, certs->hosts[i]);
        if (r == 0 && further)
                r = add_name(cert, further);
        return r;
}

static int new_server_cert(const Certs *certs, CertVariant variant, const char *name, gnutls_pcert_st *ret) {
        const Authority *issuer = variant == CERT_UNTRUSTED ? &certs->other : &certs->authority;
        time_t now = time(NULL), from = now - 30 * DAY, to = now + 10 * YEAR;
        gnutls_x509_crt_t cert = NULL;
        int r;

        if (variant == CERT_EXPIRED) {
                from = now - YEAR;
                to = now - 5 * DAY;
        } else if (variant == CERT_FUTURE)
                from = now + 5 * DAY;

        r = begin_cert(&cert, certs->key, variant == CERT_WRONG_HOST ? "wrong.example" : "localhost", from,
                       to);
        if (r == 0)
                r = variant == CERT_WRONG_HOST ? add_name(cert, "wrong.example")
                                               : add_names(certs, cert, name);
        if (r == 0)
                r = gnutls_x509_crt_set_basic_constraints(cert, 0, -1);
        if (r == 0)
                r = gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_DIGITAL_SIGNATURE);
        if (r == 0)
                r = gnutls_x509_crt_set_key_purpose_oid(cert, GNUTLS_KP_TLS_WWW_SERVER, 0);
        if (r == 0)
                r = set_key_id(cert);
        if (r == 0)
                r = gnutls_x509_crt_sign2(cert, issuer->cert, issuer->key, GNUTLS_DIG_SHA256, 0);
        if (r == 0)
                r = gnutls_pcert_import_x509(ret, cert, 0);
        if (cert)
                gnutls_x509_crt_deinit(cert);
        return from_gnutls(r);
}

static int write_pem(const char *path, gnutls_datum_t *pem, mode_t mode) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode), r = 0;

        if (fd < 0)
                return -errno;
        if (write(fd, pem->data, pem->size) != (ssize_t) pem->size)
                r = -EIO;
        if (close(fd) < 0)
                r = -errno;
        return r;
}

static int save_authority(const Authority *authority, const char *cert_path, const char *key_path) {
        gnutls_datum_t pem = {};
        int r;

        r = from_gnutls(gnutls_x509_privkey_export2(authority->key, GNUTLS_X509_FMT_PEM, &pem));
        if (r == 0) {
                r = write_pem(key_path, &pem, 0600);
                explicit_bzero(pem.data, pem.size);
                gnutls_free(pem.data);
        }
        if (r == 0)
                r = from_gnutls(gnutls_x509_crt_export2(authority->cert, GNUTLS_X509_FMT_PEM, &pem));
        if (r == 0) {
                r = write_pem(cert_path, &pem, 0644);
                gnutls_free(pem.data);
        }
        return r;
}

/* A kill between writing the two leaves a key that is not the certificate's. */
static bool belong_together(const Authority *authority) {
        uint8_t of_key[SHA256_SIZE], of_cert[SHA256_SIZE];
        size_t key_size = sizeof(of_key), cert_size = sizeof(of_cert);

        return gnutls_x509_privkey_get_key_id(authority->key, GNUTLS_KEYID_USE_SHA256, of_key, &key_size) ==
                       0 &&
               gnutls_x509_crt_get_key_id(authority->cert, GNUTLS_KEYID_USE_SHA256, of_cert, &cert_size) ==
                       0 &&
               key_size == cert_size && memcmp(of_key, of_cert, key_size) == 0;
}

/* -ENOENT: there is none, or none that can be used. */
static int load_authority(Authority *ret, const char *cert_path, const char *key_path) {
        CLEANUP(secret_freep) char *key = NULL;
        CLEANUP(freep) char *cert = NULL;
        size_t key_size, cert_size;
        gnutls_datum_t datum;
        int r;

        if (read_file(key_path, PEM_MAX, &key, &key_size) < 0 ||
            read_file(cert_path, PEM_MAX, &cert, &cert_size) < 0)
                return -ENOENT;
        r = gnutls_x509_privkey_init(&ret->key);
        if (r == 0) {
                datum = (gnutls_datum_t){ (unsigned char *) key, (unsigned) key_size };
                r = gnutls_x509_privkey_import(ret->key, &datum, GNUTLS_X509_FMT_PEM);
        }
        if (r == 0)
                r = gnutls_x509_crt_init(&ret->cert);
        if (r == 0) {
                datum = (gnutls_datum_t){ (unsigned char *) cert, (unsigned) cert_size };
                r = gnutls_x509_crt_import(ret->cert, &datum, GNUTLS_X509_FMT_PEM);
        }
        return r == 0 && belong_together(ret) ? 0 : -ENOENT;
}

static void authority_deinit(Authority *authority) {
        if (authority->key)
                gnutls_x509_privkey_deinit(authority->key);
        if (authority->cert)
                gnutls_x509_crt_deinit(authority->cert);
        *authority = (Authority){};
}

static int open_authority(Authority *ret, const char *dir) {
        CLEANUP(freep) char *cert_path = NULL, *key_path = NULL;
        int r;

        if (asprintf(&cert_path, "%s/ca.pem", dir) < 0) {
                cert_path = NULL;
                return -ENOMEM;
        }
        if (asprintf(&key_path, "%s/ca-key.pem", dir) < 0) {
                key_path = NULL;
                return -ENOMEM;
        }
        r = load_authority(ret, cert_path, key_path);
        if (r == 0)
                return 0;
        authority_deinit(ret);
        r = new_authority(ret, "dps-emulator CA");
        if (r == 0)
                r = save_authority(ret, cert_path, key_path);
        return r;
}

static int make_all(Certs *certs, const char *dir, const char **ret_why) {
        int r;

        *ret_why = "its certification authority can't be made or written";
        r = open_authority(&certs->authority, dir);
        if (r < 0)
                return r;
        *ret_why = "its certificates can't be made";
        r = new_authority(&certs->other, "dps-emulator other CA");
        if (r == 0)
                r = new_key(&certs->key);
        if (r == 0)
                r = from_gnutls(gnutls_privkey_init(&certs->private_key));
        if (r == 0)
                r = from_gnutls(gnutls_privkey_import_x509(certs->private_key, certs->key, 0));
        while (r == 0 && certs->n_variants < _CERT_VARIANT_MAX) {
                r = new_server_cert(certs, (CertVariant) certs->n_variants, NULL,
                                    &certs->variants[certs->n_variants]);
                if (r == 0)
                        certs->n_variants++;
        }
        return r;
}

int certs_new(Certs **ret, const char *dir, const char *const *hosts, size_t n_hosts, const char **ret_why) {
        Certs *certs = calloc(1, sizeof(*certs));
        int r;

        *ret_why = "out of memory";
        if (!certs)
                return -ENOMEM;
        certs->hosts = hosts;
        certs->n_hosts = n_hosts;
        r = make_all(certs, dir, ret_why);
        if (r < 0) {
                certs_free(certs);
                return r;
        }
        *ret = certs;
        return 0;
}

Certs *certs_free(Certs *certs) {
        if (!certs)
                return NULL;
        authority_deinit(&certs->authority);
        authority_deinit(&certs->other);
        if (certs->key)
                gnutls_x509_privkey_deinit(certs->key);
        if (certs->private_key)
                gnutls_privkey_deinit(certs->private_key);
        for (unsigned i = 0; i < certs->n_variants; i++)
                gnutls_pcert_deinit(&certs->variants[i]);
        for (size_t i = 0; i < certs->n_named; i++) {
                gnutls_pcert_deinit(&certs->named[i].cert);
                free(certs->named[i].name);
        }
        free(certs);
        return NULL;
}

static bool host_name_valid(const char *name) {
        return chars_valid(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.", 1,
                           NAME_MAX_LEN);
}

static gnutls_pcert_st *named_cert(Certs *certs, const char *name) {
        NamedCert *named = &certs->named[certs->n_named];

        for (size_t i = 0; i < certs->n_named; i++)
                if (streq(certs->named[i].name, name))
                        return &certs->named[i].cert;
        if (certs->n_named == NAMES_MAX)
                return NULL;
        named->name = strdup(name);
        if (!named->name || new_server_cert(certs, CERT_GOOD, name, &named->cert) < 0) {
                free(TAKE(named->name));
                return NULL;
        }
        certs->n_named++;
        return &named->cert;
}

int certs_get(Certs *certs, CertVariant variant, const char *name, gnutls_pcert_st **ret_cert,
              gnutls_privkey_t *ret_key) {
        gnutls_pcert_st *cert = NULL;

        if (variant == CERT_GOOD && name && host_name_valid(name))
                cert = named_cert(certs, name);
        *ret_cert = cert ? cert : &certs->variants[variant];
        *ret_key = certs->private_key;
        return 0;
}
