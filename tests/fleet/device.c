#include "fleet.h"

/* A power cut ends for the whole fleet within this time. */
#define BOOT_SPREAD_USEC (60 * USEC_PER_SEC)
#define POLL_USEC        (3 * USEC_PER_SEC)
#define TIMEOUT_USEC     (60 * USEC_PER_SEC) /* RequestTimeoutSec= */
/* The Date of DPS at the beginning. */
#define DATE_USEC ((usec_t) 1767225600 * USEC_PER_SEC)

static uint64_t random_number(Device *d) {
        /* xorshift64*, which is never 0 */
        d->random ^= d->random >> 12;
        d->random ^= d->random << 25;
        d->random ^= d->random >> 27;
        return d->random * 0x2545f4914f6cdd1dU;
}

static usec_t between(Device *d, usec_t least, usec_t most) {
        return least + random_number(d) % (most - least + 1);
}

/* Discrete TPMs take up to seconds for a command; the network and DPS up to half a second for a request. */
static usec_t duration(Device *d, Step step) {
        switch (step) {
        case STEP_IDENTITY:
        case STEP_ACTIVATE:
        case STEP_IMPORT:
        case STEP_ADOPT:
                return between(d, 100 * USEC_PER_MSEC, 3 * USEC_PER_SEC);
        case STEP_HANDOFF:
                return between(d, 5 * USEC_PER_SEC, 30 * USEC_PER_SEC);
        default:
                return between(d, 50 * USEC_PER_MSEC, 500 * USEC_PER_MSEC);
        }
}

static BudgetTime budget_time(const Device *d, usec_t now) {
        return (BudgetTime){ .usec = now + (d->answered ? DATE_USEC : 0), .by_date = d->answered };
}

static bool is_counted(Step step) {
        return step == STEP_REGISTER || step == STEP_CONFIRM;
}

static Answer request(Fleet *f, uint32_t id, usec_t now) {
        Device *d = &f->devices[id];
        Answer answer = instance_answer(f, id, now);

        d->answered = d->answered || answer.failure != FAILURE_TIMEOUT;
        if (!is_counted(d->machine.step))
                return answer;
        if (d->lost || now < scenario_begin_usec(f->scenario))
                d->early_requests++;
        else
                d->requests++;
        return answer;
}

static Answer confirm(Fleet *f, uint32_t id, usec_t now) {
        Device *d = &f->devices[id];
        Answer answer;

        budget_spend(&d->budget, budget_time(d, now));
        answer = request(f, id, now);
        if (answer.failure == FAILURE_HTTP_THROTTLED)
                budget_return(&d->budget);
        if (answer.failure == FAILURE_NONE) {
                d->registrations++;
                d->assigned_usec = now + between(d, USEC_PER_SEC, 8 * USEC_PER_SEC);
        }
        return answer;
}

static Answer hand_off(const Fleet *f, Device *d, usec_t now) {
        const Scenario *s = f->scenario;

        if (s->hub == FAILURE_NONE || now >= s->opens_usec) {
                d->facts.confirmed = true;
                return (Answer){};
        }
        if (s->hub_refuses) {
                d->facts.intended = d->facts.key_in_place = false;
                d->facts.key = HUB_KEY_ABSENT;
        }
        return (Answer){ .failure = s->hub };
}

static bool is_assigning(const Device *d, usec_t now) {
        return d->machine.step == STEP_CONFIRM || (d->machine.step == STEP_POLL && now < d->assigned_usec);
}

/* Does the step and takes its result into the facts. */
static Answer do_step(Fleet *f, uint32_t id, usec_t now) {
        Device *d = &f->devices[id];
        Facts *facts = &d->facts;
        Answer answer = {};

        switch (d->machine.step) {
        case STEP_IDENTITY:
                facts->fresh = false;
                break;
        case STEP_REGISTER:
                return request(f, id, now);
        case STEP_CONFIRM:
                return confirm(f, id, now);
        case STEP_POLL:
                answer = request(f, id, now);
                if (answer.failure != FAILURE_NONE || is_assigning(d, now))
                        return answer;
                facts->intended = facts->fresh = true;
                facts->key = HUB_KEY_RECEIVED;
                break;
        case STEP_IMPORT:
                facts->key = HUB_KEY_WRAPPED;
                break;
        case STEP_ADOPT:
                facts->key = HUB_KEY_ADOPTED;
                facts->key_in_place = true;
                break;
        case STEP_HANDOFF:
                return hand_off(f, d, now);
        default:
                break;
        }
        return answer;
}

static void note_wait(Fleet *f, const Device *d, usec_t now, FailureKind kind, usec_t wait) {
        if (failure_class(kind) == FAILURE_CLASS_TRANSIENT && wait > f->transient_usec &&
            budget_wait(&d->budget, budget_time(d, now)) == 0)
                f->transient_usec = wait;
}

static void sleep_until(Fleet *f, Device *d, uint32_t id, usec_t usec) {
        d->due_usec = usec;
        queue_add(f->queue, id, usec);
}

void device_boot(Fleet *f, uint32_t id) {
        Device *d = &f->devices[id];
        const Event start = { .type = EVENT_START };
        Action action;

        *d = (Device){ .facts.configured = true, .random = (id + 1) * 0x9e3779b97f4a7c15U };
        d->lost = id % 100 < f->scenario->lost_percent;
        action = machine_feed(&d->machine, &d->facts, &start, f->policy, random_number(d));
        sleep_until(f, d, id, between(d, 0, BOOT_SPREAD_USEC) + action.delay_usec);
}

static Action feed(Fleet *f, Device *d, usec_t now, Answer answer, bool pending) {
        static Failure failure; /* large; the other members stay zero */
        Event event = { .type = EVENT_DONE };

        if (answer.failure != FAILURE_NONE) {
                failure.kind = answer.failure;
                failure.retry_after_usec = answer.retry_after_usec;
                event = (Event){ .type = EVENT_FAILED, .failure = &failure };
        } else if (pending)
                event = (Event){ .type = EVENT_PENDING, .delay_usec = POLL_USEC };
        budget_refill(&d->budget, budget_time(d, now));
        d->facts.budget_usec = budget_wait(&d->budget, budget_time(d, now));
        return machine_feed(&d->machine, &d->facts, &event, f->policy, random_number(d));
}

/* Runs the device until it waits or needs an operation of the instance, which other devices may take first.
 * Everything else depends on the time alone. */
void device_wake(Fleet *f, uint32_t id) {
        Device *d = &f->devices[id];
        usec_t now = d->due_usec;
        Action action;
        Answer answer;
        Step step;

        for (;;) {
                step = d->machine.step;
                if (is_counted(step) && now > d->due_usec) {
                        sleep_until(f, d, id, now);
                        return;
                }
                machine_begin(&d->machine);
                answer = do_step(f, id, now);
                action = feed(f, d, now, answer, is_assigning(d, now));
                now += answer.failure == FAILURE_TIMEOUT ? TIMEOUT_USEC : duration(d, step);
                if (action.step == STEP_IDLE) {
                        d->done_usec = now;
                        return;
                }
                now += action.delay_usec;
                if (action.held_back) {
                        sleep_until(f, d, id, now);
                        return;
                }
                if (answer.failure != FAILURE_NONE) {
                        note_wait(f, d, now - action.delay_usec, answer.failure, action.delay_usec);
                        sleep_until(f, d, id, now);
                        return;
                }
        }
}
