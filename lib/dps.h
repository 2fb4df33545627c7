/*
 * Dps: the words of the Device Provisioning Service's device API (api-version 2021-06-01, TPM attestation):
 * URLs, bodies, the SAS token, and the replies, which are parsed as hostile. Pure code: no network, no TPM,
 * no clock.
 *
 * Protocol: Azure REST API "Device Provisioning Service / Runtime Registration"; what the real service sends
 * that the documentation leaves open is noted in docs/architecture.md.
 */
#pragma once

#include "failure.h"

#define DPS_API_VERSION "2021-06-01"
#define DPS_BODY_MAX    ((size_t) 64 * 1024) /* a longer reply is refused */
/* decoded authenticationKey; the real ones have 920..956 bytes */
#define DPS_CHALLENGE_MAX     ((size_t) 4096)
#define DPS_PAYLOAD_MAX       ((size_t) 32 * 1024)
#define DPS_POLL_DEFAULT_USEC (3 * USEC_PER_SEC)
#define DPS_POLL_MAX_USEC     (300 * USEC_PER_SEC)
/* No reply can silence a device for longer than this. */
#define DPS_RETRY_AFTER_MAX_USEC (24 * 3600 * USEC_PER_SEC)

/* Path segments are percent-encoded (RFC 3986 unreserved characters stay). */
int dps_register_url(char **ret, const char *endpoint, const char *id_scope, const char *registration_id);
int dps_operation_url(char **ret, const char *endpoint, const char *id_scope, const char *registration_id,
                      const char *operation_id);

/* payload: JSON text, or NULL. -EINVAL when payload is not one JSON value in UTF-8. */
int dps_register_body(char **ret, const char *registration_id, const Bytes *ek_public,
                      const Bytes *srk_public, const char *payload);

/* The string whose HMAC-SHA256 is the token's signature: "{scope}%2Fregistrations%2F{id}\n{expiry}", expiry
 * in seconds since the epoch. */
int dps_string_to_sign(char **ret, const char *id_scope, const char *registration_id, uint64_t expiry);

/* "SharedAccessSignature sr=…&sig=…&se=…&skn=registration". Secret: wipe it. */
int dps_token(char **ret, const char *id_scope, const char *registration_id, uint64_t expiry,
              const uint8_t signature[static SHA256_SIZE]);

typedef enum DpsReplyType {
        DPS_REPLY_CHALLENGE, /* only to the first PUT: challenge is set */
        DPS_REPLY_PENDING,   /* assigning or unassigned: operation_id (may be NULL in a poll's reply),
                                poll_usec */
        DPS_REPLY_ASSIGNED,
} DpsReplyType;

typedef struct DpsReply {
        DpsReplyType type;
        Bytes challenge;
        char *operation_id;
        usec_t poll_usec;      /* before the next poll: Retry-After clamped to 1..300 s, or 3 s */
        char *registration_id; /* may be NULL */
        char *hub, *device_id; /* assigned: both set; hub is a host name with or without a port, device_id
                                  has 1..128 characters that a hub allows */
        char *substatus;       /* may be NULL */
        char *payload;         /* JSON text of the returned payload, or NULL */
        Bytes hub_key;         /* the second key's blob; size 0: absent or null */
} DpsReply;

typedef enum DpsRequest {
        DPS_REQUEST_REGISTER, /* PUT without Authorization: a challenge is due */
        DPS_REQUEST_CONFIRM,  /* PUT with the token */
        DPS_REQUEST_POLL,     /* GET of the operation */
} DpsRequest;

/* What was on the wire. Borrowed. */
typedef struct DpsRawReply {
        unsigned status;
        const char *body; /* NUL-terminated; size without the NUL */
        size_t size;
        const char *request_id;  /* x-ms-request-id or NULL */
        usec_t retry_after_usec; /* 0: none */
} DpsRawReply;

/* 0 and *ret, or a negative errno and *reterr: 401 without challenge, 404, 400, 403, 429, 5xx, failed,
 * disabled, an unknown status, anything malformed. The sentences name the registration ID and show the
 * service's errorCode, message and tracking ID. */
int dps_parse_reply(DpsReply *ret, DpsRequest request, const char *id_scope, const char *registration_id,
                    const DpsRawReply *raw, Failure *reterr);
void dps_reply_deinit(DpsReply *reply);

/* Retry-After of RFC 9110 (seconds, or an HTTP date relative to the reply's own Date, or now) as a duration
 * of at most DPS_RETRY_AFTER_MAX_USEC; 0 when it makes no sense or is over. date: the Date header in seconds
 * since the epoch, 0: none. */
usec_t dps_parse_retry_after(const char *value, uint64_t date, uint64_t now);
