/* The systemd unit of the TPM's device node, by the escaping of unit names (systemd.unit(5)). Pure code. */
#pragma once

#include "util.h"

/* "dev-tpmrm0.device" for "device:/dev/tpmrm0", which is also what an empty TCTI and "device" stand for.
 * -ENOENT for a TCTI that is no device. The caller frees *ret. */
int device_unit_name(char **ret, const char *tcti);
