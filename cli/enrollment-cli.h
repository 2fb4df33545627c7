/*
 * What the files of the verb "enrollment" share. Each function tells what went wrong and returns an exit
 * status of cli.h.
 */
#pragma once

#include <errno.h>

#include "cli.h"
#include "enrollment.h"

/* To standard output when path is NULL; a file is replaced as a whole. */
int enrollment_write(const char *path, const void *data, size_t size);

/* "--merge FILE…": reads no TPM. */
int enrollment_merge(const char *output, int count, char *files[]);

/* "--station=FILE": appends a row to a table that several stations may share. *ret_line is where it went. */
int enrollment_station(const char *path, const Enrollment *enrollment, size_t *ret_line);

typedef enum QrForm {
        QR_TERMINAL, /* for a terminal or a text file, in half blocks */
        QR_SVG,
        QR_PNG,
        _QR_FORM_INVALID = -EINVAL,
} QrForm;

/* From the end of the file's name. */
QrForm qr_form_from_path(const char *path);

/* Without libqrencode it only tells so. */
int enrollment_qr(const char *output, const char *text);
