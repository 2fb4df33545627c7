/* JSON as RFC 8259 has it, where json-c would let more pass; for whoever reads or makes some. */
#pragma once

#include <json-c/json.h>

#include "util.h"

#define DPS_JSON_DEPTH_MAX 31

/* 0 or -EBADMSG, as dps_json_parse() would say. */
int dps_json_check(const char *text, size_t size);

/* One complete value and nothing behind it but white space; *ret is NULL for "null". text is NUL-terminated,
 * size is without the NUL. -EBADMSG: not JSON, not UTF-8, nested deeper than DPS_JSON_DEPTH_MAX, or a NUL
 * inside. The caller releases *ret with json_object_put(). */
int dps_json_parse(json_object **ret, const char *text, size_t size);

/* Takes the value over, also on failure; a value that is NULL is one that could not be made. -ENOMEM. */
int dps_json_add(json_object *object, const char *key, json_object *value);
