/*
 * ScopeFiles: where IdScope= stands, and how it gets into a file and out of it again without changing
 * anything else there.
 */
#pragma once

#include "config.h"

#define SCOPE_DROPIN_DIR "/etc/" CONFIG_DIR "/provisiond.conf.d"
#define SCOPE_DROPIN     SCOPE_DROPIN_DIR "/50-scope.conf"

/* Sets it in the file; other lines, a link to it, its mode and owner stay. A new file that hides one of its
 * name and of a lower precedence begins with a copy of that one, whose path is *ret_copied, else NULL; the
 * caller frees. Returns a negative errno; -ENOLINK: a link that leads nowhere. */
int scope_set(const char *path, const char *scope, char **ret_copied);

/* Removes it from the file; one that says nothing else, and hides none further down, goes as a whole. */
int scope_unset(const char *path);

/* The file whose IdScope= counts, without the line, or one that would count without it and is not ours;
 * NULL: none does. "credential …" is one, too. */
int scope_file(char **ret, const ConfigPaths *paths);

/* The daemon may write neither; what a package or the boot loader brought comes back with them. */
bool scope_file_is_ours(const char *file, const ConfigPaths *paths);
