/*
 * JsonText: the grammar of RFC 8259, strictly. json-c accepts more unless it is strict, what it accepts then
 * differs from version to version, and the strict json-c 0.18 refuses every string with a character beyond
 * ASCII. So json-c only sees text that this module has accepted.
 */
#pragma once

#include "util.h"

/* One value in UTF-8, with white space around it. 0 and the end of the white space; or -EBADMSG and the
 * first byte that can't stand where it stands. text is NUL-terminated. depth_max: of nested arrays and
 * objects. */
int json_text_scan(const char *text, unsigned depth_max, const char **ret_end);
