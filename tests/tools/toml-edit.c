/* The editor of config.toml behind a pipe, for a test that judges it with another TOML parser: documents
 * come as "SIZE\n" and bytes, answers go back as "ok SIZE\n" and bytes, or "refused SENTENCE\n". */
#include <stdlib.h>

#include "config-toml.h"

static int read_document(char **ret, size_t *ret_size) {
        char line[32];
        uint64_t size;

        if (!fgets(line, sizeof(line), stdin))
                return 0;
        line[strcspn(line, "\n")] = '\0';
        if (parse_uint(line, CONFIG_TOML_MAX, &size) < 0)
                abort();
        *ret = malloc(size + 1);
        if (!*ret || fread(*ret, 1, size, stdin) != size)
                abort();
        (*ret)[size] = '\0';
        *ret_size = size;
        return 1;
}

int main(int argc, char **argv) {
        const Provisioning wanted = { .endpoint = "https://dps.example",
                                      .id_scope = "0ne00NEW",
                                      .registration_id = "gw-new",
                                      .payload_uri = argc > 1 ? argv[1] : NULL };
        char *text;
        size_t size;

        while (read_document(&text, &size) > 0) {
                CLEANUP(freep) char *document = text, *edited = NULL;
                Failure failure;

                if (config_toml_edit(&edited, "config.toml", document, size, &wanted, &failure) < 0)
                        (void) printf("refused %s\n", failure.sentence);
                else {
                        (void) printf("ok %zu\n", strlen(edited));
                        (void) fwrite(edited, 1, strlen(edited), stdout);
                }
        }
        return 0;
}
