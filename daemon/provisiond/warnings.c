#include "warnings.h"

#include <stdarg.h>
#include <stdlib.h>

#include "log.h"

static Failure *find(const Warnings *w, FailureKind kind) {
        for (size_t i = 0; i < w->count; i++)
                if (w->list[i].kind == kind)
                        return (Failure *) &w->list[i];
        return NULL;
}

void warnings_add(Warnings *w, FailureKind kind, const char *format, ...) {
        Failure *warning = find(w, kind);
        char text[sizeof(warning->sentence)];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (!warning) {
                if (w->count >= WARNINGS_MAX)
                        return;
                warning = &w->list[w->count++];
        } else if (streq(warning->sentence, text))
                return;
        (void) failure_set(warning, kind, NULL, "%s", text);
        log_event(LOG_WARNING, failure_message_id(kind), NULL, "%s", warning->sentence);
}

void warnings_add_failure(Warnings *w, const Failure *failure) {
        Failure *warning;

        warnings_add(w, failure->kind, "%s", failure->sentence);
        warning = find(w, failure->kind);
        if (warning)
                warning->remedy = failure->remedy;
}

void warnings_remove(Warnings *w, FailureKind kind) {
        Failure *warning = find(w, kind);

        if (warning)
                *warning = w->list[--w->count];
}

void warnings_remove_all(Warnings *w) {
        w->count = 0;
}

/* --- the TPM of a handed-off gateway --- */

void warnings_add_identity(Warnings *w, const Failure *failure) {
        if (w->identity != failure->kind)
                warnings_remove(w, w->identity);
        warnings_add_failure(w, failure);
        w->identity = failure->kind;
}

void warnings_remove_identity(Warnings *w) {
        warnings_remove(w, w->identity);
        w->identity = FAILURE_NONE;
}

const Failure *warnings_get_identity(const Warnings *w) {
        return find(w, w->identity);
}

/* --- an assignment --- */

static const struct {
        FailureKind kind;
        size_t offset;
} of_assignment[] = {
        { WARNING_EDGE_FLAG_MISSING, offsetof(Assignment, edge_flag_missing) },
        { WARNING_ADOPTION_REFUSED, offsetof(Assignment, adoption_refused) },
        { WARNING_DATA_MOVED, offsetof(Assignment, data_moved) },
};

static char **sentence(const Assignment *assignment, size_t i) {
        return (void *) ((char *) assignment + of_assignment[i].offset);
}

void warnings_remove_assignment(Warnings *w) {
        for (size_t i = 0; i < ARRAY_SIZE(of_assignment); i++)
                warnings_remove(w, of_assignment[i].kind);
}

int warnings_save(const Warnings *w, Assignment *a) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(of_assignment); i++) {
                const Failure *warning = find(w, of_assignment[i].kind);

                r = string_replace(sentence(a, i), warning ? warning->sentence : NULL);
        }
        return r;
}

void warnings_restore(Warnings *w, const Assignment *a) {
        for (size_t i = 0; i < ARRAY_SIZE(of_assignment); i++)
                if (*sentence(a, i))
                        warnings_add(w, of_assignment[i].kind, "%s", *sentence(a, i));
}
