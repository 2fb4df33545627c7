#include "faults.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#define FAULTS_MAX     64
#define FAULT_FILE_MAX ((size_t) 64 * 1024)

typedef enum Argument {
        ARGUMENT_NONE,
        ARGUMENT_COUNT,
        ARGUMENT_NUMBER,
        ARGUMENT_WORD
} Argument;

static const struct {
        const char *name;
        Argument argument;
        bool required;
        double min, max;
} table[] = {
        [FAULT_EXPIRED_CERT] = { "expired-cert", ARGUMENT_NONE },
        [FAULT_FUTURE_CERT] = { "future-cert", ARGUMENT_NONE },
        [FAULT_WRONG_HOST_CERT] = { "wrong-host-cert", ARGUMENT_NONE },
        [FAULT_UNTRUSTED_CERT] = { "untrusted-cert", ARGUMENT_NONE },
        [FAULT_GARBAGE_BODY] = { "garbage-body", ARGUMENT_NONE },
        [FAULT_OVERSIZED_BODY] = { "oversized-body", ARGUMENT_NUMBER, false, 1, 1 << 30 },
        [FAULT_NO_DATE] = { "no-date", ARGUMENT_NONE },
        [FAULT_DROP_CONNECTION] = { "drop-connection", ARGUMENT_COUNT },
        [FAULT_LOSE_REPLY] = { "lose-reply", ARGUMENT_COUNT },
        [FAULT_CUT_REPLY] = { "cut-reply", ARGUMENT_COUNT },
        [FAULT_CAPTIVE_PORTAL] = { "captive-portal", ARGUMENT_COUNT },
        [FAULT_SLOW] = { "slow", ARGUMENT_NUMBER, true, 0, 86400 },
        [FAULT_STATUS] = { "status", ARGUMENT_NUMBER, true, 300, 599 },
        [FAULT_WRONG_EK_CHALLENGE] = { "wrong-ek-challenge", ARGUMENT_NONE },
        [FAULT_NO_HUB_KEY] = { "no-hub-key", ARGUMENT_COUNT },
        [FAULT_BAD_HUB_KEY] = { "bad-hub-key", ARGUMENT_WORD },
        [FAULT_KEEP_OLD_DEVICE] = { "keep-old-device", ARGUMENT_NONE },
        [FAULT_2XX_FIRST] = { "2xx-first", ARGUMENT_NONE },
};
static_assert(ARRAY_SIZE(table) == _FAULT_MAX, "every fault is in the table");

typedef struct FaultList {
        Fault faults[FAULTS_MAX];
        size_t n;
} FaultList;

struct Faults {
        FaultList from_options, from_file;
        char *path;
        struct stat seen;
        bool file;
};

static int refuse(const char **ret_why, const char *why) {
        *ret_why = why;
        return -EINVAL;
}

/* HOW[/N] */
static int parse_word(Fault *fault, const char *text, const char **ret_why) {
        static const char *const words[] = {
                "other-ek", "garbage", "not-base64", "fixed", "long", "lockout"
        };
        size_t size = strcspn(text, "/");

        if (text[size] == '/') {
                fault->limited = true;
                if (parse_uint(text + size + 1, UINT32_MAX, &fault->left) < 0)
                        return refuse(ret_why, "what follows the / is not a count");
        }
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strlen(words[i]) == size && strncmp(text, words[i], size) == 0) {
                        (void) snprintf(fault->text, sizeof(fault->text), "%s", words[i]);
                        return 0;
                }
        return refuse(ret_why, "the argument is not other-ek, garbage, not-base64, fixed, long or lockout");
}

static int parse_argument(Fault *fault, const char *text, const char **ret_why) {
        char *end;

        switch (table[fault->type].argument) {
        case ARGUMENT_NONE:
                return refuse(ret_why, "this fault takes no argument");
        case ARGUMENT_COUNT:
                fault->limited = true;
                if (parse_uint(text, UINT32_MAX, &fault->left) < 0)
                        return refuse(ret_why, "the argument is not a count");
                return 0;
        case ARGUMENT_NUMBER:
                fault->number = strtod(text, &end);
                if (text[0] == '\0' || !strchr("0123456789", text[0]) || *end != '\0' ||
                    fault->number < table[fault->type].min || fault->number > table[fault->type].max)
                        return refuse(ret_why, "the argument is not a number in its range");
                return 0;
        case ARGUMENT_WORD:
                return parse_word(fault, text, ret_why);
        }
        return -EINVAL;
}

static FaultType type_from_name(const char *name, size_t size) {
        for (size_t i = 0; i < ARRAY_SIZE(table); i++)
                if (strlen(table[i].name) == size && strncmp(name, table[i].name, size) == 0)
                        return (FaultType) i;
        return _FAULT_INVALID;
}

int fault_parse(Fault *ret, const char *text, const char **ret_why) {
        Fault fault = { .kind = _REQUEST_KIND_INVALID };
        size_t size = strcspn(text, ":=");

        fault.type = type_from_name(text, size);
        if (fault.type == _FAULT_INVALID)
                return refuse(ret_why, "there is no such fault");
        text += size;
        if (*text == ':') {
                CLEANUP(freep) char *kind = strndup(text + 1, strcspn(text + 1, "="));

                if (!kind)
                        return -ENOMEM;
                fault.kind = request_kind_from_string(kind);
                if (fault.kind == _REQUEST_KIND_INVALID || fault.type <= FAULT_UNTRUSTED_CERT)
                        return refuse(ret_why, "there is no such kind of request (or a handshake has none)");
                text += 1 + strlen(kind);
        }
        if (*text == '=') {
                int r = parse_argument(&fault, text + 1, ret_why);

                if (r < 0)
                        return r;
        } else if (table[fault.type].required)
                return refuse(ret_why, "this fault needs an argument");
        *ret = fault;
        return 0;
}

const char *fault_names(void) {
        static char names[512];
        size_t used = 0;

        for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
                int n = snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "",
                                 table[i].name);

                if (n < 0 || (size_t) n >= sizeof(names) - used)
                        break;
                used += (size_t) n;
        }
        return names;
}

static int list_add(FaultList *list, const char *text, const char **ret_why) {
        if (list->n == FAULTS_MAX)
                return refuse(ret_why, "there are too many faults");
        if (fault_parse(&list->faults[list->n], text, ret_why) < 0)
                return -EINVAL;
        list->n++;
        return 0;
}

int faults_new(Faults **ret, const char *path) {
        Faults *faults = calloc(1, sizeof(*faults));

        if (!faults)
                return -ENOMEM;
        faults->path = strdup(path);
        if (!faults->path) {
                free(faults);
                return -ENOMEM;
        }
        *ret = faults;
        return 0;
}

Faults *faults_free(Faults *faults) {
        if (faults)
                free(faults->path);
        free(faults);
        return NULL;
}

int faults_add(Faults *faults, const char *text, const char **ret_why) {
        return list_add(&faults->from_options, text, ret_why);
}

static int read_lines(Faults *faults, char *text, char **ret_why) {
        int result = 0;
        char *saved = NULL;

        faults->from_file = (FaultList){};
        for (char *line = strtok_r(text, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved)) {
                const char *why = NULL;
                size_t size;

                line += strspn(line, " \t");
                size = strlen(line);
                while (size > 0 && strchr(" \t\r", line[size - 1]))
                        line[--size] = '\0';
                if (line[0] == '\0' || line[0] == '#' || list_add(&faults->from_file, line, &why) == 0)
                        continue;
                free(*ret_why);
                if (asprintf(ret_why, "'%s': %s", line, why) < 0)
                        *ret_why = NULL;
                result = -EBADMSG;
        }
        return result;
}

int faults_refresh(Faults *faults, char **ret_why) {
        CLEANUP(freep) char *text = NULL;
        struct stat st = {}, *seen = &faults->seen;
        int r;

        *ret_why = NULL;
        if (stat(faults->path, &st) < 0) {
                faults->file = false;
                return 0;
        }
        if (faults->file && st.st_ino == seen->st_ino && st.st_size == seen->st_size &&
            st.st_mtim.tv_sec == seen->st_mtim.tv_sec && st.st_mtim.tv_nsec == seen->st_mtim.tv_nsec)
                return 0;

        r = read_file(faults->path, FAULT_FILE_MAX, &text, NULL);
        if (r < 0) {
                *ret_why = strdup(strerror(-r));
                return -EBADMSG;
        }
        faults->seen = st;
        faults->file = true;
        return read_lines(faults, text, ret_why);
}

const Fault *faults_use(Faults *faults, FaultType type, RequestKind kind) {
        FaultList *list = faults->file ? &faults->from_file : &faults->from_options;

        for (size_t i = 0; i < list->n; i++) {
                Fault *fault = &list->faults[i];

                if (fault->type != type || (fault->kind != _REQUEST_KIND_INVALID && fault->kind != kind) ||
                    (fault->limited && fault->left == 0))
                        continue;
                if (fault->limited)
                        fault->left--;
                return fault;
        }
        return NULL;
}
