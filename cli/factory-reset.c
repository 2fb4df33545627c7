#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"
#include "machine.h"
#include "scope-files.h"

/* A call of the hand-off helper that is in progress ends first, and then Forget. */
#define RESET_TIMEOUT_USEC (2 * HANDOFF_DEADLINE_USEC + 60 * USEC_PER_SEC)
#define SCOPE_FILES_MAX    64
#define FILE_MAX           ((size_t) 1024 * 1024)

typedef struct Options {
        ConfigPaths paths;
        bool yes, keep_scope, iotedge_config;
} Options;

static void print_help(void) {
        (void) puts("Usage: dps-provision factory-reset [OPTION…]\n\n"
                    "Makes this device forget that it was provisioned, so that it can change hands: the "
                    "daemon's state, the\n"
                    "hub's key in the TPM, IoT Edge's identity, and the ID scope. Only what was made by "
                    "dps-provisiond goes;\n"
                    "the endorsement key and everybody else's objects stay. Root only. It can be repeated "
                    "at any time.\n\n"
                    "  --yes              do not ask\n"
                    "  --keep-scope       keep the ID scope; the device attests again at the daemon's next "
                    "start, or with\n"
                    "                     'dps-provision reprovision'\n"
                    "  --iotedge-config   also remove the provisioning that was written to "
                    "/etc/aziot/config.toml; without\n"
                    "                     this, IoT Edge is started again and registers by itself with what "
                    "is there\n"
                    "  --config=FILE      the ID scope is in this file and no other");
}

static int parse(Options *ret, int argc, char *argv[]) {
        const VerbOption options[] = { { "yes", .flag = &ret->yes },
                                       { "keep-scope", .flag = &ret->keep_scope },
                                       { "iotedge-config", .flag = &ret->iotedge_config },
                                       { "config", .value = &ret->paths.file, .needs = "a file" },
                                       {} };

        return parse_options(argc, argv, options, 0, print_help);
}

/* A file that can't be read sets no scope, and the scope would stay where it is. */
static int check_file(const Options *o) {
        CLEANUP(freep) char *text = NULL;
        int r;

        if (!o->paths.file)
                return EXIT_OK;
        r = read_file(o->paths.file, FILE_MAX, &text, NULL);
        if (r >= 0)
                return EXIT_OK;
        (void) report_errno(r, "'%s' can't be read", o->paths.file);
        (void) fputs("Name the configuration with the ID scope, or leave --config= out. Nothing was done.\n",
                     stderr);
        return EXIT_FAILED;
}

/* What can't be removed for good is known before anything is. */
static int check_scope(const Options *o, char **ret_file) {
        int r;

        if (o->keep_scope)
                return EXIT_OK;
        r = scope_file(ret_file, &o->paths);
        if (r < 0)
                return report_errno(r, "The configuration can't be read");
        if (!*ret_file || scope_file_is_ours(*ret_file, &o->paths))
                return EXIT_OK;
        (void) fprintf(stderr,
                       "dps-provision: The ID scope is set by '%s', which this command does not change.\n"
                       "Remove it there first, or let it stay with --keep-scope. Nothing was done.\n",
                       *ret_file);
        return EXIT_FAILED;
}

/* One that only the daemon is given would come back with its next start. */
static int check_credential(const Options *o, const Status *s, const char *file) {
        const char *directory = NULL;

        if (o->keep_scope)
                return EXIT_OK;
        if (find_credential(&o->paths, "dps.id_scope", &directory) > 0) {
                (void) fprintf(stderr,
                               "dps-provision: Without the files the ID scope would be that of the "
                               "credential dps.id_scope in '%s', which this command does not change.\n"
                               "Remove that first, or let the scope stay with --keep-scope. Nothing was "
                               "done.\n",
                               directory);
                return EXIT_FAILED;
        }
        if (file || !s->id_scope || !s->id_scope[0] || client_wait_for_scope("") != 0)
                return EXIT_OK;
        (void) fprintf(stderr,
                       "dps-provision: No file sets the ID scope '%s' that the daemon has: it is given the "
                       "credential dps.id_scope, which this command does not change.\n"
                       "Remove that first, or let it stay with --keep-scope. Nothing was done.\n",
                       s->id_scope);
        return EXIT_FAILED;
}

static void announce_iotedge(const Options *o) {
        (void) puts("  - IoT Edge's identity (device_info), if it came from dps-provisiond");
        if (o->iotedge_config)
                (void) puts("  - the provisioning in /etc/aziot/config.toml, if dps-provisiond wrote it; "
                            "IoT Edge stays stopped");
        else
                (void) puts("IoT Edge is stopped meanwhile. With the provisioning in its config.toml, which "
                            "stays, it then\nregisters by itself; see --iotedge-config.");
}

static void announce(const Options *o, const Status *s, const char *scope, HandOffTarget target) {
        (void) puts("This will go:");
        if (s->hub[0])
                (void) printf("  - the assignment to '%s' as '%s'\n", s->hub, s->device_id);
        else
                (void) puts("  - the daemon's state");
        (void) puts("  - the hub's key in the TPM, if it is the one that was adopted");
        if (scope)
                (void) printf("  - the ID scope, IdScope= in %s\n", scope);
        if (target != TARGET_NONE)
                announce_iotedge(o);
        if (o->keep_scope)
                (void) puts("The ID scope stays.");
        (void) puts("The enrolment in the service and the device in the hub are not touched: delete them "
                    "there.");
        (void) fflush(stdout);
}

static bool may_go_on(void) {
        if (ferror(stdout)) { /* nobody knows what the question is about */
                (void) fputs("dps-provision: What will go can't be shown. Nothing was done.\n", stderr);
                return false;
        }
        if (isatty(STDIN_FILENO))
                return confirmed("Go on?");
        (void) fputs("dps-provision: Nobody can be asked; say --yes. Nothing was done.\n", stderr);
        return false;
}

/* First, so that nothing can attest again while the rest goes, also after a power cut. */
static int remove_scope(const Options *o) {
        CLEANUP(freep) char *file = NULL;
        int r = 0;

        for (int i = 0; i < SCOPE_FILES_MAX; i++) {
                r = check_scope(o, &file);
                if (r != EXIT_OK || !file)
                        return r;
                r = scope_unset(file);
                if (r < 0)
                        return report_errno(r, "The ID scope can't be removed from '%s'", file);
        }
        (void) fprintf(stderr, "dps-provision: The ID scope can't be removed from '%s'.\n", file);
        return EXIT_FAILED;
}

static int forget(const Options *o, sd_bus *bus) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_message_unrefp) sd_bus_message *call = NULL, *reply = NULL;
        const char *note;
        int r;

        client_allow_disruption(bus);
        r = client_new_call(bus, &call, "FactoryReset");
        if (r >= 0)
                r = sd_bus_message_append(call, "b", (int) o->iotedge_config);
        if (r >= 0)
                r = sd_bus_call(bus, call, RESET_TIMEOUT_USEC, &error, &reply);
        if (r < 0) {
                r = client_report_error(bus, &error, r);
                (void) fputs(
                        r == -EHOSTDOWN
                                ? "The reset is not complete: repeat this command when the daemon runs.\n"
                                : "The reset is not complete. The daemon goes on trying; this command can "
                                  "be repeated.\n",
                        stderr);
                return EXIT_FAILED;
        }
        client_allow_disruption(bus); /* the next owner begins with a full budget */
        r = sd_bus_message_enter_container(reply, 'a', "s");
        while (r >= 0 && (r = sd_bus_message_read(reply, "s", &note)) > 0) {
                CLEANUP(freep) char *shown = strdup(note);

                if (!shown)
                        break;
                make_showable(shown);
                (void) printf("%s.\n", shown);
        }
        (void) puts(o->keep_scope
                            ? "This device is unprovisioned. It attests again at the daemon's next start."
                            : "This device is unprovisioned.");
        return EXIT_OK;
}

int verb_factory_reset(int argc, char *argv[]) {
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        CLEANUP(status_deinit) Status status = {};
        CLEANUP(config_freep) Config *config = NULL;
        CLEANUP(freep) char *scope = NULL;
        Options o = { .paths.credentials_dir = getenv("CREDENTIALS_DIRECTORY") };
        int r;

        r = parse(&o, argc, argv);
        if (r != GO_ON)
                return r;
        if (geteuid() != 0) {
                (void) fputs("dps-provision: Only root may do this. Nothing was done.\n", stderr);
                return EXIT_FAILED;
        }
        r = check_file(&o);
        if (r != EXIT_OK)
                return r;
        r = config_load(&config, &o.paths);
        if (r < 0)
                return report_errno(r, "The configuration can't be read");
        if (client_open(&bus) < 0 || client_get_status(bus, &status) < 0) {
                (void) fputs("The daemon has to do this: nothing was done.\n", stderr);
                return EXIT_FAILED;
        }
        r = check_scope(&o, &scope);
        if (r == EXIT_OK)
                r = check_credential(&o, &status, scope);
        if (r != EXIT_OK)
                return r;
        announce(&o, &status, scope, config->target);
        if (!o.yes && !may_go_on())
                return EXIT_FAILED;
        if (!o.keep_scope) {
                r = remove_scope(&o);
                if (r != EXIT_OK)
                        return r;
        }
        return forget(&o, bus);
}
