#include "config-toml.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "url.h"

#define TABLE "provisioning"
#define SEP   TOML_SEPARATOR

static int parse(Toml *ret, const char *name, const char *text, size_t size, Failure *reterr) {
        unsigned line = 0;
        const char *why = "";
        int r;

        r = toml_parse(ret, text, size, &line, &why);
        if (r == -EBADMSG)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, NULL, "%s:%u: not TOML: %s", name, line,
                                   why);
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be read", name) : 0;
}

static bool is_provisioning(const TomlEntry *entry) {
        return toml_path_below(entry->path, TABLE);
}

static int take(char **target, const Toml *toml, const char *path) {
        const TomlValue *value = toml_get(toml, path);

        return value && value->type == TOML_STRING ? string_replace(target, value->text) : 0;
}

uint64_t config_toml_integer(const TomlValue *value) {
        char digits[32];
        size_t n = 0;
        uint64_t number;

        if (value->type != TOML_BARE)
                return UINT64_MAX;
        for (const char *p = value->text; *p && n < sizeof(digits) - 1; p++)
                if (*p != '_' && *p != '+')
                        digits[n++] = *p;
        digits[n] = '\0';
        return parse_uint(digits, UINT32_MAX, &number) < 0 ? UINT64_MAX : number;
}

/* What is written goes through put(): a stream into memory does not say itself that there was none left. */
typedef struct Output {
        FILE *f;
        bool failed;
} Output;

static void put(Output *o, const char *text, size_t size) {
        o->failed = o->failed || fwrite(text, 1, size, o->f) != size;
}

static void put_text(Output *o, const char *text) {
        put(o, text, strlen(text));
}

static int digest(char **ret, const Toml *toml, const char *text) {
        CLEANUP(freep) char *bytes = NULL;
        uint8_t hash[SHA256_SIZE];
        size_t size = 0;
        Output o = { .f = open_memstream(&bytes, &size) };
        int r;

        if (!o.f)
                return -ENOMEM;
        for (size_t i = 0; i < toml->entry_count; i++)
                if (is_provisioning(&toml->entries[i]))
                        put(&o, text + toml->entries[i].start,
                            toml->entries[i].end - toml->entries[i].start);
        if (fclose(o.f) != 0 || o.failed || !bytes)
                return -ENOMEM;
        r = sha256(bytes, size, hash);
        return r < 0 ? r : hex_encode(ret, hash, sizeof(hash));
}

static int extract(ConfigToml *c, const Toml *toml, const char *text) {
        const TomlValue *index = toml_get(toml, "tpm" SEP "auth_key_index");
        int r = 0;

        for (size_t i = 0; i < toml->entry_count; i++)
                c->has_provisioning = c->has_provisioning || is_provisioning(&toml->entries[i]);
        r = take(&c->source, toml, TABLE SEP "source");
        if (r >= 0)
                r = take(&c->endpoint, toml, TABLE SEP "global_endpoint");
        if (r >= 0)
                r = take(&c->id_scope, toml, TABLE SEP "id_scope");
        if (r >= 0)
                r = take(&c->scope_id, toml, TABLE SEP "scope_id");
        if (r >= 0)
                r = take(&c->method, toml, TABLE SEP "attestation" SEP "method");
        if (r >= 0)
                r = take(&c->registration_id, toml, TABLE SEP "attestation" SEP "registration_id");
        if (r >= 0)
                r = take(&c->payload_uri, toml, TABLE SEP "payload" SEP "uri");
        if (r >= 0)
                r = take(&c->hostname, toml, "hostname");
        if (r >= 0)
                r = take(&c->parent_hostname, toml, "parent_hostname");
        if (r >= 0 && !c->parent_hostname)
                r = take(&c->parent_hostname, toml, "local_gateway_hostname");
        if (r >= 0)
                r = take(&c->auto_reprovisioning_mode, toml, "auto_reprovisioning_mode");
        if (r >= 0)
                r = take(&c->runtime_uri, toml, "moby_runtime" SEP "uri");
        c->has_auth_key_index = index && index->type == TOML_BARE;
        c->auth_key_index = c->has_auth_key_index ? config_toml_integer(index) : 0x100;
        return r >= 0 && c->has_provisioning ? digest(&c->digest, toml, text) : r;
}

int config_toml_read(ConfigToml *ret, const char *name, const char *text, size_t size, Failure *reterr) {
        CLEANUP(toml_deinit) Toml toml = {};
        CLEANUP(config_toml_deinit) ConfigToml config = {};
        int r;

        r = parse(&toml, name, text, size, reterr);
        if (r < 0)
                return r;
        r = extract(&config, &toml, text);
        if (r < 0)
                return failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be read", name);
        *ret = config;
        config = (ConfigToml){};
        return 0;
}

void config_toml_deinit(ConfigToml *c) {
        free(c->source);
        free(c->endpoint);
        free(c->id_scope);
        free(c->scope_id);
        free(c->method);
        free(c->registration_id);
        free(c->payload_uri);
        free(c->hostname);
        free(c->parent_hostname);
        free(c->auto_reprovisioning_mode);
        free(c->runtime_uri);
        free(c->digest);
        *c = (ConfigToml){};
}

static bool matches_payload(const ConfigToml *c, const Provisioning *wanted) {
        if (!c->payload_uri || !wanted->payload_uri)
                return !c->payload_uri && !wanted->payload_uri;
        return url_same_file(c->payload_uri, wanted->payload_uri);
}

bool config_toml_matches(const ConfigToml *c, const Provisioning *wanted) {
        return c->source && streq(c->source, "dps") && c->method && streq(c->method, "tpm") && c->endpoint &&
               c->id_scope && c->registration_id &&
               (!wanted->endpoint || url_same_endpoint(c->endpoint, wanted->endpoint)) &&
               (!wanted->id_scope || streq(c->id_scope, wanted->id_scope)) &&
               (!wanted->registration_id || strcasecmp(c->registration_id, wanted->registration_id) == 0) &&
               (wanted->payload_unknown || matches_payload(c, wanted));
}

/* The values are ours and checked: they consist of letters, digits, -._:/[]% and what a file URL may
 * contain. */
static void put_string(Output *o, const char *value) {
        put_text(o, "\"");
        for (; *value; value++) {
                char character[8];

                if (*value == '"' || *value == '\\')
                        (void) snprintf(character, sizeof(character), "\\%c", *value);
                else if (iscntrl((unsigned char) *value))
                        (void) snprintf(character, sizeof(character), "\\u%04x",
                                        (unsigned) (unsigned char) *value);
                else
                        (void) snprintf(character, sizeof(character), "%c", *value);
                put_text(o, character);
        }
        put_text(o, "\"");
}

static void put_pair(Output *o, const char *key, const char *value, const char *newline) {
        put_text(o, key);
        put_text(o, " = ");
        put_string(o, value);
        put_text(o, newline);
}

static void put_block(Output *o, const Provisioning *p, const char *newline) {
        put_text(o, "[provisioning]");
        put_text(o, newline);
        put_pair(o, "source", "dps", newline);
        put_pair(o, "global_endpoint", p->endpoint, newline);
        put_pair(o, "id_scope", p->id_scope, newline);
        if (p->payload_uri) {
                put_text(o, "payload = { uri = ");
                put_string(o, p->payload_uri);
                put_text(o, " }");
                put_text(o, newline);
        }
        put_text(o, newline);
        put_text(o, "[provisioning.attestation]");
        put_text(o, newline);
        put_pair(o, "method", "tpm", newline);
        put_pair(o, "registration_id", p->registration_id, newline);
}

/* What is TOML, but nothing that IoT Edge reads: what was meant can't be known. */
static int check_editable(const Toml *toml, const char *name, Failure *reterr) {
        const TomlValue *value = toml_get(toml, TABLE);

        for (size_t i = 0; i < toml->entry_count; i++)
                if (toml->entries[i].type == TOML_ARRAY_TABLE && is_provisioning(&toml->entries[i]))
                        return failure_set(reterr, FAILURE_CONFIG_CONFLICT, NULL,
                                           "%s:%u: provisioning is an array of tables", name,
                                           toml->entries[i].line);
        if (value && value->type != TOML_INLINE_TABLE)
                return failure_set(reterr, FAILURE_CONFIG_CONFLICT, NULL,
                                   "%s:%u: provisioning is not a table", name, value->line);
        return 0;
}

static bool is_blank(const char *text, size_t size) {
        for (size_t i = 0; i < size; i++)
                if (!strchr(" \t\r\n", text[i]))
                        return false;
        return true;
}

static int edit(char **ret, const Toml *toml, const char *text, size_t size, const Provisioning *wanted) {
        CLEANUP(freep) char *edited = NULL;
        const char *newline = toml->crlf ? "\r\n" : "\n";
        bool written = false;
        size_t done = 0, length = 0;
        Output o = { .f = open_memstream(&edited, &length) };

        if (!o.f)
                return -ENOMEM;
        for (size_t i = 0; i < toml->entry_count; i++) {
                const TomlEntry *e = &toml->entries[i];

                if (!is_provisioning(e))
                        continue;
                /* Blank lines within provisioning go with it, or each edit of our own would leave one more.
                 */
                if (done == 0 || !is_blank(text + done, e->start - done))
                        put(&o, text + done, e->start - done);
                done = e->end;
                /* A header's place is a good place: up to the next header there are comments only. Where
                 * assignments at the top are taken out, a table would swallow the ones that follow. */
                if (e->type == TOML_TABLE && !written && wanted) {
                        put_block(&o, wanted, newline);
                        written = true;
                }
        }
        put(&o, text + done, size - done);
        if (!written && wanted) {
                bool at_line_start = size == 0 || text[size - 1] == '\n';

                put_text(&o, at_line_start ? "" : newline);
                put_text(&o, size > 0 ? newline : "");
                put_block(&o, wanted, newline);
        }
        if (fclose(o.f) != 0 || o.failed || !edited)
                return -ENOMEM;
        *ret = TAKE(edited);
        return 0;
}

int config_toml_digest(char **ret, const Provisioning *provisioning) {
        CLEANUP(config_toml_deinit) ConfigToml config = {};
        CLEANUP(freep) char *text = NULL;
        int r;

        r = config_toml_edit(&text, "", "", 0, provisioning, NULL);
        if (r < 0)
                return r;
        assert(text);
        r = config_toml_read(&config, "", text, strlen(text), NULL);
        if (r < 0)
                return r;
        *ret = TAKE(config.digest);
        return 0;
}

int config_toml_check_editable(const char *name, const char *text, size_t size, Failure *reterr) {
        CLEANUP(toml_deinit) Toml toml = {};
        int r;

        r = parse(&toml, name, text, size, reterr);
        return r < 0 ? r : check_editable(&toml, name, reterr);
}

int config_toml_edit(char **ret, const char *name, const char *text, size_t size, const Provisioning *wanted,
                     Failure *reterr) {
        CLEANUP(toml_deinit) Toml toml = {};
        int r;

        r = parse(&toml, name, text, size, reterr);
        if (r >= 0)
                r = check_editable(&toml, name, reterr);
        if (r < 0)
                return r;
        r = edit(ret, &toml, text, size, wanted);
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be edited", name) : 0;
}
