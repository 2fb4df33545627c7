/*
 * Tpmd: the six calls of org.dps.Tpm1 on lib/tpm. Its settings come from the root-owned configuration, read
 * anew for each call; the caller brings only what the service said.
 */
#pragma once

#include <systemd/sd-bus.h>

#include "options.h"
#include "tpm.h"

typedef struct Tpmd {
        const DaemonOptions *options;
        TpmCache *cache;
        bool outdated; /* another process would have the rights that this one lacks */
} Tpmd;

extern const sd_bus_vtable tpmd_vtable[];
