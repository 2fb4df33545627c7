/* Config's two halves: config.c has the table of keys and reads one file; config-files.c knows which files.
 */
#pragma once

#include "config.h"

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
