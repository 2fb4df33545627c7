/* The service's cryptography against a real TPM (swtpm): what it wraps must activate, import, load and sign,
 * and what it wraps for somebody else must not. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_tctildr.h>

#include "tpm-crypto.h"

static const uint8_t ek_policy[] = { 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc,
                                     0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52,
                                     0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa };

static const uint8_t key[TPM_CRYPTO_KEY_SIZE] = "0123456789abcdef0123456789abcde";

static struct {
        char dir[32];
        pid_t swtpm;
        TSS2_TCTI_CONTEXT *tcti;
        ESYS_CONTEXT *esys;
        ESYS_TR ek, srk;
        Bytes ek_public, srk_public;
} tpm = { .dir = "/tmp/tpm-crypto.XXXXXX", .swtpm = -1 };

/* The TCG template L-1 for an EK, or the SRK's. */
static TPM2B_PUBLIC storage_template(bool ek) {
        TPM2B_PUBLIC template = {
                .publicArea = {
                        .type = TPM2_ALG_RSA,
                        .nameAlg = TPM2_ALG_SHA256,
                        .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                            TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_RESTRICTED |
                                            TPMA_OBJECT_DECRYPT,
                        .parameters.rsaDetail = {
                                .symmetric = { .algorithm = TPM2_ALG_AES,
                                               .keyBits.aes = 128,
                                               .mode.aes = TPM2_ALG_CFB },
                                .scheme.scheme = TPM2_ALG_NULL,
                                .keyBits = 2048,
                        },
                        .unique.rsa.size = 256,
                },
        };

        if (ek) {
                template.publicArea.objectAttributes |= TPMA_OBJECT_ADMINWITHPOLICY;
                template.publicArea.authPolicy.size = sizeof(ek_policy);
                memcpy(template.publicArea.authPolicy.buffer, ek_policy, sizeof(ek_policy));
        } else
                template.publicArea.objectAttributes |= TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA;
        return template;
}

static ESYS_TR create_primary(bool ek, Bytes *ret_public) {
        TPM2B_SENSITIVE_CREATE sensitive = {};
        TPM2B_PUBLIC template = storage_template(ek), *public = NULL;
        TPM2B_DATA outside = {};
        TPML_PCR_SELECTION pcrs = {};
        uint8_t buffer[sizeof(TPM2B_PUBLIC)];
        size_t size = 0;
        ESYS_TR handle;

        assert_int_equal(Esys_CreatePrimary(tpm.esys, ek ? ESYS_TR_RH_ENDORSEMENT : ESYS_TR_RH_OWNER,
                                            ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &sensitive,
                                            &template, &outside, &pcrs, &handle, &public, NULL, NULL, NULL),
                         0);
        assert_int_equal(Tss2_MU_TPM2B_PUBLIC_Marshal(public, buffer, sizeof(buffer), &size), 0);
        assert_int_equal(bytes_copy(ret_public, buffer, size), 0);
        Esys_Free(public);
        return handle;
}

static int start_tpm(void **state) {
        char server[128], control[128], conf[128], tpmstate[64];

        if (!mkdtemp(tpm.dir))
                return -1;
        (void) snprintf(tpmstate, sizeof(tpmstate), "dir=%s", tpm.dir);
        (void) snprintf(server, sizeof(server), "type=unixio,path=%s/tpm", tpm.dir);
        (void) snprintf(control, sizeof(control), "type=unixio,path=%s/tpm.ctrl", tpm.dir);
        (void) snprintf(conf, sizeof(conf), "swtpm:path=%s/tpm", tpm.dir);
        tpm.swtpm = fork();
        if (tpm.swtpm == 0) {
                if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
                        _exit(126);
                execlp("swtpm", "swtpm", "socket", "--tpm2", "--tpmstate", tpmstate, "--server", server,
                       "--ctrl", control, "--flags", "not-need-init,startup-clear", (char *) NULL);
                _exit(127);
        }
        for (unsigned tries = 0; tries < 1000; tries++) {
                if (Tss2_TctiLdr_Initialize(conf, &tpm.tcti) == 0)
                        break;
                (void) usleep(10000); /* until swtpm listens */
        }
        if (!tpm.tcti || Esys_Initialize(&tpm.esys, tpm.tcti, NULL) != 0)
                return -1;
        tpm.ek = create_primary(true, &tpm.ek_public);
        tpm.srk = create_primary(false, &tpm.srk_public);
        return 0;
}

static int stop_tpm(void **state) {
        char command[64];

        Esys_Finalize(&tpm.esys);
        Tss2_TctiLdr_Finalize(&tpm.tcti);
        if (tpm.swtpm > 0) {
                (void) kill(tpm.swtpm, SIGTERM);
                (void) waitpid(tpm.swtpm, NULL, 0);
        }
        bytes_deinit(&tpm.ek_public);
        bytes_deinit(&tpm.srk_public);
        (void) snprintf(command, sizeof(command), "rm -r %s", tpm.dir);
        return system(command);
}

static ESYS_TR endorsement_session(void) {
        TPMT_SYM_DEF symmetric = { .algorithm = TPM2_ALG_NULL };
        ESYS_TR session;

        assert_int_equal(Esys_StartAuthSession(tpm.esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                               ESYS_TR_NONE, ESYS_TR_NONE, NULL, TPM2_SE_POLICY, &symmetric,
                                               TPM2_ALG_SHA256, &session),
                         0);
        assert_int_equal(Esys_PolicySecret(tpm.esys, ESYS_TR_RH_ENDORSEMENT, session, ESYS_TR_PASSWORD,
                                           ESYS_TR_NONE, ESYS_TR_NONE, NULL, NULL, NULL, 0, NULL, NULL),
                         0);
        return session;
}

/* What a client does with a blob: 0 and the HMAC of the message, or the TPM's response code. */
static TSS2_RC sign_with(const Bytes *blob, const char *message, uint8_t ret[SHA256_SIZE]) {
        TPM2B_ID_OBJECT credential = {};
        TPM2B_ENCRYPTED_SECRET secret = {}, seed = {};
        TPM2B_PRIVATE duplicate = {}, *private = NULL;
        TPM2B_PUBLIC public = {};
        TPM2B_DIGEST *inner = NULL, *hmac = NULL;
        TPM2B_DATA inner_key;
        TPM2B_MAX_BUFFER buffer = { .size = (uint16_t) strlen(message) };
        TPMT_SYM_DEF_OBJECT aes = { .algorithm = TPM2_ALG_AES,
                                    .keyBits.aes = 128,
                                    .mode.aes = TPM2_ALG_CFB };
        ESYS_TR session, loaded;
        size_t at = 0;
        TSS2_RC rc;

        assert_int_equal(Tss2_MU_TPM2B_ID_OBJECT_Unmarshal(blob->data, blob->size, &at, &credential), 0);
        assert_int_equal(Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal(blob->data, blob->size, &at, &secret), 0);
        assert_int_equal(Tss2_MU_TPM2B_PRIVATE_Unmarshal(blob->data, blob->size, &at, &duplicate), 0);
        assert_int_equal(Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal(blob->data, blob->size, &at, &seed), 0);
        assert_int_equal(Tss2_MU_TPM2B_PUBLIC_Unmarshal(blob->data, blob->size, &at, &public), 0);

        session = endorsement_session();
        rc = Esys_ActivateCredential(tpm.esys, tpm.srk, tpm.ek, ESYS_TR_PASSWORD, session, ESYS_TR_NONE,
                                     &credential, &secret, &inner);
        assert_int_equal(Esys_FlushContext(tpm.esys, session), 0);
        if (rc != 0)
                return rc;
        assert_int_equal(inner->size, TPM_CRYPTO_CREDENTIAL_SIZE);
        inner_key.size = inner->size;
        memcpy(inner_key.buffer, inner->buffer, inner->size);
        Esys_Free(inner);

        rc = Esys_Import(tpm.esys, tpm.srk, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &inner_key,
                         &public, &duplicate, &seed, &aes, &private);
        if (rc != 0)
                return rc;
        rc = Esys_Load(tpm.esys, tpm.srk, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, private, &public,
                       &loaded);
        Esys_Free(private);
        if (rc != 0)
                return rc;

        memcpy(buffer.buffer, message, buffer.size);
        rc = Esys_HMAC(tpm.esys, loaded, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &buffer,
                       TPM2_ALG_SHA256, &hmac);
        (void) Esys_FlushContext(tpm.esys, loaded);
        if (rc == 0)
                memcpy(ret, hmac->buffer, SHA256_SIZE);
        Esys_Free(hmac);
        return rc;
}

static void the_tpm_signs_with_the_wrapped_key(void **state) {
        uint8_t expected[SHA256_SIZE], hmac[SHA256_SIZE] = {};

        assert_int_equal(tpm_crypto_hmac(key, sizeof(key), "message", 7, expected), 0);
        for (unsigned i = 0; i < 20; i++) {
                CLEANUP(bytes_deinit) Bytes blob = {};

                assert_int_equal(tpm_crypto_wrap_for(&blob, &tpm.ek_public, &tpm.srk_public, key), 0);
                assert_int_equal(sign_with(&blob, "message", hmac), 0);
                assert_memory_equal(hmac, expected, sizeof(hmac));
        }
}

static void a_blob_for_another_ek_can_not_be_activated(void **state) {
        CLEANUP(bytes_deinit) Bytes blob = {};
        TpmStorageKey stranger, srk;
        uint8_t hmac[SHA256_SIZE];

        assert_int_equal(tpm_storage_key_random(&stranger), 0);
        assert_int_equal(tpm_storage_key_parse(&srk, tpm.srk_public.data, tpm.srk_public.size, NULL), 0);
        assert_int_equal(tpm_crypto_wrap(&blob, &stranger, &srk, key), 0);
        assert_int_not_equal(sign_with(&blob, "message", hmac), 0);
}

static void a_blob_for_another_srk_can_not_be_activated(void **state) {
        CLEANUP(bytes_deinit) Bytes blob = {};
        TpmStorageKey ek, stranger;
        uint8_t hmac[SHA256_SIZE];

        assert_int_equal(tpm_storage_key_random(&stranger), 0);
        assert_int_equal(tpm_storage_key_parse(&ek, tpm.ek_public.data, tpm.ek_public.size, NULL), 0);
        assert_int_equal(tpm_crypto_wrap(&blob, &ek, &stranger, key), 0);
        assert_int_not_equal(sign_with(&blob, "message", hmac), 0);
}

static void a_changed_blob_is_refused_by_the_tpm(void **state) {
        /* in the identity's integrity, its encrypted part, the duplicate's, and the public area's unique */
        static const size_t offsets[] = { 4, 40, 314, 400, 730 };

        for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
                CLEANUP(bytes_deinit) Bytes blob = {};
                uint8_t hmac[SHA256_SIZE];

                assert_int_equal(tpm_crypto_wrap_for(&blob, &tpm.ek_public, &tpm.srk_public, key), 0);
                blob.data[offsets[i]] ^= 1;
                if (sign_with(&blob, "message", hmac) == 0)
                        fail_msg("the change at %zu went unnoticed", offsets[i]);
        }
}

static void the_names_are_the_tpm_s(void **state) {
        TpmStorageKey parsed;
        TPM2B_NAME *name = NULL;

        assert_int_equal(tpm_storage_key_parse(&parsed, tpm.srk_public.data, tpm.srk_public.size, NULL), 0);
        assert_int_equal(Esys_TR_GetName(tpm.esys, tpm.srk, &name), 0);
        assert_int_equal(name->size, TPM_CRYPTO_NAME_SIZE);
        assert_memory_equal(parsed.name, name->name, name->size);
        Esys_Free(name);
}

static void the_layout_is_the_real_service_s(void **state) {
        static const size_t sizes[] = { 52, 256, 142, 256, 48, 154 };
        static const uint8_t public[] = { 0x00, 0x08, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x40,
                                          0x00, 0x00, 0x00, 0x05, 0x00, 0x0b, 0x00, 0x20 };
        CLEANUP(bytes_deinit) Bytes blob = {}, again = {};
        size_t at = 0;

        assert_int_equal(tpm_crypto_wrap_for(&blob, &tpm.ek_public, &tpm.srk_public, key), 0);
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                assert_true(at + 2 + sizes[i] <= blob.size);
                assert_int_equal(blob.data[at] << 8 | blob.data[at + 1], sizes[i]);
                if (sizes[i] == 48)
                        assert_memory_equal(blob.data + at + 2, public, sizeof(public));
                at += 2 + sizes[i];
        }
        assert_int_equal(at, blob.size);

        assert_int_equal(tpm_crypto_wrap_for(&again, &tpm.ek_public, &tpm.srk_public, key), 0);
        assert_memory_not_equal(blob.data + 730, again.data + 730, 32); /* unique */
}

static void malformed_public_areas_are_refused(void **state) {
        CLEANUP(bytes_deinit) Bytes copy = {};
        uint8_t long_one[TPM_CRYPTO_PUBLIC_MAX + 1] = {};
        TpmStorageKey parsed;
        const char *why = NULL;
        struct {
                size_t offset;
                uint8_t value;
        } changes[] = {
                { 0, 0xff },   /* size */
                { 3, 0x23 },   /* type: ECC */
                { 5, 0x0c },   /* nameAlg: SHA-384 */
                { 7, 0x02 },   /* attributes: neither restricted … */
                { 7, 0x07 },   /* … nor a signing key */
                { 10, 0xff },  /* policy longer than the rest */
                { 45, 0x0a },  /* symmetric algorithm */
                { 46, 0x01 },  /* its bits */
                { 49, 0x42 },  /* its mode */
                { 51, 0x14 },  /* scheme */
                { 52, 0x04 },  /* RSA-1024 */
                { 57, 0x04 },  /* even exponent */
                { 58, 0x00 },  /* modulus size */
                { 60, 0x00 },  /* modulus too small */
                { 315, 0x00 }, /* even modulus */
        };

        assert_int_equal(tpm_storage_key_parse(&parsed, tpm.ek_public.data, tpm.ek_public.size, &why), 0);
        for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
                bytes_deinit(&copy);
                assert_int_equal(bytes_copy(&copy, tpm.ek_public.data, tpm.ek_public.size), 0);
                copy.data[changes[i].offset] = changes[i].value;
                why = NULL;
                if (tpm_storage_key_parse(&parsed, copy.data, copy.size, &why) == 0)
                        fail_msg("0x%x at %zu was accepted", changes[i].value, changes[i].offset);
                assert_non_null(why);
        }
        for (size_t size = 0; size < tpm.ek_public.size; size++) {
                bytes_deinit(&copy); /* a buffer of exactly that size, so that reading past it is seen */
                assert_int_equal(bytes_copy(&copy, tpm.ek_public.data, size), 0);
                assert_true(tpm_storage_key_parse(&parsed, copy.data, size, NULL) < 0);
        }
        assert_int_equal(tpm_storage_key_parse(&parsed, long_one, sizeof(long_one), NULL), -EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_tpm_signs_with_the_wrapped_key),
                cmocka_unit_test(a_blob_for_another_ek_can_not_be_activated),
                cmocka_unit_test(a_blob_for_another_srk_can_not_be_activated),
                cmocka_unit_test(a_changed_blob_is_refused_by_the_tpm),
                cmocka_unit_test(the_names_are_the_tpm_s),
                cmocka_unit_test(the_layout_is_the_real_service_s),
                cmocka_unit_test(malformed_public_areas_are_refused),
        };

        (void) setenv("TSS2_LOG", "all+none", 0);
        return cmocka_run_group_tests(tests, start_tpm, stop_tpm);
}
