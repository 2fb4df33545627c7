/* The header Retry-After: two eight-byte numbers, the reply's Date and now, then the value. */
#include <string.h>

#include "dps.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(freep) char *value = NULL;
        uint64_t times[2] = {};
        size_t used = size < sizeof(times) ? size : sizeof(times);

        if (used > 0)
                memcpy(times, data, used);
        value = strndup(size > 0 ? (const char *) data + used : "", size - used);
        if (!value)
                return 0;
        PROMISE(dps_parse_retry_after(value, times[0], times[1]) <= DPS_RETRY_AFTER_MAX_USEC);
        return 0;
}
