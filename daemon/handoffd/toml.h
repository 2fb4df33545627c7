/*
 * Toml: where things stand in a TOML document, for an editor that must not change a byte more than it has
 * to. Pure code. TOML 1.1, which IoT Edge reads since 1.6; its older releases refuse what 1.0 does not have.
 *
 * The document becomes a list of entries (headers and assignments, in order, with their byte ranges) and a
 * list of values. Comments and blank lines belong to no entry. What is not TOML is refused with its line,
 * all of it: strings, numbers and dates, UTF-8, and what is defined twice.
 */
#pragma once

#include "util.h"

/* Joins the parts of a path. No part contains it or is empty (toml-scan.c). */
#define TOML_SEPARATOR "\x1f"

typedef enum TomlEntryType {
        TOML_TABLE,       /* [a.b] */
        TOML_ARRAY_TABLE, /* [[a.b]] */
        TOML_ASSIGNMENT,  /* c.d = …: its path includes the table's */
} TomlEntryType;

typedef struct TomlEntry {
        TomlEntryType type;
        char *path;
        size_t start,
                end;   /* whole lines: from the first byte of the first to behind the newline of the last */
        unsigned line; /* from 1 */
} TomlEntry;

typedef enum TomlValueType {
        TOML_STRING,
        TOML_BARE,  /* number, boolean, date: as written */
        TOML_ARRAY, /* what is in it is not looked at further */
        TOML_INLINE_TABLE,
} TomlValueType;

typedef struct TomlValue {
        char *path;
        TomlValueType type;
        char *text; /* decoded, for TOML_STRING, with SUB (0x1a) for NUL; as written, for TOML_BARE; else
                       NULL */
        unsigned line;
} TomlValue;

typedef struct Toml {
        TomlEntry *entries;
        size_t entry_count;
        TomlValue *values;
        size_t value_count;
        bool crlf; /* the first line ends in CR LF */
} Toml;

/* text[size] has to be a NUL. -EBADMSG: not TOML; *ret_line and *ret_why (a constant) say where and why. */
int toml_parse(Toml *ret, const char *text, size_t size, unsigned *ret_line, const char **ret_why);
void toml_deinit(Toml *toml);

/* The value at a path of parts joined by TOML_SEPARATOR, or NULL. */
const TomlValue *toml_get(const Toml *toml, const char *path);

/* Is the path the table itself or something below it? */
bool toml_path_below(const char *path, const char *table);
