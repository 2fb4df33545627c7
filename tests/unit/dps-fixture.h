/* What the tests of DPS' replies share: a reply for the registration 'gw-7' in the ID scope '0ne00X'. */
#pragma once

#include "dps.h"

#define ASSIGNED                                                                                            \
        "{\"operationId\":\"5.1\",\"status\":\"assigned\",\"registrationState\":{\"tpm\":{"                 \
        "\"authenticationKey\":\"AAEC\"},"                                                                  \
        "\"registrationId\":\"GW-7\",\"assignedHub\":\"h.azure-devices.net\",\"deviceId\":\"gw-7\","        \
        "\"status\":\"assigned\",\"substatus\":\"initialAssignment\",\"etag\":\"x\",\"payload\":{\"a\":[1]" \
        "}}}"

static inline int parse(DpsReply *ret, DpsRequest request, unsigned status, const char *body,
                        usec_t retry_after, Failure *f) {
        const DpsRawReply raw = { .status = status,
                                  .body = body,
                                  .size = strlen(body),
                                  .request_id = "req-1",
                                  .retry_after_usec = retry_after };

        return dps_parse_reply(ret, request, "0ne00X", "gw-7", &raw, f);
}
