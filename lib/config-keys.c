/* The keys: what each takes, its default, and how it is shown. */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "config-internal.h"
#include "url.h"

#define SEC_MAX       604800u
#define HUB_KEY_FIRST 0x81000002u
#define HUB_KEY_LAST  0x817fffffu
#define EK_HANDLE     0x81010001u
#define HOST_CHARS    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"
#define DEFAULT_HUBS  "*.azure-devices.net *.azure-devices.us *.azure-devices.cn"
#define ENDPOINT_MAX  512

static int set_string(const ConfigKey *key, void *field, const char *value) {
        return string_replace(field, value);
}

static int set_scope(const ConfigKey *key, void *field, const char *value) {
        if (!chars_valid(value, CONFIG_SCOPE_CHARS, 1, CONFIG_SCOPE_MAX))
                return -EINVAL;
        return string_replace(field, value);
}

static bool port_valid(const char *text) {
        uint64_t port;

        return parse_uint(text, 65535, &port) >= 0 && port > 0 && isdigit((unsigned char) text[0]) &&
               text[1] != 'x';
}

/* "host", "host:port", "[v6]:port" */
static bool authority_valid(const char *text, size_t length) {
        CLEANUP(freep) char *copy = strndup(text, length);
        char *host = copy, *port;

        if (!copy)
                return false;
        if (host[0] == '[') {
                char *end = strchr(host, ']');

                if (!end || end == host + 1 ||
                    strspn(host + 1, "0123456789abcdefABCDEF:.") != (size_t) (end - host - 1))
                        return false;
                return end[1] == '\0' || (end[1] == ':' && port_valid(end + 2));
        }
        port = strchr(host, ':');
        if (port)
                *port++ = '\0';
        return chars_valid(host, HOST_CHARS, 1, 253) && host[0] != '.' && host[0] != '-' &&
               (!port || port_valid(port));
}

static int set_endpoint(const ConfigKey *key, void *field, const char *value) {
        CLEANUP(freep) char *canonical = NULL;
        size_t length = strlen(value);
        int r;

        if (length > ENDPOINT_MAX || strncmp(value, "https://", 8) != 0)
                return -EINVAL;
        if (value[length - 1] == '/') /* people paste it with one */
                length--;
        if (length <= 8 || !authority_valid(value + 8, length - 8))
                return -EINVAL;
        r = url_canonical_endpoint(&canonical, value);
        return r < 0 ? r : string_replace(field, canonical);
}

static int set_registration_id(const ConfigKey *key, void *field, const char *value) {
        if (!chars_valid(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._:%", 1,
                         256))
                return -EINVAL;
        for (const char *p = strchr(value, '%'); p; p = strchr(p + 2, '%'))
                if (p[1] == '\0' || !strchr("Hms%", p[1]))
                        return -EINVAL;
        return string_replace(field, value);
}

static int set_path(const ConfigKey *key, void *field, const char *value) {
        return value[0] == '/' ? string_replace(field, value) : -EINVAL;
}

/* IoT Edge gets this path as a URL and resolves dot segments in it, so the path has none. */
static int set_payload(const ConfigKey *key, void *field, const char *value) {
        return url_path_valid(value) ? string_replace(field, value) : -EINVAL;
}

static int set_proxy(const ConfigKey *key, void *field, const char *value) {
        const char *rest = strstr(value, "://");
        size_t length;

        if (!rest || (strncmp(value, "http:", 5) != 0 && strncmp(value, "https:", 6) != 0 &&
                      strncmp(value, "socks5:", 7) != 0 && strncmp(value, "socks5h:", 8) != 0))
                return -EINVAL;
        rest += 3;
        if (strchr(rest, '@'))
                rest = strrchr(rest, '@') + 1;
        length = strcspn(rest, "/");
        return authority_valid(rest, length) ? string_replace(field, value) : -EINVAL;
}

static int set_handle(const ConfigKey *key, void *field, const char *value) {
        uint64_t n;

        if (parse_uint(value, HUB_KEY_LAST, &n) < 0 || n < HUB_KEY_FIRST || n == EK_HANDLE)
                return -EINVAL;
        *(uint32_t *) field = (uint32_t) n;
        return 0;
}

static int set_sec(const ConfigKey *key, void *field, const char *value) {
        uint64_t n;

        if (parse_uint(value, SEC_MAX, &n) < 0 || n < 1)
                return -EINVAL;
        *(usec_t *) field = n * USEC_PER_SEC;
        return 0;
}

static int set_bool(const ConfigKey *key, void *field, const char *value) {
        static const char *const words[][2] = {
                { "yes", "no" }, { "true", "false" }, { "1", "0" }, { "on", "off" }
        };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                for (int no = 0; no < 2; no++)
                        if (strcasecmp(value, words[i][no]) == 0) {
                                *(bool *) field = !no;
                                return 0;
                        }
        return -EINVAL;
}

/* The words of an enumeration are what `allowed` lists, in the order of its values: "a, b". */
static int set_enum(const ConfigKey *key, void *field, const char *value) {
        const char *word = key->allowed;
        size_t length = strlen(value);

        for (int i = 0; word; i++) {
                size_t n = strcspn(word, ",");

                if (n == length && strncmp(word, value, n) == 0) {
                        *(int *) field = i;
                        return 0;
                }
                word = word[n] ? word + n + 2 : NULL;
        }
        return -EINVAL;
}

static void strv_freep(char ***list) {
        for (char **p = *list; p && *p; p++)
                free(*p);
        free(*list);
        *list = NULL;
}

static int copy_hub(char **ret, const char *text, size_t length) {
        CLEANUP(freep) char *hub = strndup(text, length);

        if (!hub)
                return -ENOMEM;
        if (!chars_valid(hub, HOST_CHARS "*:", 1, 260) || strstr(hub, "**"))
                return -EINVAL;
        *ret = TAKE(hub);
        return 0;
}

static int set_hubs(const ConfigKey *key, void *field, const char *value) {
        CLEANUP(strv_freep) char **list = calloc(strlen(value) / 2 + 2, sizeof(char *));
        char ***target = field;
        size_t n = 0;
        int r;

        if (!list)
                return -ENOMEM;
        for (const char *p = value + strspn(value, " \t"); *p; p += strspn(p, " \t")) {
                size_t length = strcspn(p, " \t");

                r = copy_hub(&list[n], p, length);
                if (r < 0)
                        return r;
                n++;
                p += length;
        }
        if (n == 0)
                return -EINVAL;
        strv_freep(target);
        *target = TAKE(list);
        return 0;
}

#define SEC_ALLOWED "1 to 604800 (seconds)"
#define FIELD(name) offsetof(Config, name)

static const ConfigKey keys[] = {
        { "Provisioning", "IdScope", set_scope, FIELD(id_scope), NULL,
          "1 to 64 letters, digits and dashes" },
        { "Provisioning", "GlobalEndpoint", set_endpoint, FIELD(global_endpoint),
          "https://global.azure-devices-provisioning.net", "https://HOST or https://HOST:PORT" },
        { "Provisioning", "RegistrationId", set_registration_id, FIELD(registration_id), NULL,
          "letters, digits, -._: and the specifiers %H, %m, %s" },
        { "Provisioning", "RegistrationIdFormat", set_enum, FIELD(registration_id_format), "sha256-hex",
          "sha256-hex, sha256-base32" },
        { "Provisioning", "Payload", set_payload, FIELD(payload), NULL,
          "an absolute path of a file, without // and without the segments . and .." },
        { "Tpm", "Tcti", set_string, FIELD(tcti), "device:/dev/tpmrm0",
          "a TCTI name and its configuration" },
        { "Tpm", "HubKeyHandle", set_handle, FIELD(hub_key_handle), "0x81000100",
          "0x81000002 to 0x817fffff, but for the endorsement key's 0x81010001" },
        { "Network", "Proxy", set_proxy, FIELD(proxy), NULL,
          "http://, https:// or socks5:// with HOST[:PORT]" },
        { "Network", "CAFile", set_path, FIELD(ca_file), NULL, "an absolute path" },
        { "Network", "ConnectTimeoutSec", set_sec, FIELD(connect_timeout_usec), "20", SEC_ALLOWED },
        { "Network", "RequestTimeoutSec", set_sec, FIELD(request_timeout_usec), "60", SEC_ALLOWED },
        { "Retry", "InitialSec", set_sec, FIELD(retry.initial_usec), "5", SEC_ALLOWED },
        { "Retry", "MaxSec", set_sec, FIELD(retry.max_usec), "600", SEC_ALLOWED },
        { "Retry", "ThrottledMaxSec", set_sec, FIELD(retry.throttled_max_usec), "36000", SEC_ALLOWED },
        { "Retry", "OperatorInitialSec", set_sec, FIELD(retry.operator_initial_usec), "60", SEC_ALLOWED },
        { "Retry", "OperatorMaxSec", set_sec, FIELD(retry.operator_max_usec), "1800", SEC_ALLOWED },
        { "Retry", "OperatorLongMaxSec", set_sec, FIELD(retry.operator_long_max_usec), "21600",
          SEC_ALLOWED },
        { "HandOff", "Target", set_enum, FIELD(target), "iotedge", "iotedge, none" },
        { "HandOff", "Identity", set_enum, FIELD(identity), "adopt", "adopt, register" },
        { "HandOff", "ReplaceProvisioning", set_bool, FIELD(replace_provisioning), "no", "yes or no" },
        { "HandOff", "AllowedHubs", set_hubs, FIELD(allowed_hubs), DEFAULT_HUBS,
          "host names, where * stands for one or more labels, separated by spaces", true },
};
static_assert(ARRAY_SIZE(keys) == CONFIG_KEY_COUNT, "every key has a source");
static_assert(sizeof(HandOffTarget) == sizeof(int) && sizeof(IdentityMode) == sizeof(int) &&
                      sizeof(RegistrationIdFormat) == sizeof(int),
              "set_enum() writes an int");

const ConfigKey *config_key(size_t index) {
        return index < ARRAY_SIZE(keys) ? &keys[index] : NULL;
}

void config_hubs_free(char **list) {
        strv_freep(&list);
}

bool config_key_is_secret(const ConfigKey *key) {
        return key->set == set_proxy;
}

static char *hubs_to_string(char *const *hubs) {
        char *text = strdup("");

        for (; text && *hubs; hubs++) {
                char *longer = NULL;

                if (asprintf(&longer, "%s%s%s", text, text[0] ? " " : "", *hubs) < 0)
                        longer = NULL;
                free(text);
                text = longer;
        }
        return text;
}

int config_key_append(Config *config, const ConfigKey *key, const char *value) {
        void *field = (char *) config + key->offset;
        CLEANUP(freep) char *text = NULL, *before = hubs_to_string(*(char *const *const *) field);

        if (!before || asprintf(&text, "%s %s", before, value) < 0) {
                text = NULL;
                return -ENOMEM;
        }
        return key->set(key, field, text);
}

char *config_proxy_to_show(const char *proxy) {
        const char *rest = strstr(proxy, "://"), *at = strrchr(proxy, '@');
        char *text = NULL;

        rest = rest ? rest + 3 : proxy;
        if (!at || at < rest)
                return strdup(proxy);
        return asprintf(&text, "%.*s...@%s", (int) (rest - proxy), proxy, at + 1) < 0 ? NULL : text;
}

char *config_key_to_string(const Config *config, const ConfigKey *key) {
        const void *field = (const char *) config + key->offset;
        char *text = NULL;
        int r = 0;

        if (key->set == set_sec)
                r = asprintf(&text, "%llu", (unsigned long long) (*(const usec_t *) field / USEC_PER_SEC));
        else if (key->set == set_handle)
                r = asprintf(&text, "0x%08x", *(const uint32_t *) field);
        else if (key->set == set_bool)
                text = strdup(*(const bool *) field ? "yes" : "no");
        else if (key->set == set_hubs)
                text = hubs_to_string(*(char *const *const *) field);
        else if (key->set == set_proxy && *(char *const *) field)
                text = config_proxy_to_show(*(char *const *) field);
        else if (key->set == set_enum) {
                const char *word = key->allowed;

                for (int i = *(const int *) field; i > 0; i--)
                        word = strchr(word, ',') + 2;
                text = strndup(word, strcspn(word, ","));
        } else
                text = *(char *const *) field ? strdup(*(char *const *) field) : strdup("");
        return r < 0 ? NULL : text;
}

/* `*` stands for one or more labels: at least one character, and it may contain dots. */
static bool pattern_matches(const char *pattern, const char *text) {
        for (; *pattern; pattern++, text++) {
                if (*pattern == '*') {
                        for (const char *rest = text + 1; *text && *rest; rest++)
                                if (pattern_matches(pattern + 1, rest))
                                        return true;
                        return *text != '\0' && pattern[1] == '\0';
                }
                if (tolower((unsigned char) *pattern) != tolower((unsigned char) *text))
                        return false;
        }
        return *text == '\0';
}

bool config_hub_allowed(const Config *config, const char *hub) {
        CLEANUP(freep) char *host = NULL;

        if (strlen(hub) > 260 || hub[0] == '[' || !authority_valid(hub, strlen(hub)) || strstr(hub, ".."))
                return false;
        host = strndup(hub, strcspn(hub, ":"));
        if (!host)
                return false;
        for (char *const *pattern = config->allowed_hubs; *pattern; pattern++)
                if (pattern_matches(*pattern, strchr(*pattern, ':') ? hub : host))
                        return true;
        return false;
}

const char *target_to_string(HandOffTarget target) {
        return target == TARGET_NONE ? "none" : "iotedge";
}

const char *identity_mode_to_string(IdentityMode mode) {
        return mode == IDENTITY_REGISTER ? "register" : "adopt";
}
