/*
 * Publisher: the state file, the journal, systemd and the bus. Owns what each of them was told last, so that
 * they hear of changes only.
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

/* Also makes the directory of the state file. */
int publisher_init(Publisher *publisher, const char *state_dir);
void publisher_deinit(Publisher *publisher);

/* Saves, and publishes what has changed. Called after every change. */
void daemon_publish(Daemon *daemon);
int daemon_save(Daemon *daemon, Failure *reterr);
void publish_failure(Daemon *daemon, Step step); /* one line in the journal for each failed attempt */
const char *daemon_step_text(const Daemon *daemon);
