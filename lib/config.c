#include "config-internal.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>

#include <ini.h>

#define SEC_MAX       604800u
#define HUB_KEY_FIRST 0x81000002u
#define HUB_KEY_LAST  0x817fffffu
#define EK_HANDLE     0x81010001u
#define HOST_CHARS    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"
#define DEFAULT_HUBS  "*.azure-devices.net *.azure-devices.us *.azure-devices.cn"
#define ENDPOINT_MAX  512
#define PROBLEMS_MAX  100 /* of a file that is not ours at all, nobody reads more */

typedef struct ConfigKey ConfigKey;

/* Sets the field from the text; returns -EINVAL when it is not allowed there. */
typedef int (*ConfigSetter)(const ConfigKey *key, void *field, const char *value);

struct ConfigKey {
        const char *section, *name;
        ConfigSetter set;
        size_t offset;
        const char *fallback; /* as it would be written; NULL: unset */
        const char *allowed;  /* for people */
};

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
        CLEANUP(freep) char *text = NULL;
        size_t length = strlen(value);

        if (length > ENDPOINT_MAX || strncmp(value, "https://", 8) != 0)
                return -EINVAL;
        if (value[length - 1] == '/') /* people paste it with one */
                length--;
        if (length <= 8 || !authority_valid(value + 8, length - 8))
                return -EINVAL;
        text = strndup(value, length);
        return text ? string_replace(field, text) : -ENOMEM;
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

static int set_hubs(const ConfigKey *key, void *field, const char *value) {
        CLEANUP(strv_freep) char **list = calloc(strlen(value) / 2 + 2, sizeof(char *));
        char ***target = field;
        size_t n = 0;

        if (!list)
                return -ENOMEM;
        for (const char *p = value + strspn(value, " \t"); *p; p += strspn(p, " \t")) {
                size_t length = strcspn(p, " \t");

                list[n] = strndup(p, length);
                if (!list[n])
                        return -ENOMEM;
                if (!chars_valid(list[n], HOST_CHARS "*:", 1, 260) || strstr(list[n], "**"))
                        return -EINVAL;
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
        { "Provisioning", "Payload", set_path, FIELD(payload), NULL, "an absolute path" },
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
        { "Retry", "ThrottledMaxSec", set_sec, FIELD(retry.throttled_max_usec), "14400", SEC_ALLOWED },
        { "Retry", "OperatorInitialSec", set_sec, FIELD(retry.operator_initial_usec), "60", SEC_ALLOWED },
        { "Retry", "OperatorMaxSec", set_sec, FIELD(retry.operator_max_usec), "1800", SEC_ALLOWED },
        { "Retry", "OperatorLongMaxSec", set_sec, FIELD(retry.operator_long_max_usec), "21600",
          SEC_ALLOWED },
        { "HandOff", "Target", set_enum, FIELD(target), "iotedge", "iotedge, none" },
        { "HandOff", "Identity", set_enum, FIELD(identity), "adopt", "adopt, register" },
        { "HandOff", "ReplaceProvisioning", set_bool, FIELD(replace_provisioning), "no", "yes or no" },
        { "HandOff", "AllowedHubs", set_hubs, FIELD(allowed_hubs), DEFAULT_HUBS,
          "host names, where * stands for one or more labels, separated by spaces" },
};
static_assert(sizeof(Target) == sizeof(int) && sizeof(IdentityMode) == sizeof(int) &&
                      sizeof(RegistrationIdFormat) == sizeof(int),
              "set_enum() writes an int");

int config_add_problem(Config *config, bool fatal, const char *file, unsigned line, const char *format,
                       ...) {
        CLEANUP(freep) char *text = NULL;
        ConfigProblem *problems, *problem;
        va_list ap;
        int r;

        if (config->problem_count >= PROBLEMS_MAX)
                return 0;
        va_start(ap, format);
        r = vasprintf(&text, format, ap);
        va_end(ap);
        if (r < 0) {
                text = NULL;
                return -ENOMEM;
        }
        problems = reallocarray(config->problems, config->problem_count + 1, sizeof(*problems));
        if (!problems)
                return -ENOMEM;
        config->problems = problems;
        problem = &problems[config->problem_count];
        *problem = (ConfigProblem){ .fatal = fatal, .line = line };
        r = string_replace(&problem->file, file);
        if (r < 0)
                return r;
        problem->text = TAKE(text);
        config->problem_count++;
        return 0;
}

static void *field_of(Config *config, const ConfigKey *key) {
        return (char *) config + key->offset;
}

static int set_default(Config *config, size_t index) {
        const ConfigKey *key = &keys[index];

        free(config->sources[index]);
        config->sources[index] = NULL;
        /* every key without a default is a string */
        return key->fallback ? key->set(key, field_of(config, key), key->fallback)
                             : string_replace(field_of(config, key), NULL);
}

static int set_source(char **target, const char *file, unsigned line) {
        char *text = NULL;

        if (asprintf(&text, line > 0 ? "%s:%u" : "%s", file, line) < 0)
                return -ENOMEM;
        free(*target);
        *target = text;
        return 0;
}

/* A value that an earlier line has set is about to be replaced. */
static int note_override(Config *config, size_t index, const char *file, unsigned line) {
        struct ConfigOverride *longer, *last;

        if (!config->sources[index] || config->override_count >= PROBLEMS_MAX)
                return 0;
        longer = reallocarray(config->overrides, config->override_count + 1, sizeof(*longer));
        if (!longer)
                return -ENOMEM;
        config->overrides = longer;
        last = &longer[config->override_count++];
        *last = (struct ConfigOverride){ .index = index };
        if (string_replace(&last->old, config->sources[index]) < 0)
                return -ENOMEM;
        return set_source(&last->by, file, line);
}

static int assign(Config *config, size_t index, const char *file, unsigned line, const char *value) {
        const ConfigKey *key = &keys[index];
        int r;

        r = note_override(config, index, file, line);
        if (r < 0)
                return r;
        if (value[0] == '\0')
                return set_default(config, index);
        r = key->set(key, field_of(config, key), value);
        if (r == -EINVAL) {
                r = set_default(config, index);
                if (key->set == set_proxy) /* it may have a password */
                        value = "...";
                return r < 0 ? r
                             : config_add_problem(config, true, file, line,
                                                  "%s=%s is not allowed; allowed: %s", key->name, value,
                                                  key->allowed);
        }
        if (r < 0)
                return r;
        return set_source(&config->sources[index], file, line);
}

int config_assign(Config *config, const char *file, unsigned line, const char *section, const char *name,
                  const char *value) {
        bool section_known = false;

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                if (!streq(keys[i].section, section))
                        continue;
                section_known = true;
                if (streq(keys[i].name, name))
                        return assign(config, i, file, line, value);
        }
        if (!section_known)
                return config_add_problem(config, false, file, line,
                                          "[%s] is not a known section, %s= is ignored", section, name);
        return config_add_problem(config, false, file, line, "%s= is not a known key of [%s] and is ignored",
                                  name, section);
}

/* inih can be built with or without line numbers, so the lines are counted where they are handed out. */
typedef struct Parse {
        Config *config;
        const char *file;
        const char *next; /* what is left of the text */
        unsigned line;
        int error;
} Parse;

/* Like fgets(). Leading white space is dropped: inih would take such a line for more of the previous value.
 * A line that is too long for inih's buffer is reported, and a comment stands in for it. */
static char *next_line(char *buffer, int size, void *userdata) {
        Parse *parse = userdata;
        const char *start = parse->next + strspn(parse->next, " \t"), *end = strchrnul(start, '\n');
        size_t length = (size_t) (end - start);

        if (*parse->next == '\0' || parse->error < 0)
                return NULL;
        parse->next = *end ? end + 1 : end;
        parse->line++;
        if (length + 1 >= (size_t) size) {
                parse->error = config_add_problem(parse->config, true, parse->file, parse->line,
                                                  "the line is longer than %d characters", size - 2);
                start = ";";
                length = 1;
        }
        memcpy(buffer, start, length);
        buffer[length] = '\n';
        buffer[length + 1] = '\0';
        return buffer;
}

static int on_assignment(void *userdata, const char *section, const char *name, const char *value) {
        Parse *parse = userdata;

        parse->error =
                config_assign(parse->config, parse->file, parse->line, section, name, value ? value : "");
        return parse->error >= 0;
}

int config_parse(Config *config, const char *file, const char *text) {
        Parse parse = { .config = config, .file = file, .next = text };
        int line = ini_parse_stream(next_line, &parse, on_assignment, &parse);

        if (parse.error < 0)
                return parse.error;
        if (line > 0)
                return config_add_problem(config, true, file, (unsigned) line,
                                          "neither a [Section], nor KEY=VALUE, nor a comment");
        return line < 0 ? -ENOMEM : 0;
}

int config_load(Config **ret, const ConfigPaths *paths) {
        CLEANUP(config_freep) Config *config = calloc(1, sizeof(*config));
        int r;

        if (!config)
                return -ENOMEM;
        config->sources = calloc(ARRAY_SIZE(keys), sizeof(char *));
        if (!config->sources)
                return -ENOMEM;
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                r = set_default(config, i);
                if (r < 0)
                        return r;
        }
        r = config_read_files(config, paths);
        if (r < 0)
                return r;
        *ret = TAKE(config);
        return 0;
}

Config *config_free(Config *config) {
        if (!config)
                return NULL;
        free(config->id_scope);
        free(config->global_endpoint);
        free(config->registration_id);
        free(config->payload);
        free(config->tcti);
        secret_freep(&config->proxy); /* it may hold a password */
        free(config->ca_file);
        strv_freep(&config->allowed_hubs);
        for (size_t i = 0; i < config->problem_count; i++) {
                free(config->problems[i].file);
                free(config->problems[i].text);
        }
        free(config->problems);
        for (size_t i = 0; i < config->override_count; i++) {
                free(config->overrides[i].old);
                free(config->overrides[i].by);
        }
        free(config->overrides);
        for (size_t i = 0; config->sources && i < ARRAY_SIZE(keys); i++)
                free(config->sources[i]);
        free(config->sources);
        free(config);
        return NULL;
}

void config_freep(Config **config) {
        *config = config_free(*config);
}

bool config_failure(const Config *config, Failure *ret) {
        for (size_t i = 0; i < config->problem_count; i++) {
                const ConfigProblem *p = &config->problems[i];

                if (!p->fatal)
                        continue;
                if (p->line > 0)
                        (void) failure_set(ret, FAILURE_CONFIG, NULL, "%s:%u: %s", p->file, p->line,
                                           p->text);
                else
                        (void) failure_set(ret, FAILURE_CONFIG, NULL, "%s: %s", p->file, p->text);
                return true;
        }
        return false;
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

char *config_proxy_to_show(const char *proxy) {
        const char *rest = strstr(proxy, "://"), *at = strrchr(proxy, '@');
        char *text = NULL;

        rest = rest ? rest + 3 : proxy;
        if (!at || at < rest)
                return strdup(proxy);
        return asprintf(&text, "%.*s...@%s", (int) (rest - proxy), proxy, at + 1) < 0 ? NULL : text;
}

static char *value_to_string(const Config *config, const ConfigKey *key) {
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

bool config_describe(const Config *config, size_t index, const char **ret_section, const char **ret_key,
                     char **ret_value, const char **ret_source) {
        if (index >= ARRAY_SIZE(keys))
                return false;
        *ret_section = keys[index].section;
        *ret_key = keys[index].name;
        *ret_value = value_to_string(config, &keys[index]);
        *ret_source = config->sources[index];
        return true;
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

const char *target_to_string(Target target) {
        return target == TARGET_NONE ? "none" : "iotedge";
}

const char *identity_mode_to_string(IdentityMode mode) {
        return mode == IDENTITY_REGISTER ? "register" : "adopt";
}
