#include "toml.h"

#include <errno.h>
#include <stdlib.h>

#include "toml-bare.h"
#include "toml-scan.h"

#define DEPTH_MAX 32

static int add_value(Scan *s, const ScanText *path, TomlValueType type, char *text, unsigned line) {
        CLEANUP(freep) char *copy = strndup(path->data ? path->data : "", path->size);
        TomlValue *longer;

        if (!copy)
                return -ENOMEM;
        longer = reallocarray(s->toml.values, s->toml.value_count + 1, sizeof(*longer));
        if (!longer)
                return -ENOMEM;
        longer[s->toml.value_count++] =
                (TomlValue){ .path = TAKE(copy), .type = type, .text = text, .line = line };
        s->toml.values = longer;
        return 0;
}

static int take_value(Scan *s, const ScanText *path, bool record, int depth);

static int take_string(Scan *s, const ScanText *path, bool record) {
        CLEANUP(scan_text_deinit) ScanText text = {};
        unsigned line = s->line;
        char quote = *s->p;
        const char multi[] = { quote, quote, quote, '\0' };
        int r;

        r = scan_at(s, multi) ? scan_multi_line_string(s, &text, quote) : scan_line_string(s, &text, quote);
        for (char *nul; r >= 0 && text.size > 0 && (nul = memchr(text.data, '\0', text.size));)
                *nul = '\x1a';
        if (r >= 0)
                r = scan_put(&text, '\0');
        if (r < 0 || !record)
                return r;
        r = add_value(s, path, TOML_STRING, text.data, line);
        if (r >= 0)
                text = (ScanText){};
        return r;
}

static int skip_space(Scan *s) {
        int r;

        for (;;) {
                scan_blanks(s);
                r = scan_comment(s);
                if (r < 0 || !scan_at_newline(s))
                        return r;
                scan_newline(s);
        }
}

/* Refuses what is defined a second time. */
static int define(Scan *s, int r) {
        return r == -EEXIST ? scan_refuse(s, "it is defined a second time") : r;
}

static int take_pair(Scan *s, const ScanText *prefix, ScanText *path, TomlName *table, bool record,
                     int depth) {
        int r;

        path->size = 0;
        r = scan_put_string(path, prefix->data, prefix->size);
        if (r >= 0)
                r = scan_key(s, path);
        if (r >= 0)
                r = scan_terminate(path);
        if (r < 0)
                return r;
        if (!scan_at(s, "="))
                return scan_refuse(s, depth > 0 ? "a key without '='"
                                                : "neither a table header, nor KEY = VALUE, nor a comment");
        r = define(s, toml_names_key(&s->names, table, path->data + prefix->size + (prefix->size > 0)));
        if (r < 0)
                return r;
        s->p++;
        scan_blanks(s);
        return take_value(s, path, record, depth);
}

/* The pairs of an inline table or the values of an array (table NULL), with their end: over several lines,
 * with comments and a last comma; in a table since TOML 1.1. */
static int take_items(Scan *s, const ScanText *path, TomlName *table, bool record, int depth) {
        CLEANUP(scan_text_deinit) ScanText full = {};
        const char *end = table ? "}" : "]";
        int r;

        s->p++;
        for (;;) {
                r = skip_space(s);
                if (r < 0)
                        return r;
                if (scan_at(s, end))
                        break;
                r = table ? take_pair(s, path, &full, table, record, depth + 1)
                          : take_value(s, path, false, depth + 1);
                if (r >= 0)
                        r = skip_space(s);
                if (r < 0)
                        return r;
                if (scan_at(s, ","))
                        s->p++;
                else if (!scan_at(s, end))
                        return scan_refuse(s, table ? "an inline table without its end"
                                                    : "an array without its end");
        }
        s->p++;
        return 0;
}

static int take_array(Scan *s, const ScanText *path, bool record, int depth) {
        int r = record ? add_value(s, path, TOML_ARRAY, NULL, s->line) : 0;

        return r < 0 ? r : take_items(s, path, NULL, false, depth);
}

static int take_inline_table(Scan *s, const ScanText *path, bool record, int depth) {
        TomlName *table;
        int r = record ? add_value(s, path, TOML_INLINE_TABLE, NULL, s->line) : 0;

        if (r >= 0)
                r = toml_names_inline_table(&s->names, &table);
        return r < 0 ? r : take_items(s, path, table, record, depth);
}

/* Numbers, booleans, dates. A date and its time may be separated by one space. */
static int take_bare(Scan *s, const ScanText *path, bool record) {
        static const char characters[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_.:";
        CLEANUP(freep) char *text = NULL;
        const char *start = s->p;
        int r;

        while (scan_at_any(s, characters))
                s->p++;
        if (s->p - start == 10 && start[4] == '-' && s->end - s->p > 1 && *s->p == ' ' && s->p[1] >= '0' &&
            s->p[1] <= '9') {
                s->p++;
                while (scan_at_any(s, characters))
                        s->p++;
        }
        if (s->p == start)
                return scan_refuse(s, "a value is missing");
        text = strndup(start, (size_t) (s->p - start));
        if (!text)
                return -ENOMEM;
        if (!toml_bare_valid(text))
                return scan_refuse(s, "a value that is neither quoted, nor a number, a boolean or a date");
        r = record ? add_value(s, path, TOML_BARE, text, s->line) : 0;
        if (r >= 0 && record)
                (void) TAKE(text);
        return r;
}

static int take_value(Scan *s, const ScanText *path, bool record, int depth) {
        if (depth > DEPTH_MAX)
                return scan_refuse(s, "values nested too deeply");
        if (scan_at(s, "\"") || scan_at(s, "'"))
                return take_string(s, path, record);
        if (scan_at(s, "["))
                return take_array(s, path, record, depth);
        if (scan_at(s, "{"))
                return take_inline_table(s, path, record, depth);
        return take_bare(s, path, record);
}

static int take_header(Scan *s, ScanText *path, TomlName **ret_table, TomlEntryType *ret_type) {
        bool array = scan_at(s, "[[");
        int r;

        *ret_type = array ? TOML_ARRAY_TABLE : TOML_TABLE;
        s->p += array ? 2 : 1;
        scan_blanks(s);
        path->size = 0;
        r = scan_key(s, path);
        if (r >= 0)
                r = scan_terminate(path);
        if (r < 0)
                return r;
        if (!scan_at(s, array ? "]]" : "]"))
                return scan_refuse(s, "a table header without its end");
        s->p += array ? 2 : 1;
        return define(s, toml_names_header(&s->names, path->data, array, ret_table));
}

static int add_entry(Scan *s, TomlEntryType type, const ScanText *path, const char *start, unsigned line) {
        TomlEntry *longer = reallocarray(s->toml.entries, s->toml.entry_count + 1, sizeof(*longer));
        char *copy;

        if (!longer)
                return -ENOMEM;
        s->toml.entries = longer;
        copy = strndup(path->data, path->size);
        if (!copy)
                return -ENOMEM;
        longer[s->toml.entry_count++] = (TomlEntry){ .type = type,
                                                     .path = copy,
                                                     .start = (size_t) (start - s->text),
                                                     .end = (size_t) (s->p - s->text),
                                                     .line = line };
        return 0;
}

static int take_line_end(Scan *s) {
        int r;

        scan_blanks(s);
        r = scan_comment(s);
        if (r < 0)
                return r;
        if (s->p >= s->end)
                return 0;
        if (!scan_at_newline(s))
                return scan_refuse(s, "more on the line than one value");
        scan_newline(s);
        return 0;
}

/* Characters only, so that nobody who reads it later may stumble. */
static int check_encoding(Scan *s) {
        for (const char *p = s->text; p < s->end;) {
                size_t length = *p ? utf8_length(p) : 0;

                if (length == 0)
                        return scan_refuse(s, *p ? "it is not UTF-8" : "a NUL byte");
                if (*p == '\n')
                        s->line++;
                p += length;
        }
        s->line = 1;
        return 0;
}

static int parse(Scan *s) {
        CLEANUP(scan_text_deinit) ScanText header = {}, path = {};
        TomlName *table = s->names.root;
        bool in_array_table = false;
        TomlEntryType type = TOML_ASSIGNMENT;
        int r;

        if (scan_at(s, "\xef\xbb\xbf")) /* a byte order mark */
                s->p += 3;
        while (s->p < s->end) {
                const char *start = s->p;
                unsigned line = s->line;
                bool entry = true;

                scan_blanks(s);
                if (scan_at(s, "[")) {
                        r = take_header(s, &header, &table, &type);
                        in_array_table = type == TOML_ARRAY_TABLE;
                } else if (scan_at_newline(s) || scan_at(s, "#") || s->p >= s->end) {
                        entry = false;
                        r = 0;
                } else {
                        type = TOML_ASSIGNMENT;
                        r = take_pair(s, &header, &path, table, !in_array_table, 0);
                }
                if (r >= 0)
                        r = take_line_end(s);
                if (r >= 0 && entry)
                        r = add_entry(s, type, type == TOML_ASSIGNMENT ? &path : &header, start, line);
                if (r < 0)
                        return r;
        }
        return 0;
}

int toml_parse(Toml *ret, const char *text, size_t size, unsigned *ret_line, const char **ret_why) {
        Scan s = { .text = text, .p = text, .end = text + size, .line = 1 };
        const char *newline = memchr(text, '\n', size);
        int r;

        s.toml.crlf = newline && newline > text && newline[-1] == '\r';
        r = check_encoding(&s);
        if (r >= 0)
                r = toml_names_init(&s.names);
        if (r >= 0)
                r = parse(&s);
        toml_names_deinit(&s.names);
        if (r < 0) {
                *ret_line = s.line;
                *ret_why = s.why ? s.why : "out of memory";
                toml_deinit(&s.toml);
                return r;
        }
        *ret = s.toml;
        return 0;
}

void toml_deinit(Toml *toml) {
        for (size_t i = 0; i < toml->entry_count; i++)
                free(toml->entries[i].path);
        for (size_t i = 0; i < toml->value_count; i++) {
                free(toml->values[i].path);
                free(toml->values[i].text);
        }
        free(toml->entries);
        free(toml->values);
        *toml = (Toml){};
}

const TomlValue *toml_get(const Toml *toml, const char *path) {
        for (size_t i = 0; i < toml->value_count; i++)
                if (streq(toml->values[i].path, path))
                        return &toml->values[i];
        return NULL;
}

bool toml_path_below(const char *path, const char *table) {
        size_t n = strlen(table);

        return strncmp(path, table, n) == 0 && (path[n] == '\0' || path[n] == TOML_SEPARATOR[0]);
}
