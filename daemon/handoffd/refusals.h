/*
 * Refusals: why a hand-off ends before anything is touched. The helper decides by them, and `dps-provision
 * check` tells them beforehand. Each returns 0, or a negative errno with the failure.
 */
#pragma once

#include "situation.h"

/* IoT Edge is not installed, or can't be started. */
int refusal_of_runtime(const Situation *s, Units *units, const char *root, Failure *reterr);

/* config.toml, or what a new one begins with (which is read here), says something that stays, or can't be
 * edited; config is ours. */
int refusal_of_config(Situation *s, const Config *config, const Provisioning *wanted, const char *root,
                      Failure *reterr);

/* A file system that can't be written, … */
int refusal_of_write(const char *root, Failure *reterr);

/* `iotedge config apply` would fail. */
int refusal_of_apply(const Situation *s, const char *root, Failure *reterr);
