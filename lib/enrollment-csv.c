/* Enrolments as rows of a table, and a table's rows looked through for another one's. */
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "enrollment-internal.h"

#define FORMULAS        "=+-@"
#define BYTE_ORDER_MARK "\xef\xbb\xbf"

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

/* A spreadsheet takes a field that begins so for a formula; an apostrophe more keeps it, and keeps one that
 * is there apart from it. */
static bool needs_apostrophe(const char *value) {
        return value[0] && strchr(FORMULAS "'", value[0]);
}

static const char *without_apostrophe(const char *value) {
        return value[0] == '\'' && needs_apostrophe(value + 1) ? value + 1 : value;
}

/* Writes one character and returns what follows it. Firmware that nobody filled in has bytes that are no
 * UTF-8, and a table with one such byte is not read at all. */
static const char *write_character(FILE *f, const char *at) {
        size_t length = utf8_length(at);

        if (length == 0)
                (void) fputc('?', f);
        else if (length == 1 && ((unsigned char) *at < ' ' || *at == 0x7f))
                (void) fputc(' ', f);
        else
                (void) fprintf(f, "%s%.*s", *at == '"' ? "\"" : "", (int) length, at);
        return at + (length > 0 ? length : 1);
}

static void write_field(FILE *f, const char *value) {
        (void) fputc('"', f);
        if (value && needs_apostrophe(value))
                (void) fputc('\'', f);
        for (const char *at = value ? value : ""; *at;)
                at = write_character(f, at);
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

static int read_header(Reader *reader, Row *row, const char **ret_why) {
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

/* What a power cut left of a row that was being written: no row of ours has line feeds, and each begins with
 * a quote. Blocks that never reached the disk read as NULs. */
static bool is_torn(const Reader *reader) {
        return !memchr(reader->at, '\n', (size_t) (reader->end - reader->at)) &&
               (*reader->at == '"' || *reader->at == '\0');
}

static int read_rows(Reader *reader, Row *row, int (*found)(void *userdata, const EnrollmentRow *row),
                     void *userdata, size_t *ret_line, const char **ret_why) {
        for (;;) {
                Reader before = *reader;
                int r = read_row(reader, row);

                *ret_line = before.line;
                if (r == 0 && (before.at == before.end || is_torn(&before))) {
                        *reader = before;
                        return 0;
                }
                if (r == 0 || row->count != _COLUMN_MAX) {
                        *ret_why = "a row of such a table";
                        return -EBADMSG;
                }
                r = found(userdata,
                          &(EnrollmentRow){
                                  .line = before.line,
                                  .registration_id = without_apostrophe(row->fields[COLUMN_REGISTRATION_ID]),
                                  .device_id = without_apostrophe(row->fields[COLUMN_DEVICE_ID]),
                                  .endorsement_key = without_apostrophe(row->fields[COLUMN_ENDORSEMENT_KEY]),
                                  .hub = without_apostrophe(row->fields[COLUMN_HUB]),
                                  .iot_edge = strcasecmp(row->fields[COLUMN_IOT_EDGE], "true") == 0,
                          });
                if (r < 0)
                        return r;
        }
}

size_t enrollment_mark_size(const char *text, size_t size) {
        size_t n = strlen(BYTE_ORDER_MARK);

        return size >= n && memcmp(text, BYTE_ORDER_MARK, n) == 0 ? n : 0;
}

bool enrollment_is_csv(const char *text, size_t size) {
        size_t at = enrollment_mark_size(text, size), length = strlen(columns[0]);

        at += at < size && text[at] == '"';
        return size - at >= length && memcmp(text + at, columns[0], length) == 0;
}

int enrollment_csv_each(const char *table, size_t size,
                        int (*found)(void *userdata, const EnrollmentRow *row), void *userdata,
                        size_t *ret_end, size_t *ret_line, const char **ret_why) {
        Reader reader = { .at = table + enrollment_mark_size(table, size), .end = table + size, .line = 1 };
        CLEANUP(freep) char *buffer = NULL;
        Row row = {};
        int r;

        /* a field is never longer than its text but for the NUL, which takes the comma's place */
        buffer = malloc(size + 1);
        if (!buffer)
                return -ENOMEM;
        row.buffer = buffer;
        *ret_line = 1;
        r = read_header(&reader, &row, ret_why);
        if (r == 0)
                *ret_end = 0; /* also after a byte order mark: the header is missing */
        if (r <= 0)
                return r;
        r = read_rows(&reader, &row, found, userdata, ret_line, ret_why);
        if (r >= 0)
                *ret_end = (size_t) (reader.at - table);
        return r;
}

typedef struct Newcomer {
        const Enrollment *enrollment;
        char *key;
        const char *same;
} Newcomer;

/* Registration IDs are the same whatever their case, device IDs are not. */
static int compare(void *userdata, const EnrollmentRow *row) {
        Newcomer *n = userdata;
        const Enrollment *e = n->enrollment;

        if (strcasecmp(row->registration_id, e->registration_id) == 0)
                n->same = "registration ID";
        else if (streq(row->endorsement_key, n->key))
                n->same = "endorsement key";
        else if (streq(row->device_id[0] ? row->device_id : row->registration_id,
                       e->device_id ? e->device_id : e->registration_id))
                n->same = "device ID";
        return n->same ? -EEXIST : 0;
}

int enrollment_csv_check(const char *table, size_t size, const Enrollment *e, size_t *ret_end,
                         size_t *ret_line, const char **ret_why) {
        CLEANUP(freep) char *key = NULL;
        Newcomer newcomer = { .enrollment = e };
        int r;

        r = base64_encode(&key, e->ek_public, e->ek_public_size);
        if (r < 0)
                return r;
        newcomer.key = key;
        r = enrollment_csv_each(table, size, compare, &newcomer, ret_end, ret_line, ret_why);
        if (r == -EEXIST)
                *ret_why = newcomer.same;
        return r;
}
