/*
 * Paths: where IoT Edge and this helper keep their files. All lie below --root=.
 */
#pragma once

#include <errno.h>

#include "util.h"

#define PATH_CONFIG      "/etc/aziot/config.toml"
#define PATH_CONFIG_DIR  "/etc/aziot"
#define PATH_BASE        "/etc/dps-provisiond/iotedge-base.toml"
#define PATH_APPLIED     "/etc/aziot/identityd/config.d/00-super.toml"
#define PATH_LEGACY      "/etc/iotedge/config.yaml"
#define PATH_IDENTITYD   "/var/lib/aziot/identityd"
#define PATH_EDGED_STATE "/var/lib/aziot/edged/cache/provisioning_state"
#define PATH_SOCKET      "/run/aziot/identityd.sock"
#define PATH_DOCKER      "/var/run/docker.sock"
#define PATH_STATE       "/var/lib/dps-handoffd"
#define PATH_RECORD      PATH_STATE "/record.json"
#define PATH_STOPPED     PATH_STATE "/stopped"
#define PATH_BUDGETS     PATH_STATE "/budgets.json"

static inline int path_under(char **ret, const char *root, const char *path) {
        char *full;

        if (asprintf(&full, "%s%s", root, path) < 0)
                return -ENOMEM;
        *ret = full;
        return 0;
}
