#include "apply-values.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "paths.h"
#include "release.h"
#include "url.h"

#define SEP         TOML_SEPARATOR
#define MEMBERS_MAX 4

typedef enum RuleType {
        RULE_STRING,
        RULE_INTEGER,
        RULE_TIMEOUT,
        RULE_RETRIES,
        RULE_BOOLEAN,
        RULE_MODE,
        RULE_PULL,
        RULE_TABLE,
        RULE_URLS,
        RULE_KEY,
        RULE_ENGINE,
        RULE_URL,
        RULE_FILE,
        RULE_FILE_URL,
} RuleType;

static const struct {
        const char *wanted, *remedy;
} types[] = {
        [RULE_STRING] = { "a string", "Write the value in quotes." },
        [RULE_INTEGER] = { "an integer in the range that IoT Edge accepts",
                           "Write a number without quotes, or remove the line." },
        [RULE_TIMEOUT] = { "70 or more", "Write 70 or more, or remove the line." },
        [RULE_RETRIES] = { "\"infinite\" or an integer",
                           "Write \"infinite\", or a number without quotes, or remove the line." },
        [RULE_BOOLEAN] = { "true or false", "Write true or false without quotes, or remove the line." },
        [RULE_MODE] = { "\"Dynamic\", \"AlwaysOnStartup\" or \"OnErrorOnly\"",
                        "Write one of the three modes in quotes, or remove the line." },
        [RULE_PULL] = { "\"on-create\" or \"never\"",
                        "Write one of the two in quotes, or remove the line." },
        [RULE_TABLE] = { "a table", "Write the members as KEY = VALUE below a table of this name." },
        [RULE_URLS] = { "a URL with a scheme, or an array of names",
                        "Write a URL in quotes, for instance \"file:///PATH\"." },
        [RULE_KEY] = { "a URL of the scheme file or pkcs11",
                       "Write \"file:///PATH\" or \"pkcs11:token=…\" in quotes." },
        [RULE_ENGINE] = { "a URL of the scheme unix, http or https",
                          "Write \"unix:///var/run/docker.sock\"." },
        [RULE_URL] = { "a URL with a scheme",
                       "Write a URL in quotes, for instance \"file:///PATH\" or \"unix:///PATH\"." },
        [RULE_FILE] = { "the path of a file that exists", "Correct the path, or remove the line." },
        [RULE_FILE_URL] = { "the URL of a file that exists",
                            "Write \"file:///PATH\" with a file that exists, or remove the line." },
};

/* A rule with a release holds for this release and later ones. "*" stands for every key of a table. */
static const struct {
        const char *path;
        RuleType type;
        unsigned release[3]; /* of the package aziot-edge; zeros: all */
        uint64_t min, max;   /* of an integer */
} value_rules[] = {
        { "additional_info", RULE_FILE_URL, .release = { 1, 3, 0 } },
        { "allow_elevated_docker_permissions", RULE_BOOLEAN },
        { "auto_reprovisioning_mode", RULE_MODE },
        { "cloud_retries", RULE_INTEGER, .max = UINT32_MAX },
        { "cloud_timeout_sec", RULE_INTEGER, .max = UINT64_MAX },
        { "cloud_timeout_sec", RULE_TIMEOUT, .release = { 1, 4, 7 }, .min = 70, .max = UINT64_MAX },
        { "hostname", RULE_STRING },
        { "imported_master_encryption_key", RULE_FILE },
        { "trust_bundle_cert", RULE_URL },
        { "prefer_module_identity_cache", RULE_BOOLEAN, .release = { 1, 5, 0 } },
        { "agent" SEP "name", RULE_STRING },
        { "agent" SEP "type", RULE_STRING },
        { "agent" SEP "imagePullPolicy", RULE_PULL },
        { "agent" SEP "env" SEP "*", RULE_STRING },
        { "agent" SEP "config", RULE_TABLE },
        { "agent" SEP "config" SEP "image", RULE_STRING },
        { "agent" SEP "config" SEP "createOptions", RULE_TABLE },
        { "aziot_keys" SEP "*", RULE_STRING },
        { "preloaded_certs" SEP "*", RULE_URLS },
        { "preloaded_keys" SEP "*", RULE_KEY },
        { "edge_ca" SEP "cert", RULE_URL },
        { "edge_ca" SEP "pk", RULE_URL },
        { "edge_ca" SEP "expiry_days", RULE_INTEGER, .min = 1, .max = UINT32_MAX },
        { "edge_ca" SEP "auto_generated_edge_ca_expiry_days", RULE_INTEGER, .max = UINT32_MAX },
        { "image_garbage_collection" SEP "enabled", RULE_BOOLEAN, .release = { 1, 5, 0 } },
        { "image_garbage_collection" SEP "cleanup_recurrence", RULE_STRING, .release = { 1, 5, 0 } },
        { "image_garbage_collection" SEP "cleanup_time", RULE_STRING, .release = { 1, 5, 0 } },
        { "image_garbage_collection" SEP "image_age_cleanup_threshold", RULE_STRING,
          .release = { 1, 5, 0 } },
        { "localid" SEP "domain", RULE_STRING },
        { "tpm" SEP "hierarchy_authorization", RULE_TABLE },
        { "tpm" SEP "hierarchy_authorization" SEP "*", RULE_STRING },
        { "connect" SEP "workload_uri", RULE_URL },
        { "connect" SEP "management_uri", RULE_URL },
        { "listen" SEP "workload_uri", RULE_URL },
        { "listen" SEP "management_uri", RULE_URL },
        { "moby_runtime" SEP "uri", RULE_ENGINE },
        { "tpm" SEP "auth_key_index", RULE_INTEGER, .max = 0x7fffff },
        { "tpm" SEP "tcti", RULE_STRING },
        { "watchdog" SEP "max_retries", RULE_RETRIES, .max = UINT32_MAX },
};

/* The members that a table needs when it exists. A table below it is enough for that: [agent.env] makes an
 * [agent]. */
static const struct {
        const char *table, *members[MEMBERS_MAX];
        const char *instead[2]; /* any of these replaces the members */
        unsigned release[3];
} table_rules[] = {
        { "agent", { "name", "type", "config" } },
        { "aziot_max_requests", { "keyd", "certd", "identityd", "tpmd" }, .release = { 1, 4, 0 } },
        { "connect", { "workload_uri", "management_uri" } },
        { "edge_ca", { "cert", "pk" }, .instead = { "method", "auto_generated_edge_ca_expiry_days" } },
        { "localid", { "domain" } },
        { "iotedge_max_requests", { "management", "workload" }, .release = { 1, 4, 0 } },
        { "listen", { "workload_uri", "management_uri" } },
        { "moby_runtime", { "uri", "network" } },
};

/* --- the release --- */

static bool holds_for(const unsigned rule[static 3], const unsigned *release) {
        return rule[0] == 0 || (release && release_is_least(release, rule));
}

/* --- files --- */

/* The sandbox of dps-handoffd hides files there, or shows others. */
static const char *const hidden[] = { "/dev/", "/home/", "/proc/", "/root/",
                                      "/run/", "/sys/",  "/tmp/",  "/var/tmp/" };

/* False when in doubt: a symbolic link on the way may point to a hidden directory. */
static bool file_missing(const char *root, const char *path) {
        CLEANUP(freep) char *full = NULL;
        struct stat st;

        for (size_t i = 0; i < ARRAY_SIZE(hidden); i++)
                if (strncmp(path, hidden[i], strlen(hidden[i])) == 0)
                        return false;
        if (!url_path_valid(path) || path_under(&full, root, path) < 0)
                return false;
        for (char *end = full + strlen(root); end;) {
                end = strchr(end + 1, '/');
                if (end)
                        *end = '\0';
                if (lstat(full, &st) < 0)
                        return errno == ENOENT;
                if (S_ISLNK(st.st_mode))
                        return false;
                if (end)
                        *end = '/';
        }
        return false;
}

/* IoT Edge takes the text as a path, also that of a URL. */
static bool is_file(const char *root, const char *text) {
        return strncmp(text, "file:/", strlen("file:/")) != 0 && !file_missing(root, text);
}

/* RFC 3986, section 3.1. The URL Standard cuts blanks in front, and removes tabs and line breaks. */
static bool has_scheme(const char *text) {
        while (*text > 0 && *text <= ' ')
                text++;
        if (!isalpha((unsigned char) *text))
                return false;
        while (*text && (isalnum((unsigned char) *text) || strchr("+-.\t\r\n", *text)))
                text++;
        return *text == ':';
}

/* Looks only at the URL of a path that needs no decoding. */
static bool is_file_url(const char *root, const char *text) {
        static const char scheme[] = "file://",
                          plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-";

        if (strncmp(text, scheme, strlen(scheme)) != 0)
                return has_scheme(text);
        text += strlen(scheme);
        return !chars_valid(text, plain, 1, SIZE_MAX) || !file_missing(root, text);
}

/* --- values --- */

static bool integer_within(const char *text, uint64_t min, uint64_t max) {
        char digits[32];
        size_t n = 0;
        uint64_t number;

        for (; *text && n < sizeof(digits) - 1; text++)
                if (*text != '_' && *text != '+')
                        digits[n++] = *text;
        digits[n] = '\0';
        if (strncmp(digits, "0o", 2) == 0 || strncmp(digits, "0b", 2) == 0)
                return true; /* an octal or binary integer, whose range is not checked */
        return parse_uint(digits, max, &number) >= 0 && number >= min;
}

static bool string_accepted(const char *text, RuleType type, const char *root) {
        switch (type) {
        case RULE_STRING:
                return true;
        case RULE_RETRIES:
                return strcasecmp(text, "infinite") == 0;
        case RULE_MODE:
                return streq(text, "Dynamic") || streq(text, "AlwaysOnStartup") ||
                       streq(text, "OnErrorOnly");
        case RULE_PULL:
                return streq(text, "on-create") || streq(text, "never");
        case RULE_KEY:
                return has_scheme(text) &&
                       (strncasecmp(text, "file:", 5) == 0 || strncasecmp(text, "pkcs11:", 7) == 0);
        case RULE_ENGINE:
                return has_scheme(text) &&
                       (strncasecmp(text, "unix:", 5) == 0 || strncasecmp(text, "http:", 5) == 0 ||
                        strncasecmp(text, "https:", 6) == 0);
        case RULE_URLS:
        case RULE_URL:
                return has_scheme(text);
        case RULE_FILE:
                return is_file(root, text);
        case RULE_FILE_URL:
                return is_file_url(root, text);
        default:
                return false;
        }
}

static bool value_accepted(const TomlValue *value, size_t rule, const char *root) {
        RuleType type = value_rules[rule].type;

        if (value->type == TOML_STRING)
                return string_accepted(value->text, type, root);
        if (value->type == TOML_INLINE_TABLE || value->type == TOML_ARRAY)
                return type == RULE_TABLE || type == RULE_URLS;
        if (type == RULE_BOOLEAN)
                return streq(value->text, "true") || streq(value->text, "false");
        return (type == RULE_INTEGER || type == RULE_TIMEOUT || type == RULE_RETRIES) &&
               integer_within(value->text, value_rules[rule].min, value_rules[rule].max);
}

static const char *last_part(const char *path) {
        const char *separator = strrchr(path, SEP[0]);

        return separator ? separator + 1 : path;
}

/* --- tables --- */

/* The line where the table or something below it begins; 0: there is none. IoT Edge reads an array in its
 * place as the members in their order. */
static unsigned find_table(const Toml *toml, const char *table) {
        const TomlValue *value = toml_get(toml, table);

        if (value && value->type == TOML_ARRAY)
                return 0;
        for (size_t i = 0; i < toml->entry_count; i++)
                if (toml_path_below(toml->entries[i].path, table))
                        return toml->entries[i].type == TOML_ARRAY_TABLE ? 0 : toml->entries[i].line;
        return 0;
}

/* As a key, a table or a part of an inline table. */
static bool has_member(const Toml *toml, const char *table, const char *member) {
        char path[128];

        (void) snprintf(path, sizeof(path), "%s" SEP "%s", table, member);
        for (size_t i = 0; i < toml->entry_count; i++)
                if (toml_path_below(toml->entries[i].path, path))
                        return true;
        for (size_t i = 0; i < toml->value_count; i++)
                if (toml_path_below(toml->values[i].path, path))
                        return true;
        return false;
}

/* The first member that is missing, or NULL. */
static const char *missing_member(const Toml *toml, size_t rule) {
        const char *table = table_rules[rule].table;

        for (size_t i = 0; i < ARRAY_SIZE(table_rules[rule].instead) && table_rules[rule].instead[i]; i++)
                if (has_member(toml, table, table_rules[rule].instead[i]))
                        return NULL;
        for (size_t i = 0; i < MEMBERS_MAX && table_rules[rule].members[i]; i++)
                if (!has_member(toml, table, table_rules[rule].members[i]))
                        return table_rules[rule].members[i];
        return NULL;
}

/* --- all of it --- */

typedef struct Refusal {
        const char *code, *remedy;
        unsigned line;
        char what[256];
} Refusal;

/* "*" at the end of a rule's path stands for one part. */
static bool rule_names(const char *rule, const char *path) {
        size_t length = strlen(rule) - 1;

        if (rule[length] != '*')
                return streq(rule, path);
        return strncmp(rule, path, length) == 0 && !strchr(path + length, SEP[0]);
}

static const TomlValue *refused_value(const Toml *toml, size_t rule, const char *root) {
        for (size_t i = 0; i < toml->value_count; i++)
                if (rule_names(value_rules[rule].path, toml->values[i].path) &&
                    !value_accepted(&toml->values[i], rule, root))
                        return &toml->values[i];
        return NULL;
}

static bool refuses_value(Refusal *ret, const Toml *toml, const unsigned *release, const char *root) {
        for (size_t i = 0; i < ARRAY_SIZE(value_rules); i++) {
                const TomlValue *value = refused_value(toml, i, root);
                RuleType type = value_rules[i].type;
                const char *name;

                if (!value || !holds_for(value_rules[i].release, release))
                        continue;
                name = last_part(value->path);
                *ret = (Refusal){ .code = name, .remedy = types[type].remedy, .line = value->line };
                (void) snprintf(ret->what, sizeof(ret->what), "'%s' is not %s", name, types[type].wanted);
                return true;
        }
        return false;
}

static bool refuses_table(Refusal *ret, const Toml *toml, const unsigned *release) {
        for (size_t i = 0; i < ARRAY_SIZE(table_rules); i++) {
                unsigned line = find_table(toml, table_rules[i].table);
                const char *missing;

                if (line == 0 || !holds_for(table_rules[i].release, release))
                        continue;
                missing = missing_member(toml, i);
                if (!missing)
                        continue;
                *ret = (Refusal){ .code = table_rules[i].table,
                                  .remedy = "Add what is missing to the table, or remove the table and the "
                                            "tables below it.",
                                  .line = line };
                (void) snprintf(ret->what, sizeof(ret->what), "the table '%s' has no '%s'",
                                table_rules[i].table, missing);
                return true;
        }
        return false;
}

int apply_values_check(const Toml *toml, const Origin *from, const char *root, Failure *reterr) {
        unsigned installed[3];
        const unsigned *release = release_read(root, installed) ? installed : NULL;
        Refusal refusal;
        int r;

        if (!refuses_value(&refusal, toml, release, root) && !refuses_table(&refusal, toml, release))
                return 0;
        r = failure_set(reterr, FAILURE_CONFIG_CONFLICT, refusal.code,
                        "'iotedge config apply' refuses '%s%s', line %u: %s", root, from->path, refusal.line,
                        refusal.what);
        if (reterr)
                reterr->remedy = refusal.remedy;
        return r;
}
