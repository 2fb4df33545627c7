/*
 * DeviceInfo: identityd's own files: device_info (whom it runs as: TOML with hub_name,
 * local_gateway_hostname and device_id, the same in all releases since 1.2.3) and prev_state (written once
 * the hub took its token).
 *
 * The directory belongs to another user, who could swap anything in it: it is opened once, by its name in a
 * directory that nobody else may write to, and everything is relative to that. No link in it is followed,
 * nothing but regular files is read or replaced.
 */
#pragma once

#include "failure.h"
#include "store.h"

typedef struct DeviceInfo {
        char *hub, *device_id;
} DeviceInfo;

/* Tells whether a file was written anew, whatever the clock says: inode and time. "": there is none. */
typedef struct FileMark {
        char text[64];
} FileMark;

/* Host names with or without a port, and what IoT Hub allows in a device ID. Nothing in them has to be
 * escaped anywhere. */
bool hub_name_valid(const char *name);
bool device_id_valid(const char *id);

/* -ENOENT: none; -EBADMSG: one that identityd would not understand either; else why it can't be read. */
int device_info_read(DeviceInfo *ret, const char *root);
void device_info_deinit(DeviceInfo *info);

/* Does something stand in device_info's place that must not be replaced? */
int device_info_refusal(const char *root, Failure *reterr);

/* Written beside its place, with owner and group of the directory, 0644. */
int device_info_prepare(StoreFile *ret, const char *root, const char *hub, const char *device_id,
                        Failure *reterr);

void device_info_remove_leftovers(const char *root); /* temporary files that a power cut left */

/* 0 also when there was none. */
int device_info_remove(const char *root, Failure *reterr);

FileMark prev_state_mark(const char *root);
bool file_mark_newer(const FileMark *now, const FileMark *before);
