/* dps-emulator: the service side of DPS and of an IoT Hub, for tests, demonstrations, and integrators
 * without a subscription. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "project.h"
#include "server.h"

#define HOSTS_MAX  32
#define FAULTS_MAX 32

typedef struct Options {
        const char *scope, *enrollments, *state_dir, *listen, *retry_after;
        const char *hosts[HOSTS_MAX], *faults[FAULTS_MAX];
        size_t n_hosts, n_faults;
        uint16_t port;
        unsigned polls;
        HubKeys hub_keys;
        int64_t clock_offset;
} Options;

typedef struct Program {
        Emulator emulator;
        sd_event *event;
        Certs *certs;
        RequestLog *log;
        Server *server;
} Program;

time_t emulator_now(const Emulator *emulator) {
        return (time_t) (now_usec(CLOCK_REALTIME) / USEC_PER_SEC) + (time_t) emulator->clock_offset;
}

static void print_help(void) {
        (void) printf(
                "Usage: dps-emulator --scope=ID --enrollments=FILE --state-dir=DIR [OPTION…]\n\n"
                "The service side of Azure DPS (TPM attestation) and of an IoT Hub's module API.\n\n"
                "  --port=N             listen on this port (default 0: any)\n"
                "  --listen=ADDRESS     instead of 127.0.0.1 and ::1\n"
                "  --scope=ID           the ID scope\n"
                "  --enrollments=FILE   individual enrolments, as JSON; read again when it changes\n"
                "  --state-dir=DIR      ca.pem, port, requests.jsonl, and what it remembers\n"
                "  --polls=N            say `assigning` to N polls before `assigned` (default 1)\n"
                "  --retry-after=S      what 202 replies ask for (default 3; 0: nothing; +N: as a date)\n"
                "  --rotate-keys        a new hub key at every registration\n"
                "  --keep-keys          the same hub key for ever, also at another hub\n"
                "  --clock-offset=S     this much off the machine's clock\n"
                "  --host=NAME          a further name or address in the certificate (repeatable)\n"
                "  --fault=FAULT        do something wrong: NAME[:KIND][=ARG] (repeatable), of\n"
                "                       %s\n"
                "  --help, --version\n",
                fault_names());
}

static int usage(const char *option, const char *why) {
        (void) fprintf(stderr, "dps-emulator: %s: %s\n", option, why);
        return -EINVAL;
}

static int parse_offset(const char *text, int64_t *ret) {
        uint64_t seconds;
        bool negative = text[0] == '-';

        if (parse_uint(text + (negative || text[0] == '+'), INT32_MAX, &seconds) < 0)
                return -EINVAL;
        *ret = negative ? -(int64_t) seconds : (int64_t) seconds;
        return 0;
}

static bool retry_after_valid(const char *text) {
        uint64_t seconds;

        return parse_uint(text + (text[0] == '+'), INT32_MAX, &seconds) == 0;
}

enum {
        OPTION_PORT = 256,
        OPTION_LISTEN,
        OPTION_SCOPE,
        OPTION_ENROLLMENTS,
        OPTION_STATE_DIR,
        OPTION_POLLS,
        OPTION_RETRY_AFTER,
        OPTION_ROTATE_KEYS,
        OPTION_KEEP_KEYS,
        OPTION_CLOCK_OFFSET,
        OPTION_HOST,
        OPTION_FAULT,
        OPTION_HELP,
        OPTION_VERSION,
};

static const struct option long_options[] = {
        { "port", required_argument, NULL, OPTION_PORT },
        { "listen", required_argument, NULL, OPTION_LISTEN },
        { "scope", required_argument, NULL, OPTION_SCOPE },
        { "enrollments", required_argument, NULL, OPTION_ENROLLMENTS },
        { "state-dir", required_argument, NULL, OPTION_STATE_DIR },
        { "polls", required_argument, NULL, OPTION_POLLS },
        { "retry-after", required_argument, NULL, OPTION_RETRY_AFTER },
        { "rotate-keys", no_argument, NULL, OPTION_ROTATE_KEYS },
        { "keep-keys", no_argument, NULL, OPTION_KEEP_KEYS },
        { "clock-offset", required_argument, NULL, OPTION_CLOCK_OFFSET },
        { "host", required_argument, NULL, OPTION_HOST },
        { "fault", required_argument, NULL, OPTION_FAULT },
        { "help", no_argument, NULL, OPTION_HELP },
        { "version", no_argument, NULL, OPTION_VERSION },
        {},
};

/* 0, 1 when there is nothing more to do, or -EINVAL after a message. */
static int parse_option(Options *options, int option, const char *value) {
        uint64_t number;

        switch (option) {
        case OPTION_PORT:
                if (parse_uint(value, UINT16_MAX, &number) < 0)
                        return usage("--port", "not a port");
                options->port = (uint16_t) number;
                return 0;
        case OPTION_LISTEN:
                options->listen = value;
                return 0;
        case OPTION_SCOPE:
                options->scope = value;
                return 0;
        case OPTION_ENROLLMENTS:
                options->enrollments = value;
                return 0;
        case OPTION_STATE_DIR:
                options->state_dir = value;
                return 0;
        case OPTION_POLLS:
                if (parse_uint(value, INT32_MAX, &number) < 0)
                        return usage("--polls", "not a number");
                options->polls = (unsigned) number;
                return 0;
        case OPTION_RETRY_AFTER:
                if (!retry_after_valid(value))
                        return usage("--retry-after", "neither seconds nor +seconds");
                options->retry_after = streq(value, "0") ? NULL : value;
                return 0;
        case OPTION_ROTATE_KEYS:
                options->hub_keys = HUB_KEYS_ROTATE;
                return 0;
        case OPTION_KEEP_KEYS:
                options->hub_keys = HUB_KEYS_KEEP;
                return 0;
        case OPTION_CLOCK_OFFSET:
                return parse_offset(value, &options->clock_offset) < 0
                               ? usage("--clock-offset", "not a number of seconds")
                               : 0;
        case OPTION_HOST:
                if (options->n_hosts == HOSTS_MAX)
                        return usage("--host", "too many");
                options->hosts[options->n_hosts++] = value;
                return 0;
        case OPTION_FAULT:
                if (options->n_faults == FAULTS_MAX)
                        return usage("--fault", "too many");
                options->faults[options->n_faults++] = value;
                return 0;
        case OPTION_HELP:
                print_help();
                return 1;
        case OPTION_VERSION:
                (void) printf("dps-emulator %s\n", PROJECT_VERSION);
                return 1;
        default:
                return -EINVAL; /* getopt has said what is wrong */
        }
}

static int parse_options(Options *options, int argc, char *argv[]) {
        int option, r;

        *options = (Options){ .polls = 1, .retry_after = "3" };
        while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
                r = parse_option(options, option, optarg);
                if (r != 0)
                        return r;
        }
        if (optind < argc)
                return usage(argv[optind], "there are no arguments");
        if (!options->scope ||
            !chars_valid(options->scope, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-",
                         1, 64))
                return usage("--scope", "needed: 1 to 64 letters, digits or dashes");
        if (!options->enrollments || !options->state_dir)
                return usage(options->enrollments ? "--state-dir" : "--enrollments", "needed");
        return 0;
}

static int stop(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        return sd_event_exit(sd_event_source_get_event(source), 0);
}

static int block_signals(sd_event *event) {
        sigset_t set;
        int r;

        (void) signal(SIGPIPE, SIG_IGN);
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGINT);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        r = sd_event_add_signal(event, NULL, SIGTERM, stop, NULL);
        if (r >= 0)
                r = sd_event_add_signal(event, NULL, SIGINT, stop, NULL);
        return r;
}

static char *in_dir(const Options *options, const char *name) {
        char *path = NULL;

        return asprintf(&path, "%s/%s", options->state_dir, name) < 0 ? NULL : path;
}

static int fail(int error, const char *what) {
        (void) fprintf(stderr, "dps-emulator: %s: %s\n", what, strerror(-error));
        return error;
}

static int open_state(Program *program, const Options *options) {
        CLEANUP(freep)
        char *registry = in_dir(options, "registry.json"), *log = in_dir(options, "requests.jsonl");
        CLEANUP(freep) char *faults = in_dir(options, "fault");
        const char *why = "out of memory";
        int r;

        if (!registry || !log || !faults)
                return fail(-ENOMEM, why);
        if (mkdir(options->state_dir, 0700) < 0 && errno != EEXIST)
                return fail(-errno, options->state_dir);
        r = registry_open(&program->emulator.registry, registry);
        if (r < 0)
                return fail(r, registry);
        r = request_log_open(&program->log, log);
        if (r < 0)
                return fail(r, log);
        r = attempts_new(&program->emulator.attempts);
        if (r == 0)
                r = faults_new(&program->emulator.faults, faults);
        if (r < 0)
                return fail(r, why);
        for (size_t i = 0; i < options->n_faults; i++)
                if (faults_add(program->emulator.faults, options->faults[i], &why) < 0) {
                        (void) usage(options->faults[i], why);
                        return -EINVAL;
                }
        r = certs_new(&program->certs, options->state_dir, options->hosts, options->n_hosts, &why);
        return r < 0 ? fail(r, why) : 0;
}

static int announce(const Program *program, const Options *options) {
        CLEANUP(freep) char *path = in_dir(options, "port");
        CLEANUP(fclosep) FILE *file = path ? fopen(path, "we") : NULL;

        if (!file || fprintf(file, "%u\n", server_port(program->server)) < 0 || fflush(file) != 0)
                return fail(file ? -EIO : -errno, "the file `port` can't be written");
        if (printf("listening on %s\n", program->emulator.base_url) < 0 || fflush(stdout) != 0)
                return fail(-EIO, "standard output");
        return 0;
}

static int start(Program *program, const Options *options) {
        CLEANUP(freep) char *broken = NULL;
        Emulator *emulator = &program->emulator;
        const char *why = "";
        char default_hub[32];
        int r;

        emulator->scope = options->scope;
        emulator->retry_after = options->retry_after;
        emulator->polls = options->polls;
        emulator->hub_keys = options->hub_keys;
        emulator->clock_offset = options->clock_offset;
        r = open_state(program, options);
        if (r < 0)
                return r;
        r = sd_event_new(&program->event);
        if (r >= 0)
                r = block_signals(program->event);
        if (r < 0)
                return fail(r, "the event loop");
        r = server_new(&program->server, program->event, options->listen, options->port, emulator,
                       program->certs, program->log, &why);
        if (r < 0)
                return fail(r, why);

        (void) snprintf(default_hub, sizeof(default_hub), "localhost:%u", server_port(program->server));
        (void) snprintf(emulator->base_url, sizeof(emulator->base_url), "https://%s", default_hub);
        r = enrollments_new(&emulator->enrollments, options->enrollments, default_hub);
        if (r < 0)
                return fail(r, "out of memory");
        if (enrollments_refresh(emulator->enrollments, &broken) < 0)
                log_error("The enrolments file is not usable: %s", broken ? broken : "out of memory");
        return announce(program, options);
}

static void program_deinit(Program *program) {
        server_free(program->server);
        sd_event_unref(program->event);
        certs_free(program->certs);
        request_log_close(program->log);
        enrollments_free(program->emulator.enrollments);
        registry_close(program->emulator.registry);
        attempts_free(program->emulator.attempts);
        faults_free(program->emulator.faults);
}

int main(int argc, char *argv[]) {
        CLEANUP(program_deinit) Program program = {};
        Options options;
        int r;

        log_init("dps-emulator", LOG_TARGET_STDERR, LOG_INFO);
        r = parse_options(&options, argc, argv);
        if (r > 0 && fflush(stdout) != 0)
                return fail(-errno, "standard output") < 0;
        if (r != 0)
                return r < 0 ? 2 : 0;
        r = start(&program, &options);
        if (r < 0)
                return r == -EINVAL ? 2 : 1;
        r = sd_event_loop(program.event);
        return r < 0 ? 1 : 0;
}
