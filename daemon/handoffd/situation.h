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
#include "record.h"
#include "store.h"
#include "units.h"

typedef struct Situation {
        Config *config;
        Record record;
        char *text; /* of config.toml; NULL: there is none */
        size_t text_size;
        StoreAttributes attributes;
        ConfigToml toml; /* of config.toml */
        char *base;      /* what a new config.toml begins with; situation_read_base() */
        size_t base_size;
        ConfigToml base_toml;
        bool applied_exists;
        ConfigToml applied;     /* of the copy that `iotedge config apply` gave identityd */
        DeviceInfo device_info; /* members NULL: none that is valid */
        FileMark prev_state;
        bool units_known;
        UnitState edged, edged_mgmt, edged_workload, identityd, identityd_socket, tpmd, tpmd_socket, apply;
        IdentitydAnswer device, provisioning; /* status 0: not asked, or no answer */
        char *endpoint, *payload_uri;         /* of our configuration, as IoT Edge writes them */
} Situation;

/* Files only: IoT Edge's and the record; with our configuration, which has to be usable. */
int situation_read_iotedge(Situation *s, const char *root, Failure *reterr);
int situation_read_files(Situation *s, const char *root, const ConfigPaths *paths, Failure *reterr);
void situation_read_applied(Situation *s, const char *root); /* once more, after it was written */
int situation_read_units(Situation *s, Units *units, Failure *reterr);
int situation_read_base(Situation *s, const char *root, Failure *reterr); /* when there is no config.toml */
void situation_deinit(Situation *s);

/* What config.toml is made from: itself, else the base, else nothing. */
typedef struct Origin {
        const char *path, *text; /* never NULL */
        size_t size;
        const ConfigToml *toml;
} Origin;

Origin situation_origin(const Situation *s);

/* What config.toml is made from lets IoT Edge register by itself at each start, which nothing can be adopted
 * against. */
bool situation_reprovisions_itself(const Situation *s);

/* What config.toml has to say for this registration ID. Borrows from both. */
Provisioning situation_wanted(const Situation *s, const char *registration_id);

/* May config.toml's provisioning be replaced? It has none, says what we want, or we wrote it. */
bool situation_provisioning_ours(const Situation *s, const Provisioning *wanted);

/* Did this helper write config.toml's provisioning? Compared by content, never by time. */
bool situation_tables_ours(const Situation *s);
