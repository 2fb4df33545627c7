#include "dps-json.h"

#include <errno.h>
#include <limits.h>

#include <json-c/json_visit.h>

#define DEPTH_MAX 32

/* How many bytes the character at p has, 0 when it is not one (Unicode 15, table 3-7: no overlong forms, no
 * surrogates, nothing above U+10FFFF). The NUL at the end of the text ends a character that is cut short. */
static size_t utf8_length(const unsigned char *p) {
        unsigned char low = 0x80, high = 0xbf;
        size_t length;

        if (p[0] < 0x80)
                return 1;
        if (p[0] < 0xc2 || p[0] > 0xf4)
                return 0;
        length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
        switch (p[0]) {
        case 0xe0:
                low = 0xa0;
                break;
        case 0xed:
                high = 0x9f;
                break;
        case 0xf0:
                low = 0x90;
                break;
        case 0xf4:
                high = 0x8f;
                break;
        }
        if (p[1] < low || p[1] > high)
                return 0;
        for (size_t i = 2; i < length; i++)
                if (p[i] < 0x80 || p[i] > 0xbf)
                        return 0;
        return length;
}

/* json-c's own check takes overlong forms and surrogates. */
static bool utf8_valid(const char *text) {
        const unsigned char *p = (const unsigned char *) text;

        while (*p) {
                size_t length = utf8_length(p);

                if (length == 0)
                        return false;
                p += length;
        }
        return true;
}

/* json-c takes NaN and Infinity, also when strict, and would pass them on. */
static int refuse_nan(json_object *value, int flags, json_object *parent, const char *key, size_t *index,
                      void *userdata) {
        if (json_object_is_type(value, json_type_double) && strpbrk(json_object_to_json_string(value), "NI"))
                return JSON_C_VISIT_RETURN_ERROR;
        return JSON_C_VISIT_RETURN_CONTINUE;
}

int dps_json_parse(json_object **ret, const char *text, size_t size) {
        json_tokener *tokener;
        json_object *value;
        bool good;

        if (size == 0 || size >= INT_MAX || strlen(text) != size || !utf8_valid(text))
                return -EBADMSG;
        tokener = json_tokener_new_ex(DEPTH_MAX);
        if (!tokener)
                return -ENOMEM;
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
        value = json_tokener_parse_ex(tokener, text,
                                      (int) size + 1); /* with the NUL: the text is complete */
        good = json_tokener_get_error(tokener) == json_tokener_success;
        json_tokener_free(tokener);
        if (!good || json_c_visit(value, 0, refuse_nan, NULL) != 0) {
                json_object_put(value);
                return -EBADMSG;
        }
        *ret = value;
        return 0;
}
