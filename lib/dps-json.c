#include "dps-json.h"

#include <errno.h>
#include <limits.h>

#include <json-c/json_visit.h>

#define DEPTH_MAX 32

/* json-c's own check takes overlong forms and surrogates. */
static bool utf8_valid(const char *text) {
        while (*text) {
                size_t length = utf8_length(text);

                if (length == 0)
                        return false;
                text += length;
        }
        return true;
}

/* json-c takes NaN and Infinity, also when strict, and would pass them on. */
static int refuse_nan(json_object *value, int flags, json_object *parent, const char *key, size_t *index,
                      void *userdata) {
        const char *text;

        if (!json_object_is_type(value, json_type_double))
                return JSON_C_VISIT_RETURN_CONTINUE;
        text = json_object_to_json_string(value);
        return text && !strpbrk(text, "NI") ? JSON_C_VISIT_RETURN_CONTINUE : JSON_C_VISIT_RETURN_ERROR;
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

int dps_json_add(json_object *object, const char *key, json_object *value) {
        if (!value)
                return -ENOMEM;
        if (json_object_object_add(object, key, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}
