/*
 * ConfigToml: IoT Edge's /etc/aziot/config.toml: what it says that matters here, and how its provisioning
 * tables are replaced. Pure code.
 */
#pragma once

#include "failure.h"
#include "toml.h"

#define CONFIG_TOML_MAX ((size_t) 1024 * 1024)

/* What we write, URLs in canonical form. payload_uri NULL: no payload. In a comparison any other member that
 * is NULL is not known and equals everything, and so does the payload when payload_unknown is set. */
typedef struct Provisioning {
        const char *endpoint, *id_scope, *registration_id, *payload_uri;
        bool payload_unknown;
} Provisioning;

/* What a file says; NULL: it does not. Everything owned. */
typedef struct ConfigToml {
        bool has_provisioning;
        char *source, *endpoint, *id_scope, *method, *registration_id, *payload_uri;
        char *scope_id; /* what identityd's own file calls the ID scope */
        char *hostname, *parent_hostname, *auto_reprovisioning_mode, *runtime_uri;
        bool has_auth_key_index;
        uint64_t auth_key_index; /* of [tpm]; 0x100 when absent */
        char *digest; /* hex SHA-256 over the bytes of the provisioning tables; NULL without them */
} ConfigToml;

/* FAILURE_CONFIG_CONFLICT with the line for a text that is not TOML. text[size] has to be a NUL; name is for
 * the sentence. */
int config_toml_read(ConfigToml *ret, const char *name, const char *text, size_t size, Failure *reterr);
void config_toml_deinit(ConfigToml *config);

/* The digest of the tables that config_toml_edit() writes into a new file. */
int config_toml_digest(char **ret, const Provisioning *provisioning);

/* An integer in any of TOML's spellings. UINT64_MAX: none; IoT Edge refuses a quoted one. */
uint64_t config_toml_integer(const TomlValue *value);

/* Does it say what we would write? URLs are compared by what they mean (url.h), IDs without case. */
bool config_toml_matches(const ConfigToml *config, const Provisioning *wanted);

/* FAILURE_CONFIG_CONFLICT with the line for what config_toml_edit() would refuse. */
int config_toml_check_editable(const char *name, const char *text, size_t size, Failure *reterr);

/* The text with its provisioning replaced, or removed (wanted NULL), every other byte as it was: in the
 * place of [provisioning], else at the end. FAILURE_CONFIG_CONFLICT with the line for what can't be replaced
 * safely. */
int config_toml_edit(char **ret, const char *name, const char *text, size_t size, const Provisioning *wanted,
                     Failure *reterr);
