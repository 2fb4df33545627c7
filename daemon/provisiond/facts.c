#include "facts.h"

#define LOOK_USEC (60 * USEC_PER_SEC)

/* IoT Edge gives up its identity before it registers itself, and has none until DPS answers. */
static bool has_to_ask_dps(const Record *record, const FactsInput *in) {
        return !in->no_edge && !in->dps_answers &&
               assignment_needs_registration(&record->intended, in->snapshot->hub, in->snapshot->device_id);
}

/* Apply would stop aziot-edged, so that it starts as another device. Before a registration this is unknown:
 * DPS may move the device, and the old hub then refuses it. */
static bool may_change_device(const Record *record, const FactsInput *in) {
        const Assignment *a = &record->intended;

        if (!a->hub)
                return in->live && !in->quiesced;
        return !in->no_edge && a->hand_over != HAND_OVER_KEEP &&
               !assignment_same_device(a, in->snapshot->hub, in->snapshot->device_id);
}

static usec_t left_until(usec_t usec, usec_t now) {
        return usec > now ? usec - now : 0;
}

void facts_derive(Facts *ret, const Record *record, const FactsInput *in) {
        const Assignment *a = &record->intended;
        const bool ours = a->key.name.size > 0 && bytes_equal(in->name_at_handle, &a->key.name);

        *ret = (Facts){
                .configured = in->configured,
                .no_edge = in->no_edge,
                .fresh = in->fresh,
                .key_in_place = ours,
                .unread = in->unread,
                .live = in->live,
                .look_is_old = in->now_usec - in->looked_usec > LOOK_USEC,
                .quiesced = in->quiesced,
                .hold_spent = in->hold_spent,
                .keyless = in->keyless,
                .token_expired = in->token_expired,
                .ask_dps = has_to_ask_dps(record, in),
                .throttled_usec = left_until(in->throttled_until_usec, in->now_usec),
                .budget_usec = in->unbudgeted ? 0 : budget_wait(&record->budget, in->budget_time),
        };
        record_facts(record, ret);
        if (may_change_device(record, in))
                ret->disruption_usec = left_until(in->disruption_until_usec, in->now_usec);
        ret->key_questioned = a->hand_over == HAND_OVER_ADOPT && ret->key == HUB_KEY_ADOPTED && !ours &&
                              in->adopts && in->hmac_at_handle && a->hub_key_handle == in->hub_key_handle;
}
