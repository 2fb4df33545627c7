#include "toml-bare.h"

#include <stddef.h>
#include <string.h>

#include "util.h"

#define DECIMAL "0123456789"

/* --- numbers --- */

/* Behind digits with single underscores between them; NULL: there are none. */
static const char *skip_digits(const char *p, const char *digits) {
        for (;;) {
                size_t n = strspn(p, digits);

                if (n == 0)
                        return NULL;
                p += n;
                if (*p != '_')
                        return p;
                p++;
        }
}

static bool is_decimal(const char *p) {
        if (*p == '+' || *p == '-')
                p++;
        if (streq(p, "inf") || streq(p, "nan"))
                return true;
        if (p[0] == '0' && p[1] && strchr(DECIMAL "_", p[1])) /* a zero in front */
                return false;
        p = skip_digits(p, DECIMAL);
        if (p && *p == '.')
                p = skip_digits(p + 1, DECIMAL);
        if (p && (*p == 'e' || *p == 'E')) {
                p++;
                if (*p == '+' || *p == '-')
                        p++;
                p = skip_digits(p, DECIMAL);
        }
        return p && *p == '\0';
}

static bool is_number(const char *p) {
        const char *digits = strncmp(p, "0x", 2) == 0   ? DECIMAL "abcdefABCDEF"
                             : strncmp(p, "0o", 2) == 0 ? "01234567"
                             : strncmp(p, "0b", 2) == 0 ? "01"
                                                        : NULL;

        if (!digits)
                return is_decimal(p);
        p = skip_digits(p + 2, digits);
        return p && *p == '\0';
}

/* --- dates and times: take_x() give what is behind an x, NULL when there is none --- */

static const char *take_field(const char *p, size_t digits, unsigned min, unsigned max, unsigned *ret) {
        unsigned value = 0;

        for (size_t i = 0; i < digits; i++, p++) {
                if (*p < '0' || *p > '9')
                        return NULL;
                value = 10 * value + (unsigned) (*p - '0');
        }
        if (ret)
                *ret = value;
        return value >= min && value <= max ? p : NULL;
}

static const char *take_date(const char *p) {
        static const unsigned char days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
        unsigned year, month;
        bool leap;

        p = take_field(p, 4, 1, 9999, &year);
        p = p && *p == '-' ? take_field(p + 1, 2, 1, 12, &month) : NULL;
        if (!p || *p != '-')
                return NULL;
        leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        return take_field(p + 1, 2, 1, days[month - 1] + (month == 2 && leap ? 1u : 0u), NULL);
}

/* Seconds may be left out since TOML 1.1. */
static const char *take_time(const char *p) {
        size_t n;

        p = take_field(p, 2, 0, 23, NULL);
        p = p && *p == ':' ? take_field(p + 1, 2, 0, 59, NULL) : NULL;
        if (!p || *p != ':')
                return p;
        p = take_field(p + 1, 2, 0, 59, NULL);
        if (!p || *p != '.')
                return p;
        n = strspn(p + 1, DECIMAL);
        return n > 0 ? p + 1 + n : NULL;
}

static const char *take_offset(const char *p) {
        if (*p == 'Z' || *p == 'z')
                return p + 1;
        if (*p != '+' && *p != '-')
                return p;
        p = take_field(p + 1, 2, 0, 23, NULL);
        return p && *p == ':' ? take_field(p + 1, 2, 0, 59, NULL) : NULL;
}

static bool is_date(const char *p) {
        p = take_date(p);
        if (p && *p != '\0' && strchr("Tt ", *p)) {
                p = take_time(p + 1);
                p = p ? take_offset(p) : NULL;
        }
        return p && *p == '\0';
}

static bool is_time(const char *p) {
        p = take_time(p);
        return p && *p == '\0';
}

bool toml_bare_valid(const char *text) {
        return streq(text, "true") || streq(text, "false") || is_number(text) || is_date(text) ||
               is_time(text);
}
