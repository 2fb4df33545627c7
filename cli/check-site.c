/* What IoT Edge and the container engine need of the site, and dps-provisiond does not: their own proxy
 * settings, and the registry of IoT Edge's image. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "check-edge.h"
#include "check-net.h"
#include "engine.h"
#include "proxies.h"

#define TIMEOUT_USEC (5 * USEC_PER_SEC)

void check_site_proxy(Check *c) {
        const Situation *s = &c->edge->situation;

        if (!c->edge->installed || !s->proxy_used)
                return;
        if (!check_edge_tell_findings(c, &c->edge->verdict, SUBJECT_PROXY) && !s->proxy_lacking)
                check_ok(c, "IoT Edge and the container engine have their own proxy settings");
}

/* The hand-off helper has no network and can't look at this one. */
void check_site_engine(Check *c) {
        char text[NET_TEXT_MAX];
        const char *host;

        if (!c->edge->installed || c->edge->situation.edgeless)
                return;
        host = engine_tcp_host(&c->edge->situation);
        if (!host)
                return;
        if (c->no_network)
                check_skip(c, "Run it without --no-network", "Not looked at");
        else if (net_connect(host, 80, TIMEOUT_USEC, text) >= 0)
                check_ok(c, "%s", text);
        else
                check_bad(
                        c, CHECK_WARN, FAILURE_ENGINE_UNREACHABLE, NULL,
                        "IoT Edge does not start without the container engine, and the engine at '%s' does "
                        "not answer: %s",
                        host, text);
}

/* --- the registry --- */

/* Docker's rule: what stands before the first slash is a host if it looks like one. */
static char *registry_of(const char *image) {
        const size_t n = strcspn(image, "/");
        CLEANUP(freep) char *first = strndup(image, n);

        if (!first)
                return NULL;
        if (image[n] == '\0' || !(strpbrk(first, ".:") || streq(first, "localhost")) ||
            streq(first, "docker.io"))
                return strdup("registry-1.docker.io");
        return TAKE(first);
}

typedef struct Reached {
        bool done;
        Failure failure;
} Reached;

static void on_reply(void *userdata, const HttpReply *reply, const Failure *failure) {
        Reached *reached = userdata;

        reached->done = true;
        if (failure)
                reached->failure = *failure;
}

/* Any answer will do: without a token the registry refuses the question. */
static int ask_through_proxy(Check *c, const char *host, const char *proxy, char text[static NET_TEXT_MAX]) {
        const HttpSettings settings = { .proxy = proxy,
                                        .connect_timeout_usec = TIMEOUT_USEC,
                                        .request_timeout_usec = TIMEOUT_USEC,
                                        .body_max = (size_t) 64 * 1024 };
        CLEANUP(freep) char *url = NULL;
        Http *http = NULL;
        Reached reached = {};
        int r;

        if (asprintf(&url, "https://%s/v2/", host) < 0) {
                url = NULL;
                return -ENOMEM;
        }
        r = http_new(&http, c->event, &settings);
        if (r >= 0)
                r = http_start(http, &(HttpRequest){ .method = "GET", .url = url }, on_reply, &reached);
        while (r >= 0 && !reached.done)
                r = sd_event_run(c->event, UINT64_MAX);
        http = http_free(http);
        (void) snprintf(text, NET_TEXT_MAX, "%.*s", NET_TEXT_MAX - 1,
                        r < 0 ? strerror(-r) : reached.failure.sentence);
        return r < 0 ? r : failure_to_errno(reached.failure.kind);
}

static void try_registry(Check *c, const char *image, const char *host) {
        CLEANUP(units_freep) Units *units = NULL;
        CLEANUP(secret_freep) char *proxy = NULL;
        char text[NET_TEXT_MAX];
        int r;

        if (units_new(&units, c->bus, c->event) < 0 ||
            proxies_read_engine(&proxy, &c->edge->situation, units, host) < 0)
                return;
        r = proxy ? ask_through_proxy(c, host, proxy, text) : net_connect(host, 443, TIMEOUT_USEC, text);
        if (r >= 0)
                check_ok(c, "'%s' can be reached%s", host,
                         proxy ? " through the container engine's proxy" : "");
        else
                check_bad(c, CHECK_WARN, WARNING_REGISTRY_UNREACHABLE, NULL,
                          "The container engine does not have IoT Edge's image '%s', and its registry '%s' "
                          "is not reached: %s",
                          image, host, text);
}

/* Nothing is pulled. An image that is there needs no registry, and that of a parent is not in the network.
 */
void check_site_registry(Check *c) {
        CLEANUP(freep) char *image = NULL, *host = NULL;
        int r;

        if (geteuid() != 0 || !c->edge->installed || c->edge->situation.edgeless)
                return;
        if (engine_read_agent_image(&c->edge->situation, &image) < 0)
                return;
        host = registry_of(image);
        r = image[0] == '$' ? -EINVAL : engine_has_image(&c->edge->situation, image);
        if (r > 0)
                check_ok(c, "The container engine has '%s'", image);
        else if (r == 0 && host && c->no_network)
                check_skip(c, "Run it without --no-network", "Not looked at");
        else if (r == 0 && host)
                try_registry(c, image, host);
}
