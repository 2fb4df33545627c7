#include "fleet.h"

#include <errno.h>
#include <stdlib.h>

#define SLOT_USEC (100 * USEC_PER_MSEC)

struct Queue {
        uint32_t *slots; /* a list of devices each: number plus one of the first, 0 for none */
        uint32_t *next;  /* of the same list, by device */
        size_t n_slots, current;
};

Queue *queue_free(Queue *q) {
        if (q) {
                free(q->slots);
                free(q->next);
                free(q);
        }
        return NULL;
}

int queue_new(Queue **ret, usec_t horizon_usec, uint32_t n_devices) {
        Queue *q = calloc(1, sizeof(*q));

        if (!q)
                return -ENOMEM;
        q->n_slots = horizon_usec / SLOT_USEC;
        q->slots = calloc(q->n_slots, sizeof(*q->slots));
        q->next = calloc(n_devices, sizeof(*q->next));
        if (!q->slots || !q->next) {
                queue_free(q);
                return -ENOMEM;
        }
        *ret = q;
        return 0;
}

void queue_add(Queue *q, uint32_t id, usec_t usec) {
        size_t slot = usec / SLOT_USEC;

        if (slot < q->current)
                slot = q->current;
        if (slot >= q->n_slots)
                return;
        q->next[id] = q->slots[slot];
        q->slots[slot] = id + 1;
}

bool queue_take(Queue *q, uint32_t *ret) {
        while (q->current < q->n_slots && q->slots[q->current] == 0)
                q->current++;
        if (q->current == q->n_slots)
                return false;
        *ret = q->slots[q->current] - 1;
        q->slots[q->current] = q->next[*ret];
        return true;
}
