/* The configuration, by the same reader that the daemon uses. */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "dps.h"

#define DAEMON_USER "dps-provision"
#define CA_FILE_MAX ((size_t) 16 * 1024 * 1024)

/* As somebody else than root a file may be closed to us only. */
static bool is_closed(const ConfigProblem *p) {
        return p->line == 0 && geteuid() != 0 && access(p->file, R_OK) < 0 && errno == EACCES;
}

/* Root may read what the daemon may not, whose user has no groups. */
static bool daemon_may_read(const char *path) {
        const struct passwd *user = geteuid() == 0 ? getpwnam(DAEMON_USER) : NULL;
        int status = 0;
        pid_t pid;

        if (!user)
                return true; /* then it is this user's own view */
        pid = fork();
        if (pid == 0)
                _exit(setgroups(0, NULL) == 0 && setgid(user->pw_gid) == 0 && setuid(user->pw_uid) == 0 &&
                      access(path, R_OK) < 0);
        return pid < 0 || waitpid(pid, &status, 0) < 0 || status == 0;
}

static void refuse_closed(Check *c, const char *path) {
        check_bad(c, CHECK_FAIL, FAILURE_CONFIG,
                  "Make it readable: 'chmod a+r' the file, and 'chmod a+x' the directories above it",
                  "'%s' can't be read by the user " DAEMON_USER, path);
}

/* Those that set something. */
static bool find_closed_files(Check *c) {
        const char *section, *key, *source;
        CLEANUP(freep) char *last = NULL;
        bool found = false;
        char *value;

        for (size_t i = 0; config_describe(c->config, i, &section, &key, &value, &source); i++) {
                CLEANUP(freep) char *file = NULL;

                free(value);
                if (!source || source[0] != '/')
                        continue;
                file = strndup(source, (size_t) (strrchr(source, ':') - source));
                if (!file || (last && streq(file, last)) || daemon_may_read(file))
                        continue;
                refuse_closed(c, file);
                free(last);
                last = TAKE(file);
                found = true;
        }
        return found;
}

static void probe_files(Check *c) {
        const Config *config = c->config;
        bool closed = find_closed_files(c);

        for (size_t i = 0; i < config->problem_count; i++) {
                const ConfigProblem *p = &config->problems[i];
                CLEANUP(freep) char *text = config_problem_to_string(p);
                FailureKind kind = p->fatal ? FAILURE_CONFIG : WARNING_CONFIG_IGNORED;

                if (is_closed(p))
                        check_skip(c, CHECK_AS_ROOT, "'%s' can't be read by this user", p->file);
                else
                        check_bad(c, p->fatal ? CHECK_FAIL : CHECK_WARN, kind, NULL, "%s", text ? text : "");
        }
        if (config->problem_count == 0 && !closed)
                check_ok(c, "No mistakes");
}

static char *source_of(const Config *config, const char *name) {
        const char *section, *key, *source;
        char *value;

        for (size_t i = 0; config_describe(config, i, &section, &key, &value, &source); i++) {
                free(value);
                if (streq(key, name))
                        return source ? strdup(source) : NULL;
        }
        return NULL;
}

/* Somebody who may not read a file knows nothing of what it sets, and the default is no answer. */
bool check_key_hidden(Check *c, const char *key) {
        CLEANUP(freep) char *source = source_of(c->config, key);

        for (size_t i = 0; !source && i < c->config->problem_count; i++) {
                const ConfigProblem *p = &c->config->problems[i];

                if (!is_closed(p))
                        continue;
                check_skip(c, CHECK_AS_ROOT, "%s= may be set in '%s', which this user can't read", key,
                           p->file);
                return true;
        }
        return false;
}

static bool key_refused(Check *c, const char *key) {
        size_t length = strlen(key);

        for (size_t i = 0; i < c->config->problem_count; i++) {
                const ConfigProblem *p = &c->config->problems[i];

                if (!p->fatal || strncmp(p->text, key, length) != 0 || p->text[length] != '=')
                        continue;
                check_skip(c, "Correct that line first", "%s= in %s:%u can't be used", key, p->file,
                           p->line);
                return true;
        }
        return false;
}

bool check_key_refused(Check *c, const char *key) {
        return key_refused(c, key) || check_key_hidden(c, key);
}

static void probe_scope(Check *c) {
        CLEANUP(freep) char *source = source_of(c->config, "IdScope");
        const char *credential = NULL;

        if (key_refused(c, "IdScope"))
                return;
        if (c->config->id_scope) {
                c->id_scope = c->config->id_scope;
                check_ok(c, "%s (%s)", c->id_scope, source ? source : "default");
        } else if (c->daemon_runs && c->status.id_scope && c->status.id_scope[0]) {
                c->id_scope = c->status.id_scope;
                check_ok(c, "%s (as the daemon has it, from a credential)", c->id_scope);
        } else if (!c->daemon_runs && check_key_hidden(c, "IdScope"))
                return;
        else if (!c->daemon_runs && find_credential(&c->paths, "dps.id_scope", &credential) != 0)
                check_skip(c, credential ? "Start the daemon, which is given it" : CHECK_AS_ROOT,
                           credential ? "In no file; the credential dps.id_scope is in '%s'"
                                      : "In no file; whether there is a credential only root can see",
                           credential);
        else
                check_bad(c, CHECK_FAIL, FAILURE_CONFIG,
                          "Set it with 'dps-provision set-scope ID'; it is on the overview page of the DPS "
                          "instance",
                          "No ID scope is set");
}

static void probe_ca_file(Check *c) {
        const char *path = c->config->ca_file;
        CLEANUP(freep) char *text = NULL;
        int r;

        c->ca_file_bad = check_key_refused(c, "CAFile");
        if (c->ca_file_bad)
                return;
        if (!path) {
                check_ok(c, "Those of the system");
                return;
        }
        r = read_file(path, CA_FILE_MAX, &text, NULL);
        c->ca_file_bad = r < 0 || !strstr(text, "-----BEGIN ");
        if (r == -EACCES && geteuid() != 0)
                check_skip(c, CHECK_AS_ROOT, "CAFile=%s can't be read by this user", path);
        else if (r < 0)
                check_bad(c, CHECK_FAIL, FAILURE_CONFIG, NULL, "CAFile=%s can't be read: %s", path,
                          strerror(-r));
        else if (c->ca_file_bad)
                check_bad(c, CHECK_FAIL, FAILURE_CONFIG, NULL, "CAFile=%s has no certificate in PEM form",
                          path);
        else if (!daemon_may_read(path))
                refuse_closed(c, path);
        else
                check_ok(c, "CAFile=%s", path);
}

static void probe_payload(Check *c) {
        const char *path = c->config->payload;
        CLEANUP(freep) char *payload = NULL, *body = NULL;
        const Bytes none = {};
        int r;

        if (check_key_refused(c, "Payload"))
                return;
        if (!path) {
                check_ok(c, "None");
                return;
        }
        r = read_file(path, DPS_PAYLOAD_MAX, &payload, NULL);
        if (r >= 0)
                r = dps_register_body(&body, "x", &none, &none, payload);
        if (r == -EACCES && geteuid() != 0)
                check_skip(c, CHECK_AS_ROOT, "Payload=%s can't be read by this user", path);
        else if (r < 0)
                check_bad(c, CHECK_FAIL, FAILURE_CONFIG, NULL, "Payload=%s %s", path,
                          r == -EINVAL  ? "is not JSON"
                          : r == -EFBIG ? "is larger than 32 KiB"
                                        : "can't be read");
        else if (!daemon_may_read(path))
                refuse_closed(c, path);
        else
                check_ok(c, "Payload=%s", path);
}

const Probe check_config_probes[] = {
        { "config-files", "Files", probe_files },
        { "scope", "ID scope", probe_scope },
        { "ca-file", "Trusted certificates", probe_ca_file },
        { "payload", "Payload", probe_payload },
        {},
};
