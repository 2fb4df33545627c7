#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "project.h"

#define COMMAND_TIMEOUT_SEC 360
#define CONFIRM_TIMEOUT_SEC 300

enum {
        OPTION_CONFIG = 256,
        OPTION_STATE_DIR,
        OPTION_ROOT,
        OPTION_COMMAND_TIMEOUT,
        OPTION_CONFIRM_TIMEOUT,
        OPTION_LOG_TARGET,
        OPTION_LOG_LEVEL,
        OPTION_VERSION,
};

static void print_help(const DaemonInfo *info) {
        (void) printf("Usage: %s [OPTION…]\n\n%s\n\n"
                      "  --config=FILE         read this configuration and no other\n",
                      info->name, info->description);
        if (info->has_state_dir)
                (void) printf("  --state-dir=DIR       keep the state here instead of /var/lib/%s\n",
                              info->name);
        if (info->has_root)
                (void) puts("  --root=DIR            work on the files below this directory");
        if (info->has_command_timeout)
                (void) printf(
                        "  --command-timeout=SEC end when one TPM command takes longer (default: %d)\n",
                        COMMAND_TIMEOUT_SEC);
        if (info->has_confirm_timeout)
                (void) printf(
                        "  --confirm-timeout=SEC wait this long for the hub to take IoT Edge's identity "
                        "(default: %d)\n",
                        CONFIRM_TIMEOUT_SEC);
        (void) puts("  --log-target=TARGET   journal or stderr\n"
                    "  --log-level=LEVEL     err, warning, notice, info or debug\n"
                    "  --help, --version");
}

static int usage_error(const DaemonInfo *info, const char *option, const char *value, const char *allowed) {
        (void) fprintf(stderr, "%s: --%s=%s is not allowed; allowed: %s\n", info->name, option, value,
                       allowed);
        return -EINVAL;
}

typedef struct Parsed {
        DaemonOptions options;
        int log_target, log_level;
} Parsed;

static int parse_seconds(usec_t *ret, const DaemonInfo *info, const char *option) {
        uint64_t seconds;

        if (parse_uint(optarg, 86400, &seconds) < 0 || seconds < 1)
                return usage_error(info, option, optarg, "1 to 86400 (seconds)");
        *ret = seconds * USEC_PER_SEC;
        return 1;
}

static int parse_option(Parsed *p, const DaemonInfo *info, int option) {
        switch (option) {
        case OPTION_CONFIG:
                p->options.config.file = optarg;
                return 1;
        case OPTION_STATE_DIR:
                p->options.state_dir = optarg;
                return info->has_state_dir ? 1 : -EINVAL;
        case OPTION_ROOT:
                p->options.root = optarg;
                return info->has_root ? 1 : -EINVAL;
        case OPTION_COMMAND_TIMEOUT:
                return info->has_command_timeout
                               ? parse_seconds(&p->options.command_timeout_usec, info, "command-timeout")
                               : -EINVAL;
        case OPTION_CONFIRM_TIMEOUT:
                return info->has_confirm_timeout
                               ? parse_seconds(&p->options.confirm_timeout_usec, info, "confirm-timeout")
                               : -EINVAL;
        case OPTION_LOG_TARGET:
                p->log_target = log_target_from_string(optarg);
                return p->log_target < 0 ? usage_error(info, "log-target", optarg, "journal, stderr") : 1;
        case OPTION_LOG_LEVEL:
                p->log_level = log_level_from_string(optarg);
                return p->log_level < 0
                               ? usage_error(info, "log-level", optarg, "err, warning, notice, info, debug")
                               : 1;
        case OPTION_VERSION:
                (void) printf("%s %s\n", info->name, PROJECT_VERSION);
                return 0;
        case 'h':
                print_help(info);
                return 0;
        default:
                (void) fprintf(stderr, "Try '%s --help'.\n", info->name);
                return -EINVAL;
        }
}

int daemon_options_parse(DaemonOptions *ret, const DaemonInfo *info, int argc, char *argv[]) {
        static const struct option options[] = {
                { "config", required_argument, NULL, OPTION_CONFIG },
                { "state-dir", required_argument, NULL, OPTION_STATE_DIR },
                { "root", required_argument, NULL, OPTION_ROOT },
                { "command-timeout", required_argument, NULL, OPTION_COMMAND_TIMEOUT },
                { "confirm-timeout", required_argument, NULL, OPTION_CONFIRM_TIMEOUT },
                { "log-target", required_argument, NULL, OPTION_LOG_TARGET },
                { "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
                { "version", no_argument, NULL, OPTION_VERSION },
                { "help", no_argument, NULL, 'h' },
                {},
        };
        Parsed p = {
                .options = { .config = { .credentials_dir = getenv("CREDENTIALS_DIRECTORY") },
                             .state_dir = getenv("STATE_DIRECTORY"),
                             .root = "",
                             .command_timeout_usec = COMMAND_TIMEOUT_SEC * USEC_PER_SEC,
                             .confirm_timeout_usec = CONFIRM_TIMEOUT_SEC * USEC_PER_SEC },
                .log_target = getenv("JOURNAL_STREAM") ? LOG_TARGET_JOURNAL : LOG_TARGET_STDERR,
                .log_level = LOG_INFO,
        };
        int c, r;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
                r = parse_option(&p, info, c);
                if (r <= 0)
                        return r;
        }
        if (optind < argc) {
                (void) fprintf(stderr, "%s: '%s' is not an option. Try '%s --help'.\n", info->name,
                               argv[optind], info->name);
                return -EINVAL;
        }
        log_init(info->name, (LogTarget) p.log_target, p.log_level);
        (void) prctl(PR_SET_DUMPABLE, 0L);
        *ret = p.options;
        return 1;
}
