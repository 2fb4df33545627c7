#include "config-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include <ini.h>

#define LINE_SHOWN   150
#define PROBLEMS_MAX 100 /* of a file that is not ours at all, nobody reads more */

int config_add_problem(Config *config, bool fatal, const char *file, unsigned line, const char *format,
                       ...) {
        CLEANUP(freep) char *text = NULL;
        ConfigProblem *problems, *problem;
        va_list ap;
        int r;

        if (config->problem_count >= PROBLEMS_MAX)
                return 0;
        va_start(ap, format);
        r = vasprintf(&text, format, ap);
        va_end(ap);
        if (r < 0) {
                text = NULL;
                return -ENOMEM;
        }
        problems = reallocarray(config->problems, config->problem_count + 1, sizeof(*problems));
        if (!problems)
                return -ENOMEM;
        config->problems = problems;
        problem = &problems[config->problem_count];
        *problem = (ConfigProblem){ .fatal = fatal, .line = line };
        r = string_replace(&problem->file, file);
        if (r < 0)
                return r;
        problem->text = TAKE(text);
        config->problem_count++;
        return 0;
}

static void *field_of(Config *config, const ConfigKey *key) {
        return (char *) config + key->offset;
}

static int set_default(Config *config, size_t index) {
        const ConfigKey *key = config_key(index);

        free(config->sources[index]);
        config->sources[index] = NULL;
        /* every key without a default is a string */
        return key->fallback ? key->set(key, field_of(config, key), key->fallback)
                             : string_replace(field_of(config, key), NULL);
}

static int set_source(char **target, const char *file, unsigned line) {
        char *text = NULL;

        if (asprintf(&text, line > 0 ? "%s:%u" : "%s", file, line) < 0)
                return -ENOMEM;
        free(*target);
        *target = text;
        return 0;
}

/* A value that an earlier line has set is about to be replaced. */
static int note_override(Config *config, size_t index, const char *file, unsigned line) {
        struct ConfigOverride *longer, *last;

        if (!config->sources[index] || config->override_count >= PROBLEMS_MAX)
                return 0;
        longer = reallocarray(config->overrides, config->override_count + 1, sizeof(*longer));
        if (!longer)
                return -ENOMEM;
        config->overrides = longer;
        last = &longer[config->override_count++];
        *last = (struct ConfigOverride){ .index = index };
        if (string_replace(&last->old, config->sources[index]) < 0)
                return -ENOMEM;
        return set_source(&last->by, file, line);
}

/* Does an earlier line of this file set the key? */
static bool set_by_file(const Config *config, size_t index, const char *file) {
        const char *source = config->sources[index];
        size_t length = strlen(file);

        return source && strncmp(source, file, length) == 0 && source[length] == ':';
}

static int assign(Config *config, size_t index, const char *file, unsigned line, const char *value) {
        const ConfigKey *key = config_key(index);
        bool more = key->list && value[0] && set_by_file(config, index, file);
        int r;

        r = more ? 0 : note_override(config, index, file, line);
        if (r < 0)
                return r;
        if (value[0] == '\0')
                return set_default(config, index);
        r = more ? config_key_append(config, key, value) : key->set(key, field_of(config, key), value);
        if (r == -EINVAL) {
                r = set_default(config, index);
                if (config_key_is_secret(key))
                        value = "...";
                return r < 0 ? r
                             : config_add_problem(config, true, file, line,
                                                  "%s=%s is not allowed; allowed: %s", key->name, value,
                                                  key->allowed);
        }
        if (r < 0)
                return r;
        return more ? 0 : set_source(&config->sources[index], file, line);
}

int config_assign(Config *config, const char *file, unsigned line, const char *section, const char *name,
                  const char *value) {
        const ConfigKey *key;
        bool section_known = false;

        for (size_t i = 0; (key = config_key(i)); i++) {
                if (!streq(key->section, section))
                        continue;
                section_known = true;
                if (streq(key->name, name))
                        return assign(config, i, file, line, value);
        }
        if (!section_known)
                return config_add_problem(config, false, file, line,
                                          "[%s] is not a known section, %s= is ignored", section, name);
        return config_add_problem(config, false, file, line, "%s= is not a known key of [%s] and is ignored",
                                  name, section);
}

/* inih can be built with or without line numbers, so the lines are counted where they are handed out. */
typedef struct Parse {
        Config *config;
        const char *file;
        const char *next; /* what is left of the text */
        unsigned line;
        int error;
} Parse;

/* The length of the line without its comment. */
static size_t without_comment(const char *line, size_t length) {
        if (*line == '#')
                return 0;
        for (size_t i = 0; i < length; i++)
                if (line[i] == ';' && (i == 0 || strchr(" \t", line[i - 1])))
                        length = i;
        while (length > 0 && strchr(" \t\r", line[length - 1]))
                length--;
        return length;
}

/* Like fgets(). Leading white space is dropped: inih would take such a line for more of the previous value.
 * Without its comment, a line that is too long for inih's buffer is reported, and a comment stands in for
 * it.
 */
static char *next_line(char *buffer, int size, void *userdata) {
        Parse *parse = userdata;
        const char *start = parse->next + strspn(parse->next, " \t"), *end = strchrnul(start, '\n');
        size_t length = (size_t) (end - start);

        if (*parse->next == '\0' || parse->error < 0)
                return NULL;
        parse->next = *end ? end + 1 : end;
        parse->line++;
        if (length + 1 >= (size_t) size)
                length = without_comment(start, length);
        if (length + 1 >= (size_t) size) {
                parse->error = config_add_problem(parse->config, true, parse->file, parse->line,
                                                  "the line is longer than %d characters", size - 2);
                start = ";";
                length = 1;
        }
        memcpy(buffer, start, length);
        buffer[length] = '\n';
        buffer[length + 1] = '\0';
        return buffer;
}

static int on_assignment(void *userdata, const char *section, const char *name, const char *value) {
        Parse *parse = userdata;

        parse->error =
                config_assign(parse->config, parse->file, parse->line, section, name, value ? value : "");
        return parse->error >= 0;
}

int config_parse(Config *config, const char *file, const char *text) {
        Parse parse = { .config = config, .file = file, .next = text };
        int line = ini_parse_stream(next_line, &parse, on_assignment, &parse);

        if (parse.error < 0)
                return parse.error;
        if (line > 0)
                return config_add_problem(config, true, file, (unsigned) line,
                                          "neither a [Section], nor KEY=VALUE, nor a comment");
        return line < 0 ? -ENOMEM : 0;
}

int config_load(Config **ret, const ConfigPaths *paths) {
        CLEANUP(config_freep) Config *config = calloc(1, sizeof(*config));
        int r;

        if (!config)
                return -ENOMEM;
        config->sources = calloc(CONFIG_KEY_COUNT, sizeof(char *));
        if (!config->sources)
                return -ENOMEM;
        for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
                r = set_default(config, i);
                if (r < 0)
                        return r;
        }
        r = config_read_files(config, paths);
        if (r < 0)
                return r;
        *ret = TAKE(config);
        return 0;
}

Config *config_free(Config *config) {
        if (!config)
                return NULL;
        free(config->id_scope);
        free(config->global_endpoint);
        free(config->registration_id);
        free(config->payload);
        free(config->tcti);
        secret_freep(&config->proxy); /* it may hold a password */
        free(config->ca_file);
        config_hubs_free(config->allowed_hubs);
        for (size_t i = 0; i < config->problem_count; i++) {
                free(config->problems[i].file);
                free(config->problems[i].text);
        }
        free(config->problems);
        for (size_t i = 0; i < config->override_count; i++) {
                free(config->overrides[i].old);
                free(config->overrides[i].by);
        }
        free(config->overrides);
        for (size_t i = 0; config->sources && i < CONFIG_KEY_COUNT; i++)
                free(config->sources[i]);
        free(config->sources);
        free(config);
        return NULL;
}

void config_freep(Config **config) {
        *config = config_free(*config);
}

char *config_problem_to_string(const ConfigProblem *p) {
        char line[16] = "", *text = NULL;

        if (p->line > 0)
                (void) snprintf(line, sizeof(line), ":%u", p->line);
        return asprintf(&text, "%s%s: %s", p->file, line, p->text) < 0 ? NULL : text;
}

bool config_failure(const Config *config, Failure *ret) {
        for (size_t i = 0; i < config->problem_count; i++) {
                CLEANUP(freep) char *text = NULL;

                if (!config->problems[i].fatal)
                        continue;
                text = config_problem_to_string(&config->problems[i]);
                (void) failure_set(ret, FAILURE_CONFIG, NULL, "%s", text ? text : config->problems[i].file);
                return true;
        }
        return false;
}

void config_print_key(FILE *f, const char *prefix, const char *key, const char *value) {
        while (strlen(value) > LINE_SHOWN && strchr(value, ' ')) {
                size_t n = LINE_SHOWN;

                while (n > 0 && value[n] != ' ')
                        n--;
                if (n == 0)
                        n = strcspn(value, " ");
                (void) fprintf(f, "%s%s=%.*s\n", prefix, key, (int) n, value);
                value += n + 1;
        }
        (void) fprintf(f, "%s%s=%s\n", prefix, key, value);
}

bool config_describe(const Config *config, size_t index, const char **ret_section, const char **ret_key,
                     char **ret_value, const char **ret_source) {
        const ConfigKey *key = config_key(index);

        if (!key)
                return false;
        *ret_section = key->section;
        *ret_key = key->name;
        *ret_value = config_key_to_string(config, key);
        *ret_source = config->sources[index];
        return true;
}
