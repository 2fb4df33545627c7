/*
 * Sas: shared access signatures as devices send them to DPS and to IoT Hub:
 *
 *     SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={key name}]
 *
 * What is signed is the text of sr exactly as it was sent, a line feed, and the text of se: clients spell
 * the resource differently ("%2f", "%2F", "/", all lower case), and each is right.
 */
#pragma once

#include "util.h"

#define SAS_MAX ((size_t) 4096)

typedef struct SasToken {
        char *resource; /* as sent */
        char *expiry_text;
        uint64_t expiry; /* seconds since the epoch */
        char *key_name;  /* decoded; "" when absent or empty */
        uint8_t signature[SHA256_SIZE];
} SasToken;

/* -EBADMSG and *ret_why (static text) when the header is not such a token. */
int sas_parse(SasToken *ret, const char *authorization, const char **ret_why);
void sas_deinit(SasToken *token);

/* The resource, percent-decoded; NULL when that isn't possible. */
char *sas_resource(const SasToken *token);

/* -EKEYREJECTED: signed with another key (or another text). -EKEYEXPIRED: the expiry has passed. */
int sas_verify(const SasToken *token, const uint8_t *key, size_t key_size, uint64_t now,
               const char **ret_why);
