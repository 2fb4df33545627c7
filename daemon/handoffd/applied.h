/*
 * Applied: the five files that `iotedge config apply` makes of config.toml, one for each service: as they
 * were before, and how to put them back. It removes and writes each in place, so when it fails some may be
 * new, some old, one missing or half written.
 */
#pragma once

#include "failure.h"
#include "store.h"

#define APPLIED_COUNT 5

typedef struct AppliedCopy {
        char *text; /* NULL: there was none */
        size_t size;
        StoreAttributes attributes;
} AppliedCopy;

typedef struct Applied {
        bool known;
        AppliedCopy copies[APPLIED_COUNT];
} Applied;

/* FAILURE_RUNTIME_MISSING: a directory that `iotedge config apply` needs does not exist. */
int applied_read(Applied *ret, const char *root, Failure *reterr);
void applied_deinit(Applied *applied);

/* Is every file that was there before still there, with something in it? */
bool applied_whole(const Applied *before, const char *root);

/* Writes or removes those that differ. */
int applied_put_back(const Applied *before, const char *root, Failure *reterr);
