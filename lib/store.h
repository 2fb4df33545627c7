/*
 * Store: whole files, written so that a power cut leaves the old or the new content, never a part.
 *
 * Write: temporary file in the same directory, fsync, rename, fsync of the directory.
 */
#pragma once

#include <sys/types.h>

#include "util.h"

typedef struct StoreAttributes {
        mode_t mode;
        uid_t uid;        /* (uid_t) -1: leave */
        gid_t gid;        /* (gid_t) -1: leave */
        const char *like; /* a file in the same directory whose extended attributes are copied; or NULL */
} StoreAttributes;

/* name must not contain a slash. The temporary file is ".NAME.XXXXXX" and is gone after a failure; one that
 * a power cut left is removed by the next write of the same name. */
int store_write_at(int dir_fd, const char *name, const void *data, size_t size,
                   const StoreAttributes *attributes);

/* The same by path; the directory must exist. */
int store_write(const char *path, const void *data, size_t size, mode_t mode);

/* Removes a file and fsyncs its directory; 0 also when there was none. */
int store_remove(const char *path);

/* Makes a directory with this mode, and those above it with 0755, as far as they are missing. */
int store_make_directory(const char *path, mode_t mode);
