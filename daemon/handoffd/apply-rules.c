#include "apply-rules.h"

#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#include "apply-values.h"
#include "paths.h"

#define PATH_PASSWD "/etc/passwd"

/* The owners of the files that `iotedge config apply` writes. */
static const char *const users[] = { "aziotks", "aziotcs", "aziotid", "aziottpm", "iotedge" };

static int with_hint(Failure *reterr, int r, const char *remedy) {
        if (reterr)
                reterr->remedy = remedy;
        return r;
}

/* --- the host name --- */

static bool modules_exist(const Situation *s) {
        return s->edged.active && edged_had_identity(s->root);
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
                r = apply_values_check(&toml, &from, s->root, reterr);
        return r < 0 ? r : check_hostname(&toml, s, reterr);
}
