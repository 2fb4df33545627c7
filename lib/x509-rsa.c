#include "x509-rsa.h"

#include <errno.h>
#include <stdlib.h>

#include <mbedtls/asn1.h>
#include <mbedtls/asn1write.h>

#define SEQUENCE (MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE)
#define VERSION  (MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_ASN1_CONSTRUCTED | 0)
#define ROOM     64u /* more than three lengths and one algorithm can grow by */

/* 1.2.840.113549.1.1 and the last number */
static const uint8_t pkcs1[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01 };
#define RSAES_OAEP 7
#define RSASSA_PSS 10

/* AlgorithmIdentifier: rsaEncryption, NULL */
static const uint8_t rsa_encryption[] = { 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                                          0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00 };

/* One DER value: from `start` to `end`, its content from `content`. */
typedef struct Value {
        const uint8_t *start, *content, *end;
} Value;

static int read_value(const uint8_t *at, const uint8_t *end, int tag, Value *ret) {
        unsigned char *p = (unsigned char *) at; /* which mbedtls only reads */
        size_t length = 0;

        if (mbedtls_asn1_get_tag(&p, end, &length, tag) != 0)
                return -EBADMSG;
        *ret = (Value){ .start = at, .content = p, .end = p + length };
        return 0;
}

/* The certificate, what is signed of it, the key with its algorithm, and the algorithm. */
typedef struct Parts {
        Value certificate, tbs, spki, algorithm;
} Parts;

static int find_spki(Parts *p) {
        static const int before[] = { MBEDTLS_ASN1_INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE };
        const uint8_t *at = p->tbs.content;
        Value value;
        int r;

        if (read_value(at, p->tbs.end, VERSION, &value) >= 0)
                at = value.end;
        /* serial number, algorithm, issuer, validity, subject */
        for (size_t i = 0; i < ARRAY_SIZE(before); i++) {
                r = read_value(at, p->tbs.end, before[i], &value);
                if (r < 0)
                        return r;
                at = value.end;
        }
        return read_value(at, p->tbs.end, SEQUENCE, &p->spki);
}

static int read_start(Parts *p, const uint8_t *der, size_t size) {
        int r;

        r = size == 0 ? -EBADMSG : read_value(der, der + size, SEQUENCE, &p->certificate);
        return r < 0 ? r : read_value(p->certificate.content, p->certificate.end, SEQUENCE, &p->tbs);
}

static int read_parts(Parts *p, const uint8_t *der, size_t size) {
        int r;

        r = read_start(p, der, size);
        if (r >= 0)
                r = find_spki(p);
        return r < 0 ? r : read_value(p->spki.content, p->spki.end, SEQUENCE, &p->algorithm);
}

static bool names_use(const Value *algorithm) {
        Value oid;
        uint8_t last;

        if (read_value(algorithm->content, algorithm->end, MBEDTLS_ASN1_OID, &oid) < 0 ||
            (size_t) (oid.end - oid.content) != sizeof(pkcs1) + 1 ||
            memcmp(oid.content, pkcs1, sizeof(pkcs1)) != 0)
                return false;
        last = oid.content[sizeof(pkcs1)];
        return last == RSAES_OAEP || last == RSASSA_PSS;
}

/* DER is written from its end. */
typedef struct Writer {
        uint8_t *start, *at;
} Writer;

static void put(Writer *w, const uint8_t *from, const uint8_t *to) {
        w->at -= to - from;
        memcpy(w->at, from, (size_t) (to - from));
}

static void put_sequence(Writer *w, const uint8_t *end) {
        size_t length = (size_t) (end - w->at);

        (void) mbedtls_asn1_write_len(&w->at, w->start, length);
        (void) mbedtls_asn1_write_tag(&w->at, w->start, SEQUENCE);
}

int x509_rsa_copy(Bytes *ret, const uint8_t *der, size_t size) {
        CLEANUP(freep) uint8_t *buffer = NULL;
        const uint8_t *end, *end_of_tbs, *end_of_spki;
        Parts p;
        Writer w;
        int r;

        r = read_parts(&p, der, size);
        if (r < 0)
                return r;
        if (!names_use(&p.algorithm))
                return -ENOENT;
        buffer = malloc(size + ROOM);
        if (!buffer)
                return -ENOMEM;
        end = buffer + size + ROOM;
        w = (Writer){ .start = buffer, .at = buffer + size + ROOM };

        put(&w, p.tbs.end, p.certificate.end);
        end_of_tbs = w.at;
        put(&w, p.spki.end, p.tbs.end);
        end_of_spki = w.at;
        put(&w, p.algorithm.end, p.spki.end);
        put(&w, rsa_encryption, rsa_encryption + sizeof(rsa_encryption));
        put_sequence(&w, end_of_spki);
        put(&w, p.tbs.content, p.spki.start);
        put_sequence(&w, end_of_tbs);
        put_sequence(&w, end);
        return bytes_copy(ret, w.at, (size_t) (end - w.at));
}

int x509_signed_part(const uint8_t *der, size_t size, const uint8_t **ret, size_t *ret_size) {
        Parts p;
        int r;

        r = read_start(&p, der, size);
        if (r < 0)
                return r;
        *ret = p.tbs.start;
        *ret_size = (size_t) (p.tbs.end - p.tbs.start);
        return 0;
}
