#include "reply.h"

#include <stdlib.h>

#define OVERSIZED_DEFAULT ((size_t) 1024 * 1024)
#define CHUNK_SIZE        ((size_t) 4096)

/* The text of a reply, as it goes out in chunks. */
typedef struct Output {
        char *text;
        size_t size;
        bool cut; /* the second half is not sent */
} Output;

static ssize_t read_output(void *userdata, uint64_t position, char *buffer, size_t max) {
        const Output *output = userdata;
        size_t end = output->cut ? output->size / 2 : output->size, left = end - (size_t) position;

        if (left == 0)
                return output->cut ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
        if (left > max)
                left = max;
        memcpy(buffer, output->text + position, left);
        return (ssize_t) left;
}

static void output_free(void *userdata) {
        Output *output = userdata;

        if (output->text)
                explicit_bzero(output->text, output->size); /* it may hold a module's keys */
        free(output->text);
        free(output);
}

static Output *output_new(json_object *body, const Fault *garbage, const Fault *oversized) {
        static const char nonsense[] = "{\"operationId\":[7,\"\xff\xfe\",{\"status\":\x01\x02 <html>";
        Output *output = calloc(1, sizeof(*output));
        const char *text = body ? json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN) : "";
        size_t padding = 0;

        if (!output || !text) {
                free(output);
                return NULL;
        }
        if (garbage)
                text = nonsense;
        output->size = strlen(text);
        if (oversized)
                padding = oversized->number > 0 ? (size_t) oversized->number : OVERSIZED_DEFAULT;
        output->text = malloc(output->size + padding + 1);
        if (!output->text) {
                free(output);
                return NULL;
        }
        /* white space before JSON is still JSON: only its size is wrong */
        memset(output->text, ' ', padding);
        memcpy(output->text + padding, text, output->size + 1);
        output->size += padding;
        return output;
}

static void add_headers(Emulator *emulator, struct MHD_Response *reply, const Response *response,
                        bool date) {
        char now[TIMESTAMP_SIZE];

        http_date(now, emulator_now(emulator));
        if (date)
                (void) MHD_add_response_header(reply, "Date", now);
        if (response->body)
                (void) MHD_add_response_header(reply, "Content-Type", "application/json; charset=utf-8");
        (void) MHD_add_response_header(reply, "x-ms-request-id", response->request_id);
        (void) MHD_add_response_header(reply, "Strict-Transport-Security",
                                       "max-age=31536000; includeSubDomains");
        if (response->retry_after)
                (void) MHD_add_response_header(reply, "Retry-After", response->retry_after);
        if (response->location)
                (void) MHD_add_response_header(reply, "Location", response->location);
}

struct MHD_Response *reply_new(Emulator *emulator, RequestKind kind, const Response *response) {
        Faults *faults = emulator->faults;
        const Fault *garbage = faults_use(faults, FAULT_GARBAGE_BODY, kind);
        const Fault *oversized = faults_use(faults, FAULT_OVERSIZED_BODY, kind);
        const Fault *cut = faults_use(faults, FAULT_CUT_REPLY, kind);
        struct MHD_Response *reply;
        Output *output;

        if (!response->body && !garbage && !oversized)
                reply = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
        else {
                /* of unknown size, so that it is chunked, as the service's are */
                output = output_new(response->body, garbage, oversized);
                if (!output)
                        return NULL;
                output->cut = cut;
                reply = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, CHUNK_SIZE, read_output, output,
                                                          output_free);
                if (!reply)
                        output_free(output);
        }
        if (reply)
                add_headers(emulator, reply, response, !faults_use(faults, FAULT_NO_DATE, kind));
        return reply;
}

struct MHD_Response *reply_new_captive_portal(void) {
        static char page[] =
                "<!DOCTYPE html>\n<html><head><title>Guest network</title></head>"
                "<body><h1>Access denied</h1><p>Log in to use this network.</p></body></html>\n";
        struct MHD_Response *reply =
                MHD_create_response_from_buffer(sizeof(page) - 1, page, MHD_RESPMEM_PERSISTENT);

        if (reply)
                (void) MHD_add_response_header(reply, "Content-Type", "text/html");
        return reply;
}
