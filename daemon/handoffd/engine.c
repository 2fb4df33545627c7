#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "http.h"
#include "paths.h"
#include "release.h"
#include "toml.h"

#define ANSWER_MAX ((size_t) 64 * 1024)

typedef struct Answer {
        bool done;
        unsigned status; /* 0: none */
        bool lists;      /* it lists something */
        Failure failure;
        char message[160]; /* of an answer that is an error */
} Answer;

static void copy_message(Answer *answer, const char *body) {
        json_object *json = json_tokener_parse(body), *value;

        if (json_object_is_type(json, json_type_object) &&
            json_object_object_get_ex(json, "message", &value) &&
            json_object_is_type(value, json_type_string))
                (void) snprintf(answer->message, sizeof(answer->message), "%s",
                                json_object_get_string(value));
        (void) json_object_put(json);
}

static void on_reply(void *userdata, const HttpReply *reply, const Failure *failure) {
        Answer *answer = userdata;

        answer->done = true;
        if (!reply) {
                answer->failure = *failure;
                return;
        }
        answer->status = reply->status;
        answer->lists = reply->status == 200 && strchr(reply->body, '{');
        if (reply->status >= 400)
                copy_message(answer, reply->body);
}

static int connect_unix(const char *path) {
        CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (fd < 0)
                return -errno;
        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, strlen(path) + 1);
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 && errno != EAGAIN)
                return -errno;
        return 0;
}

/* The loop is a separate one: nothing else happens until the answer is there. */
static void ask(const char *path, const char *target, Answer *ret) {
        CLEANUP(sd_event_unrefp) sd_event *event = NULL;
        CLEANUP(http_freep) Http *http = NULL;
        char url[512];
        int r;

        *ret = (Answer){};
        (void) snprintf(url, sizeof(url), "http://localhost%s", target);
        r = sd_event_new(&event);
        if (r >= 0)
                r = http_new(&http, event,
                             &(HttpSettings){ .unix_socket = path,
                                              .connect_timeout_usec = ENGINE_TIMEOUT_USEC,
                                              .request_timeout_usec = ENGINE_TIMEOUT_USEC,
                                              .body_max = ANSWER_MAX });
        if (r >= 0)
                r = http_start(http, &(HttpRequest){ .method = "GET", .url = url }, on_reply, ret);
        while (r >= 0 && !ret->done)
                r = sd_event_run(event, UINT64_MAX);
        if (r < 0)
                (void) failure_set_errno(&ret->failure, FAILURE_CONNECT, r, "HTTP can't be used");
}

static int fail_missing(const Situation *s, const char *path, Failure *reterr) {
        int r;

        if (s->engine_masked) {
                r = failure_set(reterr, FAILURE_RUNTIME_MISSING, "engine-masked",
                                "The container engine at '%s' can't be started: '%s' is masked", path,
                                s->engine_masked);
                if (reterr)
                        reterr->remedy = "Unmask and start the container engine ('systemctl unmask "
                                         "docker.service docker.socket' and 'systemctl start docker').";
                return r;
        }
        r = failure_set(reterr, FAILURE_RUNTIME_MISSING, "engine",
                        "No container engine is installed: neither a unit of an engine nor '%s' exists",
                        path);
        if (reterr)
                reterr->remedy =
                        "Install a container engine that IoT Edge supports (moby-engine), or correct "
                        "uri in [moby_runtime] of /etc/aziot/config.toml. When the engine starts, "
                        "the daemon goes on at once.";
        return r;
}

static int fail_unreachable(const Situation *s, const char *path, int error, Failure *reterr) {
        bool exists = faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;

        if (s->units_known && !s->engine_installed && (s->engine_masked || !exists))
                return fail_missing(s, path, reterr);
        return failure_set_errno(
                reterr, FAILURE_ENGINE_UNREACHABLE, error,
                "IoT Edge does not start without the container engine, and the engine at '%s' "
                "does not answer",
                path);
}

static int fail_silent(const char *path, const Answer *answer, Failure *reterr) {
        char code[16];

        if (answer->status == 0)
                return failure_set(reterr, FAILURE_ENGINE_UNREACHABLE, answer->failure.code,
                                   "IoT Edge does not start without the container engine, and the engine at "
                                   "'%s' does not answer: %s",
                                   path,
                                   answer->failure.kind == FAILURE_TIMEOUT ? "it is silent for 5 seconds"
                                                                           : "it closes the connection");
        (void) snprintf(code, sizeof(code), "HTTP %u", answer->status);
        return failure_set(
                reterr, FAILURE_ENGINE_UNREACHABLE, code,
                "IoT Edge does not start without the container engine, and the engine at '%s' has an "
                "internal error: %s",
                path, answer->message[0] ? answer->message : code);
}

static int fail_refused(const char *path, const char *version, const Answer *answer, Failure *reterr) {
        int r = failure_set(
                reterr, FAILURE_ENGINE_UNSUITABLE, version,
                "The container engine at '%s' refuses version %s of the Docker API, which IoT Edge "
                "uses: %s",
                path, version, answer->message[0] ? answer->message : "HTTP status 400");

        if (reterr && strstr(answer->message, "too new"))
                reterr->remedy =
                        "Upgrade the container engine, for instance to a current moby-engine. When it "
                        "has restarted, the daemon goes on at once.";
        return r;
}

/* Versions of the Docker API that releases of IoT Edge use, the newest first. Of a release that is not known
 * each may be right. */
static size_t list_versions(const char *root, const char *ret[static 2]) {
        static const unsigned newer[] = { 1, 6, 0 };
        unsigned release[3];

        ret[0] = "1.41";
        ret[1] = "1.34";
        if (!release_read(root, release))
                return 2;
        if (!release_is_least(release, newer))
                ret[0] = ret[1];
        return 1;
}

static int check_socket(const Situation *s, const char *path, Failure *reterr) {
        char target[32];
        const char *versions[2];
        size_t count = list_versions(s->root, versions);
        Answer answer;
        int r;

        r = connect_unix(path);
        if (r < 0)
                return fail_unreachable(s, path, r, reterr);
        for (size_t i = 0; i < count; i++) {
                (void) snprintf(target, sizeof(target), "/v%s/_ping", versions[i]);
                ask(path, target, &answer);
                if (answer.status == 0 || answer.status >= 500)
                        return fail_silent(path, &answer, reterr);
                if (answer.status != 400)
                        return 0;
        }
        return fail_refused(path, versions[count - 1], &answer, reterr);
}

static bool has_scheme(const char *uri, const char *scheme) {
        return strncasecmp(uri, scheme, strlen(scheme)) == 0;
}

/* NULL: the engine has no unix socket. What stands between "//" and the path is a host, which is empty. */
static int find_socket(const Situation *s, char **ret) {
        const char *uri = situation_origin(s).toml->runtime_uri, *path = PATH_DOCKER;

        *ret = NULL;
        if (uri && !has_scheme(uri, "unix:"))
                return 0;
        if (uri) {
                path = uri + strlen("unix:");
                if (strncmp(path, "//", 2) == 0)
                        path += 2 + strcspn(path + 2, "/");
        }
        return path_under(ret, s->root, path);
}

static int fail_scheme(const char *uri, Failure *reterr) {
        int r = failure_set(
                reterr, FAILURE_ENGINE_UNSUITABLE, "uri",
                "IoT Edge can't use the container engine '%s', which uri in [moby_runtime] of '%s' "
                "names",
                uri, PATH_CONFIG);

        if (reterr)
                reterr->remedy = "Set uri in [moby_runtime] of /etc/aziot/config.toml to unix:///PATH or to "
                                 "http://HOST:PORT.";
        return r;
}

const char *engine_tcp_host(const Situation *s) {
        const char *uri = situation_origin(s).toml->runtime_uri;

        return uri && has_scheme(uri, "http://") ? uri + strlen("http://") : NULL;
}

int engine_check(const Situation *s, Failure *reterr) {
        const char *uri = situation_origin(s).toml->runtime_uri;
        CLEANUP(freep) char *path = NULL;

        if (find_socket(s, &path) < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, -ENOMEM,
                                         "The container engine can't be asked");
        if (path)
                return check_socket(s, path, reterr);
        return engine_tcp_host(s) ? 0 : fail_scheme(uri, reterr);
}

int engine_read_agent_image(const Situation *s, char **ret) {
        const Origin from = situation_origin(s);
        CLEANUP(toml_deinit) Toml toml = {};
        const TomlValue *value;
        const char *why;
        unsigned line;

        if (toml_parse(&toml, from.text, from.size, &line, &why) < 0)
                return -EBADMSG;
        value = toml_get(&toml, "agent" TOML_SEPARATOR "config" TOML_SEPARATOR "image");
        return string_replace(ret, value && value->type == TOML_STRING
                                           ? value->text
                                           : "mcr.microsoft.com/azureiotedge-agent");
}

int engine_has_image(const Situation *s, const char *image) {
        CLEANUP(freep) char *path = NULL;
        char target[384];
        Answer answer;
        int r;

        if (strlen(image) > 256 ||
            strspn(image, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@-") <
                    strlen(image))
                return -EINVAL;
        r = find_socket(s, &path);
        if (r < 0)
                return r;
        if (!path)
                return -EOPNOTSUPP;
        r = connect_unix(path);
        if (r < 0)
                return r;
        (void) snprintf(target, sizeof(target),
                        "/images/json?filters=%%7B%%22reference%%22:%%5B%%22%s%%22%%5D%%7D", image);
        ask(path, target, &answer);
        return answer.status == 200 ? answer.lists : -EIO;
}
