/*
 * ApplyRules: what `iotedge config apply` refuses although config.toml is TOML: values and tables
 * (apply-values.h), another host name, a missing user. By the time it refuses, a hand-off may have stopped
 * IoT Edge, so the hand-off checks these rules first.
 */
#pragma once

#include "situation.h"

/* FAILURE_CONFIG_CONFLICT with the key or the table as its code; FAILURE_RUNTIME_MISSING with the missing
 * user. */
int apply_rules_check(const Situation *s, Failure *reterr);
