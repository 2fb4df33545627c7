#include "identity.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include <systemd/sd-id128.h>

#include "hardware.h"

#define BASE32_DIGEST_LENGTH 52 /* 256 bits in groups of five, without padding */

bool identity_registration_id_valid(const char *id) {
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:";
        size_t length = strlen(id);

        if (!chars_valid(id, allowed, 1, REGISTRATION_ID_MAX))
                return false;
        return isalnum((unsigned char) id[0]) &&
               (isalnum((unsigned char) id[length - 1]) || id[length - 1] == '-');
}

static int base32_digest(char **ret, const uint8_t digest[static SHA256_SIZE]) {
        static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
        char *text = malloc(BASE32_DIGEST_LENGTH + 1);

        if (!text)
                return -ENOMEM;
        for (size_t i = 0; i < BASE32_DIGEST_LENGTH; i++) {
                size_t bit = 5 * i;
                unsigned pair = (unsigned) digest[bit / 8] << 8;

                if (bit / 8 + 1 < SHA256_SIZE)
                        pair |= digest[bit / 8 + 1];
                text[i] = alphabet[pair >> (11 - bit % 8) & 0x1f];
        }
        text[BASE32_DIGEST_LENGTH] = '\0';
        *ret = text;
        return 0;
}

int identity_derive(char **ret, RegistrationIdFormat format, const void *ek_public, size_t ek_public_size) {
        uint8_t digest[SHA256_SIZE];
        int r;

        r = sha256(ek_public, ek_public_size, digest);
        if (r < 0)
                return r;
        return format == REGISTRATION_ID_SHA256_BASE32 ? base32_digest(ret, digest)
                                                       : hex_encode(ret, digest, sizeof(digest));
}

static int specifier_value(char specifier, const IdentitySources *sources, const char **ret_value,
                           Failure *reterr) {
        switch (specifier) {
        case '%':
                *ret_value = "%";
                return 0;
        case 'H':
                *ret_value = sources->host_name;
                break;
        case 'm':
                *ret_value = sources->machine_id;
                break;
        case 's':
                *ret_value = sources->serial;
                break;
        default:
                return failure_set(
                        reterr, FAILURE_CONFIG, NULL,
                        "RegistrationId= has the unknown specifier '%%%c' (known are %%H, %%m, %%s)",
                        specifier);
        }
        if (!*ret_value || **ret_value == '\0')
                return failure_set(reterr, FAILURE_CONFIG, NULL,
                                   "RegistrationId= uses '%%%c', but this machine has no %s", specifier,
                                   specifier == 'H'   ? "host name"
                                   : specifier == 'm' ? "machine ID"
                                                      : "serial number, or only root may read it");
        return 0;
}

int identity_expand(char **ret, const char *pattern, const IdentitySources *sources, Failure *reterr) {
        char id[REGISTRATION_ID_MAX + 1];
        size_t used = 0;
        int r;

        for (const char *p = pattern; *p; p++) {
                char letter[2] = { *p, '\0' };
                const char *value = letter;

                if (*p == '%') {
                        p++;
                        r = specifier_value(*p ? *p : ' ', sources, &value, reterr);
                        if (r < 0)
                                return r;
                }
                if (strlen(value) >= sizeof(id) - used)
                        return failure_set(reterr, FAILURE_CONFIG, NULL,
                                           "RegistrationId=%s gives more than %d characters", pattern,
                                           REGISTRATION_ID_MAX);
                memcpy(id + used, value, strlen(value));
                used += strlen(value);
                if (*p == '\0')
                        break;
        }
        id[used] = '\0';
        if (!identity_registration_id_valid(id))
                return failure_set(
                        reterr, FAILURE_CONFIG, NULL,
                        "RegistrationId=%s gives '%s', which is not a registration ID: 1 to %d of letters, "
                        "digits and -._: with a letter or digit at both ends",
                        pattern, id, REGISTRATION_ID_MAX);
        *ret = strdup(id);
        return *ret ? 0 : -ENOMEM;
}

/* The unit's credential holds what only root may read. It is blank on a machine without DMI; whoever asks at
 * a shell has none. Firmware pads its strings. */
static int read_serial(char **ret, const ConfigPaths *paths) {
        CLEANUP(secret_freep) char *credential = NULL;
        int r;

        r = config_read_credential(&credential, paths, "dps.serial");
        if (r >= 0) {
                for (size_t n = strlen(credential); n > 0 && credential[n - 1] == ' '; n--)
                        credential[n - 1] = '\0';
                if (credential[0]) {
                        *ret = TAKE(credential);
                        return 0;
                }
        }
        r = hardware_serial_number(ret, NULL);
        return r == -ENOMEM ? r : 0;
}

int identity_registration_id(char **ret, const Config *config, const ConfigPaths *paths,
                             const void *ek_public, size_t ek_public_size, Failure *reterr) {
        CLEANUP(secret_freep) char *serial = NULL;
        char host_name[HOST_NAME_MAX + 1] = "", machine_id[SD_ID128_STRING_MAX] = "";
        sd_id128_t id;
        int r;

        if (!config->registration_id)
                return identity_derive(ret, config->registration_id_format, ek_public, ek_public_size);

        (void) gethostname(host_name, sizeof(host_name) - 1);
        if (sd_id128_get_machine(&id) >= 0)
                (void) sd_id128_to_string(id, machine_id);
        r = read_serial(&serial, paths);
        if (r < 0)
                return r;
        return identity_expand(
                ret, config->registration_id,
                &(IdentitySources){ .host_name = host_name, .machine_id = machine_id, .serial = serial },
                reterr);
}
