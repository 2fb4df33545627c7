/* Requests to the emulator, separated by "---": a line "METHOD PATH[?api-version=VERSION]", headers, an
 * empty line and the body. A header "Fault" adds a fault. Marks stand for the values that a device takes
 * from replies: %OPERATION%, %DPS-TOKEN%, %HUB-TOKEN%; %EK% is the enrolled endorsement key. */
#include <unistd.h>

#include "emulator.h"
#include "fuzz.h"
#include "scratch.h"

#define SCOPE "0ne00000000"
#define HUB   "localhost:8443"
#define GW(n)                                                                                               \
        "{\"registrationId\":\"gw-" n                                                                       \
        "\",\"attestation\":{\"type\":\"tpm\",\"tpm\":{\"endorsementKey\":\"%EK%\"}}"

static const char enrollments_text[] =
        "[" GW("1") ",\"capabilities\":{\"iotEdge\":true},\"initialTwin\":{}}," GW(
                "2") ",\"emulator\":[{\"status\":429,\"on\":\"confirm\",\"retryAfter\":\"+5\",\"times\":1},"
                     "{\"result\":\"failed\",\"errorCode\":400209}]}]";

time_t emulator_now(const Emulator *emulator) {
        return 1700000000;
}

/* --- marks --- */

/* The TPM2B_PUBLIC of an endorsement key in base64. The modulus is arbitrary: no private key is needed. */
static char *endorsement_key(void) {
        static const uint8_t head[] = { 0x01, 0x3a, 0x00, 0x01, 0x00, 0x0b,
                                        0x00, 0x03, 0x00, 0xb2, 0x00, 0x20 };
        static const uint8_t parameters[] = { 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10,
                                              0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00 };
        uint8_t public[316] = {};
        char *text = NULL;

        memcpy(public, head, sizeof(head));
        memcpy(public + sizeof(head) + 32, parameters, sizeof(parameters));
        memset(public + 60, 0xc5, sizeof(public) - 60);
        PROMISE(base64_encode(&text, public, sizeof(public)) == 0);
        return text;
}

static char *token(const char *resource, const uint8_t key[static TPM_CRYPTO_KEY_SIZE]) {
        CLEANUP(freep) char *text = NULL, *signature = NULL;
        uint8_t hmac[SHA256_SIZE];
        char *result = NULL;
        size_t size;
        FILE *out = open_memstream(&result, &size);

        PROMISE(out && asprintf(&text, "%s\n1700000030", resource) > 0);
        PROMISE(tpm_crypto_hmac(key, TPM_CRYPTO_KEY_SIZE, text, strlen(text), hmac) == 0);
        PROMISE(base64_encode(&signature, hmac, sizeof(hmac)) == 0);
        (void) fprintf(out, "SharedAccessSignature sr=%s&se=1700000030&sig=", resource);
        for (const char *c = signature; *c; c++)
                if (*c == '+')
                        (void) fputs("%2B", out);
                else
                        (void) fputc(*c, out);
        PROMISE(fclose(out) == 0);
        return result;
}

typedef enum Mark {
        MARK_EK,
        MARK_OPERATION,
        MARK_DPS_TOKEN,
        MARK_HUB_TOKEN,
        _MARK_MAX,
} Mark;

static const char *const marks[_MARK_MAX] = {
        [MARK_EK] = "%EK%",
        [MARK_OPERATION] = "%OPERATION%",
        [MARK_DPS_TOKEN] = "%DPS-TOKEN%",
        [MARK_HUB_TOKEN] = "%HUB-TOKEN%",
};

static char *meaning(Mark mark, const Emulator *e) {
        const Attempt *attempt = e ? attempts_next(e->attempts, "gw-1", NULL) : NULL;
        const Device *device = e ? registry_find(e->registry, "gw-1") : NULL;

        if (mark == MARK_EK)
                return endorsement_key();
        if (mark == MARK_OPERATION && attempt && attempt->operation_id)
                return strdup(attempt->operation_id);
        if (mark == MARK_DPS_TOKEN && attempt)
                return token(SCOPE "/registrations/gw-1", attempt->key);
        if (mark == MARK_HUB_TOKEN && device)
                return token(HUB "/devices/gw-1", device->key);
        return strdup("");
}

static char *expand(const char *text, const Emulator *e) {
        char *result = NULL;
        size_t size;
        FILE *out = open_memstream(&result, &size);

        PROMISE(out);
        while (*text) {
                Mark mark = 0;

                while (mark < _MARK_MAX && strncmp(text, marks[mark], strlen(marks[mark])) != 0)
                        mark++;
                if (mark < _MARK_MAX) {
                        CLEANUP(freep) char *value = meaning(mark, e);

                        (void) fputs(value ? value : "", out);
                        text += strlen(marks[mark]);
                } else
                        (void) fputc(*text++, out);
        }
        PROMISE(fclose(out) == 0);
        return result;
}

/* --- requests --- */

static void read_header(Request *request, char *line, const Emulator *e) {
        char *value = strstr(line, ": ");
        const char *why;
        const struct {
                const char *name, **target;
        } headers[] = { { "Host", &request->host },
                        { "Authorization", &request->authorization },
                        { "If-Match", &request->if_match },
                        { "User-Agent", &request->user_agent } };

        if (!value)
                return;
        *value = '\0';
        value += 2;
        for (size_t i = 0; i < ARRAY_SIZE(headers); i++)
                if (streq(line, headers[i].name))
                        *headers[i].target = value;
        if (streq(line, "Fault"))
                PROMISE(faults_add(e->faults, value, &why) == 0 || why[0] != '\0');
}

/* Fills the request as server.c does. */
static void read_request(Request *request, char *text, const Emulator *e) {
        char *body = strstr(text, "\n\n"), *line, *path, *query;

        if (body) {
                *body = '\0';
                body += 2;
        }
        line = strsep(&text, "\n");
        request->method = strsep(&line, " ");
        path = line ? line : (char *) "";
        query = strstr(path, "?api-version=");
        if (query) {
                *query = '\0';
                request->api_version = query + strlen("?api-version=");
        }
        request->path = path;
        while ((line = strsep(&text, "\n")))
                read_header(request, line, e);
        (void) request_classify(request);
        if (!body || !*body)
                return;
        request->has_body = true;
        request->too_large = strlen(body) > REQUEST_BODY_MAX;
        if (!request->too_large)
                (void) request_set_body(request, body, strlen(body));
}

/* Only a request with a token from the marks may be authorized. */
static void ask(Emulator *e, const char *template) {
        CLEANUP(freep) char *text = expand(template, e);
        CLEANUP(request_deinit) Request request = {};
        bool may = strstr(template, marks[MARK_DPS_TOKEN]) || strstr(template, marks[MARK_HUB_TOKEN]);
        Response response;

        read_request(&request, text, e);
        response_init(&response);
        emulator_answer(e, &request, &response);
        PROMISE(response.status >= 200 && response.status <= 599);
        PROMISE(response.body || response.status == 204);
        PROMISE(!response.authorized || may);
        PROMISE(!response.body || json_object_to_json_string(response.body));
        response_deinit(&response);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(freep) char *text = strndup(size > 0 ? (const char *) data : "", size), *why = NULL;
        CLEANUP(freep) char *list = expand(enrollments_text, NULL);
        Emulator e = { .scope = SCOPE, .retry_after = "3", .base_url = "https://" HUB };
        char *next = text;

        (void) unlink(scratch_path("registry.json"));
        PROMISE(text && registry_open(&e.registry, scratch_path("registry.json")) == 0);
        PROMISE(attempts_new(&e.attempts) == 0 && faults_new(&e.faults, scratch_path("faults")) == 0);
        PROMISE(enrollments_new(&e.enrollments, scratch_path("enrollments.json"), HUB) == 0);
        PROMISE(enrollments_parse(e.enrollments, list, strlen(list), &why) == 0);
        while (next) {
                char *request = next;

                next = strstr(request, "\n---\n");
                if (next) {
                        *next = '\0';
                        next += 5;
                }
                ask(&e, request);
        }
        e.enrollments = enrollments_free(e.enrollments);
        e.faults = faults_free(e.faults);
        e.attempts = attempts_free(e.attempts);
        e.registry = registry_close(e.registry);
        return 0;
}
