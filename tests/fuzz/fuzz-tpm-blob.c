/* What the service seals for the TPM, and the two parts that the daemon hands back. */
#include <errno.h>

#include "fuzz.h"
#include "tpm-internal.h"

static void check_public(const TPM2B_PUBLIC *public) {
        const TPMT_PUBLIC *area = &public->publicArea;

        PROMISE(tpm_is_hub_key(area));
        PROMISE(area->authPolicy.size <= sizeof(area->authPolicy.buffer));
        PROMISE(area->unique.keyedHash.size > 0);
        PROMISE(area->unique.keyedHash.size <= sizeof(area->unique.keyedHash.buffer));
}

static void check_blob(const TpmBlob *blob) {
        PROMISE(blob->credential.size > 0 && blob->credential.size <= sizeof(blob->credential.credential));
        PROMISE(blob->secret.size > 0 && blob->secret.size <= TPM_RSA_SIZE);
        PROMISE(blob->duplicate.size > 0 && blob->duplicate.size <= sizeof(blob->duplicate.buffer));
        PROMISE(blob->seed.size > 0 && blob->seed.size <= TPM_RSA_SIZE);
        check_public(&blob->public_area);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const char *why = NULL;
        TPM2B_PRIVATE private;
        TPM2B_PUBLIC public;
        TpmBlob blob;
        int r;

        r = tpm_blob_parse(&blob, data, size, &why);
        PROMISE(r == 0 || (r == -EBADMSG && why));
        if (r == 0)
                check_blob(&blob);
        why = NULL;
        r = tpm_hmac_public_parse(&public, data, size, &why);
        PROMISE(r == 0 || (r == -EBADMSG && why));
        if (r == 0)
                check_public(&public);
        why = NULL;
        r = tpm_private_parse(&private, data, size, &why);
        PROMISE(r == 0 || (r == -EBADMSG && why));
        PROMISE(r < 0 || (private.size > 0 && private.size <= sizeof(private.buffer)));
        return 0;
}
