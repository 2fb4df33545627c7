#include "apply-rules.h"

#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#include "paths.h"
#include "toml.h"

#define SEP              TOML_SEPARATOR
#define PATH_DPKG_STATUS "/var/lib/dpkg/status"
#define PATH_PASSWD      "/etc/passwd"

typedef enum RuleType {
        RULE_STRING,
        RULE_INTEGER,
        RULE_BOOLEAN,
        RULE_MODE,
} RuleType;

static const char *const type_names[] = {
        [RULE_STRING] = "a string",
        [RULE_INTEGER] = "an integer in the range that IoT Edge accepts",
        [RULE_BOOLEAN] = "true or false",
        [RULE_MODE] = "\"Dynamic\", \"AlwaysOnStartup\" or \"OnErrorOnly\"",
};

/* Keys of config.toml. A rule with a release holds for this release and later ones. */
static const struct {
        const char *path, *name;
        RuleType type;
        uint64_t min, max;
        unsigned release[3]; /* of the package aziot-edge; zeros: all */
        const char *remedy;
} rules[] = {
        { "hostname", "hostname", RULE_STRING, 0, 0, {}, "Write the host name in quotes." },
        { "auto_reprovisioning_mode",
          "auto_reprovisioning_mode",
          RULE_MODE,
          0,
          0,
          {},
          "Write one of the three modes in quotes, or remove the line." },
        { "allow_elevated_docker_permissions",
          "allow_elevated_docker_permissions",
          RULE_BOOLEAN,
          0,
          0,
          {},
          "Write true or false without quotes, or remove the line." },
        { "cloud_retries",
          "cloud_retries",
          RULE_INTEGER,
          0,
          UINT32_MAX,
          {},
          "Write a number without quotes, or remove the line." },
        { "cloud_timeout_sec",
          "cloud_timeout_sec",
          RULE_INTEGER,
          0,
          UINT64_MAX,
          {},
          "Write a number without quotes, or remove the line." },
        { "cloud_timeout_sec",
          "cloud_timeout_sec",
          RULE_INTEGER,
          70,
          UINT64_MAX,
          { 1, 4, 7 },
          "Write 70 or more, or remove the line." },
        { "tpm" SEP "auth_key_index",
          "auth_key_index",
          RULE_INTEGER,
          0,
          0x7fffff,
          {},
          "Write the number without quotes, for instance 0x100." },
        { "tpm" SEP "tcti", "tcti", RULE_STRING, 0, 0, {}, "Write the TCTI in quotes." },
        { "moby_runtime" SEP "uri",
          "uri",
          RULE_STRING,
          0,
          0,
          {},
          "Write the address of the container engine in quotes." },
};

/* The owners of the files that `iotedge config apply` writes. */
static const char *const users[] = { "aziotks", "aziotcs", "aziotid", "aziottpm", "iotedge" };

/* --- the release --- */

static bool parse_release(const char *text, unsigned release[static 3]) {
        return sscanf(text, "%u.%u.%u", &release[0], &release[1], &release[2]) == 3;
}

/* Reads dpkg's list of packages. False: dpkg did not install IoT Edge. */
static bool find_release(const char *root, unsigned release[static 3]) {
        CLEANUP(freep) char *path = NULL, *line = NULL;
        bool ours = false, found = false;
        size_t size = 0;
        FILE *f;

        if (path_under(&path, root, PATH_DPKG_STATUS) < 0)
                return false;
        f = fopen(path, "re");
        while (f && !found && getline(&line, &size, f) >= 0) {
                if (strncmp(line, "Package: ", strlen("Package: ")) == 0)
                        ours = streq(line, "Package: aziot-edge\n");
                found = ours && strncmp(line, "Version: ", strlen("Version: ")) == 0 &&
                        parse_release(line + strlen("Version: "), release);
        }
        if (f)
                (void) fclose(f);
        return found;
}

static bool holds_for(const unsigned rule[static 3], const unsigned *release) {
        if (rule[0] == 0)
                return true;
        for (size_t i = 0; release && i < 3; i++)
                if (release[i] != rule[i])
                        return release[i] > rule[i];
        return release;
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

static bool value_accepted(const TomlValue *value, size_t rule) {
        switch (rules[rule].type) {
        case RULE_STRING:
                return value->type == TOML_STRING;
        case RULE_INTEGER:
                return value->type == TOML_BARE &&
                       integer_within(value->text, rules[rule].min, rules[rule].max);
        case RULE_BOOLEAN:
                return value->type == TOML_BARE &&
                       (streq(value->text, "true") || streq(value->text, "false"));
        case RULE_MODE:
                return value->type == TOML_STRING &&
                       (streq(value->text, "Dynamic") || streq(value->text, "AlwaysOnStartup") ||
                        streq(value->text, "OnErrorOnly"));
        default:
                return true;
        }
}

static int with_hint(Failure *reterr, int r, const char *remedy) {
        if (reterr)
                reterr->remedy = remedy;
        return r;
}

static int check_values(const Toml *toml, const Origin *from, const char *root, Failure *reterr) {
        unsigned release[3];
        bool known = find_release(root, release);

        for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
                const TomlValue *value = toml_get(toml, rules[i].path);

                if (!value || !holds_for(rules[i].release, known ? release : NULL) ||
                    value_accepted(value, i))
                        continue;
                return with_hint(
                        reterr,
                        failure_set(reterr, FAILURE_CONFIG_CONFLICT, rules[i].name,
                                    "'iotedge config apply' refuses '%s%s', line %u: '%s' is not %s", root,
                                    from->path, value->line, rules[i].name,
                                    rules[i].min > 0 ? "70 or more" : type_names[rules[i].type]),
                        rules[i].remedy);
        }
        return 0;
}

/* --- the host name --- */

static bool modules_exist(const Situation *s) {
        CLEANUP(freep) char *path = NULL;

        return s->edged.active && path_under(&path, s->root, PATH_EDGED_STATE) >= 0 &&
               access(path, F_OK) == 0;
}

/* The host name is in the certificates of modules. Only the container engine knows the modules; an
 * aziot-edged that runs with its identity has started edgeAgent. */
static int check_hostname(const Toml *toml, const Situation *s, Failure *reterr) {
        const TomlValue *value = toml_get(toml, "hostname");
        const char *applied = s->applied.hostname;
        char own[256] = "";
        const char *wanted = own;

        if (value && value->type == TOML_STRING)
                wanted = value->text;
        else if (gethostname(own, sizeof(own) - 1) < 0)
                return 0;
        if (!applied || streq(applied, wanted) || !modules_exist(s))
                return 0;
        return with_hint(
                reterr,
                failure_set(reterr, FAILURE_CONFIG_CONFLICT, "hostname",
                            "'iotedge config apply' refuses to change the host name from '%s' to '%s' while "
                            "modules exist",
                            applied, wanted),
                "Set hostname in /etc/aziot/config.toml to the previous name, or remove the modules with "
                "'iotedge system stop' and 'docker rm'.");
}

/* --- the users --- */

static bool user_exists(const char *root, const char *name) {
        CLEANUP(freep) char *path = NULL;
        const struct passwd *entry = NULL;
        FILE *f;

        if (!root[0])
                return getpwnam(name);
        if (path_under(&path, root, PATH_PASSWD) < 0)
                return true;
        f = fopen(path, "re");
        if (!f)
                return true; /* the root of a test */
        while ((entry = fgetpwent(f)))
                if (streq(entry->pw_name, name))
                        break;
        (void) fclose(f);
        return entry;
}

static int check_users(const char *root, Failure *reterr) {
        for (size_t i = 0; i < ARRAY_SIZE(users); i++)
                if (!user_exists(root, users[i]))
                        return with_hint(
                                reterr,
                                failure_set(reterr, FAILURE_RUNTIME_MISSING, users[i],
                                            "The user '%s' of IoT Edge does not exist, and without it "
                                            "'iotedge config apply' fails",
                                            users[i]),
                                "Install the packages aziot-edge and aziot-identity-service again.");
        return 0;
}

int apply_rules_check(const Situation *s, Failure *reterr) {
        const Origin from = situation_origin(s);
        CLEANUP(toml_deinit) Toml toml = {};
        const char *why;
        unsigned line;
        int r;

        if (toml_parse(&toml, from.text, from.size, &line, &why) < 0)
                return 0; /* reading config.toml has failed before, with the line */
        r = check_users(s->root, reterr);
        if (r >= 0)
                r = check_values(&toml, &from, s->root, reterr);
        return r < 0 ? r : check_hostname(&toml, s, reterr);
}
