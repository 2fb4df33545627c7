/*
 * Applied: the files that `iotedge config apply` makes from config.toml, one for each of five services, as
 * they were before a hand-off. They can be put back. `iotedge config apply` removes and writes each file in
 * place. When it fails, some files may be new, some old, and one missing or half written.
 */
#pragma once

#include "failure.h"
#include "store.h"

#define APPLIED_COUNT 5

typedef struct AppliedCopy {
        char *text; /* NULL: there was no file */
        size_t size;
        bool link; /* a symbolic link, and text is where it leads to */
        StoreAttributes attributes;
} AppliedCopy;

typedef struct Applied {
        size_t count; /* of the services; 0: not read */
        AppliedCopy copies[APPLIED_COUNT];
} Applied;

/* edged: also that of aziot-edged. FAILURE_RUNTIME_MISSING: a directory that `iotedge config apply` needs
 * does not exist. */
int applied_read(Applied *ret, const char *root, bool edged, Failure *reterr);
void applied_deinit(Applied *applied);

/* The first service whose file is missing or empty, as far as this user can see; NULL: none. */
const char *applied_find_lost(const char *root, bool edged);

/* True when every file that existed before still exists and is not empty. */
bool applied_whole(const Applied *before, const char *root);

/* Writes or removes the files that differ. */
int applied_put_back(const Applied *before, const char *root, Failure *reterr);
