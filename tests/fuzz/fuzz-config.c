/* A configuration file. What it comes to is written down as a file again, which must come to the same. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "fuzz.h"

static Config *load(const void *data, size_t size) {
        CLEANUP(closep) int fd = memfd_create("fuzz-config", MFD_CLOEXEC);
        Config *config = NULL;
        ConfigPaths paths = {};
        char path[40];

        PROMISE(fd >= 0 && fchmod(fd, 0600) == 0); /* a file that others may write would be ignored */
        PROMISE((size == 0 || write(fd, data, size) == (ssize_t) size));
        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        paths.file = path;
        PROMISE(config_load(&config, &paths) == 0 && config);
        return config;
}

static void check(const Config *config) {
        Failure failure = {};

        PROMISE(!config->id_scope || chars_valid(config->id_scope, CONFIG_SCOPE_CHARS, 1, CONFIG_SCOPE_MAX));
        PROMISE(strncmp(config->global_endpoint, "https://", 8) == 0);
        PROMISE(config->hub_key_handle >> 24 == 0x81);
        PROMISE(config->request_timeout_usec >= USEC_PER_SEC);
        PROMISE(config->request_timeout_usec <= 604800 * USEC_PER_SEC);
        PROMISE(config->allowed_hubs && config->allowed_hubs[0]);
        PROMISE(!config_hub_allowed(config, "") && !config_hub_allowed(config, "*"));
        (void) config_hub_allowed(config, "hub.azure-devices.net:443");
        for (size_t i = 0; i < config->problem_count; i++)
                PROMISE(config->problems[i].file && config->problems[i].text);
        if (config_failure(config, &failure))
                PROMISE(failure.kind == FAILURE_CONFIG && failure.sentence[0] != '\0');
}

static char *written(const Config *config, size_t *ret_size) {
        const char *section, *key, *source;
        char *text = NULL, *value;
        FILE *f = open_memstream(&text, ret_size);

        PROMISE(f);
        for (size_t i = 0; config_describe(config, i, &section, &key, &value, &source); i++) {
                PROMISE(value);
                (void) fprintf(f, "[%s]\n", section);
                config_print_key(f, "", key, value);
                free(value);
        }
        PROMISE(fclose(f) == 0);
        return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(config_freep) Config *config = load(data, size), *again = NULL;
        CLEANUP(freep) char *text = NULL, *text_again = NULL;
        size_t text_size = 0, text_again_size = 0;

        check(config);
        text = written(config, &text_size);
        again = load(text, text_size);
        text_again = written(again, &text_again_size);
        PROMISE(again->problem_count == 0);
        PROMISE(text_size == text_again_size && memcmp(text, text_again, text_size) == 0);
        return 0;
}
