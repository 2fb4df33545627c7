/*
 * ApplyRules: what `iotedge config apply` refuses although it is TOML, one table. It refuses before it
 * changes anything, but a hand-off has stopped IoT Edge by then, so the hand-off looks first.
 */
#pragma once

#include "situation.h"

/* FAILURE_CONFIG_CONFLICT with the key as its code; FAILURE_RUNTIME_MISSING with the missing user. */
int apply_rules_check(const Situation *s, Failure *reterr);
