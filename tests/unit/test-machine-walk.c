/*
 * Walks over everything that can be reached: every machine with every record, configuration, TPM and IoT
 * Edge, and every event and result in each (machine-model.h). Each step is checked against properties that
 * are written without the table. Then the table is changed, row by row, to see that each property can fail.
 */
#include <stdlib.h>

#define TABLE static
#include "machine.c" /* NOLINT(bugprone-suspicious-include): the rows are changed in memory */

#include "machine-policy.h"
#include "machine-properties.h"
#include "test.h"

/* --- the walk --- */

#define SLOTS (1u << 20)
#define NONE  UINT32_MAX

typedef struct Visited {
        Model model;
        uint32_t from, well; /* where it was reached from; where it gets to when all is well */
} Visited;

/* What a row was used for. */
typedef struct Used {
        unsigned states, steps, events;
} Used;

typedef struct Walk {
        uint32_t *slots; /* 0: free; else the index in visited, plus 1 */
        Visited *visited;
        uint32_t count, size, at;
        unsigned violations[_PROPERTY_MAX];
        Property stop; /* at the first violation of this; _PROPERTY_MAX: never */
        bool plain;    /* begin with fewer records */
        bool tell;     /* print the violations */
        Used *used;    /* of each row; NULL: not wanted */
        uint64_t feeds;
} Walk;

static void print_model(Model w) {
        printf("#   %s %s progress %u pending %u failure %u retried %u;", state_to_string(model_state(w)),
               step_to_string((Step) w.step), w.progress, w.pending, w.failure, w.failed_before);
        printf(" intent %u %s key %u, confirmed %u other %u forced %u reset %u resting %u;", w.intended,
               hand_over_to_string((HandOver) w.hand_over), w.key, w.confirmed, w.other, w.forced, w.reset,
               w.resting);
        printf(" usable %u no-edge %u adopts %u noted %u; handle %u unread %u;", w.configured, w.no_edge,
               w.adopts, w.noted, w.handle, w.unread);
        printf(" live %u quiesced %u spent %u fresh %u; throttled %u tokens %u unbudgeted %u asked %u\n",
               w.live, w.quiesced, w.hold_spent, w.fresh, w.throttled, w.tokens, w.unbudgeted, w.asked);
}

static void print_path(const Walk *walk, uint32_t i) {
        if (i == NONE)
                return;
        print_path(walk, walk->visited[i].from);
        print_model(walk->visited[i].model);
}

static void violated(Walk *walk, Property property, uint32_t at, const Move *move) {
        walk->violations[property]++;
        if (!walk->tell || walk->violations[property] > 1)
                return;
        printf("# %s:\n", property_to_string(property));
        print_path(walk, at);
        if (move) {
                print_model(move->model);
                printf("#   event %d %s\n", move->event, failure_kind_to_string(move->failure));
        }
}

static uint32_t visit(Walk *walk, Model w) {
        uint64_t hash = w.all * 0x9e3779b97f4a7c15u;
        uint32_t slot = (uint32_t) (hash >> 40) % SLOTS;

        for (; walk->slots[slot] > 0; slot = (slot + 1) % SLOTS)
                if (walk->visited[walk->slots[slot] - 1].model.all == w.all)
                        return walk->slots[slot] - 1;
        if (walk->count == walk->size) {
                walk->size = walk->size ? walk->size * 2 : 65536;
                walk->visited = realloc(walk->visited, walk->size * sizeof(*walk->visited));
                assert_non_null(walk->visited);
        }
        assert_true(walk->count < SLOTS / 2);
        walk->visited[walk->count] = (Visited){ .model = w, .from = walk->at, .well = NONE };
        walk->slots[slot] = ++walk->count;
        return walk->count - 1;
}

static uint32_t arrive(Walk *walk, Model w) {
        model_simplify(&w);
        return visit(walk, w);
}

static void mark(Walk *walk, unsigned step, const Input *in) {
        const unsigned state = 1u << facts_state(in->facts), event = 1u << in->event->type;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const Row *row = &rows[i];

                if (!(row->states & state) || !(row->steps & 1u << step) || !(row->events & event) ||
                    !row->when.holds(in))
                        continue;
                walk->used[i].states |= state;
                walk->used[i].steps |= 1u << step;
                walk->used[i].events |= event;
                if (row->next == NEXT_HAND_OVER || row->next == NEXT_REST)
                        mark(walk, row->next, in);
                return;
        }
}

static Model feed(Walk *walk, const Move *move) {
        const Failure failure = { .kind = move->failure, .retry_after_usec = RETRY_AFTER_USEC };
        const Event event = { .type = move->event,
                              .failure = move->event == EVENT_FAILED ? &failure : NULL,
                              .delay_usec = move->event == EVENT_PENDING ? POLL_USEC : 0,
                              .newly_usable = move->newly_usable };
        Model w = move->model;
        Facts facts;
        Fed fed = { .move = move, .facts = &facts, .before = model_machine(w), .after = model_machine(w) };

        model_facts(move, &facts);
        if (!find_row(fed.before.step, &(Input){ &fed.before, &facts, &event })) {
                violated(walk, GOES_ON, walk->at, move);
                return w;
        }
        if (walk->used)
                mark(walk, fed.before.step, &(Input){ &fed.before, &facts, &event });
        fed.action = machine_feed(&fed.after, &facts, &event, &policy, 0);
        walk->feeds++;
        for (int i = 0; i < _PROPERTY_MAX; i++)
                if (!property_holds((Property) i, &fed))
                        violated(walk, (Property) i, walk->at, move);
        if (event.type < EVENT_START || fed.action.change != PENDING_NONE || facts.reset)
                w.asked = PENDING_NONE;
        model_set_machine(&w, &fed.after);
        model_act(&w, &fed.action);
        return w;
}

static bool stopped(const Walk *walk) {
        return walk->stop < _PROPERTY_MAX && walk->violations[walk->stop] > 0;
}

static void look(Walk *walk) {
        const Model model = walk->visited[walk->at].model;
        Moves moves;

        model_moves(model, &moves);
        for (unsigned i = 0; i < moves.count && !stopped(walk); i++) {
                const Move *move = &moves.list[i];
                uint32_t next = arrive(walk, move->fed ? feed(walk, move) : move->model);

                if (i == 0 && model.progress != PROGRESS_IDLE)
                        walk->visited[walk->at].well = next;
        }
}

/* Where the way of a model with a usable configuration ends when all is well. */
static bool ends_well(Model w) {
        const State state = model_state(w);

        return w.step == STEP_IDLE && (state == STATE_HANDED_OFF || w.resting || !w.configured);
}

static void check_ways(Walk *walk) {
        enum {
                UNKNOWN,
                ON_THE_WAY,
                GOOD
        };
        uint8_t *known = calloc(walk->count + 1, 1);

        assert_non_null(known);
        for (uint32_t i = 0; i < walk->count; i++) {
                uint32_t at = i;

                while (known[at] == UNKNOWN && walk->visited[at].well != NONE) {
                        known[at] = ON_THE_WAY;
                        at = walk->visited[at].well;
                }
                if (known[at] == ON_THE_WAY || (known[at] == UNKNOWN && !ends_well(walk->visited[at].model)))
                        violated(walk, HANDED_OFF, i, NULL);
                known[at] = GOOD;
                for (at = i; known[at] == ON_THE_WAY; at = walk->visited[at].well)
                        known[at] = GOOD;
        }
        free(known);
}

static void begin_with(Walk *walk, Model w) {
        const Move move = { .model = w, .fed = true, .event = EVENT_START };
        Model started = feed(walk, &move);

        (void) arrive(walk, started);
}

/* The daemon's start with every record and configuration. Without a record it is the cold start. */
static void begin_with_all(Walk *walk) {
        for (unsigned i = 0; i < 3u << 15; i++) {
                Model w = { .configured = i & 1,
                            .no_edge = i >> 1 & 1,
                            .adopts = i >> 2 & 1,
                            .intended = i >> 3 & 1,
                            .confirmed = i >> 4 & 1,
                            .hand_over = i >> 5 & 3,
                            .key = i >> 7 & 3,
                            .other = i >> 9 & 1,
                            .forced = i >> 10 & 1,
                            .reset = i >> 11 & 1,
                            .throttled = i >> 12 & 1,
                            .failed_before = i >> 13 & 1,
                            .noted = i >> 14 & 1,
                            .tokens = i >> 15 };

                if (w.hand_over == _HAND_OVER_MAX ||
                    (w.hand_over == HAND_OVER_KEEP && w.key != HUB_KEY_ABSENT) ||
                    (w.hand_over == HAND_OVER_ADOPT && w.key == HUB_KEY_ABSENT) ||
                    (w.confirmed && (!w.intended || w.other)) || (!w.intended && i >> 5 & 15))
                        continue;
                if (walk->plain && (i >> 9 & 3 || i >> 13 != 1 << 2))
                        continue;
                if (w.noted && w.configured)
                        continue; /* the daemon has handed it over in another way before it starts */
                begin_with(walk, w);
        }
}

static void walk_over_all(Walk *walk) {
        walk->slots = calloc(SLOTS, sizeof(*walk->slots));
        assert_non_null(walk->slots);
        walk->at = NONE;
        begin_with_all(walk);
        for (walk->at = 0; walk->at < walk->count && !stopped(walk); walk->at++)
                look(walk);
        if (walk->at == walk->count)
                check_ways(walk);
}

static void walk_deinit(Walk *walk) {
        free(walk->slots);
        free(walk->visited);
}

/* Each member of a set that is named is used; a set that is "any" only has to be used. */
static bool is_used(unsigned set, unsigned used) {
        return __builtin_popcount(set) > 8 ? used != 0 : used == set;
}

static void the_properties_hold(void **state) {
        Used used[ARRAY_SIZE(rows)] = {};
        CLEANUP(walk_deinit) Walk walk = { .stop = _PROPERTY_MAX, .tell = true, .used = used };
        unsigned violations = 0;

        walk_over_all(&walk);
        printf("# configurations: %u, steps of the machine: %llu\n", walk.count,
               (unsigned long long) walk.feeds);
        for (int i = 0; i < _PROPERTY_MAX; i++)
                violations += walk.violations[i];
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (!is_used(rows[i].states, used[i].states) || !is_used(rows[i].steps, used[i].steps) ||
                    !is_used(rows[i].events, used[i].events))
                        fail_msg("row %zu (%s) is not used: states %x, steps %x, events %x", i,
                                 rows[i].when.name, used[i].states, used[i].steps, used[i].events);
        assert_int_equal(violations, 0);
}

/* --- that they can fail --- */

static const struct {
        Row row;
        Step next; /* what it is changed to */
        How how;
        bool removed;
        Property property;
} mutations[] = {
#define REMOVE(PROPERTY, ...)                                                                               \
        { { __VA_ARGS__ }, .removed = true, .property = PROPERTY }
#define CHANGE_TO(PROPERTY, N, H, ...)                                                                      \
        { { __VA_ARGS__ }, .next = N, .how = H, .property = PROPERTY }
        CHANGE_TO(HANDED_OFF, STEP_IDENTITY, HOW_NOW, AT, ON(REGISTER), EV(DONE), IF(always), STEP_ACTIVATE,
                  HOW_NOW),
        REMOVE(HANDED_OFF, AS, ON(IDLE), EV(CONFIGURED), IF(newly_usable), STEP_IDENTITY, HOW_BEGIN),
        CHANGE_TO(INTENT, STEP_CONFIRM, HOW_NOW, AS, ON(REGISTER), EV(DONE), IF(always), STEP_HANDOFF,
                  HOW_NOW),
        CHANGE_TO(INTENT, STEP_FORGET, HOW_NOW, ANY, ANY, EV(UNCONFIGURED), IF(always), NEXT_SAME, HOW_STAY),
        CHANGE_TO(CHANGE_MADE, NEXT_SAME, HOW_STAY, ANY, ANY, CHANGES | EV(UNCONFIGURED) | EV(RESET),
                  IF(helper_busy), NEXT_SAME, HOW_REMEMBER),
        REMOVE(CHANGE_MADE, ANY, ANY, RESULT, IF(change_pending), STEP_IDENTITY, HOW_CHANGE),
        REMOVE(ONE, ANY, ANY, CHANGES | EV(UNCONFIGURED) | EV(RESET), IF(helper_busy), NEXT_SAME,
               HOW_REMEMBER),
        CHANGE_TO(ONE, STEP_POLL, HOW_NOW, ANY, ANY, CHANGES, IF(always), STEP_IDENTITY, HOW_CHANGE),
        CHANGE_TO(RESUMED, NEXT_SAME, HOW_STAY, ANY, ON(POLL), EV(HOLD_SPENT), IF(waiting), NEXT_SAME,
                  HOW_LET_GO),
        CHANGE_TO(RESUMED, NEXT_SAME, HOW_STAY, ANY, ON(REGISTER) | ON(IMPORT) | ON(ADOPT), EV(HOLD_SPENT),
                  IF(waiting), STEP_IDENTITY, HOW_LET_GO),
        CHANGE_TO(WAIT, NEXT_SAME, HOW_NOW, AT, ON(POLL), EV(FAILED), IF(poll_failed_in_passing), NEXT_SAME,
                  HOW_BACK_OFF),
        CHANGE_TO(WAIT, STEP_POLL, HOW_NOW, ANY, ON(CONFIRM) | ON(POLL), EV(PENDING), IF(always), STEP_POLL,
                  HOW_ASK_AGAIN),
        REMOVE(WAIT, AT, ON(IDENTITY) | ON(PREPARE), EV(DONE), IF(throttled), STEP_IDENTITY, HOW_BEGIN),
        REMOVE(WAIT, ANY, AFTER, ANY, IF(needs_dps_throttled), STEP_IDENTITY, HOW_BEGIN),
        REMOVE(BUDGET, AT, ON(IDENTITY) | ON(PREPARE), EV(DONE), IF(budget_spent), STEP_IDENTITY,
               HOW_HOLD_BACK),
        CHANGE_TO(BUDGET, STEP_REGISTER, HOW_NOW, ANY, ANY, EV(FAILED), IF(always), STEP_IDENTITY,
                  HOW_BACK_OFF),
        REMOVE(IN_ORDER, ANY, AFTER, ANY, IF(needs_quiesce), STEP_QUIESCE, HOW_NOW),
        REMOVE(IN_ORDER, ANY, AFTER, ANY, IF(needs_adoption), STEP_ADOPT, HOW_NOW),
        REMOVE(IN_ORDER, ANY, AFTER, ANY, IF(needs_dps), STEP_REGISTER, HOW_NOW),
        REMOVE(IN_ORDER, AT, ON(ACTIVATE), EV(DONE), IF(edge_runs), STEP_QUIESCE, HOW_NOW),
        CHANGE_TO(IN_ORDER, NEXT_SAME, HOW_LET_GO, ANY, ON(REGISTER) | ON(IMPORT) | ON(ADOPT),
                  EV(HOLD_SPENT), IF(waiting), STEP_IDENTITY, HOW_LET_GO),
        CHANGE_TO(KEYLESS, STEP_IDENTITY, HOW_NOW, AT, ON(ADOPT), EV(FAILED), IF(key_is_dead_while_held),
                  STEP_REGISTER, HOW_NOW),
        REMOVE(KEYLESS, AT, ON(REGISTER) | ON(ACTIVATE) | ON(CONFIRM) | ON(POLL) | ON(ADOPT), EV(FAILED),
               IF(failed_while_held_without_key), STEP_REGISTER, HOW_BACK_OFF),
        REMOVE(SPARED, AT, ON(PREPARE), EV(DONE), IF(disruption_must_wait), STEP_IDENTITY, HOW_SPARE_EDGE),
        REMOVE(SPARED, ANY, AFTER, ANY, IF(disruption_must_wait), STEP_IDENTITY, HOW_SPARE_EDGE),
        CHANGE_TO(SPARED, STEP_IDENTITY, HOW_BEGIN, ANY, AFTER, ANY, IF(disruption_must_wait), STEP_IDENTITY,
                  HOW_SPARE_EDGE),
        REMOVE(RESTS, HO, REST, ANY, IF(tpm_unread), STEP_IDENTITY, HOW_BACK_OFF),
        REMOVE(RESTS, AT, ON(IDLE), EV(CONFIGURED), IF(always), STEP_IDENTITY, HOW_BEGIN),
        REMOVE(RESTS, ANY, ANY, EV(START), IF(reset_due), STEP_FORGET, HOW_NOW),
        CHANGE_TO(GOES_ON, NEXT_SAME, HOW_STAY, ANY, ANY, EV(FAILED), IF(always), STEP_IDENTITY,
                  HOW_BACK_OFF),
        CHANGE_TO(GOES_ON, STEP_IDLE, HOW_NOW, HO, ON(IDENTITY), EV(FAILED), IF(with_edge), STEP_VERIFY,
                  HOW_GO_ON),
};

static Row *find(const Row *wanted) {
        Row *found = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                Row *r = &rows[i];

                if (r->states != wanted->states || r->steps != wanted->steps ||
                    r->events != wanted->events || r->when.holds != wanted->when.holds ||
                    r->next != wanted->next || r->how != wanted->how)
                        continue;
                assert_null(found);
                found = r;
        }
        return found;
}

static void each_property_can_fail(void **state) {
        bool shown[_PROPERTY_MAX] = {};

        for (size_t i = 0; i < ARRAY_SIZE(mutations); i++) {
                CLEANUP(walk_deinit) Walk walk = { .stop = mutations[i].property, .plain = true };
                Row *row = find(&mutations[i].row), before;

                if (!row) {
                        fail_msg("the row of mutation %zu is gone (%s)", i, mutations[i].row.when.name);
                        return;
                }
                before = *row;
                row->next = mutations[i].next;
                row->how = mutations[i].how;
                if (mutations[i].removed)
                        row->states = 0;
                walk_over_all(&walk);
                *row = before;
                printf("# mutation %zu breaks %s after %u configurations\n", i,
                       property_to_string(walk.stop), walk.at);
                if (walk.violations[walk.stop] == 0)
                        fail_msg("mutation %zu does not break %s", i, property_to_string(walk.stop));
                shown[walk.stop] = true;
        }
        for (int i = 0; i < _PROPERTY_MAX; i++)
                assert_true(shown[i]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_properties_hold),
                cmocka_unit_test(each_property_can_fail),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
