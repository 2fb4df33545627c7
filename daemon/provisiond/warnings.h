/*
 * Warnings: problems that do not stop the work. At most one of each kind; plain values, in the order of
 * their appearance. The assignment keeps the warnings about it, so a restart does not lose them.
 */
#pragma once

#include "assignment.h"
#include "failure.h"

#define WARNINGS_MAX 12

typedef struct Warnings {
        Failure list[WARNINGS_MAX];
        size_t count;
        FailureKind identity; /* the kind of that about an unreadable TPM; FAILURE_NONE: no such warning */
} Warnings;

/* Replaces the warning of the same kind. Logged when it is new. */
void warnings_add(Warnings *warnings, FailureKind kind, const char *format, ...) PRINTF_LIKE(3, 4);
void warnings_add_failure(Warnings *warnings, const Failure *failure); /* with its own hint */
void warnings_remove(Warnings *warnings, FailureKind kind);
void warnings_remove_all(Warnings *warnings);

/* The warning about an unreadable TPM. The handed-off gateway works all the same. */
void warnings_add_identity(Warnings *warnings, const Failure *failure);
void warnings_remove_identity(Warnings *warnings);
const Failure *warnings_get_identity(const Warnings *warnings); /* NULL: none */

/* The warnings about an assignment. */
void warnings_remove_assignment(Warnings *warnings);
int warnings_save(const Warnings *warnings, Assignment *assignment);
void warnings_restore(Warnings *warnings, const Assignment *assignment);
