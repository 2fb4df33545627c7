/*
 * Scratch: files for code that opens them by name, in a temporary directory. A process that exits normally
 * removes the directory.
 */
#pragma once

#include <stddef.h>

/* The path of a file in the directory. Valid until the process ends. */
const char *scratch_path(const char *name);

/* Replaces the content of the file and returns its path. */
const char *scratch_write(const char *name, const void *data, size_t size);
