/*
 * Publisher: the state file, the journal, systemd and the bus. Keeps the last published values and publishes
 * changes.
 */
#pragma once

#include <systemd/sd-event.h>

#include "machine.h"

#define PROPERTIES_MAX 16

typedef struct Daemon Daemon;

typedef struct Publisher {
        char *record_path, *record_on_disk;
        sd_event_source *save_again;
        bool save_failed;
        State logged_state;
        char *status;                     /* of the unit */
        char *properties[PROPERTIES_MAX]; /* as announced on the bus */
} Publisher;

/* Creates the directory of the state file as well. */
int publisher_init(Publisher *publisher, const char *state_dir);
void publisher_deinit(Publisher *publisher);

/* Saves the record and publishes the changes. Call this after every change. */
void daemon_publish(Daemon *daemon);
int daemon_save(Daemon *daemon, Failure *reterr);
void publish_failure(Daemon *daemon, Step step); /* one line in the journal for each failed attempt */
const char *daemon_step_text(const Daemon *daemon);
