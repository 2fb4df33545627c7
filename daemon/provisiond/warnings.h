/*
 * Warnings: what people should know although the work goes on. At most one of each kind; plain values, in
 * the order in which they appeared. Those about an assignment are kept in it, so a restart does not lose
 * them.
 */
#pragma once

#include "assignment.h"
#include "failure.h"

#define WARNINGS_MAX 12

typedef struct Warnings {
        Failure list[WARNINGS_MAX];
        size_t count;
        FailureKind identity; /* why a handed-off gateway's TPM could not be read; FAILURE_NONE: it was */
} Warnings;

/* Replaces the warning of the same kind. Logged when it is new. */
void warnings_add(Warnings *warnings, FailureKind kind, const char *format, ...) PRINTF_LIKE(3, 4);
void warnings_remove(Warnings *warnings, FailureKind kind);
void warnings_remove_all(Warnings *warnings);

/* A handed-off gateway works on while its TPM can't be read. */
void warnings_add_identity(Warnings *warnings, const Failure *failure);
void warnings_remove_identity(Warnings *warnings);
const Failure *warnings_get_identity(const Warnings *warnings); /* NULL: none */

/* Those that came with an assignment. */
void warnings_remove_assignment(Warnings *warnings);
int warnings_save(const Warnings *warnings, Assignment *assignment);
void warnings_restore(Warnings *warnings, const Assignment *assignment);
