/* What a changed configuration means. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon.h"
#include "identity.h"
#include "url.h"

bool daemon_config_usable(const Daemon *d, Failure *ret) {
        if (config_failure(d->config, ret))
                return false;
        *ret = (Failure){};
        return d->config->id_scope != NULL;
}

/* --- has it changed? --- */

/* A file that the configuration names counts by what stat() says of it. */
static void print_mark(FILE *f, const char *path) {
        struct stat st;

        if (path && stat(path, &st) == 0)
                (void) fprintf(f, "%s %llu %lld %lld.%09ld\n", path, (unsigned long long) st.st_ino,
                               (long long) st.st_size, (long long) st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

/* It may have a password, which is not shown but counts. */
static void print_proxy(FILE *f, const char *proxy) {
        uint8_t hash[SHA256_SIZE];

        if (proxy && sha256(proxy, strlen(proxy), hash) >= 0)
                (void) fwrite(hash, sizeof(hash), 1, f);
}

static int print_config(FILE *f, const Config *c) {
        const char *section, *key, *source;
        char *value;

        for (size_t i = 0; config_describe(c, i, &section, &key, &value, &source); i++) {
                if (!value)
                        return -ENOMEM;
                (void) fprintf(f, "%s=%s\n", key, value);
                free(value);
        }
        print_proxy(f, c->proxy);
        for (size_t i = 0; i < c->problem_count; i++)
                (void) fprintf(f, "%s:%u: %s\n", c->problems[i].file, c->problems[i].line,
                               c->problems[i].text);
        print_mark(f, c->payload);
        print_mark(f, c->ca_file);
        return 0;
}

int daemon_hash_config(const Daemon *d, uint8_t ret[static SHA256_SIZE]) {
        CLEANUP(freep) char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        int r;

        if (!f)
                return -ENOMEM;
        r = print_config(f, d->config);
        if (fclose(f) != 0 || !text)
                return -ENOMEM;
        return r < 0 ? r : sha256(text, size, ret);
}

/* Compares with the assignment, not with the last file: a value that was changed back is no change. */
static bool registration_id_changed(const Daemon *d, const Config *old) {
        const Config *c = d->config;
        CLEANUP(freep) char *id = NULL;
        Failure failure;

        /* One that is not known is not another one. The next look at the TPM tells. */
        if (record_has_intent(&d->record)) {
                if (!c->registration_id && d->tpm.ek_public.size == 0)
                        return false;
                return identity_registration_id(&id, c, &d->options->config, d->tpm.ek_public.data,
                                                d->tpm.ek_public.size, &failure) >= 0 &&
                       !streq(id, d->record.intended.target.registration_id);
        }
        return !str_equal(c->registration_id, old->registration_id) ||
               c->registration_id_format != old->registration_id_format;
}

/* The configuration has another target than the intended assignment, or does not allow its hub. */
static bool intent_is_void(const Daemon *d, const Config *old) {
        const Config *c = d->config;
        const Target *target = &d->record.intended.target;
        bool intended = record_has_intent(&d->record);

        return !intent_is_allowed(d) ||
               !str_equal(c->id_scope, intended ? target->id_scope : old->id_scope) ||
               !url_same_endpoint(c->global_endpoint, intended ? target->endpoint : old->global_endpoint) ||
               registration_id_changed(d, old);
}

/* A state file of version 1 has these settings only for a confirmed assignment. */
bool daemon_retargeted(const Daemon *d) {
        const Assignment *a = &d->record.intended;

        if (!a->handed_to || !a->identity)
                return record_has_intent(&d->record) && !record_is_confirmed(&d->record);
        return !streq(a->handed_to, target_to_string(d->config->target)) ||
               !streq(a->identity, identity_mode_to_string(d->config->identity)) ||
               a->hub_key_handle != d->config->hub_key_handle;
}

static bool hand_over_changed(const Daemon *d, const Config *old) {
        const Config *c = d->config;

        if (record_has_intent(&d->record))
                return daemon_retargeted(d);
        return c->hub_key_handle != old->hub_key_handle || c->target != old->target ||
               c->identity != old->identity;
}

/* --- what follows --- */

void daemon_warn_about_hub(Daemon *d) {
        const char *hub = d->record.confirmed.hub;

        warnings_remove(&d->warnings, FAILURE_HUB_NOT_ALLOWED);
        if (record_is_confirmed(&d->record) && !config_hub_allowed(d->config, hub))
                warnings_add(&d->warnings, FAILURE_HUB_NOT_ALLOWED,
                             "AllowedHubs= does not allow '%s', which this gateway uses", hub);
}

void daemon_warn_about_config(Daemon *d) {
        const Config *c = d->config;
        char all[sizeof(d->failure.sentence)] = "";
        size_t used = 0;

        for (size_t i = 0; i < c->problem_count; i++) {
                CLEANUP(freep) char *text = config_problem_to_string(&c->problems[i]);
                int n;

                if (c->problems[i].fatal || used >= sizeof(all))
                        continue;
                n = snprintf(all + used, sizeof(all) - used, "%s%s", used > 0 ? "; " : "", text ? text : "");
                used += n > 0 ? (size_t) n : 0;
        }
        if (used > 0)
                warnings_add(&d->warnings, WARNING_CONFIG_IGNORED, "%s", all);
        else
                warnings_remove(&d->warnings, WARNING_CONFIG_IGNORED);
        daemon_warn_about_hub(d);
}

static void log_config_failure(const Failure *failure) {
        static const char *const fields[] = { "DPS_FAILURE=config", NULL };

        log_event(LOG_ERR, failure_message_id(FAILURE_CONFIG), fields, "%s. %s", failure->sentence,
                  failure_remedy(FAILURE_CONFIG));
}

void daemon_report_unusable(Daemon *d, const Failure *failure) {
        State state = daemon_state(d);

        if (failure->kind != FAILURE_NONE)
                log_config_failure(failure);
        if (state == STATE_HANDED_OFF || (state == STATE_ASSIGNED && failure->kind == FAILURE_NONE))
                warnings_add(&d->warnings, FAILURE_CONFIG, "%s",
                             failure->kind != FAILURE_NONE
                                     ? failure->sentence
                                     : "IdScope= is no longer set; the assignment stays");
        else
                d->failure = *failure;
}

/* The waits after a 429 and for the budget belong to the DPS instance of before. */
static void begin_with_another_instance(Daemon *d) {
        daemon_forget_throttling(d);
        d->attempt.unbudgeted = true;
}

/* last: the last usable configuration, or NULL. */
static bool is_other_instance(const Config *c, const Config *last) {
        return last && (!str_equal(c->id_scope, last->id_scope) ||
                        !url_same_endpoint(c->global_endpoint, last->global_endpoint));
}

static void feed_change(Daemon *d, const Config *old, bool was_usable) {
        if (d->machine.step == STEP_IDLE && !record_has_intent(&d->record))
                daemon_feed(d, &(Event){ .type = EVENT_CONFIGURED });
        else if (intent_is_void(d, old)) {
                d->attempt.unbudgeted = true;
                daemon_feed(d, &(Event){ .type = EVENT_REATTEST });
        } else if (hand_over_changed(d, old))
                daemon_feed(d, &(Event){ .type = EVENT_RETARGET });
        else
                daemon_feed(d, &(Event){ .type = EVENT_CONFIGURED, .newly_usable = !was_usable });
}

void daemon_reload(Daemon *d, bool asked) {
        CLEANUP(config_freep) Config *old = NULL, *before = NULL;
        uint8_t hash[SHA256_SIZE];
        Config *fresh = NULL;
        Failure failure;
        bool was_usable = daemon_config_usable(d, &failure), usable;
        int r;

        watch_update(d->watch); /* first: what changes from here on is noticed */
        r = config_load(&fresh, &d->options->config);
        if (r >= 0) {
                old = d->config;
                d->config = fresh;
                r = daemon_hash_config(d, hash);
        }
        if (r < 0) {
                log_error("The configuration can't be read again: %s", strerror(-r));
                return;
        }
        /* Something else in a directory that is watched is no reason to ask the service. */
        if (!asked && memcmp(hash, d->config_hash, sizeof(hash)) == 0) {
                log_debug("The configuration is unchanged");
                return;
        }
        memcpy(d->config_hash, hash, sizeof(hash));

        watch_configured(d->watch);
        warnings_remove(&d->warnings, FAILURE_CONFIG);
        daemon_warn_about_config(d);
        usable = daemon_config_usable(d, &failure);
        if (usable)
                before = TAKE(d->config_before);
        d->record.resting = d->record.resting && !usable;
        if (d->record.reset) /* a configuration change only ends the wait */
                daemon_shorten_wait(d, RETRY_EVENT_OPERATOR);
        else if (usable) {
                if (is_other_instance(d->config, before ? before : was_usable ? old : NULL))
                        begin_with_another_instance(d);
                feed_change(d, before ? before : old, was_usable);
                /* whatever it was: it may be the cure, but for too many requests */
                if (!machine_throttled(&d->machine))
                        retry_reset(&d->machine.retry);
                daemon_shorten_wait(d, RETRY_EVENT_OPERATOR);
        } else {
                /* a helper's call may outlast it, and what that belongs to began with this one */
                if (!d->config_before)
                        d->config_before = TAKE(old);
                daemon_report_unusable(d, &failure);
                daemon_feed(d, &(Event){ .type = EVENT_UNCONFIGURED });
        }
        daemon_publish(d);
        log_debug("The configuration has changed");
}
