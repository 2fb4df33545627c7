/*
 * Config: what the operator wrote under /etc/dps-provisiond, checked, with where each value came from.
 *
 * Files are read in systemd's order: provisiond.conf from /etc (or /run, or /usr/lib: the first that
 * exists), then the drop-ins provisiond.conf.d/<name>.conf of all three directories sorted by name, where
 * /etc masks /run masks /usr/lib for files of the same name. Later settings win. An empty assignment resets
 * to the default. The scope comes from the credential dps.id_scope when no file sets it. One table
 * (config-keys.c) holds the keys, their types, ranges and defaults; the daemon and both helpers read the
 * same files with it.
 *
 * A Config always comes back, also from a broken file: what was wrong is in `problems`, and the key with the
 * bad value has its default. The Config owns everything it points to.
 */
#pragma once

#include "failure.h"
#include "retry.h"

#define CONFIG_DIR         "dps-provisiond"
#define CONFIG_SCOPE_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"
#define CONFIG_SCOPE_MAX   64

typedef enum RegistrationIdFormat {
        REGISTRATION_ID_SHA256_HEX,
        REGISTRATION_ID_SHA256_BASE32,
} RegistrationIdFormat;

typedef enum HandOffTarget {
        TARGET_IOTEDGE,
        TARGET_NONE,
} HandOffTarget;

typedef enum IdentityMode {
        IDENTITY_ADOPT,
        IDENTITY_REGISTER,
} IdentityMode;

typedef struct ConfigProblem {
        bool fatal; /* a bad value: attesting must not start; else a warning (unknown key, ignored line) */
        char *file; /* path, or "credential dps.id_scope" */
        unsigned line; /* from 1; 0 when the whole file is meant */
        char *text;    /* what is wrong, what is allowed; without file and line */
} ConfigProblem;

typedef struct Config {
        /* [Provisioning] */
        char *id_scope;        /* NULL: not set */
        char *global_endpoint; /* as url_canonical_endpoint() makes it: no slash at the end */
        char *registration_id; /* as written, with specifiers; NULL: derived from the EK */
        RegistrationIdFormat registration_id_format;
        char *payload; /* path of a JSON file, url_path_valid(); or NULL */
        /* [Tpm] */
        char *tcti;
        uint32_t hub_key_handle;
        /* [Network] */
        char *proxy;   /* URL or NULL (then the environment's https_proxy is used) */
        char *ca_file; /* path or NULL */
        usec_t connect_timeout_usec, request_timeout_usec;
        /* [Retry] */
        RetryPolicy retry;
        /* [HandOff] */
        HandOffTarget target;
        IdentityMode identity;
        bool replace_provisioning;
        char **allowed_hubs; /* NULL-terminated patterns */

        ConfigProblem *problems;
        size_t problem_count;
        struct ConfigOverride {
                size_t index;   /* of the key table's row */
                char *old, *by; /* "FILE:LINE" that set it, and the later one that counts instead */
        } * overrides;
        size_t override_count;
        char **sources; /* one per row of the key table: "FILE:LINE", or NULL for the default */
} Config;

typedef struct ConfigPaths {
        const char *file;            /* --config=: read this file and nothing else (no drop-ins); or NULL */
        const char *root;            /* prefix for /etc, /run and /usr/lib (tests); NULL for none */
        const char *credentials_dir; /* normally getenv("CREDENTIALS_DIRECTORY"); NULL: none */
} ConfigPaths;

/* -ENOMEM is the only error. */
int config_load(Config **ret, const ConfigPaths *paths);
Config *config_free(Config *config);
void config_freep(Config **config);

/* The first fatal problem as a FAILURE_CONFIG ("FILE:LINE: …"); false when there is none. */
bool config_failure(const Config *config, Failure *ret);

/* "FILE:LINE: TEXT", or "FILE: TEXT" when the whole file is meant. The caller frees; NULL: no memory. */
char *config_problem_to_string(const ConfigProblem *problem);

/* Every directory whose changes mean that the configuration must be read again: for a default Config
 * the six directories (existing or not), for --config=FILE the one the file is in. NULL-terminated, caller
 * frees the array and the strings. */
int config_watch_directories(char ***ret, const ConfigPaths *paths);

/* Reads a systemd credential by name, without the newline at its end; -ENOENT when there is none.
 * Its text is secret: free it with secret_freep. */
int config_read_credential(char **ret, const ConfigPaths *paths, const char *name);

/* A credential that is an authorization value of the TPM: any bytes. Only the line ends at its end do not
 * belong to the value, since editors and echo add them. Secret. */
typedef struct ConfigAuth {
        Bytes value;
        char *path;
} ConfigAuth;

int config_read_auth(ConfigAuth *ret, const ConfigPaths *paths,
                     const char *name); /* -ENOENT: there is none */
void config_auth_deinit(ConfigAuth *auth);

/* Iterates the key table, for `dps-provision config` and the tests: false past the end. *ret_value is the
 * effective value as text (caller frees; without a password), *ret_source "FILE:LINE" or NULL (borrowed). */
bool config_describe(const Config *config, size_t index, const char **ret_section, const char **ret_key,
                     char **ret_value, const char **ret_source);

/* Prints "KEY=VALUE" after the prefix; a list that is too long for a line of a file gets several. */
void config_print_key(FILE *f, const char *prefix, const char *key, const char *value);

/* What may be shown of a proxy's URL: without user and password. The caller frees; NULL: no memory. */
char *config_proxy_to_show(const char *proxy);

/* Does a hub name (`host[:port]`) match one of the patterns? `*` stands for one or more labels; case does
 * not count; a pattern without a port matches any port. False for a name that is not a host name. */
bool config_hub_allowed(const Config *config, const char *hub);

const char *target_to_string(HandOffTarget target);
const char *identity_mode_to_string(IdentityMode mode);
