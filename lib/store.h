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

typedef enum StoreState {
        STORE_NONE,
        STORE_PREPARED,  /* the temporary file has the new content */
        STORE_EXCHANGED, /* the temporary file has the old content */
        STORE_PLACED,    /* there is no temporary file */
} StoreState;

/* A file with new content, written beside its place. Zeroed, it is empty. */
typedef struct StoreFile {
        StoreState state;
        int dir_fd; /* owned */
        char name[128], temporary[256];
} StoreFile;

/* Writes the temporary file ".NAME.dps-XXXXXX" and fsyncs it; one that a power cut left is removed first.
 * name must not contain a slash. -EBUSY: name is a mount point. After a failure there is no temporary file.
 */
int store_prepare_at(StoreFile *ret, int dir_fd, const char *name, const void *data, size_t size,
                     const StoreAttributes *attributes);

int store_commit(StoreFile *f);   /* puts the new content into its place */
int store_exchange(StoreFile *f); /* the same, and keeps the old file, if there is one */
int store_put_back(StoreFile *f); /* undoes store_exchange(): the old file, the same inode, or no file */
void store_discard(StoreFile *f); /* removes the temporary file; the place stays as it is */

/* Removes temporary files of this name that a power cut left. */
void store_remove_leftovers(int dir_fd, const char *name);

/* Prepares and commits. */
int store_write_at(int dir_fd, const char *name, const void *data, size_t size,
                   const StoreAttributes *attributes);

/* A symbolic link instead of a file; of the attributes only the owner counts. */
int store_link_at(int dir_fd, const char *name, const char *target, const StoreAttributes *attributes);

/* store_write_at() by path; the directory must exist. */
int store_write_as(const char *path, const void *data, size_t size, const StoreAttributes *attributes);
int store_write(const char *path, const void *data, size_t size, mode_t mode);

/* Removes a file and fsyncs its directory; 0 also when there was none. */
int store_remove(const char *path);

/* Makes a directory with this mode, and those above it with 0755, as far as they are missing. */
int store_make_directory(const char *path, mode_t mode);
