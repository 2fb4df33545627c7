/*
 * TomlNames: what a document has defined so far, so that a second definition is seen. Names are paths as in
 * toml.h, from the table that they stand in.
 */
#pragma once

#include "util.h"

typedef struct TomlName TomlName; /* a table, an element of an array of tables, or a value */

#define TOML_NAMES_BUCKETS 1024

typedef struct TomlNames {
        TomlName *root;
        TomlName *buckets[TOML_NAMES_BUCKETS];
        size_t count;
} TomlNames;

int toml_names_init(TomlNames *names);
void toml_names_deinit(TomlNames *names);

/* All return -EEXIST for what is defined already in a way that leaves no room for this one.
 *
 * [path] or [[path]]: *ret_table is where the assignments below it go. */
int toml_names_header(TomlNames *names, const char *path, bool array, TomlName **ret_table);
/* path = …, in this table. */
int toml_names_key(TomlNames *names, TomlName *table, const char *path);
/* { … }: a table of its own, which nothing outside can reach. */
int toml_names_inline_table(TomlNames *names, TomlName **ret_table);
