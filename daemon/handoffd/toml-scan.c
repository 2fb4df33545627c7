#include "toml-scan.h"

#include <errno.h>
#include <stdlib.h>

#define BARE_KEY "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
#define ESCAPE   '\x1e'

int scan_refuse(Scan *s, const char *why) {
        s->why = why;
        return -EBADMSG;
}

bool scan_at(const Scan *s, const char *token) {
        size_t n = strlen(token);

        return (size_t) (s->end - s->p) >= n && memcmp(s->p, token, n) == 0;
}

bool scan_at_any(const Scan *s, const char *set) {
        return s->p < s->end && *s->p != '\0' && strchr(set, *s->p);
}

void scan_blanks(Scan *s) {
        while (scan_at_any(s, " \t"))
                s->p++;
}

bool scan_at_newline(const Scan *s) {
        return scan_at(s, "\n") || scan_at(s, "\r\n");
}

void scan_newline(Scan *s) {
        s->p += scan_at(s, "\r\n") ? 2 : 1;
        s->line++;
}

static bool is_control(char c) {
        return ((unsigned char) c < 0x20 && c != '\t') || c == 0x7f;
}

int scan_comment(Scan *s) {
        if (!scan_at(s, "#"))
                return 0;
        while (s->p < s->end && !scan_at_newline(s)) {
                if (is_control(*s->p))
                        return scan_refuse(s, "a control character in a comment");
                s->p++;
        }
        return 0;
}

void scan_text_deinit(ScanText *t) {
        free(t->data);
        *t = (ScanText){};
}

int scan_put(ScanText *t, char c) {
        if (t->size == t->room) {
                size_t room = t->room ? 2 * t->room : 32;
                char *longer = realloc(t->data, room);

                if (!longer)
                        return -ENOMEM;
                t->data = longer;
                t->room = room;
        }
        t->data[t->size++] = c;
        return 0;
}

int scan_put_string(ScanText *t, const char *string, size_t size) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < size; i++)
                r = scan_put(t, string[i]);
        return r;
}

int scan_terminate(ScanText *t) {
        int r = scan_put(t, '\0');

        if (r >= 0)
                t->size--;
        return r;
}

static int put_code_point(ScanText *t, uint32_t c) {
        char utf8[4];
        size_t n;

        if (c < 0x80) {
                utf8[0] = (char) c;
                n = 1;
        } else if (c < 0x800) {
                utf8[0] = (char) (0xc0 | c >> 6);
                utf8[1] = (char) (0x80 | (c & 0x3f));
                n = 2;
        } else if (c < 0x10000) {
                utf8[0] = (char) (0xe0 | c >> 12);
                utf8[1] = (char) (0x80 | (c >> 6 & 0x3f));
                utf8[2] = (char) (0x80 | (c & 0x3f));
                n = 3;
        } else {
                utf8[0] = (char) (0xf0 | c >> 18);
                utf8[1] = (char) (0x80 | (c >> 12 & 0x3f));
                utf8[2] = (char) (0x80 | (c >> 6 & 0x3f));
                utf8[3] = (char) (0x80 | (c & 0x3f));
                n = 4;
        }
        return scan_put_string(t, utf8, n);
}

static int take_unicode(Scan *s, ScanText *t, size_t digits) {
        char hex[9] = {};
        uint32_t c;

        if ((size_t) (s->end - s->p) < digits)
                return scan_refuse(s, "an unfinished escape sequence");
        memcpy(hex, s->p, digits);
        if (strspn(hex, "0123456789abcdefABCDEF") != digits)
                return scan_refuse(s, "an escape sequence without its hexadecimal digits");
        s->p += digits;
        c = (uint32_t) strtoul(hex, NULL, 16);
        if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
                return scan_refuse(s, "an escape sequence for what is not a character");
        return put_code_point(t, c);
}

static int take_escape(Scan *s, ScanText *t) {
        static const char names[] = "btnfre\"\\", characters[] = "\b\t\n\f\r\x1b\"\\";
        const char *found;

        s->p++; /* the backslash */
        if (s->p >= s->end)
                return scan_refuse(s, "an unfinished escape sequence");
        if (scan_at_any(s, "xuU")) {
                size_t digits = *s->p == 'x' ? 2 : *s->p == 'u' ? 4 : 8;

                s->p++;
                return take_unicode(s, t, digits);
        }
        found = *s->p ? strchr(names, *s->p) : NULL;
        if (!found)
                return scan_refuse(s, "an unknown escape sequence");
        s->p++;
        return scan_put(t, characters[found - names]);
}

int scan_line_string(Scan *s, ScanText *t, char quote) {
        int r;

        for (s->p++; s->p < s->end && *s->p != quote;) {
                if (is_control(*s->p))
                        return scan_refuse(s, "a string that does not end on its line");
                if (*s->p == '\\' && quote == '"')
                        r = take_escape(s, t);
                else
                        r = scan_put(t, *s->p++);
                if (r < 0)
                        return r;
        }
        if (s->p >= s->end)
                return scan_refuse(s, "a string without its end");
        s->p++;
        return 0;
}

/* A backslash at the end of a line eats the white space up to the next character. */
static bool skip_line_continuation(Scan *s) {
        const char *p = s->p + 1;

        while (p < s->end && (*p == ' ' || *p == '\t'))
                p++;
        if (!(p < s->end && (*p == '\n' || (*p == '\r' && p + 1 < s->end && p[1] == '\n'))))
                return false;
        s->p = p;
        for (;;) {
                scan_blanks(s);
                if (!scan_at_newline(s))
                        return true;
                scan_newline(s);
        }
}

int scan_multi_line_string(Scan *s, ScanText *t, char quote) {
        const char end[] = { quote, quote, quote, '\0' };
        int r = 0;

        s->p += 3;
        if (scan_at_newline(s))
                scan_newline(s);
        while (!scan_at(s, end)) {
                if (s->p >= s->end)
                        return scan_refuse(s, "a multi-line string without its end");
                if (scan_at_newline(s)) {
                        r = scan_put(t, '\n');
                        scan_newline(s);
                } else if (*s->p == '\\' && quote == '"') {
                        if (!skip_line_continuation(s))
                                r = take_escape(s, t);
                } else if (is_control(*s->p))
                        return scan_refuse(s, "a control character in a string");
                else
                        r = scan_put(t, *s->p++);
                if (r < 0)
                        return r;
        }
        s->p += 3;
        /* up to two quotes may stand before the closing three */
        for (int more = 0; more < 2 && s->p < s->end && *s->p == quote; more++) {
                r = scan_put(t, *s->p++);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* A key may be empty and have any character. The path has ESCAPE for an empty part, and ESCAPE and a letter
 * for a control character. */
static int take_quoted_part(Scan *s, ScanText *path) {
        CLEANUP(scan_text_deinit) ScanText part = {};
        int r;

        r = scan_line_string(s, &part, *s->p);
        if (r >= 0 && part.size == 0)
                r = scan_put(path, ESCAPE);
        for (size_t i = 0; r >= 0 && i < part.size; i++) {
                bool control = (unsigned char) part.data[i] < 0x20;

                if (control)
                        r = scan_put(path, ESCAPE);
                if (r >= 0)
                        r = scan_put(path, control ? (char) (part.data[i] + '@') : part.data[i]);
        }
        return r;
}

static int take_key_part(Scan *s, ScanText *path) {
        int r;

        if (s->p >= s->end)
                return scan_refuse(s, "a key is missing");
        if (*s->p == '"' || *s->p == '\'')
                return take_quoted_part(s, path);
        if (!scan_at_any(s, BARE_KEY))
                return scan_refuse(s, "a key is missing");
        while (scan_at_any(s, BARE_KEY)) {
                r = scan_put(path, *s->p++);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Appends "a<sep>b" to a path that may have parts already. */
int scan_key(Scan *s, ScanText *path) {
        int r;

        for (;;) {
                if (path->size > 0) {
                        r = scan_put(path, TOML_SEPARATOR[0]);
                        if (r < 0)
                                return r;
                }
                r = take_key_part(s, path);
                if (r < 0)
                        return r;
                scan_blanks(s);
                if (!scan_at(s, "."))
                        return 0;
                s->p++;
                scan_blanks(s);
        }
}
