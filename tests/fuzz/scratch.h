/*
 * Scratch: files for targets whose code reads and writes them by name, in a directory that goes with the
 * process.
 */
#pragma once

#include <stddef.h>

/* The path of a file of that name. Valid until the end of the process. */
const char *scratch_path(const char *name);

/* Replaces the file's content; returns its path. */
const char *scratch_write(const char *name, const void *data, size_t size);
