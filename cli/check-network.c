/* The way to the service, and the service itself. One request for nothing tells most of it; the lines before
 * it say where it ended. */
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check-net.h"
#include "check.h"
#include "dps.h"
#include "project.h"
#include "proxy.h"

#define STATE_FILE "/var/lib/dps-provisiond/state.json"
#define BEHIND_SEC 20 /* from there on IoT Edge's tokens are refused */
#define AHEAD_SEC  300
#define DAY_SEC    (24 * 3600)

/* With Proxy= the daemon goes through it, whatever this shell exempts. */
static void tell_exempt(Check *c) {
        if (c->config->proxy)
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Check again without no_proxy in the environment, unless the daemon's unit has "
                          "it, too",
                          "Proxy= is not used for '%s', by no_proxy of this shell, which the daemon does "
                          "not have",
                          c->host);
        else
                check_ok(c, "Not for '%s', by no_proxy", c->host);
}

static void probe_proxy(Check *c) {
        const char *proxy = c->config->proxy ? c->config->proxy : proxy_of_environment();
        CLEANUP(freep) char *shown = NULL;

        if (check_key_refused(c, "GlobalEndpoint") || check_key_refused(c, "Proxy") ||
            string_replace(&c->host, c->config->global_endpoint + strlen("https://")) < 0)
                return; /* what would be asked is not what was meant */
        if (!proxy) {
                check_ok(c, "None, straight to '%s'", c->host);
                return;
        }
        if (proxy_exempts(c->host)) {
                tell_exempt(c);
                return;
        }
        (void) string_replace(&c->proxy, proxy);
        shown = config_proxy_to_show(proxy);
        if (c->config->proxy)
                check_ok(c, "Proxy=%s", shown ? shown : "?");
        else
                check_bad(c, CHECK_WARN, FAILURE_NONE,
                          "Set Proxy= in provisiond.conf(5), unless the daemon's unit has the same "
                          "environment",
                          "%s, from the environment of this shell, which the daemon does not have",
                          shown ? shown : "?");
}

/* What is connected to first. */
static const char *first_hop(const Check *c) {
        return c->proxy ? proxy_authority(c->proxy) : c->host;
}

static void probe_dns(Check *c) {
        const char *hop = first_hop(c);
        char text[NET_TEXT_MAX];
        const char *why = NULL;

        if (!hop) {
                check_skip(c, CHECK_LOOK_ABOVE, "No name to look for");
                return;
        }
        if (net_resolve(hop, c->proxy ? 1080 : 443, text, &why) >= 0) {
                c->resolved = true;
                check_ok(c, "%s", text);
        } else if (c->proxy)
                check_bad(c, CHECK_FAIL, FAILURE_PROXY, NULL,
                          "The name of the proxy '%.*s' can't be resolved: %s", (int) strcspn(hop, ":/"),
                          hop, why);
        else
                check_bad(c, CHECK_FAIL, FAILURE_DNS, NULL, "The name '%.*s' can't be resolved: %s",
                          (int) strcspn(hop, ":/"), hop, why);
}

static void probe_route(Check *c) {
        char text[NET_TEXT_MAX];

        if (!c->resolved) {
                check_skip(c, CHECK_LOOK_ABOVE, "No address to look for");
                return;
        }
        c->routed = net_route(first_hop(c), 443, text) >= 0;
        if (c->routed)
                check_ok(c, "%s", text);
        else
                check_bad(c, CHECK_FAIL, FAILURE_CONNECT, HTTP_HINT_NO_ROUTE,
                          "There is no route to '%s': %s", first_hop(c), text);
}

/* --- the request --- */

typedef struct Request {
        Check *check;
        Http *http;
        bool done;
        DpsRawReply raw; /* for the service's own answer */
        char *body;
} Request;

static void on_reply(void *userdata, const HttpReply *reply, const Failure *failure) {
        Request *q = userdata;
        CheckAnswer *a = &q->check->answer;

        q->done = true;
        *a = (CheckAnswer){ .answered = reply != NULL };
        if (!reply) {
                a->failure = *failure;
                a->unverified_date = http_unverified_date(q->http);
                a->failed_at_proxy = http_failed_at_proxy(q->http);
                return;
        }
        a->status = reply->status;
        a->date = reply->date;
        (void) snprintf(a->issuer, sizeof(a->issuer), "%s", reply->issuer ? reply->issuer : "");
        (void) string_replace(&q->body, reply->body);
        q->raw = (DpsRawReply){ .status = reply->status,
                                .body = q->body,
                                .size = q->body ? strlen(q->body) : 0 };
}

static void run_request(Request *q, const HttpRequest *request) {
        Check *c = q->check;
        const HttpSettings settings = { .proxy = c->config->proxy,
                                        .ca_file = c->config->ca_file,
                                        .connect_timeout_usec = c->config->connect_timeout_usec,
                                        .request_timeout_usec = c->config->request_timeout_usec,
                                        .body_max = DPS_BODY_MAX,
                                        .build_time = BUILD_TIME,
                                        .examine = true };
        int r;

        r = http_new(&q->http, c->event, &settings);
        if (r >= 0)
                r = http_start(q->http, request, on_reply, q);
        while (r >= 0 && !q->done)
                r = sd_event_run(c->event, UINT64_MAX);
        if (r < 0) {
                c->answer = (CheckAnswer){};
                (void) failure_set_errno(&c->answer.failure, FAILURE_CONNECT, r, "HTTPS can't be used");
        }
        q->http = http_free(q->http);
}

static uint64_t distance(uint64_t a, uint64_t b) {
        return a > b ? a - b : b - a;
}

/* A certificate that is refused because of the time is the clock's fault when the peer has another one, or
 * when that can't be known but the clock is the likelier culprit. */
static bool blames_clock(const CheckAnswer *a) {
        uint64_t now = now_usec(CLOCK_REALTIME) / USEC_PER_SEC;

        if (a->answered)
                return false;
        if (a->unverified_date > 0)
                return distance(a->unverified_date, now) > DAY_SEC;
        return a->failure.kind == FAILURE_TLS_CLOCK;
}

/* The service, or what answers in its place. */
static bool reached(const Check *c) {
        const CheckAnswer *a = &c->answer;

        return c->routed && (a->answered || (!a->failed_at_proxy && (a->failure.kind == FAILURE_TLS_CLOCK ||
                                                                     a->failure.kind == FAILURE_TLS_TRUST)));
}

static void probe_connect(Check *c) {
        Request q = { .check = c };
        CLEANUP(freep) char *url = NULL;
        const CheckAnswer *a = &c->answer;

        if (!c->routed || c->ca_file_bad) {
                check_skip(c, CHECK_LOOK_ABOVE, c->routed ? "Not tried without CAFile=" : "Not tried");
                return;
        }
        if (asprintf(&url, "%s/", c->config->global_endpoint) < 0) {
                url = NULL;
                return;
        }
        run_request(&q, &(HttpRequest){ .method = "GET", .url = url });
        free(q.body);
        if (reached(c))
                check_ok(c, "'%s' %s", c->host,
                         c->proxy ? "can be reached through the proxy" : "can be reached");
        else if (blames_clock(a))
                check_skip(c, "Set the clock first", "Can't be judged while the clock is wrong: %s",
                           a->failure.sentence);
        else
                check_failure(c, &a->failure);
}

static void probe_tls(Check *c) {
        const CheckAnswer *a = &c->answer;

        if (!reached(c))
                check_skip(c, CHECK_LOOK_ABOVE, "Not reached");
        else if (a->answered)
                check_ok(c, "The certificate is trusted; its issuer is '%s'", a->issuer);
        else if (blames_clock(a))
                check_skip(c, "Set the clock first", "Can't be judged while the clock is wrong: %s",
                           a->failure.sentence);
        else
                check_failure(c, &a->failure);
}

static void format_difference(char *ret, size_t size, uint64_t seconds) {
        if (seconds >= 2 * DAY_SEC)
                (void) snprintf(ret, size, "%llu days", (unsigned long long) (seconds / DAY_SEC));
        else
                (void) snprintf(ret, size, "%llu s", (unsigned long long) seconds);
}

static void judge_clock(Check *c, uint64_t server, const char *by) {
        uint64_t now = now_usec(CLOCK_REALTIME) / USEC_PER_SEC, difference = distance(now, server);
        char text[32];

        format_difference(text, sizeof(text), difference);
        if (now + BEHIND_SEC < server)
                check_bad(c,
                          c->config->target == TARGET_NONE && difference < DAY_SEC ? CHECK_WARN : CHECK_FAIL,
                          FAILURE_CLOCK_BEHIND, NULL, "The clock is %s behind %s", text, by);
        else if (difference > AHEAD_SEC)
                check_bad(c, difference > DAY_SEC ? CHECK_FAIL : CHECK_WARN, FAILURE_TLS_CLOCK, NULL,
                          "The clock is %s ahead of %s", text, by);
        else
                check_ok(c, "%s from %s", difference == 0 ? "No difference" : text, by);
}

static void probe_clock(Check *c) {
        const CheckAnswer *a = &c->answer;

        if (a->answered && a->date > 0)
                judge_clock(c, a->date, "the service's");
        else if (a->unverified_date > 0 && (reached(c) || blames_clock(a)))
                judge_clock(c, a->unverified_date, "what the other side says it is");
        else if (blames_clock(a))
                check_failure(c, &a->failure);
        else
                check_skip(c, CHECK_LOOK_ABOVE, "Nobody is there to compare it with");
}

/* --- the service --- */

/* Another challenge could make the one worthless that the daemon is about to answer. */
static bool daemon_is_asking(const Check *c) {
        static const char *const steps[] = {
                "register", "activate", "quiesce", "confirm", "poll", "import"
        };

        for (size_t i = 0; c->daemon_runs && i < ARRAY_SIZE(steps); i++)
                if (streq(c->status.step, steps[i]))
                        return true;
        return false;
}

/* Whether the service counts what it answers with a challenge is not known: a device that has its identity
 * does not ask without being told to. */
static bool may_ask(Check *c) {
        struct stat st;

        if (daemon_is_asking(c)) {
                check_skip(c, "See 'dps-provision status --watch'", "Not asked: the daemon is at it");
                return false;
        }
        if (c->daemon_runs && c->status.failure.kind == FAILURE_HTTP_THROTTLED) {
                check_skip(c, "Wait until then, as the daemon does: 'dps-provision status' shows the time",
                           "Not asked: the service wants to be left alone for a while");
                return false;
        }
        if (c->dps)
                return true;
        if (c->daemon_runs ? check_is_provisioned(c) : check_hub(c) != NULL) {
                check_skip(c, "Ask with --dps", "Not asked: this device has its assignment");
                return false;
        }
        if (!c->daemon_runs && (stat(STATE_FILE, &st) == 0 || errno != ENOENT)) {
                check_skip(c, "Ask with --dps, or start the daemon",
                           "Not asked: whether this device is provisioned is not known");
                return false;
        }
        return true;
}

static void judge_reply(Check *c, const DpsRawReply *raw) {
        CLEANUP(dps_reply_deinit) DpsReply reply = {};
        Failure failure = {};

        if (dps_parse_reply(&reply, DPS_REQUEST_REGISTER, c->id_scope, c->registration_id, raw, &failure) >=
            0)
                check_ok(c, "DPS has an enrollment '%s' in the ID scope %s for this endorsement key",
                         c->registration_id, c->id_scope);
        else
                check_bad(c, CHECK_FAIL, failure.kind, failure_advice(&failure), "%s [%s]", failure.sentence,
                          failure.code);
}

static void probe_enrollment(Check *c) {
        /* It only wraps the challenge, which nobody is going to answer: without a storage root key any key
         * will do. */
        const Bytes *srk = c->srk.size > 0 ? &c->srk : &c->ek;
        CLEANUP(freep) char *url = NULL, *body = NULL;
        Request q = { .check = c };

        if (!c->answer.answered || !c->id_scope || c->ek.size == 0 || !c->registration_id) {
                check_skip(c, CHECK_LOOK_ABOVE, "Can't be asked");
                return;
        }
        if (!may_ask(c))
                return;
        if (dps_register_body(&body, c->registration_id, &c->ek, srk, NULL) < 0 ||
            dps_register_url(&url, c->config->global_endpoint, c->id_scope, c->registration_id) < 0)
                return;
        run_request(&q, &(HttpRequest){ .method = "PUT", .url = url, .body = body });
        if (c->answer.answered)
                judge_reply(c, &q.raw);
        else
                check_failure(c, &c->answer.failure);
        secret_freep(&q.body);
}

const Probe check_network_probes[] = {
        { "proxy", "Proxy", probe_proxy, true },
        { "dns", "Name", probe_dns, true },
        { "route", "Route", probe_route, true },
        { "connect", "Connection", probe_connect, true },
        { "tls", "Certificate", probe_tls, true },
        { "clock", "Clock", probe_clock, true },
        { "enrollment", "Enrolment", probe_enrollment, true },
        {},
};
