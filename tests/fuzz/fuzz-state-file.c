/* The state file of the daemon. A record that loads must be saved, and load again as the same record. */
#include "fuzz.h"
#include "record.h"
#include "scratch.h"

static bool load(Record *ret, const char *path) {
        Failure failure = {};
        int r = record_load(ret, path, &failure);

        PROMISE(r == 0 || (failure.kind == FAILURE_STORAGE && failure.sentence[0] != '\0'));
        return r == 0;
}

static char *save(const Record *record, const char *path) {
        char *text = NULL;

        PROMISE(record_save(record, path, &text, NULL) == 0 && text);
        return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        CLEANUP(record_deinit) Record record = {}, again = {};
        CLEANUP(freep) char *text = NULL, *text_again = NULL;

        if (!load(&record, scratch_write("state.json", data, size)))
                return 0;
        text = save(&record, scratch_path("again.json"));
        PROMISE(load(&again, scratch_path("again.json")));
        text_again = save(&again, scratch_path("again.json"));
        PROMISE(streq(text, text_again));
        return 0;
}
