/*
 * DisruptionBudget: how often this helper may stop or restart an aziot-edged that works, and so all modules.
 * Pure code: the time is an argument.
 *
 * The first disruption is allowed at once, the next ones 1 hour, 7 hours and 31 hours after it, then one a
 * day. The budget is full again when root calls Allow(), or a day after a disruption if the hub has accepted
 * IoT Edge since: aziot-edged has run for the day, or the machine has booted after it.
 *
 * A wait runs down by CLOCK_BOOTTIME. A reboot takes a quarter to a half of the whole wait off (see
 * moment.h): a clock that leaps to the right year does not end a wait, and four reboots end any wait of a
 * gateway whose clock never works. Once the hub has accepted IoT Edge, all of what the local clock says
 * counts: the gateway worked, and no caller can set the clock or reboot. Each reboot stops all modules
 * anyhow.
 */
#pragma once

#include "moment.h"

#define DISRUPTION_CLEAR_USEC (24 * 3600 * USEC_PER_SEC)

/* Plain value; zeroed, it is a full budget. */
typedef struct DisruptionBudget {
        uint32_t count;   /* since the budget was full */
        bool confirmed;   /* the hub has accepted IoT Edge since the last one */
        usec_t wait_usec; /* at `since`: until the next one is allowed */
        Moment since;
} DisruptionBudget;

/* The time until the next disruption is allowed; 0: now. */
usec_t disruption_budget_wait(const DisruptionBudget *disruptions, const Moment *now);

/* Takes the time that has passed off the wait, or fills the budget. Call this and save the result at least
 * once in each boot: after the next reboot only the time since the last call is known. Returns true when
 * that changed the value. */
bool disruption_budget_run_down(DisruptionBudget *disruptions, const Moment *now);

/* Counts a disruption that is about to happen. */
void disruption_budget_charge(DisruptionBudget *disruptions, const Moment *now);

/* The hub has accepted IoT Edge. Returns true when that changed the value. */
bool disruption_budget_confirm(DisruptionBudget *disruptions);

/* aziot-edged has been running for this long. Returns true when that has filled the budget. */
bool disruption_budget_note_running(DisruptionBudget *disruptions, usec_t running_usec);
