/* The parser of JSON behind a pipe, for a test that compares it with another parser: documents come as
 * "SIZE\n" and bytes, answers go back as "ok SIZE\n" and JSON, or "refused\n". */
#include <stdlib.h>

#include "dps-json.h"

#define DOCUMENT_MAX ((uint64_t) 1024 * 1024)

static int read_document(char **ret, size_t *ret_size) {
        char line[32];
        uint64_t size;

        if (!fgets(line, sizeof(line), stdin))
                return 0;
        line[strcspn(line, "\n")] = '\0';
        if (parse_uint(line, DOCUMENT_MAX, &size) < 0)
                abort();
        *ret = malloc(size + 1);
        if (!*ret || fread(*ret, 1, size, stdin) != size)
                abort();
        (*ret)[size] = '\0';
        *ret_size = size;
        return 1;
}

int main(void) {
        char *text;
        size_t size;

        while (read_document(&text, &size) > 0) {
                json_object *value = NULL;
                const char *answer;

                if (dps_json_parse(&value, text, size) < 0)
                        (void) puts("refused");
                else {
                        answer = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN);
                        (void) printf("ok %zu\n%s\n", strlen(answer), answer);
                        json_object_put(value);
                }
                free(text);
        }
        return 0;
}
