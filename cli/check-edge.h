/*
 * CheckEdge: what the probes of IoT Edge share, by the hand-off helper's own eyes, so that both see the
 * same.
 */
#pragma once

#include "check.h"
#include "judge.h"

/* What these probes know of IoT Edge. */
struct CheckEdge {
        Situation situation;
        Wanted wanted;
        Verdict verdict; /* of the hand-off helper's judge */
        Failure failure; /* of reading the files */
        bool files_read, installed;
};

/* Prints the first finding that an operator has to mend, as the hand-off reports it, else all harmless
 * findings. Returns whether there was one. */
bool check_edge_tell_findings(Check *check, const Verdict *verdict, FindingSubject subject);

/* Once; what can't be read is in `failure`. */
void check_edge_read_files(const Check *check);

/* Call again when more of the situation is known. */
const Verdict *check_edge_judge(Check *check);

/* Probes. check-edge-units.c */
void check_edge_installed(Check *check);
void check_edge_units(Check *check);
void check_edge_boot_clock(Check *check);

/* check-site.c */
void check_site_proxy(Check *check);
void check_site_engine(Check *check);
void check_site_registry(Check *check);
