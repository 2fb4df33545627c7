/* What the verbs share: their command lines, and talking to whoever sits there. */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

int usage_error(const char *verb, const char *format, ...) {
        va_list ap;

        (void) fputs("dps-provision: ", stderr);
        va_start(ap, format);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        (void) fprintf(stderr, "\nTry 'dps-provision%s%s --help'.\n", verb ? " " : "", verb ? verb : "");
        return EXIT_USAGE;
}

int report_failure(const Failure *failure) {
        (void) fprintf(stderr, "dps-provision: %s%s%s%s.\n%s\n", failure->sentence,
                       failure->code[0] ? " [" : "", failure->code, failure->code[0] ? "]" : "",
                       failure_advice(failure));
        return EXIT_FAILED;
}

int report_errno(int error, const char *format, ...) {
        va_list ap;

        (void) fputs("dps-provision: ", stderr);
        va_start(ap, format);
        (void) vfprintf(stderr, format, ap);
        va_end(ap);
        error = error < 0 ? -error : error;
        (void) fprintf(stderr, ": %s\n", strerror(error));
        if ((error == EACCES || error == EPERM) && geteuid() != 0)
                (void) fputs("Run it as root.\n", stderr);
        return EXIT_FAILED;
}

#define OPTION_FIRST 256 /* what getopt_long() returns for the first one */

static int value_missing(char *argv[], const VerbOption *o) {
        return usage_error(argv[0], "--%s= needs %s", o->name, o->needs ? o->needs : "a value");
}

/* What is wrong with the option that getopt_long() has stopped at. */
static int option_error(char *argv[], const VerbOption *options, int c) {
        const VerbOption *o = optopt >= OPTION_FIRST ? &options[optopt - OPTION_FIRST] : NULL;

        if (c == ':' && o)
                return value_missing(argv, o);
        if (o)
                return usage_error(argv[0], "--%s takes no value", o->name);
        if (optopt != 0 && optopt != 'h')
                return usage_error(argv[0], "-%c is not an option", optopt);
        return usage_error(argv[0], "'%s' is not an option", argv[optind - 1]);
}

int parse_options(int argc, char *argv[], const VerbOption *options, int max, void (*print_help)(void)) {
        struct option longs[VERB_OPTIONS_MAX + 2] = {};
        int c, n = 0;

        for (; options[n].name; n++)
                longs[n] = (struct option){ .name = options[n].name,
                                            .has_arg = options[n].value ? required_argument : no_argument,
                                            .val = OPTION_FIRST + n };
        longs[n] = (struct option){ .name = "help", .val = 'h' };
        opterr = 0;
        while ((c = getopt_long(argc, argv, ":hy", longs, NULL)) >= 0) {
                if (c == 'y') /* the letter of one that not every verb has */
                        for (int i = 0; i < n; i++)
                                if (streq(options[i].name, "yes"))
                                        c = OPTION_FIRST + i;
                if (c == 'h') {
                        print_help();
                        return EXIT_OK;
                }
                if (c < OPTION_FIRST) {
                        optopt = c == 'y' ? 'y' : optopt;
                        return option_error(argv, options, c);
                }
                if (!options[c - OPTION_FIRST].value)
                        *options[c - OPTION_FIRST].flag = true;
                else if (optarg[0] || !options[c - OPTION_FIRST].needs)
                        *options[c - OPTION_FIRST].value = optarg;
                else
                        return value_missing(argv, &options[c - OPTION_FIRST]);
        }
        if (argc - optind <= max)
                return GO_ON;
        return usage_error(argv[0], "'%s' is one argument too many", argv[optind + max]);
}

int find_credential(const ConfigPaths *paths, const char *name, const char **ret_directory) {
        const char *const directories[] = { paths->credentials_dir ? paths->credentials_dir : "",
                                            "/run/credentials/@system", "/etc/credstore", "/run/credstore",
                                            "/usr/lib/credstore" };
        bool closed = false;

        for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
                char path[PATH_MAX];

                (void) snprintf(path, sizeof(path), "%s/%s", directories[i], name);
                if (directories[i][0] && access(path, F_OK) == 0) {
                        *ret_directory = directories[i];
                        return 1;
                }
                closed = closed || (directories[i][0] && errno == EACCES);
        }
        return closed ? -EACCES : 0;
}

void make_showable(char *text) {
        while (*text) {
                size_t length = utf8_length(text);
                bool control = length == 1 ? (unsigned char) *text < ' ' || *text == 0x7f
                               : length == 2
                                       ? (unsigned char) text[0] == 0xc2 && (unsigned char) text[1] < 0xa0
                                       : length == 0;

                if (control)
                        memset(text, '?', length > 0 ? length : 1);
                text += length > 0 ? length : 1;
        }
}

const char *colour(const char *code) {
        const char *no_color = getenv("NO_COLOR");

        return isatty(STDOUT_FILENO) && !(no_color && no_color[0]) ? code : "";
}

/* On standard error, since standard output may go to a file, and then nobody would see the question. */
bool confirmed(const char *question) {
        char line[16] = "";

        (void) fflush(stdout);
        (void) fprintf(stderr, "%s [y/N] ", question);
        if (fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y'))
                return true;
        (void) fputs("Nothing was done.\n", stderr);
        return false;
}
