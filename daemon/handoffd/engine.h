/*
 * Engine: the container engine that IoT Edge runs its modules with. aziot-edged ends without it, and each
 * `iotedge config apply` but the first asks it.
 */
#pragma once

#include "situation.h"

/* Fails with FAILURE_ENGINE_UNREACHABLE when an engine is installed and does not answer, and with
 * FAILURE_RUNTIME_MISSING when none is installed. The units have to be known. An engine that is not behind a
 * unix socket is not asked. Connecting may start the engine. */
int engine_check(const Situation *s, Failure *reterr);
