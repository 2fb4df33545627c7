/*
 * Check: what the probes of `dps-provision check` share.
 *
 * A probe is a function in a table; it adds one line for each thing that it has looked at: ok, warn, fail,
 * or skip when it can't be seen (by this user, or because of what another line says). Each line that isn't
 * ok says what to do. Probes run in the order of the tables, and what one has found out the later ones find
 * here.
 */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "cli.h"
#include "http.h"
#include "tpm.h"

typedef enum CheckResult {
        CHECK_OK,
        CHECK_SKIP,
        CHECK_WARN,
        CHECK_FAIL,
        _CHECK_RESULT_MAX,
} CheckResult;

typedef struct CheckLine {
        const char *id, *title; /* of the probe */
        CheckResult result;
        FailureKind kind;    /* FAILURE_NONE: the table of failures has none for this */
        char *text, *remedy; /* remedy: NULL when ok */
} CheckLine;

typedef struct Check Check;
typedef struct CheckEdge CheckEdge; /* check-edge.c */

typedef struct Probe {
        const char *id, *title;
        void (*run)(Check *check);
        bool network; /* not with --no-network */
} Probe;

/* What a request to the service, or to its proxy, came to. */
typedef struct CheckAnswer {
        bool answered; /* with whatever status */
        unsigned status;
        Failure failure;
        bool failed_at_proxy;
        uint64_t date, unverified_date;
        char issuer[256];
} CheckAnswer;

struct Check {
        ConfigPaths paths;
        const char *root; /* before IoT Edge's files; "" for none */
        bool dps, no_network;

        Config *config;
        const char *id_scope; /* from a file, or from the daemon; NULL */
        char *registration_id;
        sd_event *event;
        sd_bus *bus;      /* NULL: there is none */
        bool daemon_runs; /* then status is what it says */
        Status status;
        Tpm *tpm;                  /* open while the TPM is looked at */
        bool tpm_usable;           /* by this user */
        bool tpm_denied;           /* to this user */
        bool tpm_hierarchy_told;   /* a line says that a hierarchy is disabled */
        bool endorsement_rejected; /* the authorization value, by the TPM */
        TpmProperties tpm_properties;
        Bytes ek, srk;      /* TPM2B_PUBLIC, as far as known */
        char *host, *proxy; /* host[:port] of the service; what its requests go through, or NULL */
        bool ca_file_bad, resolved, routed;
        CheckAnswer answer; /* of the service, to a request for nothing */

        CheckEdge *edge;

        const Probe *probe;
        CheckLine *lines;
        size_t line_count;
};

/* The text has no full stop at its end. A remedy that is NULL comes from the table of failures. */
void check_ok(Check *check, const char *format, ...) PRINTF_LIKE(2, 3);
void check_skip(Check *check, const char *remedy, const char *format, ...) PRINTF_LIKE(3, 4);
void check_bad(Check *check, CheckResult result, FailureKind kind, const char *remedy, const char *format,
               ...) PRINTF_LIKE(5, 6);
void check_failure(Check *check, const Failure *failure); /* fail, as it says itself */

#define CHECK_AS_ROOT        "Run it as root"
#define CHECK_RESTART_DAEMON "Run 'systemctl restart dps-provisiond', whose start restores what is lost"
#define CHECK_LOOK_ABOVE     "See the line that failed above"

/* Is it known that this device has an identity? That IoT Edge has it? */
bool check_is_provisioned(const Check *check);
bool check_is_handed_off(const Check *check);

/* Was the value that the configuration gives the key refused, or can't this user see it? Then what is in
 * force is not what was meant, and it has said so. */
bool check_key_refused(Check *check, const char *key);
bool check_key_hidden(Check *check, const char *key); /* only the latter */

int check_edge_new(CheckEdge **ret);
CheckEdge *check_edge_free(CheckEdge *edge);

/* Borrowed; NULL: none is assigned. Also with a port. */
const char *check_hub(const Check *check);

extern const Probe check_daemon_probes[], check_config_probes[], check_tpm_probes[], check_network_probes[],
        check_edge_probes[]; /* each ends with one without a name */
