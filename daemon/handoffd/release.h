/*
 * Release: which release of IoT Edge is installed. Some of what it accepts and asks depends on that.
 */
#pragma once

#include "util.h"

/* Major, minor and patch of the package aziot-edge, from dpkg's list of packages. False: dpkg has not
 * installed it. */
bool release_read(const char *root, unsigned ret[static 3]);

/* True when the release is `least` or later. */
bool release_is_least(const unsigned release[static 3], const unsigned least[static 3]);
