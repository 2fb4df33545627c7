/*
 * JudgeIdentity: whose identity IoT Edge has by the files that its services read themselves, besides
 * config.toml. Part of the judge.
 */
#pragma once

#include "judge.h"

/* True when IoT Edge is provisioned for another owner although config.toml has no provisioning. */
bool judge_runs_as_other(const Wanted *wanted, const Situation *situation, Failure *reterr);

/* A file that wins over what `iotedge config apply` writes, so that IoT Edge does not get what is wanted. */
bool judge_overridden(const Wanted *wanted, const Situation *situation, Failure *reterr);
