#include "proxies.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <strings.h>

#include "paths.h"
#include "proxy.h"
#include "toml.h"

#define SEP              TOML_SEPARATOR
#define PATH_DAEMON_JSON "/etc/docker/daemon.json"
#define UNIT_PROVISIOND  "dps-provisiond.service"
#define FILE_MAX         ((size_t) 64 * 1024)
#define ANY_HUB          "hub.azure-devices.net" /* while the hub is not known */
#define ANY_REGISTRY     "mcr.microsoft.com"

/* In the order in which a gateway needs them. */
static const struct {
        unsigned part;
        const char *name;
} parts[] = {
        { PROXY_IDENTITYD, "aziot-identityd" },
        { PROXY_EDGED, "aziot-edged" },
        { PROXY_AGENT, "edgeAgent" },
        { PROXY_ENGINE, "the container engine" },
};

int proxies_failure(unsigned lacking, Failure *reterr) {
        char names[128] = "";
        size_t used = 0;

        for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
                if (lacking & parts[i].part)
                        used += (size_t) snprintf(names + used, sizeof(names) - used, "%s%s",
                                                  used > 0 ? ", " : "", parts[i].name);
        return failure_set(reterr, WARNING_PROXY_MISSING, NULL,
                           "dps-provisiond uses a proxy, and these do not: %s", names);
}

/* --- one part --- */

typedef struct Proxies {
        bool proxy, exempt; /* has one; needs none for the host */
        char url[512];      /* the last one, as far as it fits */
} Proxies;

static void set_proxy(Proxies *p, const char *url) {
        p->proxy = true;
        (void) snprintf(p->url, sizeof(p->url), "%s", url);
}

static void look_at_variable(Proxies *p, const char *variable, const char *host) {
        const char *value = strchr(variable, '=');
        size_t n = value ? (size_t) (value - variable) : 0;

        if (!value || !value[1])
                return;
        if (n == strlen("https_proxy") && strncasecmp(variable, "https_proxy", n) == 0)
                set_proxy(p, value + 1);
        else if (n == strlen("no_proxy") && strncasecmp(variable, "no_proxy", n) == 0)
                p->exempt = p->exempt || proxy_list_exempts(value + 1, host);
}

/* Lines as in systemd.exec(5), EnvironmentFile=. */
static void look_at_file(Proxies *p, const char *root, const char *file, const char *host) {
        CLEANUP(freep) char *path = NULL, *text = NULL;
        size_t size;

        if (path_under(&path, root, file) < 0 || read_file(path, FILE_MAX, &text, &size) < 0)
                return;
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
                char *equals;

                line += strspn(line, " \t");
                equals = strchr(line, '=');
                if (equals && strchr("\"'", equals[1]) && equals[1]) {
                        memmove(equals + 1, equals + 2, strlen(equals + 2) + 1);
                        equals[1 + strcspn(equals + 1, "\"'")] = '\0';
                }
                look_at_variable(p, line, host);
        }
}

typedef struct Look {
        const Situation *s;
        const char *host;
        Proxies proxies;
} Look;

static void on_variable(void *userdata, const char *variable) {
        Look *look = userdata;

        look_at_variable(&look->proxies, variable, look->host);
}

static void on_file(void *userdata, const char *file) {
        Look *look = userdata;

        look_at_file(&look->proxies, look->s->root, file, look->host);
}

/* A service's environment is that of systemd, which is DefaultEnvironment=, and its own. What can't be read
 * counts as having a proxy. */
static Proxies look_at_unit(const Situation *s, Units *units, const char *unit, const char *host) {
        Look look = { .s = s, .host = host };

        if (units_read_environment(units, NULL, on_variable, NULL, &look) < 0 ||
            units_read_environment(units, unit, on_variable, on_file, &look) < 0)
                look.proxies.proxy = true;
        return look.proxies;
}

static void look_at_daemon_json(Proxies *p, const Situation *s, const char *host) {
        CLEANUP(freep) char *path = NULL, *text = NULL;
        json_object *json, *proxies, *value;
        size_t size;

        if (path_under(&path, s->root, PATH_DAEMON_JSON) < 0 || read_file(path, FILE_MAX, &text, &size) < 0)
                return;
        json = json_tokener_parse(text);
        if (json_object_is_type(json, json_type_object) &&
            json_object_object_get_ex(json, "proxies", &proxies) &&
            json_object_is_type(proxies, json_type_object)) {
                if (json_object_object_get_ex(proxies, "https-proxy", &value) &&
                    json_object_is_type(value, json_type_string) && json_object_get_string_len(value) > 0)
                        set_proxy(p, json_object_get_string(value));
                if (json_object_object_get_ex(proxies, "no-proxy", &value) &&
                    json_object_is_type(value, json_type_string))
                        p->exempt = p->exempt || proxy_list_exempts(json_object_get_string(value), host);
        }
        (void) json_object_put(json);
}

static Proxies look_at_agent(const Situation *s, const char *host) {
        static const char *const variables[] = { "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY" };
        const Origin from = situation_origin(s);
        CLEANUP(toml_deinit) Toml toml = {};
        Proxies p = {};
        const char *why;
        unsigned line;

        if (toml_parse(&toml, from.text, from.size, &line, &why) < 0)
                return (Proxies){ .proxy = true };
        for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
                CLEANUP(freep) char *path = NULL, *variable = NULL;
                const TomlValue *value;

                if (asprintf(&path, "agent" SEP "env" SEP "%s", variables[i]) < 0) {
                        path = NULL;
                        continue;
                }
                value = toml_get(&toml, path);
                if (!value || value->type != TOML_STRING)
                        continue;
                if (asprintf(&variable, "%s=%s", variables[i], value->text) >= 0)
                        look_at_variable(&p, variable, host);
                else
                        variable = NULL;
        }
        return p;
}

/* --- all of them --- */

static bool lacks(Proxies p) {
        return !p.proxy && !p.exempt;
}

static Proxies look_at_engine(const Situation *s, Units *units, const char *host) {
        const char *uri = situation_origin(s).toml->runtime_uri;
        Proxies p = look_at_unit(s, units, uri && strstr(uri, "podman") ? UNIT_PODMAN : UNIT_DOCKER, host);

        look_at_daemon_json(&p, s, host);
        return p;
}

static Proxies look_at_daemon(const Situation *s, const Config *config, Units *units, const char *host) {
        Look look = { .s = s, .host = host };

        (void) units_read_environment(units, UNIT_PROVISIOND, on_variable, NULL, &look);
        look.proxies.proxy = look.proxies.proxy || config->proxy;
        return look.proxies;
}

/* The parts that ask the hub. */
static unsigned find_lacking(const Situation *s, Units *units, const char *host) {
        unsigned lacking = 0;

        if (lacks(look_at_unit(s, units, UNIT_IDENTITYD, host)))
                lacking |= PROXY_IDENTITYD;
        if (s->edgeless)
                return lacking;
        if (lacks(look_at_unit(s, units, UNIT_EDGED, host)))
                lacking |= PROXY_EDGED;
        if (lacks(look_at_agent(s, host)))
                lacking |= PROXY_AGENT;
        return lacking;
}

void proxies_read(Situation *s, const Config *config, Units *units) {
        const char *hub = s->device_info.hub, *host = hub ? hub : ANY_HUB;
        Proxies daemon;

        s->proxy_lacking = 0;
        s->proxy_used = false;
        if (s->units_known && !s->identityd.exists)
                return;
        daemon = look_at_daemon(s, config, units, host);
        s->proxy_used = daemon.proxy;
        if (!daemon.proxy)
                return;
        if (!daemon.exempt)
                s->proxy_lacking = find_lacking(s, units, host);
        if (!s->edgeless && (s->engine_installed || !s->units_known) &&
            lacks(look_at_engine(s, units, ANY_REGISTRY)))
                s->proxy_lacking |= PROXY_ENGINE;
}

int proxies_read_engine(char **ret, const Situation *s, Units *units, const char *host) {
        const Proxies p = look_at_engine(s, units, host);

        return p.url[0] && !p.exempt ? string_replace(ret, p.url) : 0;
}
