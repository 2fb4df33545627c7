#include "attempts.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>

struct Attempts {
        Attempt ring[ATTEMPTS_MAX];
        size_t next, n;
};

static void attempt_deinit(Attempt *attempt) {
        free(attempt->registration_id);
        free(attempt->operation_id);
        free(attempt->hub);
        free(attempt->device_id);
        json_object_put(attempt->result);
        explicit_bzero(attempt, sizeof(*attempt));
}

int attempts_new(Attempts **ret) {
        Attempts *attempts = calloc(1, sizeof(*attempts));

        if (!attempts)
                return -ENOMEM;
        *ret = attempts;
        return 0;
}

Attempts *attempts_free(Attempts *attempts) {
        if (!attempts)
                return NULL;
        for (size_t i = 0; i < attempts->n; i++)
                attempt_deinit(&attempts->ring[i]);
        free(attempts);
        return NULL;
}

int attempts_add(Attempts *attempts, const char *registration_id, Attempt **ret) {
        Attempt *attempt = &attempts->ring[attempts->next];
        int r;

        attempt_deinit(attempt);
        r = tpm_crypto_random(attempt->key, sizeof(attempt->key));
        if (r < 0)
                return r;
        attempt->registration_id = strdup(registration_id);
        if (!attempt->registration_id)
                return -ENOMEM;
        attempts->next = (attempts->next + 1) % ATTEMPTS_MAX;
        if (attempts->n < ATTEMPTS_MAX)
                attempts->n++;
        *ret = attempt;
        return 0;
}

Attempt *attempts_next(Attempts *attempts, const char *registration_id, const Attempt *before) {
        size_t at = before ? (size_t) (before - attempts->ring) : attempts->next;
        size_t oldest = (attempts->next + ATTEMPTS_MAX - attempts->n) % ATTEMPTS_MAX;
        bool first = !before && attempts->n == ATTEMPTS_MAX;

        /* backwards round the ring; a full one has its newest just before its oldest */
        while (attempts->n > 0 && (at != oldest || first)) {
                first = false;
                at = (at + ATTEMPTS_MAX - 1) % ATTEMPTS_MAX;
                if (attempts->ring[at].registration_id &&
                    strcasecmp(attempts->ring[at].registration_id, registration_id) == 0)
                        return &attempts->ring[at];
        }
        return NULL;
}
