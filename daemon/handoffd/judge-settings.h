/*
 * JudgeSettings: what config.toml says beside the provisioning that will not work as its author meant. Part
 * of the judge.
 */
#pragma once

#include "judge.h"

/* Keys that stand below [provisioning] and are no part of it: IoT Edge does not read them, and they go when
 * the table is replaced. */
bool judge_stray_keys(const Situation *situation, Failure *reterr);

/* The host name is that of an image, or of another machine. */
bool judge_host_name(const Situation *situation, Failure *reterr);

/* aziot-tpmd uses another TPM than dps-tpmd. */
bool judge_tcti(const Situation *situation, const char *tcti, Failure *reterr);

/* aziot-tpmd lacks an authorization value that dps-tpmd has as a credential. */
bool judge_authorization(const Situation *situation, FailureKind kind, Failure *reterr);
