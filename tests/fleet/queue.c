#include "fleet.h"

#include <errno.h>
#include <stdlib.h>

#define SLOT_USEC (100 * USEC_PER_MSEC)

struct Queue {
        Device *devices;
        uint32_t *slots; /* a list of devices each: number plus one of the first, 0 for none */
        size_t n_slots, current;
};

Queue *queue_free(Queue *q) {
        if (q) {
                free(q->slots);
                free(q);
        }
        return NULL;
}

int queue_new(Queue **ret, Device *devices, usec_t horizon_usec) {
        Queue *q = calloc(1, sizeof(*q));

        if (!q)
                return -ENOMEM;
        q->devices = devices;
        q->n_slots = horizon_usec / SLOT_USEC;
        q->slots = calloc(q->n_slots, sizeof(*q->slots));
        if (!q->slots) {
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
        q->devices[id].next = q->slots[slot];
        q->slots[slot] = id + 1;
}

/* Most of the time goes into waiting for memory: the devices act in random order. */
static void prefetch(const Device *d) {
        for (const char *line = (const char *) d; line < (const char *) (d + 1); line += 64)
                __builtin_prefetch(line, 1);
}

bool queue_take(Queue *q, uint32_t *ret) {
        uint32_t next;

        while (q->current < q->n_slots && q->slots[q->current] == 0)
                q->current++;
        if (q->current == q->n_slots)
                return false;
        *ret = q->slots[q->current] - 1;
        next = q->devices[*ret].next;
        q->slots[q->current] = next;
        if (next > 0)
                prefetch(&q->devices[next - 1]);
        return true;
}
