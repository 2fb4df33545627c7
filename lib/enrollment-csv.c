/* Enrolments as rows of a table, and a table's rows looked through for another one's. */
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "enrollment.h"

enum {
        COLUMN_REGISTRATION_ID,
        COLUMN_DEVICE_ID,
        COLUMN_ENDORSEMENT_KEY,
        COLUMN_IOT_EDGE,
        COLUMN_HUB,
        COLUMN_SERIAL_NUMBER,
        COLUMN_MAC,
        COLUMN_HOST_NAME,
        COLUMN_ASSET,
        COLUMN_CERTIFICATE,
        _COLUMN_MAX,
};

static const char *const columns[_COLUMN_MAX] = {
        [COLUMN_REGISTRATION_ID] = "registration_id",
        [COLUMN_DEVICE_ID] = "device_id",
        [COLUMN_ENDORSEMENT_KEY] = "endorsement_key",
        [COLUMN_IOT_EDGE] = "iot_edge",
        [COLUMN_HUB] = "iot_hub",
        [COLUMN_SERIAL_NUMBER] = "serial_number",
        [COLUMN_MAC] = "mac",
        [COLUMN_HOST_NAME] = "host_name",
        [COLUMN_ASSET] = "asset",
        [COLUMN_CERTIFICATE] = "ek_certificate",
};

static void write_field(FILE *f, const char *value) {
        (void) fputc('"', f);
        if (value && strchr("=+-@", value[0]) && value[0])
                (void) fputc('\'', f);
        for (const char *p = value ? value : ""; *p; p++) {
                if (*p == '"')
                        (void) fputc('"', f);
                (void) fputc((unsigned char) *p < ' ' || *p == 0x7f ? ' ' : *p, f);
        }
        (void) fputc('"', f);
}

static int write_row(char **ret, const char *const values[static _COLUMN_MAX]) {
        CLEANUP(freep) char *row = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&row, &size);

        if (!f)
                return -ENOMEM;
        for (size_t i = 0; i < _COLUMN_MAX; i++) {
                if (i > 0)
                        (void) fputc(',', f);
                write_field(f, values[i]);
        }
        (void) fputc('\n', f);
        if (fclose(f) != 0)
                return -ENOMEM;
        *ret = TAKE(row);
        return 0;
}

int enrollment_to_csv_row(char **ret, const Enrollment *e) {
        CLEANUP(freep) char *key = NULL;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        return write_row(ret, (const char *const[_COLUMN_MAX]){
                                      [COLUMN_REGISTRATION_ID] = e->registration_id,
                                      [COLUMN_DEVICE_ID] = e->device_id,
                                      [COLUMN_ENDORSEMENT_KEY] = key,
                                      [COLUMN_IOT_EDGE] = "true",
                                      [COLUMN_HUB] = e->hub,
                                      [COLUMN_SERIAL_NUMBER] = e->serial_number,
                                      [COLUMN_MAC] = e->mac,
                                      [COLUMN_HOST_NAME] = e->host_name,
                                      [COLUMN_ASSET] = e->asset,
                                      [COLUMN_CERTIFICATE] = e->certificate_verdict,
                              });
}

int enrollment_to_csv(char **ret, const Enrollment *e) {
        CLEANUP(freep) char *header = NULL, *row = NULL;
        int r;

        r = write_row(&header, columns);
        if (r >= 0)
                r = enrollment_to_csv_row(&row, e);
        if (r < 0)
                return r;
        if (asprintf(ret, "%s%s", header, row) < 0)
                return -ENOMEM;
        return 0;
}

/* A row as it was read: the fields are in one buffer, without their quotes. */
typedef struct Row {
        const char *fields[_COLUMN_MAX];
        char *buffer;
        size_t count; /* of fields, also of those that are too many */
} Row;

/* Where the table stands. A spreadsheet that saved it may have left quotes out and put CR before LF. */
typedef struct Reader {
        const char *at, *end;
        size_t line;
} Reader;

/* Copies one field to *to, which has room for it, and stops behind it. False: the text ends within quotes.
 */
static bool read_field(Reader *reader, char **to) {
        bool quoted = reader->at < reader->end && *reader->at == '"';

        if (quoted)
                reader->at++;
        while (reader->at < reader->end) {
                char c = *reader->at;

                if (quoted && c == '"') {
                        if (reader->end - reader->at < 2 || reader->at[1] != '"') {
                                reader->at++;
                                quoted = false;
                                continue;
                        }
                        reader->at++;
                } else if (!quoted && (c == ',' || c == '\n'))
                        break;
                if (c == '\n')
                        reader->line++;
                if (quoted || c != '\r')
                        *(*to)++ = c;
                reader->at++;
        }
        *(*to)++ = '\0';
        return !quoted;
}

/* 1 for a row, 0 at the end of the text or of what is whole in it. A last row may lack its line feed. */
static int read_row(Reader *reader, Row *ret) {
        char *to = ret->buffer;

        ret->count = 0;
        if (reader->at == reader->end)
                return 0;
        for (;;) {
                const char *field = to;

                if (!read_field(reader, &to))
                        return 0;
                if (ret->count < _COLUMN_MAX)
                        ret->fields[ret->count] = field;
                ret->count++;
                if (reader->at == reader->end)
                        return ret->count == _COLUMN_MAX && reader->at[-1] != ',';
                if (*reader->at++ == '\n')
                        break;
        }
        reader->line++;
        return 1;
}

static bool is_header(const Row *row) {
        for (size_t i = 0; i < row->count && i < _COLUMN_MAX; i++)
                if (!streq(row->fields[i], columns[i]))
                        return false;
        return row->count == _COLUMN_MAX;
}

/* Registration IDs are the same whatever their case, device IDs are not. */
static const char *same_device(const Row *row, const Enrollment *e, const char *key) {
        const char *registration_id = row->fields[COLUMN_REGISTRATION_ID];
        const char *device_id = row->fields[COLUMN_DEVICE_ID];

        if (strcasecmp(registration_id, e->registration_id) == 0)
                return "registration ID";
        if (streq(row->fields[COLUMN_ENDORSEMENT_KEY], key))
                return "endorsement key";
        if (streq(device_id[0] ? device_id : registration_id,
                  e->device_id ? e->device_id : e->registration_id))
                return "device ID";
        return NULL;
}

static int check_header(Reader *reader, Row *row, const char **ret_why) {
        CLEANUP(freep) char *header = NULL;
        Reader before = *reader;
        size_t left = (size_t) (reader->end - reader->at);
        int r;

        r = write_row(&header, columns);
        if (r < 0)
                return r;
        if (left < strlen(header) && memcmp(reader->at, header, left) == 0)
                return 0; /* an empty file, or one that was cut off in its first write */
        if (read_row(reader, row) == 1 && is_header(row))
                return 1;
        *reader = before;
        *ret_why = "the header of such a table";
        return -EBADMSG;
}

static int check_rows(Reader *reader, Row *row, const Enrollment *e, size_t *ret_line,
                      const char **ret_why) {
        CLEANUP(freep) char *key = NULL;
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        for (;;) {
                Reader before = *reader;

                if (read_row(reader, row) == 0) {
                        *reader = before;
                        return 0;
                }
                *ret_line = before.line;
                if (row->count != _COLUMN_MAX) {
                        *ret_why = "a row of such a table";
                        return -EBADMSG;
                }
                *ret_why = same_device(row, e, key);
                if (*ret_why)
                        return -EEXIST;
        }
}

int enrollment_csv_check(const char *table, size_t size, const Enrollment *e, size_t *ret_end,
                         size_t *ret_line, const char **ret_why) {
        static const char byte_order_mark[] = "\xef\xbb\xbf";
        Reader reader = { .at = table, .end = table + size, .line = 1 };
        CLEANUP(freep) char *buffer = NULL;
        Row row = {};
        int r;

        /* a field is never longer than its text but for the NUL, which takes the comma's place */
        buffer = malloc(size + 1);
        if (!buffer)
                return -ENOMEM;
        row.buffer = buffer;
        *ret_line = 1;
        if (size >= strlen(byte_order_mark) && memcmp(table, byte_order_mark, strlen(byte_order_mark)) == 0)
                reader.at += strlen(byte_order_mark);
        r = check_header(&reader, &row, ret_why);
        if (r > 0)
                r = check_rows(&reader, &row, e, ret_line, ret_why);
        if (r >= 0)
                *ret_end = (size_t) (reader.at - table);
        return r;
}
