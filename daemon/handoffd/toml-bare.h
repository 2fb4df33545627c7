/*
 * TomlBare: is a value that is not quoted a number, a boolean, a date or a time, as TOML writes them?
 */
#pragma once

#include <stdbool.h>

bool toml_bare_valid(const char *text);
