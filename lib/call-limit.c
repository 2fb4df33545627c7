#include "call-limit.h"

#define HOUR_USEC (3600 * USEC_PER_SEC)

static usec_t left(usec_t since_usec, usec_t interval_usec, usec_t now) {
        return since_usec > 0 && now < since_usec + interval_usec ? since_usec + interval_usec - now : 0;
}

usec_t call_limit_delay(const CallLimit *l, usec_t now) {
        return left(l->attempt_usec, CALL_INTERVAL_USEC, now);
}

usec_t call_limit_refused(const CallLimit *l, usec_t now) {
        return left(l->others_usec[l->next], HOUR_USEC, now);
}

void call_limit_count_attempt(CallLimit *l, usec_t begins_usec) {
        l->attempt_usec = begins_usec;
}

void call_limit_count_other(CallLimit *l, usec_t now) {
        l->others_usec[l->next] = now;
        l->next = (l->next + 1) % CALLS_PER_HOUR;
}
