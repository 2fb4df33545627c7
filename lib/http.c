#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <curl/curl.h>

#include "http-failure.h"
#include "http-loop.h"
#include "http-probe.h"
#include "project.h"
#include "proxy.h"

#define HEADER_VALUE_MAX 256
#define DATE_END         4102444800 /* 2100: tokens and clocks that went by a later one would be of no use */
#define HEADERS_MAX      100        /* lines of a reply; curl bounds the length of each */

struct Http {
        HttpLoop loop;
        CURL *easy, *probe;
        struct curl_slist *headers;

        char *proxy, *ca_file, *unix_socket;
        usec_t connect_timeout_usec, request_timeout_usec;
        size_t body_max;
        uint64_t build_time, latest_time;
        bool examine;

        /* the request under way */
        bool busy;
        HttpDone done;
        void *userdata;
        char *authorization, *body, *url;
        size_t body_sent;
        char error[CURL_ERROR_SIZE];
        Failure failure; /* while the probe finds out more */

        /* its reply */
        char *reply;
        size_t reply_size;
        bool too_large, connected, sent, proxys_fault;
        unsigned header_count;
        char request_id[HEADER_VALUE_MAX], retry_after[HEADER_VALUE_MAX];
        uint64_t date;
};

static void end_probe(Http *http);
static void finish(void *userdata);

/* CURLOPT_WRITEFUNCTION: bounded while it arrives. */
static size_t on_body(char *data, size_t size, size_t count, void *userdata) {
        Http *http = userdata;
        char *longer;

        size *= count;
        if (size > http->body_max - http->reply_size) {
                http->too_large = true;
                return 0; /* ends the transfer */
        }
        longer = realloc(http->reply, http->reply_size + size + 1);
        if (!longer)
                return 0;
        http->reply = longer;
        memcpy(longer + http->reply_size, data, size);
        http->reply_size += size;
        longer[http->reply_size] = '\0';
        return size;
}

static bool take_header(const char *line, size_t size, const char *name, char *value) {
        size_t n = strlen(name);

        if (size <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
                return false;
        line += n + 1;
        size -= n + 1;
        while (size > 0 && strchr(" \t", *line)) {
                line++;
                size--;
        }
        while (size > 0 && strchr(" \t\r\n", line[size - 1]))
                size--;
        if (size < HEADER_VALUE_MAX && !memchr(line, '\0', size)) {
                memcpy(value, line, size);
                value[size] = '\0';
        }
        return true;
}

static void forget_headers(Http *http) {
        http->request_id[0] = http->retry_after[0] = '\0';
        http->date = 0;
}

/* CURLOPT_HEADERFUNCTION: one line at a time, also those of a proxy's reply to CONNECT and of 1xx replies.
 */
static size_t on_header(char *line, size_t size, size_t count, void *userdata) {
        Http *http = userdata;
        char date[HEADER_VALUE_MAX] = "";

        size *= count;
        if (++http->header_count > HEADERS_MAX) {
                http->too_large = true;
                return 0;
        }
        if (size > 5 && strncmp(line, "HTTP/", 5) == 0)
                forget_headers(http); /* another reply begins */
        else if (take_header(line, size, "Date", date)) {
                int64_t t = date[0] ? curl_getdate(date, NULL) : -1;

                http->date = t > 0 && t < DATE_END ? (uint64_t) t : 0;
        } else if (!take_header(line, size, "x-ms-request-id", http->request_id))
                (void) take_header(line, size, "Retry-After", http->retry_after);
        return size;
}

/* CURLOPT_CLOSESOCKETFUNCTION. curl does not say how far a connection came that has ended. */
static int on_close(void *userdata, curl_socket_t fd) {
        Http *http = userdata;
        struct sockaddr_storage peer;
        socklen_t size = sizeof(peer);

        http->connected = getpeername(fd, (struct sockaddr *) &peer, &size) == 0;
        return close(fd);
}

static int setup(Http *http) {
        CURL *e = http->easy;
        CURLcode c = CURLE_OK;

        /* Each of these protects: not one may be missing from the build of libcurl. */
        c = c ?: curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https");
        c = c ?: curl_easy_setopt(e, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
        c = c ?: curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
        c = c ?: curl_easy_setopt(e, CURLOPT_PROXY_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
        c = c ?: curl_easy_setopt(e, CURLOPT_PROXY_SSL_VERIFYPEER, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_PROXY_SSL_VERIFYHOST, 2L);
        c = c ?: curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
        c = c ?: curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
        /* Else curl waits for its resolver's thread, and the loop with it, where a name server does not
         * answer. */
        c = c ?: curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
        c = c ?: curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
        c = c ?: curl_easy_setopt(e, CURLOPT_USERAGENT, "dps-provisiond/" PROJECT_VERSION);
        c = c ?: curl_easy_setopt(e, CURLOPT_ERRORBUFFER, http->error);
        c = c ?: curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
        c = c ?: curl_easy_setopt(e, CURLOPT_WRITEDATA, http);
        c = c ?: curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
        c = c ?: curl_easy_setopt(e, CURLOPT_HEADERDATA, http);
        c = c ?: curl_easy_setopt(e, CURLOPT_CLOSESOCKETFUNCTION, on_close);
        c = c ?: curl_easy_setopt(e, CURLOPT_CLOSESOCKETDATA, http);
        c = c
                    ?: curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS,
                                        (long) (http->connect_timeout_usec / USEC_PER_MSEC));
        c = c
                    ?: curl_easy_setopt(e, CURLOPT_TIMEOUT_MS,
                                        (long) (http->request_timeout_usec / USEC_PER_MSEC));
        if (http->unix_socket) {
                c = c ?: curl_easy_setopt(e, CURLOPT_UNIX_SOCKET_PATH, http->unix_socket);
                c = c ?: curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http");
                c = c ?: curl_easy_setopt(e, CURLOPT_PROXY, "");
        }
        if (http->examine)
                c = c ?: curl_easy_setopt(e, CURLOPT_CERTINFO, 1L);
        if (http->proxy)
                c = c ?: curl_easy_setopt(e, CURLOPT_PROXY, http->proxy);
        if (http->ca_file) {
                c = c ?: curl_easy_setopt(e, CURLOPT_CAINFO, http->ca_file);
                c = c ?: curl_easy_setopt(e, CURLOPT_PROXY_CAINFO, http->ca_file);
        }
        return c == CURLE_OK ? 0 : c == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EOPNOTSUPP;
}

int http_new(Http **ret, sd_event *event, const HttpSettings *settings) {
        CLEANUP(http_freep) Http *http = NULL;
        int r;

        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return -EOPNOTSUPP;
        http = calloc(1, sizeof(*http));
        if (!http) {
                curl_global_cleanup();
                return -ENOMEM;
        }
        *http = (Http){ .connect_timeout_usec = settings->connect_timeout_usec,
                        .request_timeout_usec = settings->request_timeout_usec,
                        .body_max = settings->body_max,
                        .build_time = settings->build_time,
                        .latest_time = settings->latest_time,
                        .examine = settings->examine };
        r = http_loop_init(&http->loop, event, finish, http);
        if (r < 0)
                return r;
        http->easy = curl_easy_init();
        if (!http->easy || string_replace(&http->proxy, settings->proxy) < 0 ||
            string_replace(&http->ca_file, settings->ca_file) < 0 ||
            string_replace(&http->unix_socket, settings->unix_socket) < 0)
                return -ENOMEM;
        r = setup(http);
        if (r < 0)
                return r;
        *ret = TAKE(http);
        return 0;
}

static void forget_request(Http *http) {
        http->busy = false;
        secret_freep(&http->authorization);
        free(TAKE(http->body));
        free(TAKE(http->url));
}

static void forget_reply(Http *http) {
        if (http->reply) /* it may hold the hub's key */
                explicit_bzero(http->reply, http->reply_size);
        free(TAKE(http->reply));
        http->reply_size = 0;
        http->too_large = http->connected = http->proxys_fault = false;
        http->header_count = 0;
        http->error[0] = '\0';
        forget_headers(http);
}

/* The list holds a copy of the token. */
static void forget_request_headers(Http *http) {
        (void) curl_easy_setopt(http->easy, CURLOPT_HTTPHEADER, NULL);
        for (struct curl_slist *line = http->headers; line; line = line->next)
                explicit_bzero(line->data, strlen(line->data));
        curl_slist_free_all(http->headers);
        http->headers = NULL;
}

Http *http_free(Http *http) {
        if (!http)
                return NULL;
        end_probe(http);
        if (http->busy)
                (void) curl_multi_remove_handle(http->loop.multi, http->easy);
        if (http->easy) {
                forget_request_headers(http);
                curl_easy_cleanup(http->easy);
        }
        http_loop_deinit(&http->loop);
        forget_request(http);
        forget_reply(http);
        secret_freep(&http->proxy);
        free(http->ca_file);
        free(http->unix_socket);
        free(http);
        curl_global_cleanup();
        return NULL;
}

void http_freep(Http **http) {
        *http = http_free(*http);
}

static int set_request_headers(Http *http) {
        const char *const lines[] = { "Content-Type: application/json; charset=utf-8",
                                      "Accept: application/json", "Expect:" /* no 100-continue */,
                                      http->authorization };

        forget_request_headers(http);
        for (size_t i = 0; i < ARRAY_SIZE(lines) && lines[i]; i++) {
                struct curl_slist *longer = curl_slist_append(http->headers, lines[i]);

                if (!longer)
                        return -ENOMEM;
                http->headers = longer;
        }
        return curl_easy_setopt(http->easy, CURLOPT_HTTPHEADER, http->headers) == CURLE_OK ? 0 : -ENOMEM;
}

/* CURLOPT_READFUNCTION. There is no function to seek, so curl can't send a body twice. Otherwise curl
 * repeats a request when a reused connection ends without a reply, and DPS may bill a PUT. */
static size_t on_send(char *buffer, size_t size, size_t count, void *userdata) {
        Http *http = userdata;
        size_t left = strlen(http->body) - http->body_sent;

        size *= count;
        if (size > left)
                size = left;
        memcpy(buffer, http->body + http->body_sent, size);
        http->body_sent += size;
        return size;
}

static int set_request(Http *http, const HttpRequest *request) {
        CURL *e = http->easy;
        CURLcode c = CURLE_OK;
        int r;

        if (request->authorization &&
            asprintf(&http->authorization, "Authorization: %s", request->authorization) < 0) {
                http->authorization = NULL;
                return -ENOMEM;
        }
        r = set_request_headers(http);
        if (r < 0 || string_replace(&http->body, request->body) < 0 ||
            string_replace(&http->url, request->url) < 0)
                return -ENOMEM;

        c = c ?: curl_easy_setopt(e, CURLOPT_URL, http->url);
        c = c ?: curl_easy_setopt(e, CURLOPT_HTTPGET, 1L);
        http->body_sent = 0;
        if (http->body) {
                c = c ?: curl_easy_setopt(e, CURLOPT_POST, 1L);
                c = c ?: curl_easy_setopt(e, CURLOPT_READFUNCTION, on_send);
                c = c ?: curl_easy_setopt(e, CURLOPT_READDATA, http);
                c = c ?: curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long) strlen(http->body));
        }
        c = c ?: curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, request->method);
        return c == CURLE_OK ? 0 : c == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EINVAL;
}

int http_start(Http *http, const HttpRequest *request, HttpDone done, void *userdata) {
        int r;

        if (http->busy)
                return -EBUSY;
        forget_reply(http);
        r = set_request(http, request);
        if (r < 0) {
                forget_request(http);
                return r;
        }
        if (curl_multi_add_handle(http->loop.multi, http->easy) != CURLM_OK) {
                forget_request(http);
                return -EIO;
        }
        http->busy = true;
        http->done = done;
        http->userdata = userdata;
        return 0;
}

/* curl does not give the chain of a handshake that failed, so who issued the certificate is found out by a
 * second handshake, over which nothing is sent that anybody may not know: an intercepting proxy shows
 * itself. */
static int start_probe(Http *http, const char *refused_proxy) {
        int r;

        r = http_probe_new(&http->probe, &(HttpProbe){ .url = http->url,
                                                       .configured = http->proxy,
                                                       .refused_proxy = refused_proxy,
                                                       .ca_file = http->ca_file,
                                                       .on_head = http->examine ? on_header : NULL,
                                                       .userdata = http });
        if (r < 0)
                return r;
        if (curl_multi_add_handle(http->loop.multi, http->probe) == CURLM_OK)
                return 0;
        curl_easy_cleanup(TAKE(http->probe));
        return -EIO;
}

static void end_probe(Http *http) {
        if (!http->probe)
                return;
        (void) curl_multi_remove_handle(http->loop.multi, http->probe);
        curl_easy_cleanup(TAKE(http->probe));
}

static void add_issuer(Http *http) {
        const Failure failure = http->failure;
        const char *issuer = http_issuer_of(http->probe);

        if (issuer)
                (void) failure_set(&http->failure, failure.kind, failure.code,
                                   "%.250s; its issuer is '%.200s'", failure.sentence, issuer);
        http->failure.remedy = failure.remedy;
}

uint64_t http_unverified_date(const Http *http) {
        return http->date;
}

static void report_failure(Http *http) {
        Failure failure = http->failure;

        end_probe(http);
        forget_request(http);
        http->done(http->userdata, NULL, &failure);
}

static const char *proxy_in_use(const Http *http) {
        const char *host = strstr(http->url, "://");

        return http->unix_socket || !host ? NULL : proxy_for(http->proxy, host + 3);
}

static HttpOutcome get_outcome(const Http *http, CURLcode code) {
        curl_off_t ready_usec = 0;
        HttpOutcome o = { .code = code,
                          .error = http->error,
                          .url = http->url,
                          .proxy = proxy_in_use(http),
                          .ca_file = http->ca_file,
                          .connected = http->connected,
                          .too_large = http->too_large,
                          .body_max = http->body_max,
                          .connect_timeout_usec = http->connect_timeout_usec,
                          .request_timeout_usec = http->request_timeout_usec,
                          .build_time = http->build_time,
                          .latest_time = http->latest_time };

        (void) curl_easy_getinfo(http->easy, CURLINFO_HTTP_CONNECTCODE, &o.proxy_status);
        (void) curl_easy_getinfo(http->easy, CURLINFO_OS_ERRNO, &o.os_error);
        (void) curl_easy_getinfo(http->easy, CURLINFO_PRETRANSFER_TIME_T, &ready_usec);
        o.ready = ready_usec > 0;
        return o;
}

static void request_failed(Http *http, CURLcode code) {
        const HttpOutcome o = get_outcome(http, code);

        http->sent = o.ready;
        http->proxys_fault = http_blames_proxy(&o);
        http_set_failure(&http->failure, &o);
        http->date = 0;
        if (!(http_certificate_refused(&o) || http_certificate_doubted(&o)) ||
            (http->failure.kind == FAILURE_TLS_CLOCK && !http->examine) ||
            start_probe(http, http->proxys_fault ? o.proxy : NULL) < 0)
                report_failure(http);
}

static void probe_succeeded(Http *http) {
        if (http->failure.kind == FAILURE_CONNECT) { /* so it was the certificate after all */
                HttpOutcome o = get_outcome(http, CURLE_PEER_FAILED_VERIFICATION);

                o.error = "it can't be verified";
                http_set_failure(&http->failure, &o);
        }
        add_issuer(http);
}

static void request_succeeded(Http *http) {
        HttpReply reply;
        long status = 0;

        http->sent = true;

        (void) curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
        forget_request(http);
        reply = (HttpReply){ .status = (unsigned) status,
                             .body = http->reply ? http->reply : "",
                             .size = http->reply_size,
                             .request_id = http->request_id[0] ? http->request_id : NULL,
                             .retry_after = http->retry_after[0] ? http->retry_after : NULL,
                             .date = http->date,
                             .issuer = http->examine ? http_issuer_of(http->easy) : NULL };
        http->done(http->userdata, &reply, NULL);
}

bool http_was_sent(const Http *http) {
        return http->sent;
}

bool http_failed_at_proxy(const Http *http) {
        return http->proxys_fault;
}

/* Looks whether the transfer has ended. done() may start another one or free http. */
static void finish(void *userdata) {
        Http *http = userdata;
        CURLMsg *message;
        CURLcode code;
        CURL *easy;
        int left;

        do
                message = curl_multi_info_read(http->loop.multi, &left);
        while (message && message->msg != CURLMSG_DONE);
        if (!message || !http->busy)
                return;
        easy = message->easy_handle;
        code = message->data.result;

        if (easy == http->probe) {
                if (code == CURLE_OK)
                        probe_succeeded(http);
                report_failure(http);
                return;
        }
        (void) curl_multi_remove_handle(http->loop.multi, easy);
        if (code != CURLE_OK)
                request_failed(http, code);
        else
                request_succeeded(http);
}
