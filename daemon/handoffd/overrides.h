/*
 * Overrides: what a service of IoT Edge reads besides what `iotedge config apply` gives it (00-super.toml):
 * its own config.toml before that, and the other files of its config.d in the order of their names.
 */
#pragma once

#include "failure.h"
#include "toml.h"

#define OVERRIDES_MAX 32

typedef struct OverrideFile {
        char *path;
        bool later; /* than 00-super.toml, so that it wins */
        Toml toml;
} OverrideFile;

typedef struct Overrides {
        OverrideFile files[OVERRIDES_MAX]; /* in the order in which the service reads them */
        size_t count;
        Failure failure; /* of a file that is not TOML, with which the service does not start, or not read */
} Overrides;

/* Leaves out what this user may not read. */
void overrides_read(Overrides *ret, const char *root, const char *service);
void overrides_deinit(Overrides *overrides);

/* The value that wins among those files that are later than 00-super.toml, or among the others; NULL: none
 * says it. */
const TomlValue *overrides_get(const Overrides *overrides, bool later, const char *path,
                               const char **ret_file);
