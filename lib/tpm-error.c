#include "tpm-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tss2/tss2_rc.h>

/* Format-one codes carry the number of the handle, session or parameter in bits 6 and 8 to 11 (Trusted
 * Platform Module Library, part 2, section 6.6.3). */
#define RC_FORMAT_ONE_BASE 0x0bfu

TPM2_RC tpm_rc(TSS2_RC rc) {
        TSS2_RC layer = rc & TSS2_RC_LAYER_MASK;
        TPM2_RC code = rc & ~TSS2_RC_LAYER_MASK;

        /* a resource manager answers for the TPM under its own layer */
        if (layer != TSS2_TPM_RC_LAYER && layer != TSS2_RESMGR_TPM_RC_LAYER)
                return TPM2_RC_SUCCESS;
        return code & TPM2_RC_FMT1 ? code & RC_FORMAT_ONE_BASE : code;
}

bool tpm_rc_is_auth(TSS2_RC rc) {
        switch (tpm_rc(rc)) {
        case TPM2_RC_AUTH_FAIL:
        case TPM2_RC_BAD_AUTH:
        case TPM2_RC_AUTH_MISSING:
        case TPM2_RC_AUTH_UNAVAILABLE:
                return true;
        default:
                return false;
        }
}

bool tpm_rc_is_retry(TSS2_RC rc) {
        switch (tpm_rc(rc)) {
        case TPM2_RC_RETRY:
        case TPM2_RC_YIELDED:
        case TPM2_RC_TESTING:
        case TPM2_RC_NV_RATE:
                return true;
        default:
                return false;
        }
}

bool tpm_rc_is_parameter(TSS2_RC rc) {
        return tpm_rc(rc) != TPM2_RC_SUCCESS && (rc & TPM2_RC_FMT1) && (rc & TPM2_RC_P);
}

static FailureKind failure_kind(TSS2_RC rc) {
        if (tpm_rc_is_auth(rc))
                return FAILURE_TPM_AUTH;
        if (tpm_rc_is_retry(rc))
                return FAILURE_TPM_BUSY;
        switch (tpm_rc(rc)) {
        case TPM2_RC_LOCKOUT:
                return FAILURE_TPM_LOCKOUT;
        case TPM2_RC_NV_SPACE:
                return FAILURE_TPM_FULL;
        case TPM2_RC_NV_DEFINED:
                return FAILURE_TPM_HANDLE_TAKEN;
        case TPM2_RC_NV_UNAVAILABLE:
        case TPM2_RC_OBJECT_MEMORY: /* without a resource manager: somebody else's objects and sessions */
        case TPM2_RC_SESSION_MEMORY:
        case TPM2_RC_MEMORY:
        case TPM2_RC_SESSION_HANDLES:
        case TPM2_RC_OBJECT_HANDLES:
                return FAILURE_TPM_BUSY;
        default:
                break;
        }
        if ((rc & TSS2_RC_LAYER_MASK) == TSS2_TCTI_RC_LAYER)
                return FAILURE_TPM_MISSING;
        return FAILURE_TPM_FAILED;
}

static int fail(Failure *reterr, FailureKind kind, TSS2_RC rc, const char *text) {
        char code[16];

        (void) snprintf(code, sizeof(code), "0x%x", rc);
        return failure_set(reterr, kind, code, "%s: %s", text, Tss2_RC_Decode(rc));
}

bool tpm_read_property(Tpm *tpm, TPM2_PT property, uint32_t *ret) {
        TPMS_CAPABILITY_DATA *data = NULL;
        bool found;

        if (Esys_GetCapability(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_TPM_PROPERTIES,
                               property, 1, NULL, &data) != TSS2_RC_SUCCESS)
                return false;
        found = data->capability == TPM2_CAP_TPM_PROPERTIES && data->data.tpmProperties.count > 0 &&
                data->data.tpmProperties.tpmProperty[0].property == property;
        if (found)
                *ret = data->data.tpmProperties.tpmProperty[0].value;
        Esys_Free(data);
        return found;
}

static int fail_lockout(Tpm *tpm, Failure *reterr, const char *text) {
        uint32_t seconds = 0; /* until the TPM takes back one failed try, which is what ends a lockout */
        int r;

        if (!tpm_read_property(tpm, TPM2_PT_LOCKOUT_INTERVAL, &seconds) || seconds == 0)
                return failure_set(
                        reterr, FAILURE_TPM_LOCKOUT, "0x921",
                        "%s: the TPM is in lockout after too many wrong authorization values, and "
                        "does not end it by itself",
                        text);
        r = failure_set(
                reterr, FAILURE_TPM_LOCKOUT, "0x921",
                "%s: the TPM is in lockout after too many wrong authorization values, and takes back "
                "one of them every %u s",
                text, seconds);
        if (reterr)
                reterr->retry_after_usec = seconds * USEC_PER_SEC;
        return r;
}

const char *tpm_disabled_hierarchy(Tpm *tpm) {
        uint32_t enabled;

        if (!tpm_read_property(tpm, TPM2_PT_STARTUP_CLEAR, &enabled))
                return NULL;
        switch (enabled & (TPMA_STARTUP_CLEAR_SHENABLE | TPMA_STARTUP_CLEAR_EHENABLE)) {
        case 0:
                return "storage and endorsement hierarchies are";
        case TPMA_STARTUP_CLEAR_EHENABLE:
                return "storage hierarchy is";
        case TPMA_STARTUP_CLEAR_SHENABLE:
                return "endorsement hierarchy is";
        default:
                return NULL;
        }
}

/* A command that names a disabled hierarchy gets TPM_RC_HIERARCHY, one that names an object in it
 * TPM_RC_HANDLE (Trusted Platform Module Library, part 3, section 24.2). */
static int fail_hierarchy(Tpm *tpm, Failure *reterr, TSS2_RC rc, const char *text) {
        const char *disabled = tpm_disabled_hierarchy(tpm);
        char code[16];

        if (!disabled && tpm_rc(rc) != TPM2_RC_HIERARCHY)
                return fail(reterr, FAILURE_TPM_FAILED, rc, text);
        (void) snprintf(code, sizeof(code), "0x%x", rc);
        return failure_set(reterr, FAILURE_TPM_HIERARCHY, code, "%s: the TPM's %s disabled", text,
                           disabled ? disabled : "hierarchy is");
}

static int fail_auth(Tpm *tpm, Failure *reterr, TSS2_RC rc, const char *text) {
        char code[16], fault[TPM_AUTH_FAULT_MAX];
        int r;

        tpm_describe_auth_fault(tpm->authorizing, fault);
        (void) snprintf(code, sizeof(code), "0x%x", rc);
        r = failure_set(reterr, FAILURE_TPM_AUTH, code, "%s: %s", text, fault);
        if (reterr)
                reterr->remedy = TPM_AUTH_HINT;
        return r;
}

int tpm_fail(Tpm *tpm, Failure *reterr, TSS2_RC rc, const char *format, ...) {
        FailureKind kind = failure_kind(rc);
        char text[256];
        va_list ap;
        int r;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (tpm_rc(rc) == TPM2_RC_HIERARCHY || tpm_rc(rc) == TPM2_RC_HANDLE)
                return fail_hierarchy(tpm, reterr, rc, text);
        if (kind == FAILURE_TPM_LOCKOUT)
                return fail_lockout(tpm, reterr, text);
        if (kind == FAILURE_TPM_AUTH && tpm->authorizing && tpm->authorizing->given)
                return fail_auth(tpm, reterr, rc, text);
        r = fail(reterr, kind, rc, text);
        /* The connection to the TPM was made, so neither the firmware nor the device's rights are at fault.
         */
        if (reterr && kind == FAILURE_TPM_MISSING && tpm->esys)
                reterr->remedy =
                        "The daemon tries again automatically. If the error stays, see the kernel's "
                        "messages about the TPM ('journalctl -k --grep=tpm') and power-cycle the "
                        "device.";
        return r;
}

/* In failure mode a TPM refuses this, too. */
static bool works(Tpm *tpm) {
        TPM2B_DIGEST *bytes = NULL;
        TSS2_RC rc;

        rc = TPM_DO(tpm, Esys_GetRandom(tpm->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, 1, &bytes));
        Esys_Free(bytes);
        return rc == TSS2_RC_SUCCESS;
}

int tpm_fail_input(Tpm *tpm, Failure *reterr, TSS2_RC rc, const TpmFault *fault, const char *text) {
        if (tpm_rc_is_parameter(rc) || (tpm_rc(rc) == TPM2_RC_FAILURE && works(tpm)))
                return fail(reterr, fault->kind, rc, fault->sentence);
        return tpm_fail(tpm, reterr, rc, "%s", text);
}

/* "root:tss, mode 0660", for a sentence; names where there are any. */
static void describe_access(const struct stat *st, char *ret, size_t size) {
        const struct passwd *user = getpwuid(st->st_uid);
        const struct group *group = getgrgid(st->st_gid);
        char user_id[16], group_id[16];

        (void) snprintf(user_id, sizeof(user_id), "%u", st->st_uid);
        (void) snprintf(group_id, sizeof(group_id), "%u", st->st_gid);
        (void) snprintf(ret, size, "%s:%s, mode %04o", user ? user->pw_name : user_id,
                        group ? group->gr_name : group_id, st->st_mode & 07777);
}

int tpm_check_node(const char *path, Failure *reterr) {
        CLEANUP(closep) int fd = -1;
        const struct passwd *self;
        struct stat st;
        char access_text[128];
        int error;

        fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd >= 0)
                return 0;
        error = errno;

        switch (error) {
        case ENOENT:
                return failure_set(reterr, FAILURE_TPM_MISSING, "ENOENT",
                                   "There is no TPM: '%s' does not exist%s", path,
                                   streq(path, "/dev/tpmrm0") && access("/dev/tpm0", F_OK) == 0
                                           ? ", though '/dev/tpm0' does (a TPM 1.2, or a kernel without the "
                                             "resource manager)"
                                           : "");
        case EPERM:
                return failure_set(reterr, FAILURE_TPM_MISSING, "EPERM",
                                   "The TPM '%s' is kept closed by a device policy or a security module",
                                   path);
        case EACCES:
                if (stat(path, &st) < 0)
                        break;
                describe_access(&st, access_text, sizeof(access_text));
                self = getpwuid(geteuid());
                return failure_set(reterr, FAILURE_TPM_MISSING, strerrorname_np(error),
                                   "The TPM '%s' (%s) can't be opened by the user '%s'", path, access_text,
                                   self ? self->pw_name : "?");
        case EBUSY:
                return failure_set(reterr, FAILURE_TPM_BUSY, "EBUSY",
                                   "The TPM '%s' is in use by another program", path);
        default:
                break;
        }
        return failure_set_errno(reterr, FAILURE_TPM_MISSING, error, "The TPM '%s' can't be opened", path);
}
