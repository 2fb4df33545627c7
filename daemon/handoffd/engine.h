/*
 * Engine: the container engine that runs IoT Edge's modules. Without it aziot-edged ends, and every `iotedge
 * config apply` except the first fails.
 */
#pragma once

#include "situation.h"

/* FAILURE_ENGINE_UNREACHABLE: an engine is installed and does not answer. FAILURE_RUNTIME_MISSING: none is
 * installed. The units have to be known. Success without a check when the engine has no unix socket.
 * Connecting may start the engine. */
int engine_check(const Situation *s, Failure *reterr);
