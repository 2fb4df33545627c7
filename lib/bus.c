#include "bus.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "log.h"

/* How long systemd lets a helper run after STOPPING=1: the longest hold of IoT Edge, and the time to end it.
 */
#define LAST_CALL_USEC (60 * 60 * USEC_PER_SEC)

int bus_error_set_failure(sd_bus_error *error, const Failure *failure) {
        char name[sizeof(BUS_FAILURE_PREFIX) + 64];
        char message[sizeof(failure->sentence) + sizeof(failure->code) + 4];

        (void) snprintf(name, sizeof(name), "%s%s", BUS_FAILURE_PREFIX,
                        failure_kind_to_string(failure->kind));
        for (char *p = name; *p; p++)
                if (*p == '-')
                        *p = '_';
        if (failure->code[0])
                (void) snprintf(message, sizeof(message), "%s [%s]", failure->sentence, failure->code);
        else
                (void) snprintf(message, sizeof(message), "%s", failure->sentence);

        (void) sd_bus_error_set(error, name, message);
        return failure_to_errno(failure->kind);
}

int bus_reply_failure(sd_bus_message *call, const Failure *failure) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        (void) bus_error_set_failure(&error, failure);
        r = sd_bus_message_new_method_error(call, &reply, &error);
        if (r >= 0)
                r = sd_bus_message_append(reply, "ts", failure->retry_after_usec,
                                          failure->remedy ? failure->remedy : "");
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

void bus_read_details(sd_bus_message *reply, Failure *failure) {
        const char *message, *hint;
        uint64_t usec;

        if (sd_bus_message_rewind(reply, true) < 0 || sd_bus_message_has_signature(reply, "sts") <= 0 ||
            sd_bus_message_read(reply, "sts", &message, &usec, &hint) < 0)
                return;
        failure->retry_after_usec = usec;
        if (hint[0])
                failure->remedy = failure_keep_hint(hint);
}

/* "sentence [code]" → both; a sentence without a code may itself contain brackets, so only the last pair
 * counts. */
static void split_message(const char *message, char *code, size_t code_size, char *sentence,
                          size_t sentence_size) {
        size_t length = strlen(message);
        const char *open = NULL;

        if (length > 0 && message[length - 1] == ']')
                for (const char *p = message; (p = strstr(p, " [")); p++)
                        open = p;
        if (open && (size_t) (message + length - open) - 3 < code_size) {
                (void) snprintf(code, code_size, "%.*s", (int) (message + length - open - 3), open + 2);
                (void) snprintf(sentence, sentence_size, "%.*s", (int) (open - message), message);
        } else {
                code[0] = '\0';
                (void) snprintf(sentence, sentence_size, "%s", message);
        }
}

void bus_failure_from_error(Failure *ret, const sd_bus_error *error, FailureKind fallback,
                            const char *subject, const char *remedy) {
        const char *message = error->message ? error->message : "";
        FailureKind kind = _FAILURE_KIND_INVALID;
        char code[sizeof(ret->code)], sentence[sizeof(ret->sentence)];

        if (error->name && strncmp(error->name, BUS_FAILURE_PREFIX, strlen(BUS_FAILURE_PREFIX)) == 0) {
                char name[64];

                (void) snprintf(name, sizeof(name), "%s", error->name + strlen(BUS_FAILURE_PREFIX));
                for (char *p = name; *p; p++)
                        if (*p == '_')
                                *p = '-';
                kind = failure_kind_from_string(name);
        }
        if (kind < 0 || kind == FAILURE_NONE) {
                (void) failure_set(ret, fallback, error->name,
                                   "%s could not be used (the journal may say why): %.300s", subject,
                                   message[0] ? message : "no reason was given");
                ret->remedy = remedy;
                return;
        }
        split_message(message, code, sizeof(code), sentence, sizeof(sentence));
        (void) failure_set(ret, kind, code, "%s", sentence);
}

int bus_read_entries(sd_bus_message *m, int (*read)(sd_bus_message *m, const char *key, void *userdata),
                     void *userdata) {
        const char *key;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read(m, "s", &key);
                if (r >= 0)
                        r = read(m, key, userdata);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int caller_uid(sd_bus_message *message, uid_t *ret, sd_bus_error *error) {
        CLEANUP(sd_bus_creds_unrefp) sd_bus_creds *creds = NULL;
        int r;

        r = sd_bus_query_sender_creds(message, SD_BUS_CREDS_EUID, &creds);
        if (r >= 0)
                r = sd_bus_creds_get_euid(creds, ret);
        return r < 0 ? sd_bus_error_set_errnof(error, r, "The caller can't be identified") : 0;
}

/* who runs this program can do without it what it does: a demonstration without root */
static bool is_root(uid_t uid) {
        return uid == 0 || uid == geteuid();
}

int bus_check_caller(sd_bus_message *message, sd_bus_error *error) {
        const struct passwd *user;
        uid_t uid = (uid_t) -1;
        int r;

        r = caller_uid(message, &uid, error);
        if (r < 0 || is_root(uid))
                return r;
        user = getpwnam(DPS_USER);
        if (user && user->pw_uid == uid)
                return 0;
        log_warning("Refused '%s' to the user with the ID %u: only root and '%s' may call it",
                    sd_bus_message_get_member(message), (unsigned) uid, DPS_USER);
        return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED,
                                 "Only root and the user %s may call this", DPS_USER);
}

int bus_check_root(sd_bus_message *message, sd_bus_error *error) {
        uid_t uid = (uid_t) -1;
        int r;

        r = caller_uid(message, &uid, error);
        if (r < 0 || is_root(uid))
                return r;
        log_warning("Refused '%s' to the user with the ID %u: only root may call it",
                    sd_bus_message_get_member(message), (unsigned) uid);
        return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED, "Only root may call this");
}

/* A helper's life. A helper leaves after an idle time, or as soon as possible when it is outdated. */
typedef struct BusHelper {
        const BusHelperSettings *settings;
        sd_event *event;
        sd_bus *bus;
        sd_event_source *timer, *post;
        bool called, was_busy; /* since the last helper_on_post(), and at its time */
        bool outdated;
        bool leaving; /* the release of the name is under way */
} BusHelper;

static bool helper_is_busy(const BusHelper *helper) {
        return helper->settings->busy && helper->settings->busy(helper->settings->userdata);
}

/* The current time, because the event loop's is that of the iteration's start and a call may have blocked
 * since. */
static int helper_arm(BusHelper *helper) {
        int r;

        r = sd_event_source_set_time(helper->timer, now_usec(CLOCK_BOOTTIME) + helper->settings->idle_usec);
        return r < 0 ? r : sd_event_source_set_enabled(helper->timer, SD_EVENT_ONESHOT);
}

/* sd-bus refuses a call whose signature is not the vtable's. An unknown method is one of a later version. */
static bool is_of_another_version(const BusHelper *helper, sd_bus_message *message) {
        const char *member = sd_bus_message_get_member(message);

        if (!sd_bus_message_is_method_call(message, helper->settings->name, NULL))
                return false;
        for (const sd_bus_vtable *v = helper->settings->vtable; v->type != _SD_BUS_VTABLE_END; v++)
                if (v->type == _SD_BUS_VTABLE_METHOD && streq(v->x.method.member, member))
                        return !sd_bus_message_has_signature(message, v->x.method.signature);
        return true;
}

static int helper_on_message(sd_bus_message *message, void *userdata, sd_bus_error *reterr) {
        BusHelper *helper = userdata;

        if (sd_bus_message_is_method_call(message, NULL, NULL) <= 0)
                return 0; /* sd-bus dispatches it */
        helper->called = true;
        if (is_of_another_version(helper, message))
                helper->outdated = true;
        return 0;
}

/* Every call that the bus routed to this process came before this reply, and sd-bus has dispatched it. While
 * the work of a call continues, the helper owns the name again, so that the following calls reach this
 * process. */
static int helper_on_released(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        BusHelper *helper = userdata;

        if (!helper_is_busy(helper))
                return sd_event_exit(helper->event, 0);
        helper->leaving = false;
        /* This fails when the next instance runs already. */
        (void) sd_bus_request_name(helper->bus, helper->settings->name, 0);
        return 0;
}

/* Release the name before exiting: from then on the bus starts a new instance. Notify systemd before the
 * release; otherwise systemd takes this instance for the running one and starts no other. */
static int helper_leave(BusHelper *helper) {
        int r;

        helper->leaving = true;
        (void) sd_notifyf(false, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRIu64, (uint64_t) LAST_CALL_USEC);
        r = sd_bus_release_name_async(helper->bus, NULL, helper->settings->name, helper_on_released, helper);
        return r < 0 ? sd_event_exit(helper->event, 0) : 0;
}

static int helper_on_idle(sd_event_source *source, uint64_t usec, void *userdata) {
        BusHelper *helper = userdata;

        /* A call of this iteration counts, although helper_on_post() has not run yet. */
        if (helper->leaving || helper->called || helper->was_busy || helper_is_busy(helper))
                return 0;
        return helper_leave(helper);
}

/* This runs after each other event source. The idle time begins when the work of the last call ends. */
static int helper_on_post(sd_event_source *source, void *userdata) {
        BusHelper *helper = userdata;
        const BusHelperSettings *s = helper->settings;
        bool busy = helper_is_busy(helper), active = helper->called || helper->was_busy;

        helper->called = false;
        helper->was_busy = busy;
        if (helper->leaving)
                return 0;
        if (!busy && (helper->outdated || (s->outdated && s->outdated(s->userdata))))
                return helper_leave(helper);
        return active && !busy ? helper_arm(helper) : 0;
}

static int helper_on_disconnected(sd_bus_message *message, void *userdata, sd_bus_error *reterr) {
        BusHelper *helper = userdata;

        return sd_event_exit(helper->event, -ECONNRESET);
}

/* Not later: a bus that is attached to an event loop is closed when the loop ends. */
static int helper_on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        BusHelper *helper = userdata;

        if (helper->settings->stop)
                helper->settings->stop(helper->settings->userdata);
        return sd_event_exit(helper->event, 0);
}

static int helper_block_signals(BusHelper *helper) {
        sigset_t set;
        int r;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGINT);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        r = sd_event_add_signal(helper->event, NULL, SIGTERM, helper_on_signal, helper);
        return r < 0 ? r : sd_event_add_signal(helper->event, NULL, SIGINT, helper_on_signal, helper);
}

static int helper_connect(BusHelper *helper) {
        const BusHelperSettings *s = helper->settings;
        int r;

        r = sd_bus_open_system(&helper->bus);
        if (r < 0)
                return r;
        r = sd_bus_attach_event(helper->bus, helper->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;
        r = sd_bus_add_object_vtable(helper->bus, NULL, s->path, s->name, s->vtable, s->userdata);
        if (r < 0)
                return r;
        r = sd_bus_add_filter(helper->bus, NULL, helper_on_message, helper);
        if (r < 0)
                return r;
        r = sd_bus_match_signal(helper->bus, NULL, "org.freedesktop.DBus.Local", NULL,
                                "org.freedesktop.DBus.Local", "Disconnected", helper_on_disconnected,
                                helper);
        if (r < 0)
                return r;
        if (s->start) {
                r = s->start(helper->bus, helper->event, s->userdata);
                if (r < 0)
                        return r;
        }
        return sd_bus_request_name(helper->bus, s->name, 0);
}

int bus_helper_run(const BusHelperSettings *settings) {
        BusHelper helper = { .settings = settings };
        int r;

        r = sd_event_new(&helper.event);
        if (r >= 0)
                r = helper_block_signals(&helper);
        if (r >= 0)
                r = sd_event_set_watchdog(helper.event, true);
        if (r >= 0)
                r = sd_event_add_time_relative(helper.event, &helper.timer, CLOCK_BOOTTIME,
                                               settings->idle_usec, USEC_PER_SEC / 100, helper_on_idle,
                                               &helper);
        if (r >= 0)
                r = sd_event_add_post(helper.event, &helper.post, helper_on_post, &helper);
        if (r >= 0)
                r = helper_connect(&helper);
        if (r >= 0) {
                helper.was_busy = helper_is_busy(&helper);
                (void) sd_notify(false, "READY=1");
                r = sd_event_loop(helper.event);
        }
        (void) sd_event_source_unref(helper.timer);
        (void) sd_event_source_unref(helper.post);
        helper.bus = sd_bus_flush_close_unref(helper.bus);
        (void) sd_event_unref(helper.event);
        return r < 0 ? r : 0;
}
