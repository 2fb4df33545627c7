/*
 * ApplyValues: what `iotedge config apply` refuses in config.toml although it is TOML: values of another
 * type or range, tables without their members, names of files that do not exist. Nothing else is refused
 * here: a wrong refusal would block a gateway that works.
 */
#pragma once

#include "situation.h"
#include "toml.h"

/* FAILURE_CONFIG_CONFLICT with the key or the table as its code. from: where the document was read from, for
 * the message. */
int apply_values_check(const Toml *toml, const Origin *from, const char *root, Failure *reterr);
