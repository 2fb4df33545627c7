/* What holds at each step of the machine, written without its table; for the walk (test-machine-walk.c). */
#pragma once

#include "machine-model.h"

typedef enum Property {
        HANDED_OFF, /* with a usable configuration, the gateway is handed off when all goes well from here */
        INTENT,     /* an intent ends by a known other target, a person, a dead key or a reset only */
        CHANGE_MADE, /* what was asked for during a helper's call is done after it */
        ONE,         /* one operation at a time */
        RESUMED,     /* a quiesced IoT Edge is resumed */
        WAIT,        /* no wait is shorter than DPS asked for */
        BUDGET,      /* no registration without budget */
        IN_ORDER, /* the steps of a hand-off begin only when the intent needs them, and in the right order */
        SPARED,   /* while the disruption budget is empty, no step of a hand-off begins and IoT Edge runs */
        RESTS,    /* the machine is idle only when there is nothing to do */
        GOES_ON,  /* a result is followed by a step or a wait */
        KEYLESS,  /* without a key IoT Edge stays quiesced while a registration can go on */
        _PROPERTY_MAX,
} Property;

/* One step of the machine. */
typedef struct Fed {
        const Move *move;
        const Facts *facts;
        Machine before, after;
        Action action;
} Fed;

const char *property_to_string(Property property);
/* Always true for HANDED_OFF, which needs more than one step. */
bool property_holds(Property property, const Fed *fed);
