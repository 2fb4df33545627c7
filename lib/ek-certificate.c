#include "ek-certificate.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <mbedtls/asn1.h>
#include <mbedtls/base64.h>
#include <mbedtls/pem.h>
#include <mbedtls/x509_crt.h>

#include "x509-rsa.h"

#define CA_FILE_MAX ((size_t) 1024 * 1024)
#define PEM_BEGIN   "-----BEGIN CERTIFICATE-----\n"
#define PEM_END     "-----END CERTIFICATE-----\n"

/* tcg-kp-EKCertificate, 2.23.133.8.1 */
#define OID_EK_CERTIFICATE "\x67\x81\x05\x08\x01"

static const char *const verdicts[] = {
        [EK_CERTIFICATE_MISSING] = "missing",     [EK_CERTIFICATE_UNREADABLE] = "unreadable",
        [EK_CERTIFICATE_OTHER_KEY] = "other-key", [EK_CERTIFICATE_MATCHES] = "matches",
        [EK_CERTIFICATE_UNTRUSTED] = "untrusted", [EK_CERTIFICATE_TRUSTED] = "trusted",
};
static_assert(ARRAY_SIZE(verdicts) == _EK_CERTIFICATE_VERDICT_MAX, "every verdict has a name");

const char *ek_certificate_verdict_to_string(EkCertificateVerdict verdict) {
        return verdicts[verdict];
}

bool ek_certificate_is_warning(const EkCertificate *certificate) {
        return certificate->verdict != EK_CERTIFICATE_MATCHES &&
               certificate->verdict != EK_CERTIFICATE_TRUSTED;
}

/* The bytes of the DER value that data begins with, without what pads it; 0 when it is none. */
static size_t der_size(const uint8_t *data, size_t size) {
        unsigned char *p = (unsigned char *) data; /* which mbedtls only reads */
        size_t length = 0;

        if (size == 0)
                return 0;
        if (mbedtls_asn1_get_tag(&p, data + size, &length,
                                 MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE) != 0)
                return 0;
        return (size_t) (p - data) + length;
}

/* Extensions that mbedtls does not know but that may be critical without making the certificate another
 * thing than it looks: policies, alternative names, key identifiers, where revocation lists are, what TCG
 * defines. Name constraints are none of them. */
static int take_extension(void *userdata, const mbedtls_x509_crt *crt, const mbedtls_x509_buf *oid,
                          int critical, const unsigned char *p, const unsigned char *end) {
        static const unsigned char certificate_extension[] = { 0x55, 0x1d }; /* 2.5.29 */
        static const unsigned char tcg[] = { 0x67, 0x81, 0x05 };             /* 2.23.133 */
        static const unsigned char harmless[] = { 9, 14, 18, 31, 32, 33, 35, 36, 46, 54 };

        if (oid->len >= sizeof(tcg) && memcmp(oid->p, tcg, sizeof(tcg)) == 0)
                return 0;
        if (oid->len == sizeof(certificate_extension) + 1 &&
            memcmp(oid->p, certificate_extension, sizeof(certificate_extension)) == 0 &&
            memchr(harmless, oid->p[2], sizeof(harmless)))
                return 0;
        return MBEDTLS_ERR_X509_FEATURE_UNAVAILABLE;
}

static int parse_der(mbedtls_x509_crt *list, const uint8_t *data, size_t size) {
        CLEANUP(bytes_deinit) Bytes copy = {};
        int r;

        r = mbedtls_x509_crt_parse_der_with_ext_cb(list, data, size, 1, take_extension, NULL);
        if (r == 0 || x509_rsa_copy(&copy, data, size) < 0)
                return r;
        return mbedtls_x509_crt_parse_der_with_ext_cb(list, copy.data, copy.size, 1, take_extension, NULL);
}

/* The signature of the certificate is verified, so the bytes have to live as long as the list. */
static int parse_signed(mbedtls_x509_crt *list, const uint8_t *data, size_t size) {
        const uint8_t *tbs = NULL;
        int r;

        r = parse_der(list, data, size);
        if (r != 0)
                return r;
        while (list->next)
                list = list->next;
        if (x509_signed_part(data, size, &tbs, &list->tbs.len) >= 0)
                list->tbs.p = (unsigned char *) tbs;
        return 0;
}

/* Behind and between the certificates the NV indices may be padded. Calls found() for each value. */
static int split_chain(const Bytes *chain, int (*found)(void *userdata, const uint8_t *data, size_t size),
                       void *userdata) {
        size_t at = 0;
        int r = 0;

        while (r >= 0 && at < chain->size) {
                size_t size = der_size(chain->data + at, chain->size - at);

                if (size > 0) {
                        r = found(userdata, chain->data + at, size);
                        at += size;
                } else if (chain->data[at] == 0x00 || chain->data[at] == 0xff)
                        at++;
                else
                        break;
        }
        return r;
}

static int add_issuer(void *userdata, const uint8_t *data, size_t size) {
        (void) parse_signed(userdata, data, size); /* one that can't be read leads nowhere */
        return 0;
}

static void add_pem(mbedtls_x509_crt *list, const char *text) {
        for (const char *begin = text; (begin = strstr(begin, "-----BEGIN CERTIFICATE-----"));) {
                const char *body = begin + strlen("-----BEGIN CERTIFICATE-----");
                const char *end = strstr(body, "-----END CERTIFICATE-----");
                CLEANUP(freep) uint8_t *der = NULL;
                size_t size = 0;

                if (!end)
                        return;
                body += strspn(body, "\r\n\t ");
                der = malloc((size_t) (end - body) + 1);
                if (der && mbedtls_base64_decode(der, (size_t) (end - body) + 1, &size,
                                                 (const uint8_t *) body, (size_t) (end - body)) == 0)
                        (void) parse_der(list, der, size);
                begin = end;
        }
}

/* What is no certificate is passed over: vendors put a README beside them. */
static int load_issuers(mbedtls_x509_crt *list, const char *dir) {
        DIR *d = opendir(dir);

        if (!d)
                return -errno;
        for (struct dirent *entry; (entry = readdir(d));) {
                CLEANUP(freep) char *path = NULL, *text = NULL;
                size_t size = 0;

                if (entry->d_name[0] == '.')
                        continue;
                if (asprintf(&path, "%s/%s", dir, entry->d_name) < 0) {
                        path = NULL;
                        break;
                }
                if (read_file(path, CA_FILE_MAX, &text, &size) < 0)
                        continue;
                if (strstr(text, "-----BEGIN CERTIFICATE-----"))
                        add_pem(list, text);
                else
                        (void) parse_der(list, (const uint8_t *) text, size);
        }
        (void) closedir(d);
        return 0;
}

static bool has_key(const mbedtls_x509_crt *crt, const Bytes *modulus, uint32_t exponent) {
        mbedtls_mpi n, e, expected;
        bool same = false;

        if (mbedtls_pk_get_type(&crt->pk) != MBEDTLS_PK_RSA)
                return false;
        mbedtls_mpi_init(&n);
        mbedtls_mpi_init(&e);
        mbedtls_mpi_init(&expected);
        if (mbedtls_rsa_export(mbedtls_pk_rsa(crt->pk), &n, NULL, NULL, NULL, &e) == 0 &&
            mbedtls_mpi_read_binary(&expected, modulus->data, modulus->size) == 0)
                same = mbedtls_mpi_cmp_mpi(&n, &expected) == 0 &&
                       mbedtls_mpi_cmp_int(&e, (mbedtls_mpi_sint) exponent) == 0;
        mbedtls_mpi_free(&n);
        mbedtls_mpi_free(&e);
        mbedtls_mpi_free(&expected);
        return same;
}

PRINTF_LIKE(3, 4)
static void conclude(EkCertificate *c, EkCertificateVerdict verdict, const char *format, ...) {
        va_list ap;

        c->verdict = verdict;
        va_start(ap, format);
        (void) vsnprintf(c->sentence, sizeof(c->sentence), format, ap);
        va_end(ap);
}

/* Why the chain does not hold; NULL when it does, but for what depends on the clock. */
static const char *find_fault(uint32_t flags) {
        if (flags & MBEDTLS_X509_BADCERT_NOT_TRUSTED)
                return "no certificate there leads to its issuer";
        if (flags &
            (MBEDTLS_X509_BADCERT_BAD_MD | MBEDTLS_X509_BADCERT_BAD_PK | MBEDTLS_X509_BADCERT_BAD_KEY))
                return "it, or one above it, is signed with a method that is too weak";
        if (flags & ~(uint32_t) (MBEDTLS_X509_BADCERT_EXPIRED | MBEDTLS_X509_BADCERT_FUTURE))
                return "it, or one above it, is not made for that";
        return NULL;
}

/* crt and what hangs on it: the certificate, then those that the TPM has besides. */
static int verify(uint32_t *ret_flags, mbedtls_x509_crt *crt, const char *ca_dir) {
        mbedtls_x509_crt issuers;
        uint32_t flags = 0;
        int r;

        mbedtls_x509_crt_init(&issuers);
        r = load_issuers(&issuers, ca_dir);
        if (r >= 0 && mbedtls_x509_crt_verify(crt, &issuers, NULL, NULL, &flags, NULL, NULL) != 0 &&
            flags == 0)
                flags = MBEDTLS_X509_BADCERT_OTHER;
        mbedtls_x509_crt_free(&issuers);
        if (r < 0)
                return r;
        if (mbedtls_x509_crt_check_extended_key_usage(crt, OID_EK_CERTIFICATE, strlen(OID_EK_CERTIFICATE)) !=
            0)
                flags |= MBEDTLS_X509_BADCERT_EXT_KEY_USAGE;
        *ret_flags = flags;
        return 0;
}

static int judge_issuer(EkCertificate *c, mbedtls_x509_crt *crt, const char *issuer, const char *ca_dir) {
        uint32_t flags = 0;
        const char *fault;
        int r;

        r = verify(&flags, crt, ca_dir);
        if (r < 0)
                return r;
        fault = find_fault(flags);
        if (fault)
                conclude(c, EK_CERTIFICATE_UNTRUSTED,
                         "It is for this key and issued by '%s', but not vouched for by '%s': %s", issuer,
                         ca_dir, fault);
        else
                conclude(c, EK_CERTIFICATE_TRUSTED,
                         "It is for this key, issued by '%s', and vouched for by '%s'%s", issuer, ca_dir,
                         flags & MBEDTLS_X509_BADCERT_EXPIRED
                                 ? ", but it has expired by this machine's clock"
                         : flags & MBEDTLS_X509_BADCERT_FUTURE
                                 ? ", but it is not valid yet by this machine's clock"
                                 : "");
        return 0;
}

static int judge(EkCertificate *c, mbedtls_x509_crt *crt, const Bytes *chain, const Bytes *ek_public,
                 const char *ca_dir) {
        CLEANUP(bytes_deinit) Bytes modulus = {};
        char issuer[256] = "";
        uint32_t exponent = 0;
        int r;

        r = tpm_rsa_public(ek_public, &modulus, &exponent);
        if (r < 0)
                return r;
        (void) mbedtls_x509_dn_gets(issuer, sizeof(issuer), &crt->issuer);
        if (!has_key(crt, &modulus, exponent)) {
                conclude(c, EK_CERTIFICATE_OTHER_KEY,
                         "It is issued by '%s', but for another key than the endorsement key in use",
                         issuer);
                return 0;
        }
        if (!ca_dir) {
                conclude(c, EK_CERTIFICATE_MATCHES, "It is for this key and issued by '%s'", issuer);
                return 0;
        }
        (void) split_chain(chain, add_issuer, crt);
        return judge_issuer(c, crt, issuer, ca_dir);
}

int ek_certificate_examine(EkCertificate *ret, const TpmCertificates *held, const Bytes *ek_public,
                           const char *ca_dir) {
        const Bytes *data = NULL;
        mbedtls_x509_crt crt;
        EkCertificate c = {};
        int r;

        /* a mistyped one is told on every TPM */
        if (ca_dir && access(ca_dir, R_OK | X_OK) < 0)
                return -errno;
        for (size_t i = 0; i < held->count; i++)
                if (held->keys[i].index == TPM_CERTIFICATE_RSA2048)
                        data = &held->keys[i].data;
        if (!data) {
                conclude(ret, EK_CERTIFICATE_MISSING, "The TPM holds none for an RSA key (NV index 0x%08x)",
                         TPM_CERTIFICATE_RSA2048);
                return 0;
        }
        mbedtls_x509_crt_init(&crt);
        r = parse_signed(&crt, data->data, der_size(data->data, data->size));
        if (r == MBEDTLS_ERR_X509_ALLOC_FAILED)
                r = -ENOMEM;
        else if (r != 0) {
                conclude(&c, EK_CERTIFICATE_UNREADABLE,
                         "What is in the NV index 0x%08x can't be read as X.509 (mbedtls: -0x%04x)",
                         TPM_CERTIFICATE_RSA2048, (unsigned) -r);
                r = 0;
        } else
                r = judge(&c, &crt, &held->chain, ek_public, ca_dir);
        mbedtls_x509_crt_free(&crt);
        if (r >= 0)
                *ret = c;
        return r;
}

static int write_pem(void *userdata, const uint8_t *data, size_t size) {
        CLEANUP(freep) unsigned char *pem = NULL;
        size_t room = 2 * size + 256, written = 0; /* base64, its line ends, the two lines around it */

        pem = malloc(room);
        if (!pem)
                return -ENOMEM;
        if (mbedtls_pem_write_buffer(PEM_BEGIN, PEM_END, data, size, pem, room, &written) != 0)
                return -ENOMEM;
        (void) fputs((const char *) pem, userdata);
        return 0;
}

int ek_certificate_to_pem(char **ret, const TpmCertificates *held) {
        CLEANUP(freep) char *text = NULL;
        size_t length = 0;
        FILE *f = open_memstream(&text, &length);
        int r = 0;

        if (!f)
                return -ENOMEM;
        for (size_t i = 0; r >= 0 && i < held->count; i++) {
                size_t size = der_size(held->keys[i].data.data, held->keys[i].data.size);

                if (size > 0)
                        r = write_pem(f, held->keys[i].data.data, size);
        }
        if (r >= 0)
                r = split_chain(&held->chain, write_pem, f);
        if (fclose(f) != 0 || r < 0)
                return -ENOMEM;
        if (length == 0)
                return -ENODATA;
        *ret = TAKE(text);
        return 0;
}
