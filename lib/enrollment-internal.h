/* What the files of Enrollment share. */
#pragma once

#include "enrollment.h"

/* What a table's row has of an enrolment, as it was before it was written; "" for nothing. */
typedef struct EnrollmentRow {
        size_t line;
        const char *registration_id, *device_id, *endorsement_key, *hub;
        bool iot_edge;
} EnrollmentRow;

/* Calls found() for each row of a table; a negative result of it ends that and is returned, and so does
 * -EBADMSG: line *ret_line is not *ret_why (static). *ret_end is where the last whole row ends. */
int enrollment_csv_each(const char *table, size_t size,
                        int (*found)(void *userdata, const EnrollmentRow *row), void *userdata,
                        size_t *ret_end, size_t *ret_line, const char **ret_why);

/* Of a byte order mark at the beginning, which programs on Windows write; 0: none. */
size_t enrollment_mark_size(const char *text, size_t size);

/* Does it begin like a table? */
bool enrollment_is_csv(const char *text, size_t size);
