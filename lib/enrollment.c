#include "enrollment.h"

#include <errno.h>
#include <stdlib.h>

#define LETTERS_AND_DIGITS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

bool enrollment_device_id_valid(const char *id) {
        return chars_valid(id, LETTERS_AND_DIGITS "-.%_*?!(),:=@$'", 1, 128);
}

bool enrollment_hub_valid(const char *hub) {
        return hub[0] != '-' && chars_valid(hub, LETTERS_AND_DIGITS "-.:", 1, 253);
}

static const char *source_of_key(const Enrollment *e) {
        return e->ek_persistent
                       ? "read from 0x81010001, where IoT Edge uses it too"
                       : "created for this call and not stored (0x81010001 is empty); it is the same each "
                         "time";
}

static const char *template_of_key(const Enrollment *e) {
        return e->ek_tcg_template ? "TCG L-1 (RSA 2048), the one that manufacturers certify"
                                  : "NOT the TCG L-1 template, so no manufacturer's certificate is for it";
}

int enrollment_to_text(char **ret, const Enrollment *e) {
        CLEANUP(freep) char *key = NULL;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        r = asprintf(
                ret,
                "Registration ID:  %s\n"
                "Endorsement key:  %s\n"
                "\n"
                "  Source:         %s\n"
                "  Template:       %s\n"
                "  Certificate:    %s\n"
                "  ID scope:       %s\n"
                "\n"
                "Next: create an individual enrolment in the Device Provisioning Service that the ID scope\n"
                "belongs to: mechanism TPM, with both values, and \"IoT Edge device\" set to true. This "
                "prints\n"
                "the command for it:\n"
                "  dps-provision enrollment --format=az\n"
                "The device registers by itself, also when the enrolment is created later.\n",
                e->registration_id, key, source_of_key(e), template_of_key(e),
                e->certificate ? e->certificate : "not looked at",
                e->id_scope ? e->id_scope
                            : "in no file (dps-provision set-scope ID, or a systemd credential)");
        return r < 0 ? -ENOMEM : 0;
}

/* 'value' for a POSIX shell, with a blank and the option before it. */
static void write_option(FILE *f, const char *option, const char *value) {
        (void) fprintf(f, " --%s '", option);
        for (const char *p = value; *p; p++)
                if (*p == '\'')
                        (void) fputs("'\\''", f);
                else
                        (void) fputc(*p, f);
        (void) fputc('\'', f);
}

int enrollment_to_az(char **ret, const Enrollment *e) {
        CLEANUP(freep) char *key = NULL, *line = NULL;
        size_t size = 0;
        FILE *f;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        f = open_memstream(&line, &size);
        if (!f)
                return -ENOMEM;
        (void) fputs("az iot dps enrollment create", f);
        if (e->dps_name)
                write_option(f, "dps-name", e->dps_name);
        else
                (void) fputs(" --dps-name \"${DPS_NAME:?}\"", f);
        if (e->resource_group)
                write_option(f, "resource-group", e->resource_group);
        else
                (void) fputs(" --resource-group \"${RESOURCE_GROUP:?}\"", f);
        write_option(f, "enrollment-id", e->registration_id);
        (void) fputs(" --attestation-type tpm", f);
        write_option(f, "endorsement-key", key);
        (void) fputs(" --edge-enabled true --provisioning-status enabled", f);
        (void) fputs(" --reprovision-policy reprovisionandmigratedata", f);
        if (e->device_id)
                write_option(f, "device-id", e->device_id);
        if (e->hub) {
                (void) fputs(" --allocation-policy static", f); /* the extension wants it with a hub */
                write_option(f, "iot-hubs", e->hub);
        }
        (void) fputc('\n', f);
        if (fclose(f) != 0)
                return -ENOMEM;
        *ret = TAKE(line);
        return 0;
}
