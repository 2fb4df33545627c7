/* What curl's result means. Internal to http. */
#pragma once

#include <curl/curl.h>

#include "failure.h"

typedef struct HttpOutcome {
        CURLcode code;
        const char *error; /* CURLOPT_ERRORBUFFER */
        const char *url;
        const char *ca_file; /* or NULL */
        long proxy_status;   /* of the reply to CONNECT, 0: none */
        bool too_large;
        size_t body_max;
        uint64_t build_time, latest_time;
} HttpOutcome;

void http_set_failure(Failure *ret, const HttpOutcome *outcome);
