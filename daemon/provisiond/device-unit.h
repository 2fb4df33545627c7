/* The systemd unit of the TPM's device node, by the escaping of unit names (systemd.unit(5)). Pure code. */
#pragma once

#include "util.h"

/* Returns "dev-tpmrm0.device" for "device:/dev/tpmrm0", for an empty TCTI and for "device". -ENOENT: the
 * TCTI has no device. The caller frees *ret. */
int device_unit_name(char **ret, const char *tcti);
