#include "daemon.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "bus.h"

static uint64_t random_number(void) {
        uint64_t n = 0;

        if (getrandom(&n, sizeof(n), GRND_NONBLOCK) != sizeof(n))
                n = now_usec(CLOCK_MONOTONIC) * 0x9e3779b97f4a7c15u; /* early at boot: any jitter will do */
        return n;
}

bool daemon_adopts(const Daemon *d) {
        return d->config->identity == IDENTITY_ADOPT;
}

/* --- the wait and the steps --- */

static void run_step(Daemon *d) {
        static void (*const starters[])(Daemon *) = {
                [STEP_IDENTITY] = step_identity, [STEP_PREPARE] = step_prepare,
                [STEP_REGISTER] = step_register, [STEP_ACTIVATE] = step_activate,
                [STEP_QUIESCE] = step_quiesce,   [STEP_CONFIRM] = step_confirm,
                [STEP_POLL] = step_poll,         [STEP_IMPORT] = step_import,
                [STEP_ADOPT] = step_adopt,       [STEP_HANDOFF] = step_handoff,
                [STEP_VERIFY] = step_verify,     [STEP_FORGET] = step_forget,
        };
        static_assert(ARRAY_SIZE(starters) == _STEP_MAX, "every step has a starter");

        wait_disarm(&d->wait);
        /* A handed-off gateway continues after a failed look at the TPM, and waits at the end. */
        if (d->machine.step == STEP_IDENTITY || daemon_state(d) != STATE_HANDED_OFF)
                (void) wait_take_missed(&d->wait);
        machine_begin(&d->machine);
        daemon_publish(d);
        log_debug("Step %s", step_to_string(d->machine.step));
        starters[d->machine.step](d);
}

static int on_wait_end(sd_event_source *source, uint64_t usec, void *userdata) {
        run_step(userdata);
        return 0;
}

/* See throttled_until_usec in record.h. */
static usec_t record_time(const Daemon *d) {
        usec_t local = now_usec(CLOCK_REALTIME), best = daemon_server_time(d) * USEC_PER_SEC;

        return local > best ? local : best;
}

static void note_throttling(Daemon *d) {
        usec_t rest = wait_throttled(&d->wait);

        d->record.throttled_rest_usec = rest;
        d->record.throttled_until_usec = rest > 0 ? record_time(d) + rest : 0;
        d->noted_throttling_usec = d->wait.throttled_until_usec;
}

/* The rest of the wait survives a power cut, so that a fleet does not come back at once. */
static void restore_throttling(Daemon *d) {
        usec_t now = record_time(d), until = d->record.throttled_until_usec,
               left = until > now ? until - now : 0, most = d->record.throttled_rest_usec;

        wait_throttle(&d->wait, left < most ? left : most);
        note_throttling(d);
}

/* Each attempt begins with IDENTITY. */
static bool ends_attempt(Step next) {
        return next == STEP_IDLE || next == STEP_IDENTITY || next == STEP_FORGET;
}

static void run_action(Daemon *d, const Action *action) {
        usec_t delay = action->delay_usec;

        if (action->resume)
                handoff_resume(d);
        if ((action->start || action->resume) && ends_attempt(d->machine.step))
                attempt_end(&d->attempt);
        if (!action->start)
                return;
        wait_disarm(&d->wait);
        if (action->change != PENDING_NONE && intent_change(d, action->change) < 0)
                log_error("Failed to change the intended assignment: out of memory");
        if (action->change != PENDING_NONE || action->step == STEP_IDLE)
                d->attempt.held_usec = 0;
        if (action->step == STEP_IDLE) {
                d->attempt.unbudgeted = false;
                return;
        }
        if (action->change == PENDING_REPROVISION && delay == 0)
                delay = wait_count_call(&d->wait);
        if (delay > action->delay_usec)
                log_info("Delaying the reprovisioning by %llu s: a call began an attempt less than 10 s ago",
                         (unsigned long long) (delay / USEC_PER_SEC + 1));
        /* Even without a delay the step begins from the loop, so that no chain of steps becomes a recursion.
         */
        wait_arm(&d->wait, &d->machine, delay);
}

/* IoT Edge works with the same clock. */
static void warn_about_clock(Daemon *d) {
        Failure failure;

        warnings_remove(&d->warnings, FAILURE_CLOCK_BEHIND);
        if (daemon_clock_behind(d, &failure))
                warnings_add(&d->warnings, FAILURE_CLOCK_BEHIND, "%s", failure.sentence);
}

static void forget_failure(Daemon *d) {
        d->failure = (Failure){};
        d->failed_step = STEP_IDLE;
}

/* A handed-off gateway works on while its TPM is unknown. */
static void keep_failure(Daemon *d, State state, Step step, const Failure *failure) {
        if (state == STATE_HANDED_OFF && (step == STEP_IDENTITY || step == STEP_ADOPT)) {
                warnings_add_identity(&d->warnings, failure);
                return;
        }
        d->failure = *failure;
        d->failed_step = step;
}

/* A failure after which the next attempt begins at once is logged and not kept. */
static void report_failure(Daemon *d, Step step) {
        if (d->failure.kind == FAILURE_NONE) /* published as a warning */
                return;
        if (d->machine.failure == FAILURE_NONE) {
                publish_failure(d, step);
                forget_failure(d);
        } else if (machine_backing_off(&d->machine))
                publish_failure(d, step);
}

/* The link came up while a name was resolved, the proxy was corrected while the old one was asked: what has
 * failed began too early to profit from it. */
static void replay_missed_events(Daemon *d) {
        const unsigned missed = wait_take_missed(&d->wait);

        for (unsigned event = 0; missed >> event; event++)
                if (missed & 1u << event)
                        daemon_shorten_wait(d, (RetryEvent) event);
}

void daemon_clock_set(Daemon *d) {
        if (daemon_state(d) == STATE_HANDED_OFF && d->config->target == TARGET_NONE)
                warn_about_clock(d);
        wait_update_local_time(&d->wait, &d->machine);
        note_throttling(d);
        daemon_publish(d);
        daemon_shorten_wait(d, RETRY_EVENT_CLOCK);
}

/* The failure is over when the failed step or a later one succeeds, or when an outside event begins an
 * attempt. */
static bool is_failure_over(const Daemon *d, const Event *event, Step step, const Action *action) {
        if (event->type < EVENT_START)
                return step >= d->failed_step;
        return action->start && action->step != STEP_IDLE && d->machine.failure == FAILURE_NONE;
}

/* DPS asked for this wait before the attempt was interrupted, or before the daemon started. */
static void set_throttling_failure(Daemon *d) {
        if (d->failure.kind != FAILURE_HTTP_THROTTLED)
                (void) failure_set(&d->failure, FAILURE_HTTP_THROTTLED, NULL,
                                   "DPS throttled requests (HTTP 429) and asked to wait");
}

static void set_disruption_failure(Daemon *d, const char *until) {
        const Assignment *a = &d->record.intended;

        if (a->hub)
                (void) failure_set(&d->failure, FAILURE_DISRUPTION_BUDGET, NULL,
                                   "'%s' on '%s' is not handed over before %s, because IoT Edge was "
                                   "disrupted too often",
                                   a->device_id, a->hub, until);
        else
                (void) failure_set(&d->failure, FAILURE_DISRUPTION_BUDGET, NULL,
                                   "'%s' does not register before %s, because IoT Edge was disrupted too "
                                   "often and DPS may move the device",
                                   d->tpm.registration_id, until);
}

/* The machine waits for a budget and has no failure of a step. */
static void report_budget(Daemon *d) {
        const bool disruptions = d->machine.failure == FAILURE_DISRUPTION_BUDGET;
        char until[UTC_TEXT_SIZE];

        utc_text(until, d->wait.next_attempt_usec);
        if (disruptions)
                set_disruption_failure(d, until);
        else
                (void) failure_set(
                        &d->failure, FAILURE_REGISTRATION_BUDGET, NULL,
                        "'%s' has used up its registration budget (%d, and one more every %llu minutes)",
                        d->tpm.registration_id, REGISTRATION_BUDGET_SIZE,
                        (unsigned long long) (REGISTRATION_REFILL_USEC / (60 * USEC_PER_SEC)));
        d->failed_step = disruptions && d->record.intended.hub ? STEP_HANDOFF : STEP_REGISTER;
        publish_failure(d, d->failed_step);
}

void daemon_feed(Daemon *d, const Event *event) {
        Step step = d->machine.step;
        Facts facts;
        State state;
        Action action;

        daemon_facts(d, &facts);
        action = machine_feed(&d->machine, &facts, event, &d->config->retry, random_number());
        if (event->type == EVENT_FAILED)
                keep_failure(d, facts_state(&facts), step, event->failure);
        else if (is_failure_over(d, event, step, &action))
                forget_failure(d);
        run_action(d, &action);
        state = daemon_state(d);
        if (state == STATE_HANDED_OFF && d->record.state != STATE_HANDED_OFF) {
                forget_failure(d);
                if (d->config->target == TARGET_NONE)
                        warn_about_clock(d);
        }
        if (machine_throttled(&d->machine) && event->type != EVENT_FAILED)
                set_throttling_failure(d);
        if (action.held_back)
                report_budget(d);
        if (event->type == EVENT_FAILED)
                report_failure(d, step);
        if (machine_backing_off(&d->machine))
                replay_missed_events(d);
        if (d->noted_throttling_usec != d->wait.throttled_until_usec || wait_throttled(&d->wait) == 0)
                note_throttling(d);
        if (state == STATE_UNPROVISIONED && d->machine.step == STEP_IDLE)
                (void) daemon_config_usable(d, &d->failure); /* why it is not provisioned */
        daemon_publish(d);
        if (event->type == EVENT_FAILED && step == STEP_FORGET)
                reset_answer(&d->reset, event->failure);
}

void daemon_done(Daemon *d) {
        daemon_feed(d, &(Event){ .type = EVENT_DONE });
}

void daemon_failed(Daemon *d, const Failure *failure) {
        daemon_feed(d, &(Event){ .type = EVENT_FAILED, .failure = failure });
}

/* A handed-off gateway waits for its TPM and publishes the failure as a warning. */
static const Failure *cause_of_wait(const Daemon *d) {
        const Failure *warning = warnings_get_identity(&d->warnings);

        return d->failure.kind == FAILURE_NONE && warning ? warning : &d->failure;
}

void daemon_forget_throttling(Daemon *d) {
        wait_throttle(&d->wait, 0);
        note_throttling(d);
}

void daemon_end_wait(Daemon *d) {
        wait_arm(&d->wait, &d->machine, wait_count_call(&d->wait));
        daemon_publish(d);
}

void daemon_shorten_wait(Daemon *d, RetryEvent event) {
        if (wait_shorten(&d->wait, &d->machine, cause_of_wait(d), event, random_number()))
                daemon_publish(d);
}

/* --- life --- */

/* Beginning anew costs one registration; not beginning costs the gateway. What could not be understood (it
 * may be a newer version's) is kept for whoever looks into it. */
static int begin_without_record(Daemon *d, int r, const Failure *failure) {
        CLEANUP(freep) char *aside = NULL;

        if (r == -ENOMEM)
                return r;
        if (asprintf(&aside, "%s.damaged", d->publisher.record_path) < 0) {
                aside = NULL;
                return -ENOMEM;
        }
        if (rename(d->publisher.record_path, aside) < 0)
                warnings_add(&d->warnings, FAILURE_STORAGE, "%s; the assignment is not known",
                             failure->sentence);
        else
                warnings_add(&d->warnings, FAILURE_STORAGE,
                             "%s; it is kept as '%s', and the assignment is not known", failure->sentence,
                             aside);
        return 0;
}

static int load_record(Daemon *d) {
        Failure failure;
        int r;

        r = record_load(&d->record, d->publisher.record_path, &failure);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return begin_without_record(d, r, &failure);
        daemon_restore_server_time(d);
        d->machine.retry = d->record.retry;
        budget_refill(&d->record.budget, daemon_budget_time(d));
        restore_throttling(d);
        warnings_restore(&d->warnings, record_assignment(&d->record));
        return string_replace(&d->tpm.registration_id,
                              record_assignment(&d->record)->target.registration_id);
}

int daemon_new(Daemon **ret, const DaemonOptions *options, sd_event *event, sd_bus *bus) {
        CLEANUP(daemon_freep) Daemon *d = calloc(1, sizeof(*d));
        int r;

        if (!d)
                return -ENOMEM;
        d->options = options;
        d->event = sd_event_ref(event);
        d->bus = sd_bus_ref(bus);
        r = publisher_init(&d->publisher, options->state_dir ?: "/var/lib/dps-provisiond");
        if (r >= 0)
                r = config_load(&d->config, &options->config);
        if (r >= 0)
                r = daemon_hash_config(d, d->config_hash);
        if (r >= 0)
                r = load_record(d);
        if (r >= 0)
                r = wait_init(&d->wait, event, on_wait_end, d);
        if (r < 0)
                return r;
        *ret = TAKE(d);
        return 0;
}

Daemon *daemon_free(Daemon *d) {
        if (!d)
                return NULL;
        attempt_deinit(&d->attempt);
        d->watch = watch_free(d->watch);
        helper_deinit(&d->helper);
        (void) sd_bus_slot_unref(d->handoff_owner);
        while (d->reprovision_count > 0)
                (void) sd_bus_message_unref(d->reprovision[--d->reprovision_count]);
        reset_deinit(&d->reset);
        wait_deinit(&d->wait);
        (void) sd_bus_unref(d->bus);
        (void) sd_event_unref(d->event);
        tpm1_deinit(&d->tpm);
        publisher_deinit(&d->publisher);
        record_deinit(&d->record);
        d->config = config_free(d->config);
        d->config_before = config_free(d->config_before);
        free(d);
        return NULL;
}

void daemon_freep(Daemon **d) {
        *d = daemon_free(*d);
}

int daemon_start(Daemon *d) {
        Failure failure;
        bool ready;
        int r;

        r = watch_new(&d->watch, d);
        if (r >= 0)
                r = handoff_watch(d);
        if (r < 0)
                return r;
        ready = daemon_config_usable(d, &failure);
        if (ready && !intent_is_allowed(d))
                r = intent_change(d, PENDING_REATTEST);
        else if (ready && daemon_retargeted(d))
                r = intent_change(d, PENDING_RETARGET);
        if (r < 0)
                return r;
        daemon_warn_about_config(d);
        if (!ready)
                daemon_report_unusable(d, &failure);
        daemon_feed(d, &(Event){ .type = EVENT_START });
        return 0;
}
