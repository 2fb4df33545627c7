/*
 * TomlScan: the characters of a TOML document: blanks, comments, strings and keys. For toml.c only.
 *
 * Functions that return int give -EBADMSG for what is not TOML, with the reason in scan->why.
 */
#pragma once

#include "toml-names.h"
#include "toml.h"

typedef struct Scan {
        const char *text, *p, *end;
        unsigned line;
        const char *why; /* a constant */
        TomlNames names;
        Toml toml; /* what was found so far */
} Scan;

/* Growing text, terminated by scan_terminate() only. */
typedef struct ScanText {
        char *data;
        size_t size, room;
} ScanText;

void scan_text_deinit(ScanText *t);
int scan_put(ScanText *t, char c);
int scan_put_string(ScanText *t, const char *string, size_t size);
int scan_terminate(ScanText *t); /* with a NUL that its size does not count */

int scan_refuse(Scan *s, const char *why); /* returns -EBADMSG */
bool scan_at(const Scan *s, const char *token);
bool scan_at_any(const Scan *s, const char *set); /* one of these characters? */
bool scan_at_newline(const Scan *s);
void scan_newline(Scan *s); /* at_newline() holds */
void scan_blanks(Scan *s);
int scan_comment(Scan *s); /* up to its newline; 0 also without one */

/* At the opening quote; the decoded text is appended. */
int scan_line_string(Scan *s, ScanText *t, char quote);
int scan_multi_line_string(Scan *s, ScanText *t, char quote);

/* Appends the parts of "a.b" to a path that may have parts already. */
int scan_key(Scan *s, ScanText *path);
