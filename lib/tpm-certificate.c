#include "tpm-internal.h"

#include <errno.h>
#include <stdlib.h>

#include <tss2/tss2_mu.h>

#define INDEX_FIRST      0x01c00002u
#define INDEX_ECC256     0x01c0000au
#define INDEX_HIGH_FIRST 0x01c00012u /* of the profile's high range, each second one */
#define INDEX_HIGH_LAST  0x01c0001eu
#define CHAIN_FIRST      0x01c00100u
#define CHAIN_LAST       0x01c001ffu
#define CHAIN_MAX        ((size_t) 32 * 1024)
#define READ_MAX         512u /* what every TPM 2.0 for a PC hands out at once */
#define RSA_EXPONENT     65537u

static bool is_key_index(uint32_t index) {
        return index == TPM_CERTIFICATE_RSA2048 || index == INDEX_ECC256 ||
               (index >= INDEX_HIGH_FIRST && index <= INDEX_HIGH_LAST && index % 2 == 0);
}

static bool is_chain_index(uint32_t index) {
        return index >= CHAIN_FIRST && index <= CHAIN_LAST;
}

/* The empty authorization value of the index itself is tried only where a wrong guess doesn't count as an
 * attack. */
static int choose_auth(Tpm *tpm, const TPMS_NV_PUBLIC *public, ESYS_TR index, ESYS_TR *ret,
                       Failure *reterr) {
        if ((public->attributes & TPMA_NV_AUTHREAD) && (public->attributes & TPMA_NV_NO_DA)) {
                *ret = index;
                return 0;
        }
        if (public->attributes & TPMA_NV_OWNERREAD) {
                *ret = ESYS_TR_RH_OWNER;
                return tpm_authorize(tpm, ESYS_TR_RH_OWNER, reterr);
        }
        return failure_set(reterr, FAILURE_TPM_AUTH, NULL,
                           "The certificate in the TPM's NV index 0x%08x can't be read without a policy",
                           public->nvIndex);
}

static int read_bytes(Tpm *tpm, ESYS_TR auth, ESYS_TR index, uint8_t *data, uint16_t size, uint32_t number,
                      Failure *reterr) {
        for (uint16_t at = 0; at < size;) {
                uint16_t part = size - at < (int) READ_MAX ? (uint16_t) (size - at) : (uint16_t) READ_MAX;
                TPM2B_MAX_NV_BUFFER *buffer = NULL;
                TSS2_RC rc;

                rc = TPM_DO(tpm, Esys_NV_Read(tpm->esys, auth, index, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                              ESYS_TR_NONE, part, at, &buffer));
                if (rc != TSS2_RC_SUCCESS)
                        return tpm_fail(tpm, reterr, rc,
                                        "The certificate in the TPM's NV index 0x%08x can't be read",
                                        number);
                if (buffer->size != part) {
                        Esys_Free(buffer);
                        return failure_set(
                                reterr, FAILURE_TPM_FAILED, NULL,
                                "The TPM gave another part of the NV index 0x%08x than was asked for",
                                number);
                }
                memcpy(data + at, buffer->buffer, part);
                Esys_Free(buffer);
                at = (uint16_t) (at + part);
        }
        return 0;
}

static int read_opened(Tpm *tpm, ESYS_TR index, uint32_t number, Bytes *ret, Failure *reterr) {
        CLEANUP(bytes_deinit) Bytes data = {};
        TPM2B_NV_PUBLIC *public = NULL;
        TPMS_NV_PUBLIC area;
        ESYS_TR auth = ESYS_TR_NONE;
        TSS2_RC rc;
        int r;

        rc = TPM_DO(tpm, Esys_NV_ReadPublic(tpm->esys, index, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                            &public, NULL));
        if (rc != TSS2_RC_SUCCESS)
                return tpm_fail(tpm, reterr, rc, "The TPM's NV index 0x%08x can't be looked at", number);
        area = public->nvPublic;
        Esys_Free(public);
        if (!(area.attributes & TPMA_NV_WRITTEN) || area.dataSize == 0)
                return 0;
        if (area.dataSize > TPM_CERTIFICATE_MAX)
                return failure_set(reterr, FAILURE_TPM_FAILED, NULL,
                                   "The TPM's NV index 0x%08x has %u bytes, more than a certificate", number,
                                   area.dataSize);
        r = choose_auth(tpm, &area, index, &auth, reterr);
        if (r < 0)
                return r;
        data.data = malloc(area.dataSize);
        if (!data.data)
                return -ENOMEM;
        data.size = area.dataSize;
        r = read_bytes(tpm, auth, index, data.data, area.dataSize, number, reterr);
        if (r < 0)
                return r;
        *ret = data;
        data = (Bytes){};
        return 0;
}

/* The manufacturer's indices belong to the platform as a rule, and the firmware can disable those. */
static int fail_look(Tpm *tpm, TSS2_RC rc, uint32_t number, Failure *reterr) {
        uint32_t enabled;

        if (tpm_rc(rc) == TPM2_RC_HANDLE && tpm_read_property(tpm, TPM2_PT_STARTUP_CLEAR, &enabled) &&
            !(enabled & TPMA_STARTUP_CLEAR_PHENABLENV))
                return failure_set(
                        reterr, FAILURE_TPM_HIERARCHY, NULL,
                        "The certificate in the TPM's NV index 0x%08x can't be read: the platform's "
                        "NV indices are disabled",
                        number);
        return tpm_fail(tpm, reterr, rc, "The TPM's NV index 0x%08x can't be looked at", number);
}

/* *ret stays empty when nothing was ever written there. */
static int read_index(Tpm *tpm, uint32_t number, Bytes *ret, Failure *reterr) {
        ESYS_TR index = ESYS_TR_NONE;
        TSS2_RC rc;
        int r;

        rc = TPM_DO(tpm, Esys_TR_FromTPMPublic(tpm->esys, number, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                               &index));
        if (rc != TSS2_RC_SUCCESS)
                return fail_look(tpm, rc, number, reterr);
        r = read_opened(tpm, index, number, ret, reterr);
        (void) Esys_TR_Close(tpm->esys, &index);
        return r;
}

static int add_to_chain(Bytes *chain, const Bytes *part, Failure *reterr) {
        uint8_t *longer;

        if (part->size == 0)
                return 0;
        if (chain->size + part->size > CHAIN_MAX)
                return failure_set(reterr, FAILURE_TPM_FAILED, NULL,
                                   "The TPM's chain of certificates has more than %zu bytes", CHAIN_MAX);
        longer = realloc(chain->data, chain->size + part->size);
        if (!longer)
                return -ENOMEM;
        memcpy(longer + chain->size, part->data, part->size);
        chain->data = longer;
        chain->size += part->size;
        return 0;
}

static int read_all(Tpm *tpm, TpmCertificates *certificates, Failure *reterr) {
        TPML_HANDLE indices;
        int r;

        r = tpm_list_handles(tpm, INDEX_FIRST, &indices, reterr);
        for (uint32_t i = 0; r >= 0 && i < indices.count; i++) {
                CLEANUP(bytes_deinit) Bytes data = {};
                uint32_t number = indices.handle[i];

                if (!is_key_index(number) && !is_chain_index(number))
                        continue;
                r = read_index(tpm, number, &data, reterr);
                if (r >= 0 && is_chain_index(number))
                        r = add_to_chain(&certificates->chain, &data, reterr);
                else if (r >= 0 && data.size > 0 && certificates->count < TPM_CERTIFICATES_MAX) {
                        certificates->keys[certificates->count++] =
                                (struct TpmCertificate){ .index = number, .data = data };
                        data = (Bytes){};
                }
        }
        return r;
}

int tpm_certificates(Tpm *tpm, TpmCertificates *ret, Failure *reterr) {
        CLEANUP(tpm_certificates_deinit) TpmCertificates certificates = {};
        int r;

        r = tpm_end(tpm, read_all(tpm, &certificates, reterr));
        if (r < 0)
                return r;
        *ret = certificates;
        certificates = (TpmCertificates){};
        return 0;
}

void tpm_certificates_deinit(TpmCertificates *certificates) {
        for (size_t i = 0; i < certificates->count; i++)
                bytes_deinit(&certificates->keys[i].data);
        bytes_deinit(&certificates->chain);
        *certificates = (TpmCertificates){};
}

int tpm_rsa_public(const Bytes *public_area, Bytes *ret_modulus, uint32_t *ret_exponent) {
        TPM2B_PUBLIC public = {};
        const TPM2B_PUBLIC_KEY_RSA *modulus = &public.publicArea.unique.rsa;
        size_t at = 0;
        int r;

        if (Tss2_MU_TPM2B_PUBLIC_Unmarshal(public_area->data, public_area->size, &at, &public) !=
                    TSS2_RC_SUCCESS ||
            public.publicArea.type != TPM2_ALG_RSA)
                return -EBADMSG;
        r = bytes_copy(ret_modulus, modulus->buffer, modulus->size);
        if (r < 0)
                return r;
        *ret_exponent = public.publicArea.parameters.rsaDetail.exponent;
        if (*ret_exponent == 0)
                *ret_exponent = RSA_EXPONENT;
        return 0;
}
