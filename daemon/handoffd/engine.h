/*
 * Engine: the container engine that runs IoT Edge's modules. Without it aziot-edged ends, and every `iotedge
 * config apply` except the first fails.
 */
#pragma once

#include "situation.h"

/* Asks the engine for what IoT Edge asks: an answer in the version of the Docker API that the installed
 * release uses. Blocks for ENGINE_TIMEOUT_USEC at most. The units have to be known. Asking may start the
 * engine.
 *
 * FAILURE_ENGINE_UNREACHABLE: one is installed and does not answer, or has an internal error.
 * FAILURE_ENGINE_UNSUITABLE: it refuses the version of the API, or IoT Edge does not know the kind of its
 * URI. FAILURE_RUNTIME_MISSING: none is installed, or its unit is masked. Success without a question when
 * the engine listens on TCP. */
int engine_check(const Situation *s, Failure *reterr);

/* HOST[:PORT][/…] of an engine that listens on TCP; NULL: it does not. Borrowed. */
const char *engine_tcp_host(const Situation *s);

/* The image of edgeAgent, as config.toml names it, else the one of all releases, without a tag. The caller
 * frees. */
int engine_read_agent_image(const Situation *s, char **ret);

/* 1: the engine has the image, or one of that name when image has no tag; 0: it has not; a negative errno:
 * it does not say. */
int engine_has_image(const Situation *s, const char *image);

#define ENGINE_TIMEOUT_USEC (5 * USEC_PER_SEC)
