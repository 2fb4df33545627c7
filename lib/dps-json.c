#include "dps-json.h"

#include <errno.h>
#include <limits.h>

#include "json-text.h"

int dps_json_check(const char *text, size_t size) {
        const char *end;

        if (size == 0 || size >= INT_MAX || strlen(text) != size ||
            json_text_scan(text, DPS_JSON_DEPTH_MAX, &end) < 0)
                return -EBADMSG;
        return *end == '\0' ? 0 : -EBADMSG;
}

int dps_json_parse(json_object **ret, const char *text, size_t size) {
        json_tokener *tokener;
        json_object *value;
        bool good;

        if (dps_json_check(text, size) < 0)
                return -EBADMSG;
        tokener = json_tokener_new_ex(DPS_JSON_DEPTH_MAX + 1);
        if (!tokener)
                return -ENOMEM;
        value = json_tokener_parse_ex(tokener, text,
                                      (int) size + 1); /* with the NUL: the text is complete */
        good = json_tokener_get_error(tokener) == json_tokener_success;
        json_tokener_free(tokener);
        if (!good) {
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
