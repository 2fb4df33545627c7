#include "enrollment.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "cli.h"
#include "identity.h"
#include "tpm.h"

typedef struct Options {
        ConfigPaths paths;
        const char *tcti, *device_id, *hub;
        bool json;
} Options;

static void print_help(void) {
        (void) puts(
                "Usage: dps-provision enrollment [OPTION…]\n\n"
                "Prints the registration ID and the endorsement key of this device. Reads the TPM (as root "
                "or as\n"
                "a member of the group tss), needs neither the daemon nor a network, and changes "
                "nothing.\n\n"
                "  --format=FORMAT   text (default) or json (an IndividualEnrollment of the service's API)\n"
                "  --device-id=ID    the device ID in the hub, when it is not the registration ID\n"
                "  --hub=NAME        the hub, when the allocation policy shall not choose\n"
                "  --tcti=TCTI       the TPM, instead of Tcti= in the configuration\n"
                "  --config=FILE     read this configuration and no other");
}

static int parse(Options *ret, int argc, char *argv[]) {
        static const struct option options[] = {
                { "format", required_argument, NULL, 'f' },
                { "device-id", required_argument, NULL, 'd' },
                { "hub", required_argument, NULL, 'u' },
                { "tcti", required_argument, NULL, 't' },
                { "config", required_argument, NULL, 'c' },
                { "help", no_argument, NULL, 'h' },
                {},
        };
        int c;

        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case 'f':
                        if (!streq(optarg, "text") && !streq(optarg, "json"))
                                return usage_error(argv[0],
                                                   "--format=%s is not known; known are text and json",
                                                   optarg);
                        ret->json = streq(optarg, "json");
                        break;
                case 'd':
                        if (!identity_registration_id_valid(optarg))
                                return usage_error(argv[0], "'%s' is not a device ID", optarg);
                        ret->device_id = optarg;
                        break;
                case 'u':
                        ret->hub = optarg;
                        break;
                case 't':
                        ret->tcti = optarg;
                        break;
                case 'c':
                        ret->paths.file = optarg;
                        break;
                case 'h':
                        print_help();
                        return -1;
                default:
                        return usage_error(argv[0], "this option is not known, or lacks its value");
                }
        if (optind < argc)
                return usage_error(argv[0], "'%s' is not an option", argv[optind]);
        return 0;
}

static int read_tpm(const Options *o, const Config *config, TpmIdentity *ret, Failure *reterr) {
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        CLEANUP(secret_freep) char *endorsement_auth = NULL;
        int r;

        (void) config_read_credential(&endorsement_auth, &o->paths, "dps.tpm_endorsement_auth");
        r = tpm_open(&tpm,
                     &(TpmSettings){ .tcti = o->tcti ? o->tcti : config->tcti,
                                     .hub_key_handle = config->hub_key_handle,
                                     .endorsement_auth = endorsement_auth,
                                     .read_only = true },
                     NULL, reterr);
        return r < 0 ? r : tpm_identity(tpm, ret, reterr);
}

static int print(const Options *o, const TpmIdentity *identity, const char *registration_id) {
        const Enrollment enrollment = { .registration_id = registration_id,
                                        .device_id = o->device_id,
                                        .hub = o->hub,
                                        .ek_public = identity->ek_public.data,
                                        .ek_public_size = identity->ek_public.size,
                                        .ek_persistent = identity->ek_persistent,
                                        .ek_tcg_template = identity->ek_tcg_template };
        CLEANUP(freep) char *text = NULL;
        int r;

        r = o->json ? enrollment_to_json(&text, &enrollment) : enrollment_to_text(&text, &enrollment);
        if (r < 0)
                return report_errno(r, "The enrolment can't be printed");
        if (fputs(text, stdout) == EOF || fflush(stdout) == EOF)
                return report_errno(errno, "The enrolment can't be printed");
        return EXIT_OK;
}

int verb_enrollment(int argc, char *argv[]) {
        CLEANUP(config_freep) Config *config = NULL;
        CLEANUP(tpm_identity_deinit) TpmIdentity identity = {};
        CLEANUP(freep) char *registration_id = NULL;
        Options options = { .paths = { .credentials_dir = getenv("CREDENTIALS_DIRECTORY") } };
        Failure failure = { .kind = FAILURE_TPM_FAILED, .sentence = "Out of memory" };
        int r;

        r = parse(&options, argc, argv);
        if (r != 0)
                return r < 0 ? EXIT_OK : r;
        r = config_load(&config, &options.paths);
        if (r < 0)
                return report_errno(r, "The configuration can't be read");
        if (config_failure(config, &failure))
                return report_failure(&failure);
        r = read_tpm(&options, config, &identity, &failure);
        if (r >= 0)
                r = identity_registration_id(&registration_id, config, &options.paths,
                                             identity.ek_public.data, identity.ek_public.size, &failure);
        return r < 0 ? report_failure(&failure) : print(&options, &identity, registration_id);
}
