/* IoT Edge's configuration: edited, read, and edited again. tests/toml judges the result with another
 * parser. */
#include <ctype.h>
#include <string.h>

#include "config-toml.h"
#include "fuzz.h"

static const Provisioning wanted = { .endpoint = "https://dps.example",
                                     .id_scope = "0ne00NEW",
                                     .registration_id = "gw-new",
                                     .payload_uri = "file:///etc/payload.json" };

/* "config.toml:LINE: …" */
static void check_refusal(const Failure *failure) {
        PROMISE(failure->kind == FAILURE_CONFIG_CONFLICT);
        PROMISE(strncmp(failure->sentence, "config.toml:", 12) == 0);
        PROMISE(isdigit((unsigned char) failure->sentence[12]) && strstr(failure->sentence, ": "));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(config_toml_deinit) ConfigToml before = {}, after = {};
        CLEANUP(freep) char *text = NULL, *edited = NULL, *again = NULL;
        Failure failure = {};
        int readable;

        if (size > CONFIG_TOML_MAX)
                return 0;
        text = malloc(size + 1); /* as read_file() gives it */
        if (!text)
                return 0;
        if (size > 0)
                memcpy(text, data, size);
        text[size] = '\0';

        readable = config_toml_read(&before, "config.toml", text, size, &failure);
        if (config_toml_edit(&edited, "config.toml", text, size, &wanted, &failure) < 0) {
                check_refusal(&failure);
                PROMISE(!edited);
                return 0;
        }
        PROMISE(readable >= 0);
        PROMISE(config_toml_read(&after, "config.toml", edited, strlen(edited), &failure) >= 0);
        PROMISE(after.has_provisioning && config_toml_matches(&after, &wanted));
        PROMISE(config_toml_edit(&again, "config.toml", edited, strlen(edited), &wanted, &failure) >= 0);
        PROMISE(strchr(text, '\r') || strcmp(edited, again) == 0); /* the first line may have had the CR */
        return 0;
}
