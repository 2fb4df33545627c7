/*
 * Url: the canonical form of the URLs in IoT Edge's configuration.
 *
 * IoT Edge reads and writes URLs with the Rust crate `url`, which implements the URL Standard
 * (https://url.spec.whatwg.org). So a URL that IoT Edge wrote can differ in its text from the one in
 * config.toml and mean the same. Pure code; URLs are compared by these functions and never as text.
 */
#pragma once

#include "util.h"

/* "https://host[:port]", without a slash at the end: lower-case host, IP addresses in their shortest form,
 * no port 443. -EINVAL: not an https URL, or one with more than a host and a port. */
int url_canonical_endpoint(char **ret, const char *text);

/* True when both URLs mean the same endpoint. Text that is no endpoint equals the same text only. */
bool url_same_endpoint(const char *a, const char *b);

/* True for an absolute path that a URL keeps as it is: no segment is empty, "." or "..". */
bool url_path_valid(const char *path);

/* The file URL of a valid path, as Url::from_file_path makes it: what the standard's path percent-encode set
 * contains is encoded, as are '%' and '\'. */
int url_from_path(char **ret, const char *path);

/* True when both file URLs name the same file. Text that is no file URL equals the same text only. */
bool url_same_file(const char *a, const char *b);
