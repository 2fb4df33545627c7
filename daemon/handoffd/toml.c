#include "toml.h"

#include <errno.h>
#include <stdlib.h>

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

static int take_array(Scan *s, const ScanText *path, int depth) {
        int r;

        s->p++;
        for (;;) {
                r = skip_space(s);
                if (r < 0)
                        return r;
                if (scan_at(s, "]"))
                        break;
                r = take_value(s, path, false, depth + 1);
                if (r >= 0)
                        r = skip_space(s);
                if (r < 0)
                        return r;
                if (scan_at(s, ","))
                        s->p++;
                else if (!scan_at(s, "]"))
                        return scan_refuse(s, "an array without its end");
        }
        s->p++;
        return 0;
}

static int take_inline_pair(Scan *s, const ScanText *path, bool record, int depth) {
        CLEANUP(scan_text_deinit) ScanText full = {};
        int r;

        r = scan_put_string(&full, path->data, path->size);
        if (r >= 0)
                r = scan_key(s, &full);
        if (r < 0)
                return r;
        if (!scan_at(s, "="))
                return scan_refuse(s, "a key without '='");
        s->p++;
        scan_blanks(s);
        return take_value(s, &full, record, depth + 1);
}

/* Over several lines, with comments and a last comma, since TOML 1.1. */
static int take_inline_table(Scan *s, const ScanText *path, bool record, int depth) {
        int r;

        s->p++;
        for (;;) {
                r = skip_space(s);
                if (r < 0)
                        return r;
                if (scan_at(s, "}"))
                        break;
                r = take_inline_pair(s, path, record, depth);
                if (r >= 0)
                        r = skip_space(s);
                if (r < 0)
                        return r;
                if (scan_at(s, ","))
                        s->p++;
                else if (!scan_at(s, "}"))
                        return scan_refuse(s, "an inline table without its end");
        }
        s->p++;
        return 0;
}

/* Numbers, booleans, dates. A date and its time may be separated by one space. */
static int take_bare(Scan *s, const ScanText *path, bool record) {
        static const char characters[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_.:";
        const char *start = s->p;
        char *text;
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
        if (!strchr("0123456789+-", *start) && !(s->p - start == 4 && memcmp(start, "true", 4) == 0) &&
            !(s->p - start == 5 && memcmp(start, "false", 5) == 0) &&
            !(s->p - start == 3 && memcmp(start, "inf", 3) == 0) &&
            !(s->p - start == 3 && memcmp(start, "nan", 3) == 0))
                return scan_refuse(s, "a value that is neither quoted, nor a number, a boolean or a date");
        if (!record)
                return 0;
        text = strndup(start, (size_t) (s->p - start));
        if (!text)
                return -ENOMEM;
        r = add_value(s, path, TOML_BARE, text, s->line);
        if (r < 0)
                free(text);
        return r;
}

static int take_value(Scan *s, const ScanText *path, bool record, int depth) {
        int r;

        if (depth > DEPTH_MAX)
                return scan_refuse(s, "values nested too deeply");
        if (scan_at(s, "\"") || scan_at(s, "'"))
                return take_string(s, path, record);
        if (scan_at(s, "[")) {
                r = record ? add_value(s, path, TOML_ARRAY, NULL, s->line) : 0;
                return r < 0 ? r : take_array(s, path, depth);
        }
        if (scan_at(s, "{")) {
                r = record ? add_value(s, path, TOML_INLINE_TABLE, NULL, s->line) : 0;
                return r < 0 ? r : take_inline_table(s, path, record, depth);
        }
        return take_bare(s, path, record);
}

static int take_header(Scan *s, ScanText *table, TomlEntryType *ret_type) {
        bool array = scan_at(s, "[[");
        int r;

        *ret_type = array ? TOML_ARRAY_TABLE : TOML_TABLE;
        s->p += array ? 2 : 1;
        scan_blanks(s);
        table->size = 0;
        r = scan_key(s, table);
        if (r < 0)
                return r;
        if (!scan_at(s, array ? "]]" : "]"))
                return scan_refuse(s, "a table header without its end");
        s->p += array ? 2 : 1;
        return 0;
}

static int take_assignment(Scan *s, const ScanText *table, ScanText *path, bool record) {
        int r;

        path->size = 0;
        r = scan_put_string(path, table->data, table->size);
        if (r >= 0)
                r = scan_key(s, path);
        if (r < 0)
                return r;
        if (!scan_at(s, "="))
                return scan_refuse(s, "neither a table header, nor KEY = VALUE, nor a comment");
        s->p++;
        scan_blanks(s);
        return take_value(s, path, record, 0);
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

static int parse(Scan *s) {
        CLEANUP(scan_text_deinit) ScanText table = {}, path = {};
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
                        r = take_header(s, &table, &type);
                        in_array_table = type == TOML_ARRAY_TABLE;
                } else if (scan_at_newline(s) || scan_at(s, "#") || s->p >= s->end) {
                        entry = false;
                        r = 0;
                } else {
                        type = TOML_ASSIGNMENT;
                        r = take_assignment(s, &table, &path, !in_array_table);
                }
                if (r >= 0)
                        r = take_line_end(s);
                if (r >= 0 && entry)
                        r = add_entry(s, type, type == TOML_ASSIGNMENT ? &path : &table, start, line);
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
        r = memchr(text, '\0', size) ? scan_refuse(&s, "a NUL byte") : parse(&s);
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
