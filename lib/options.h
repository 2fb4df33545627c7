/*
 * Options: the command line of the three daemons, which is the same but for two options.
 */
#pragma once

#include "config.h"
#include "log.h"

typedef struct DaemonInfo {
        const char *name, *description;
        bool has_state_dir, has_root, has_command_timeout, has_confirm_timeout;
} DaemonInfo;

/* All pointers are borrowed from argv and the environment. */
typedef struct DaemonOptions {
        ConfigPaths config;
        const char *state_dir; /* --state-dir=, else $STATE_DIRECTORY, else /var/lib/NAME */
        const char *root;      /* --root=, or "" */
        usec_t command_timeout_usec, confirm_timeout_usec;
} DaemonOptions;

/* Parses the command line, starts the log (to the journal when standard error goes there) and keeps secrets
 * out of core dumps. Returns 1 to go on, 0 when there is nothing left to do (--help, --version), -EINVAL on
 * a usage error, of which it has told. */
int daemon_options_parse(DaemonOptions *ret, const DaemonInfo *info, int argc, char *argv[]);
