/*
 * Hardware: what a label on the device says, as far as this machine knows it: for lists that people keep.
 * Nothing here identifies the device to the service.
 */
#pragma once

#include "util.h"

/* A member is NULL when it is not known, or may not be read: the serial number is for root only on a PC. */
typedef struct Hardware {
        char *serial_number; /* the firmware's (DMI), or the device tree's */
        char *mac;           /* of the first network device that is hardware */
        char *host_name;
        char *asset; /* the firmware's asset tag of the chassis */
} Hardware;

/* root is put before /sys (tests); NULL for none. -ENOMEM is the only error. */
int hardware_read(Hardware *ret, const char *root);
void hardware_deinit(Hardware *hardware);

/* The serial number alone, -ENOENT when it is not known; the caller frees. */
int hardware_serial_number(char **ret, const char *root);
