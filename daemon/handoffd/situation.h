/*
 * Situation: everything that decides what a hand-off may and must do: our configuration and record, IoT
 * Edge's files and units. Read anew for each call; nothing is changed by it.
 */
#pragma once

#include <sys/types.h>

#include "config-toml.h"
#include "config.h"
#include "device-info.h"
#include "identityd.h"
#include "overrides.h"
#include "record.h"
#include "store.h"
#include "units.h"

/* The parts of a gateway that have separate settings for a proxy. */
enum {
        PROXY_IDENTITYD = 1 << 0,
        PROXY_EDGED = 1 << 1,
        PROXY_AGENT = 1 << 2,
        PROXY_ENGINE = 1 << 3,
};

typedef struct Situation {
        const char *root; /* borrowed */
        Config *config;
        Record record;
        char *text; /* of config.toml; NULL: there is none */
        size_t text_size;
        StoreAttributes attributes;
        ConfigToml toml; /* of config.toml */
        char *base;      /* what a new config.toml begins with, when there is no config.toml */
        size_t base_size;
        ConfigToml base_toml;
        Failure base_failure; /* of reading it */
        ConfigToml applied;   /* of the copy that `iotedge config apply` gave identityd */
        Overrides identityd_files, tpmd_files, other_files; /* other: only what is wrong with one */
        DeviceInfo device_info;                             /* members NULL: none that is valid */
        const char *engine_masked; /* a unit of an engine that is masked, a constant; or NULL */
        UnitState edged, edged_mgmt, edged_workload, identityd, identityd_socket, tpmd, tpmd_socket, apply;
        IdentitydAnswer device, provisioning; /* status 0: not asked, or no answer */
        FileMark prev_state;
        unsigned proxy_lacking;            /* mask of the parts that use no proxy */
        bool legacy;                       /* there is a configuration of IoT Edge 1.1 */
        bool applied_exists;               /* the applied copy exists and is TOML */
        bool owner_auth, endorsement_auth; /* dps-tpmd has these credentials */
        bool device_info_hidden;           /* from this user */
        bool units_known, snap;            /* snap: IoT Edge is installed as one */
        bool edgeless;         /* the identity service is installed without the IoT Edge runtime */
        bool engine_installed; /* a unit of a container engine exists and is not masked */
        bool proxy_used;       /* by dps-provisiond; see proxies.h */
        bool device_asked;     /* then identityd's identity is judged */
} Situation;

/* Files only: IoT Edge's and the record; with our configuration, which has to be usable. */
int situation_read_iotedge(Situation *s, const char *root, Failure *reterr);
int situation_read_files(Situation *s, const char *root, const ConfigPaths *paths, Failure *reterr);
bool situation_has_auth(const ConfigPaths *paths, const char *credential); /* and it is not empty */
void situation_read_applied(Situation *s, const char *root); /* once more, after it was written */
int situation_read_units(Situation *s, Units *units, Failure *reterr);
void situation_deinit(Situation *s);

/* The service that a hand-off starts: aziot-edged, or aziot-identityd without the IoT Edge runtime. */
const char *situation_main_unit(const Situation *s);
const UnitState *situation_main(const Situation *s);

/* Has aziot-edged written its provisioning_state? It does so when it has its identity, from IoT Edge 1.2 on,
 * and without it runs no modules. Also true when this user may not see the file. */
bool edged_had_identity(const char *root);

/* What config.toml is made from: itself, else the base, else nothing. */
typedef struct Origin {
        const char *path, *text; /* never NULL */
        size_t size;
        const ConfigToml *toml;
} Origin;

Origin situation_origin(const Situation *s);

/* Did this helper write config.toml's provisioning? Compared by content, never by time. */
bool situation_tables_ours(const Situation *s);

/* Fails when config.toml can't be replaced: its directory is missing or can't be written to, or the file is
 * immutable or a mount point. */
int situation_look_at_config_place(const Situation *s, Failure *reterr);
