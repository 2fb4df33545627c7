/* The steps that talk to the Device Provisioning Service. */
#include <errno.h>
#include <stdlib.h>

#include "daemon.h"
#include "project.h"

#define POLLING_USEC (20 * 60 * USEC_PER_SEC) /* a longer operation is reported as a failure */

static int read_payload(const Config *config, char **ret, Failure *reterr) {
        int r;

        if (!config->payload)
                return 0;
        r = read_file(config->payload, DPS_PAYLOAD_MAX, ret, NULL);
        return r < 0 ? failure_set_errno(reterr, FAILURE_CONFIG, r, "Payload=%s can't be read",
                                         config->payload)
                     : 0;
}

static int register_body(const Config *config, const Tpm1 *tpm, char **ret, Failure *reterr) {
        CLEANUP(freep) char *payload = NULL;
        int r;

        r = read_payload(config, &payload, reterr);
        if (r < 0)
                return r;
        r = dps_register_body(ret, tpm->registration_id, &tpm->ek_public, &tpm->srk_public, payload);
        if (r == -EINVAL)
                return failure_set(reterr, FAILURE_CONFIG, NULL, "Payload=%s is not JSON", config->payload);
        return r < 0 ? failure_set_errno(reterr, FAILURE_STORAGE, r, "The request can't be made") : 0;
}

static void on_assigned(Daemon *d, DpsReply *reply) {
        Failure failure;

        d->attempt.http = http_free(d->attempt.http); /* the attempt's connection has done its work */
        secret_freep(&d->attempt.token);
        if (intent_begin(d, reply, &failure) < 0)
                daemon_failed(d, &failure);
        else
                daemon_done(d);
}

static void on_pending(Daemon *d, DpsReply *reply) {
        Failure failure;

        if (reply->operation_id) {
                free(d->attempt.operation_id);
                d->attempt.operation_id = TAKE(reply->operation_id);
        }
        if (now_usec(CLOCK_BOOTTIME) - d->attempt.polling_since_usec <= POLLING_USEC) {
                daemon_feed(d, &(Event){ .type = EVENT_PENDING, .delay_usec = reply->poll_usec });
                return;
        }
        (void) failure_set(&failure, FAILURE_TIMEOUT, NULL, "DPS is still assigning '%s' after %llu s",
                           d->tpm.registration_id,
                           (unsigned long long) ((now_usec(CLOCK_BOOTTIME) - d->attempt.polling_since_usec) /
                                                 USEC_PER_SEC));
        failure.retry_after_usec = reply->poll_usec;
        daemon_failed(d, &failure);
}

static void on_reply(Daemon *d, DpsReply *reply) {
        d->attempt.dps_answered_usec = now_usec(CLOCK_BOOTTIME);
        switch (reply->type) {
        case DPS_REPLY_CHALLENGE:
                bytes_deinit(&d->attempt.challenge);
                d->attempt.challenge = reply->challenge;
                reply->challenge = (Bytes){};
                daemon_done(d);
                return;
        case DPS_REPLY_PENDING:
                on_pending(d, reply);
                return;
        case DPS_REPLY_ASSIGNED:
                on_assigned(d, reply);
        }
}

static DpsRequest request_of(Step step) {
        return step == STEP_REGISTER  ? DPS_REQUEST_REGISTER
               : step == STEP_CONFIRM ? DPS_REQUEST_CONFIRM
                                      : DPS_REQUEST_POLL;
}

/* DPS bills a registration unless DPS refuses it at once. */
static bool was_registered(const Daemon *d, const HttpReply *http) {
        if (d->machine.step != STEP_CONFIRM)
                return true;
        return http ? http->status != 401 && http->status != 404 && http->status != 429
                    : http_was_sent(d->attempt.http);
}

/* What DPS says of a device whose endorsement key has changed has that one reason. */
static void name_former(const Daemon *d, Failure *failure) {
        size_t used = strlen(failure->sentence);

        if (!d->record.former_id ||
            (failure->kind != FAILURE_ENROLLMENT_MISSING && failure->kind != FAILURE_IDENTITY_MISMATCH))
                return;
        (void) snprintf(failure->sentence + used, sizeof(failure->sentence) - used,
                        "; the TPM has another endorsement key than when '%s' was provisioned",
                        d->record.former_id);
        failure->remedy = failure_remedy(WARNING_EK_CHANGED);
}

/* A repeated poll uses a new connection and the settings of that time. */
static void fail_request(Daemon *d, const Failure *failure) {
        d->attempt.http = http_free(d->attempt.http);
        daemon_failed(d, failure);
}

static void on_http(void *userdata, const HttpReply *http, const Failure *http_failure) {
        Daemon *d = userdata;
        CLEANUP(dps_reply_deinit) DpsReply reply = {};
        DpsRawReply raw;
        Failure failure;

        if (!was_registered(d, http))
                budget_return(&d->record.budget);
        if (http_failure) {
                failure = *http_failure;
                fail_request(d, &failure);
                return;
        }
        daemon_set_server_time(d, http->date);
        raw = (DpsRawReply){ .status = http->status,
                             .body = http->body,
                             .size = http->size,
                             .request_id = http->request_id };
        if (http->retry_after)
                raw.retry_after_usec = dps_parse_retry_after(http->retry_after, http->date,
                                                             now_usec(CLOCK_REALTIME) / USEC_PER_SEC);
        if (dps_parse_reply(&reply, request_of(d->machine.step), d->config->id_scope, d->tpm.registration_id,
                            &raw, &failure) < 0) {
                name_former(d, &failure);
                fail_request(d, &failure);
        } else
                on_reply(d, &reply);
}

/* The request was never sent. */
static void fail_unsent(Daemon *d, const Failure *failure) {
        if (d->machine.step == STEP_CONFIRM)
                budget_return(&d->record.budget);
        daemon_failed(d, failure);
}

static int connect_to_dps(Daemon *d, Failure *reterr) {
        const HttpSettings settings = { .proxy = d->config->proxy,
                                        .ca_file = d->config->ca_file,
                                        .connect_timeout_usec = d->config->connect_timeout_usec,
                                        .request_timeout_usec = d->config->request_timeout_usec,
                                        .body_max = DPS_BODY_MAX,
                                        .build_time = BUILD_TIME,
                                        .latest_time = daemon_latest_time(d) };
        int r;

        if (d->attempt.http)
                return 0;
        r = http_new(&d->attempt.http, d->event, &settings);
        return r < 0 ? failure_set_errno(reterr, FAILURE_CONNECT, r, "HTTPS can't be used") : 0;
}

static void send_request(Daemon *d, const HttpRequest *request) {
        Failure failure;
        int r;

        if (connect_to_dps(d, &failure) < 0) {
                fail_unsent(d, &failure);
                return;
        }
        r = http_start(d->attempt.http, request, on_http, d);
        if (r < 0) {
                (void) failure_set_errno(&failure, FAILURE_CONNECT, r, "The request to '%s' can't be made",
                                         d->config->global_endpoint);
                fail_unsent(d, &failure);
        }
}

static void send_registration(Daemon *d) {
        CLEANUP(freep) char *url = NULL, *body = NULL;
        Failure failure;
        int r;

        r = register_body(d->config, &d->tpm, &body, &failure);
        if (r >= 0 && dps_register_url(&url, d->config->global_endpoint, d->config->id_scope,
                                       d->tpm.registration_id) < 0)
                r = failure_set_errno(&failure, FAILURE_STORAGE, -ENOMEM, "The request can't be made");
        if (r < 0) {
                fail_unsent(d, &failure);
                return;
        }
        send_request(d,
                     &(HttpRequest){
                             .method = "PUT", .url = url, .authorization = d->attempt.token, .body = body });
}

void step_register(Daemon *d) {
        Failure failure;

        if (!d->config->id_scope) {
                (void) failure_set(&failure, FAILURE_CONFIG, NULL, "IdScope= is not set");
                daemon_failed(d, &failure);
                return;
        }
        if (daemon_state(d) == STATE_ATTESTING)
                d->attempt.held_usec = 0;
        /* An assignment that can't be stored is lost with the power, and each one is billed. */
        if (daemon_save(d, &failure) < 0) {
                daemon_failed(d, &failure);
                return;
        }
        secret_freep(&d->attempt.token);
        free(TAKE(d->attempt.operation_id));
        d->attempt.polling_since_usec = 0;
        d->attempt.http = http_free(d->attempt.http);
        send_registration(d);
}

void step_confirm(Daemon *d) {
        Failure failure;

        d->attempt.polling_since_usec = now_usec(CLOCK_BOOTTIME);
        budget_spend(&d->record.budget, daemon_budget_time(d));
        if (daemon_save(d, &failure) < 0) { /* CONFIRM needs the count on disk */
                budget_return(&d->record.budget);
                daemon_failed(d, &failure);
                return;
        }
        d->attempt.unbudgeted = false;
        send_registration(d);
}

void step_poll(Daemon *d) {
        CLEANUP(freep) char *url = NULL;
        Failure failure;

        if (attempt_token_expired(&d->attempt)) {
                (void) failure_set(&failure, FAILURE_TIMEOUT, NULL,
                                   "DPS has not assigned '%s' within the token's lifetime of an hour",
                                   d->tpm.registration_id);
                daemon_failed(d, &failure);
                return;
        }
        if (dps_operation_url(&url, d->config->global_endpoint, d->config->id_scope, d->tpm.registration_id,
                              d->attempt.operation_id) < 0) {
                (void) failure_set_errno(&failure, FAILURE_STORAGE, -ENOMEM, "The request can't be made");
                daemon_failed(d, &failure);
                return;
        }
        send_request(d, &(HttpRequest){ .method = "GET", .url = url, .authorization = d->attempt.token });
}
