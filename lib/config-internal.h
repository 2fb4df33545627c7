/* Config's parts: config-keys.c has the table of keys, config.c reads one file with it, config-files.c knows
 * which files. */
#pragma once

#include "config.h"

#define CONFIG_KEY_COUNT 21

typedef struct ConfigKey ConfigKey;

struct ConfigKey {
        const char *section, *name;
        /* Sets the field from the text; -EINVAL when it is not allowed there. */
        int (*set)(const ConfigKey *key, void *field, const char *value);
        size_t offset;        /* of the field in Config */
        const char *fallback; /* as it would be written; NULL: unset, and the field is a string */
        const char *allowed;  /* for people */
        bool list;            /* several lines of one file add up */
};

const ConfigKey *config_key(size_t index);       /* NULL past the end */
bool config_key_is_secret(const ConfigKey *key); /* its value may hold a password */
char *config_key_to_string(const Config *config,
                           const ConfigKey *key); /* as it may be shown; NULL: no memory */
int config_key_append(Config *config, const ConfigKey *key, const char *value); /* of a list; as set() */
void config_hubs_free(char **list);

/* Adds a problem; the text is formatted. line 0: the whole file. */
int config_add_problem(Config *config, bool fatal, const char *file, unsigned line, const char *format, ...)
        PRINTF_LIKE(5, 6);

/* Reads the text of one file into the config. Only -ENOMEM is an error; what is wrong becomes a problem. */
int config_parse(Config *config, const char *file, const char *text);

/* One "KEY=VALUE" as if `file` had it at `line`. */
int config_assign(Config *config, const char *file, unsigned line, const char *section, const char *name,
                  const char *value);

/* Reads every file that counts, in order. */
int config_read_files(Config *config, const ConfigPaths *paths);
