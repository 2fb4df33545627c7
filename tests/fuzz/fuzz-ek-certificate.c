/* What a TPM has in the NV indices of certificates. */
#include "ek-certificate.h"
#include "fuzz.h"

/* An RSA key's TPM2B_PUBLIC without policy: type, nameAlg, attributes, policy, symmetric, scheme, bits,
 * exponent, and a modulus of 256 bytes. */
static const uint8_t public_start[] = {
        0x01, 0x1a, 0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x00, 0x00, 0x06,
        0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        uint8_t public_area[sizeof(public_start) + 256] = {};
        const Bytes ek = { .data = public_area, .size = sizeof(public_area) };
        TpmCertificates held = { .count = 1 };
        EkCertificate result = {};
        char *pem = NULL;
        int r;

        memcpy(public_area, public_start, sizeof(public_start));
        memset(public_area + sizeof(public_start), 0xa5, 256);
        if (size > 32768 || bytes_copy(&held.keys[0].data, data, size) < 0 ||
            bytes_copy(&held.chain, data, size) < 0)
                return 0;
        held.keys[0].index = TPM_CERTIFICATE_RSA2048;

        r = ek_certificate_examine(&result, &held, &ek, NULL);
        PROMISE(r == 0);
        PROMISE(result.verdict == EK_CERTIFICATE_UNREADABLE || result.verdict == EK_CERTIFICATE_OTHER_KEY);
        PROMISE(result.sentence[0] != '\0' && ek_certificate_is_warning(&result));
        r = ek_certificate_to_pem(&pem, &held);
        PROMISE((r == 0) == (pem && strstr(pem, "-----END CERTIFICATE-----\n")));
        PROMISE(result.verdict == EK_CERTIFICATE_UNREADABLE || r == 0);
        free(pem);
        tpm_certificates_deinit(&held);
        return 0;
}
