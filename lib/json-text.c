#include "json-text.h"

#include <errno.h>

#define DIGITS "0123456789"

typedef struct Scan {
        const char *p;
        unsigned depth_left;
} Scan;

static bool scan_value(Scan *s);

static void skip_space(Scan *s) {
        s->p += strspn(s->p, " \t\n\r");
}

static bool skip(Scan *s, char c) {
        if (*s->p != c)
                return false;
        s->p++;
        return true;
}

static bool scan_word(Scan *s, const char *word) {
        for (; *word; word++)
                if (!skip(s, *word))
                        return false;
        return true;
}

static bool scan_digits(Scan *s) {
        size_t n = strspn(s->p, DIGITS);

        s->p += n;
        return n > 0;
}

static bool scan_number(Scan *s) {
        (void) skip(s, '-');
        if (!skip(s, '0') && !scan_digits(s))
                return false;
        if (skip(s, '.') && !scan_digits(s))
                return false;
        if (*s->p != 'e' && *s->p != 'E')
                return true;
        s->p++;
        if (!skip(s, '+'))
                (void) skip(s, '-');
        return scan_digits(s);
}

/* Behind the backslash. */
static bool scan_escape(Scan *s) {
        if (!skip(s, 'u')) {
                if (*s->p == '\0' || !strchr("\"\\/bfnrt", *s->p))
                        return false;
                s->p++;
                return true;
        }
        for (int i = 0; i < 4; i++, s->p++)
                if (*s->p == '\0' || !strchr(DIGITS "abcdefABCDEF", *s->p))
                        return false;
        return true;
}

static bool scan_string(Scan *s) {
        if (!skip(s, '"'))
                return false;
        while (*s->p != '"') {
                size_t length = utf8_length(s->p);

                if (length == 0 || (unsigned char) *s->p < ' ')
                        return false;
                if (!skip(s, '\\'))
                        s->p += length;
                else if (!scan_escape(s))
                        return false;
        }
        s->p++;
        return true;
}

static bool scan_member(Scan *s) {
        skip_space(s);
        if (!scan_string(s))
                return false;
        skip_space(s);
        return skip(s, ':') && scan_value(s);
}

/* Behind the opening bracket. */
static bool scan_container(Scan *s, char end, bool (*scan_item)(Scan *s)) {
        if (s->depth_left == 0)
                return false;
        s->depth_left--;
        skip_space(s);
        if (*s->p != end)
                do
                        if (!scan_item(s))
                                return false;
                while (skip(s, ','));
        s->depth_left++;
        return skip(s, end);
}

/* With the white space around it. The recursion is as deep as depth_max. */
static bool scan_value(Scan *s) {
        bool good;

        skip_space(s);
        if (skip(s, '{'))
                good = scan_container(s, '}', scan_member);
        else if (skip(s, '['))
                good = scan_container(s, ']', scan_value);
        else if (*s->p == '"')
                good = scan_string(s);
        else if (*s->p == 't')
                good = scan_word(s, "true");
        else if (*s->p == 'f')
                good = scan_word(s, "false");
        else if (*s->p == 'n')
                good = scan_word(s, "null");
        else
                good = scan_number(s);
        skip_space(s);
        return good;
}

int json_text_scan(const char *text, unsigned depth_max, const char **ret_end) {
        Scan s = { .p = text, .depth_left = depth_max };
        bool good = scan_value(&s);

        *ret_end = s.p;
        return good ? 0 : -EBADMSG;
}
