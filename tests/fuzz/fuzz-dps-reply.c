/* The service's replies. The first line is "REQUEST STATUS RETRY-AFTER" in decimal, the rest is the body. */
#include <string.h>

#include "dps.h"
#include "fuzz.h"

#define ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

static bool printable(const char *text) {
        for (; *text; text++)
                if (*text < ' ' || *text > '~')
                        return false;
        return true;
}

static void check_reply(const DpsReply *reply, DpsRequest request) {
        switch (reply->type) {
        case DPS_REPLY_CHALLENGE:
                PROMISE(request == DPS_REQUEST_REGISTER);
                PROMISE(reply->challenge.size > 0 && reply->challenge.size <= DPS_CHALLENGE_MAX);
                return;
        case DPS_REPLY_PENDING:
                PROMISE(request != DPS_REQUEST_REGISTER);
                PROMISE(request != DPS_REQUEST_CONFIRM || reply->operation_id);
                PROMISE(!reply->operation_id || printable(reply->operation_id));
                PROMISE(reply->poll_usec >= USEC_PER_SEC && reply->poll_usec <= DPS_POLL_MAX_USEC);
                return;
        case DPS_REPLY_ASSIGNED:
                PROMISE(request != DPS_REQUEST_REGISTER);
                PROMISE(reply->hub && chars_valid(reply->hub, ALNUM "-.:", 1, 259));
                PROMISE(reply->device_id && strlen(reply->device_id) >= 1 &&
                        strlen(reply->device_id) <= 128 && printable(reply->device_id));
                PROMISE(!reply->substatus || printable(reply->substatus));
                PROMISE(!reply->payload || strlen(reply->payload) <= DPS_PAYLOAD_MAX);
                PROMISE(reply->hub_key.size <= DPS_CHALLENGE_MAX);
                return;
        }
        PROMISE(false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(freep) char *text = strndup((const char *) data, size);
        unsigned request = 0, status = 0, retry_after = 0;
        DpsRawReply raw = { .request_id = "5b2c" };
        DpsReply reply = { .poll_usec = 7 };
        Failure failure = {};
        int r;

        if (!text)
                return 0;
        (void) sscanf(text, "%1u %3u %6u", &request, &status, &retry_after);
        raw.body = text + strcspn(text, "\n");
        if (*raw.body == '\n')
                raw.body++;
        raw.size = strlen(raw.body);
        raw.status = status;
        raw.retry_after_usec = retry_after * USEC_PER_SEC;

        r = dps_parse_reply(&reply, (DpsRequest) (request % 3), "0ne00X", "gw-7", &raw, &failure);
        if (r >= 0) {
                check_reply(&reply, (DpsRequest) (request % 3));
                dps_reply_deinit(&reply);
                return 0;
        }
        PROMISE(r == failure_to_errno(failure.kind));
        PROMISE(reply.poll_usec == 7 && !reply.hub); /* untouched */
        PROMISE(failure.sentence[0] != '\0' && printable(failure.sentence) && printable(failure.code));
        return 0;
}
