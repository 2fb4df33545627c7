#include "budgets.h"

#include <errno.h>

#include "dps-json.h"
#include "log.h"
#include "paths.h"
#include "store.h"

#define BUDGETS_MAX ((size_t) 4096)

static uint64_t number_of(json_object *object, const char *key, uint64_t most) {
        json_object *value;
        uint64_t n;

        if (!json_object_object_get_ex(object, key, &value) || !json_object_is_type(value, json_type_int))
                return 0;
        n = json_object_get_uint64(value);
        return n < most ? n : most;
}

static bool flag_of(json_object *object, const char *key) {
        json_object *value;

        return json_object_object_get_ex(object, key, &value) && json_object_get_boolean(value);
}

static Moment moment_of(json_object *object) {
        Moment m = { .boottime_usec = number_of(object, "bootTimeUSec", UINT64_MAX),
                     .realtime_usec = number_of(object, "realTimeUSec", UINT64_MAX) };
        json_object *value;

        if (json_object_object_get_ex(object, "bootId", &value) &&
            json_object_is_type(value, json_type_string))
                (void) snprintf(m.boot_id, sizeof(m.boot_id), "%s", json_object_get_string(value));
        return m;
}

static void read_members(Budgets *b, json_object *json) {
        json_object *value;

        if (json_object_object_get_ex(json, "disruptions", &value))
                b->disruptions =
                        (DisruptionBudget){ .count = (uint32_t) number_of(value, "count", UINT32_MAX),
                                            .confirmed = flag_of(value, "confirmed"),
                                            .wait_usec = number_of(value, "waitUSec", DISRUPTION_CLEAR_USEC),
                                            .since = moment_of(value) };
        if (json_object_object_get_ex(json, "holds", &value))
                b->holds = (HoldBudget){ .used_usec = number_of(value, "usedUSec", HOLD_BUDGET_USEC),
                                         .pause_usec = number_of(value, "pauseUSec", HOLD_PAUSE_USEC),
                                         .cut = flag_of(value, "cut"),
                                         .since = moment_of(value) };
}

void budgets_load(Budgets *ret, const char *root) {
        CLEANUP(freep) char *path = NULL, *text = NULL;
        json_object *json = NULL;
        size_t size;
        int r;

        *ret = (Budgets){};
        r = path_under(&path, root, PATH_BUDGETS);
        if (r >= 0)
                r = read_file(path, BUDGETS_MAX, &text, &size);
        if (r >= 0)
                r = dps_json_parse(&json, text, size);
        if (r >= 0 && !json_object_is_type(json, json_type_object))
                r = -EBADMSG;
        if (r >= 0)
                read_members(ret, json);
        else if (r != -ENOENT)
                log_warning("Ignoring '%s': %s", path ? path : PATH_BUDGETS, strerror(-r));
        (void) json_object_put(json);
}

/* --- writing --- */

static int add_number(json_object *object, const char *key, uint64_t value) {
        return dps_json_add(object, key, json_object_new_uint64(value));
}

static int add_flag(json_object *object, const char *key, bool value) {
        return dps_json_add(object, key, json_object_new_boolean(value));
}

static int add_moment(json_object *object, const Moment *m) {
        int r;

        r = dps_json_add(object, "bootId", json_object_new_string(m->boot_id));
        if (r >= 0)
                r = add_number(object, "bootTimeUSec", m->boottime_usec);
        return r < 0 ? r : add_number(object, "realTimeUSec", m->realtime_usec);
}

static int add_disruptions(json_object *json, const DisruptionBudget *d) {
        json_object *object = json_object_new_object();
        int r = dps_json_add(json, "disruptions", object);

        if (r >= 0)
                r = add_number(object, "count", d->count);
        if (r >= 0)
                r = add_flag(object, "confirmed", d->confirmed);
        if (r >= 0)
                r = add_number(object, "waitUSec", d->wait_usec);
        return r < 0 ? r : add_moment(object, &d->since);
}

static int add_holds(json_object *json, const HoldBudget *b) {
        json_object *object = json_object_new_object();
        int r = dps_json_add(json, "holds", object);

        if (r >= 0)
                r = add_number(object, "usedUSec", b->used_usec);
        if (r >= 0)
                r = add_number(object, "pauseUSec", b->pause_usec);
        if (r >= 0)
                r = add_flag(object, "cut", b->cut);
        return r < 0 ? r : add_moment(object, &b->since);
}

int budgets_save(const Budgets *b, const char *root, Failure *reterr) {
        CLEANUP(freep) char *path = NULL;
        json_object *json = json_object_new_object();
        const char *text;
        int r = json ? 0 : -ENOMEM;

        if (r >= 0)
                r = add_disruptions(json, &b->disruptions);
        if (r >= 0)
                r = add_holds(json, &b->holds);
        if (r >= 0)
                r = path_under(&path, root, PATH_BUDGETS);
        if (r >= 0) {
                text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PRETTY);
                r = text ? store_write(path, text, strlen(text), 0600) : -ENOMEM;
        }
        (void) json_object_put(json);
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "Failed to write '%s'",
                                         path ? path : PATH_BUDGETS)
                     : 0;
}

void budgets_try_save(const Budgets *b, const char *root) {
        Failure failure;

        if (budgets_save(b, root, &failure) < 0)
                log_warning("%s", failure.sentence);
}

int budgets_refuse(Failure *reterr, usec_t wait_usec, const char *what) {
        char until[UTC_TEXT_SIZE];
        int r;

        utc_text(until, now_usec(CLOCK_REALTIME) + wait_usec);
        r = failure_set(reterr, FAILURE_DISRUPTION_BUDGET, NULL, "%s is not allowed before %s", what, until);
        reterr->retry_after_usec = wait_usec;
        return r;
}
