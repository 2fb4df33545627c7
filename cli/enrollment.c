#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "ek-certificate.h"
#include "enrollment-cli.h"
#include "hardware.h"
#include "identity.h"
#include "store.h"
#include "tpm.h"

#define EK_AUTH "dps.tpm_endorsement_auth"

typedef enum Format {
        FORMAT_TEXT,
        FORMAT_JSON,
        FORMAT_CSV,
        FORMAT_AZ,
        FORMAT_BULK,
        FORMAT_QR,
        FORMAT_PEM,
        _FORMAT_MAX,
        _FORMAT_INVALID = -EINVAL,
} Format;

static const char *const format_names[_FORMAT_MAX] = {
        [FORMAT_TEXT] = "text", [FORMAT_JSON] = "json", [FORMAT_CSV] = "csv", [FORMAT_AZ] = "az",
        [FORMAT_BULK] = "bulk", [FORMAT_QR] = "qr",     [FORMAT_PEM] = "pem",
};

typedef struct Options {
        ConfigPaths paths;
        Format format;
        const char *tcti, *device_id, *hub, *output, *station, *serial_number, *asset, *dps_name,
                *resource_group, *ca_dir;
        bool format_given, full, merge, to_stdout;
} Options;

static void print_help(void) {
        (void) puts(
                "Usage: dps-provision enrollment [OPTION…]\n"
                "       dps-provision enrollment --merge FILE…\n\n"
                "Prints what an individual enrolment of this device needs: registration ID and endorsement "
                "key.\n"
                "Reads the TPM (as root or as a member of the group tss), needs neither the daemon nor a\n"
                "network, and changes nothing.\n\n"
                "  --format=text           for people (default)\n"
                "  --format=json           an IndividualEnrollment of the service's API\n"
                "  --format=bulk           the body of a bulk request of that API\n"
                "  --format=az             a command line for Azure's az\n"
                "  --format=csv            a table with one row, with serial number, MAC, host name, asset "
                "tag\n"
                "  --format=qr             a QR code of the registration ID\n"
                "  --full                  put all that json has into the QR code\n"
                "  --format=pem            the certificates of endorsement keys that the TPM holds\n"
                "  --output=FILE           write to this file ('-': standard output); for qr it ends in "
                ".svg or .png\n"
                "  --merge FILE…           join what --format=json printed on many devices, or a "
                "--station's\n"
                "                          tables, into bodies of at most 10 enrolments, one a line\n"
                "  --station=FILE          add this device to a factory line's table, unless it is in it\n\n"
                "  --device-id=ID          the device ID in the hub, when it is not the registration ID\n"
                "  --hub=NAME              the hub, when the allocation policy shall not choose\n"
                "  --dps-name=NAME, --resource-group=NAME\n"
                "                          for az, instead of $DPS_NAME and $RESOURCE_GROUP\n"
                "  --serial=TEXT, --asset=TEXT\n"
                "                          for csv and --station, instead of what the firmware says\n"
                "  --ca-dir=DIR            verify the endorsement key's certificate with those in here\n"
                "  --tcti=TCTI             the TPM, instead of Tcti= in the configuration\n"
                "  --config=FILE           read this configuration and no other");
}

static int parse_format(Options *o, const char *verb, const char *name) {
        o->format_given = true;
        for (o->format = 0; o->format < _FORMAT_MAX; o->format++)
                if (streq(name, format_names[o->format]))
                        return GO_ON;
        return usage_error(verb, "--format=%s is not known; known are text, json, bulk, az, csv, qr and pem",
                           name);
}

static bool is_same_file(const char *a, const char *b) {
        struct stat first, second;

        return streq(a, b) || (stat(a, &first) == 0 && stat(b, &second) == 0 &&
                               first.st_ino == second.st_ino && first.st_dev == second.st_dev);
}

static int check_options(const Options *o, const char *verb, int files) {
        if (o->merge && o->format_given && o->format != FORMAT_BULK)
                return usage_error(verb, "--merge is for --format=bulk");
        if (o->merge && files == 0)
                return usage_error(verb, "--merge needs the files to join");
        if (o->merge && (o->station || o->device_id || o->hub || o->ca_dir))
                return usage_error(verb, "--merge takes the enrolments as they are in the files");
        if (!o->merge && files > 0)
                return usage_error(verb, "only --merge takes the names of files");
        if (o->station && o->format == FORMAT_PEM)
                return usage_error(verb, "--station prints no certificates; call it again for them");
        if (o->station && o->output && is_same_file(o->station, o->output))
                return usage_error(verb, "--output=%s would replace --station's table; give another file",
                                   o->output);
        if (o->full && o->format != FORMAT_QR)
                return usage_error(verb, "--full is for --format=qr");
        if (o->output && o->format == FORMAT_QR && qr_form_from_path(o->output) < 0)
                return usage_error(verb, "--output=%s: the name has to end in .svg or .png", o->output);
        if (o->device_id && !enrollment_device_id_valid(o->device_id))
                return usage_error(verb,
                                   "'%s' is not a device ID: 1 to 128 letters, digits and any of "
                                   "-.%%_*?!(),:=@$'",
                                   o->device_id);
        if (o->hub && !enrollment_hub_valid(o->hub))
                return usage_error(verb, "'%s' is not the host name of a hub, as in NAME.azure-devices.net",
                                   o->hub);
        return GO_ON;
}

static int parse(Options *ret, int argc, char *argv[]) {
        const char *format = NULL;
        const VerbOption options[] = {
                { "format", .value = &format, .needs = "one of text, json, bulk, az, csv, qr and pem" },
                { "full", .flag = &ret->full },
                { "output", .value = &ret->output, .needs = "a file" },
                { "merge", .flag = &ret->merge },
                { "station", .value = &ret->station, .needs = "a file" },
                { "device-id", .value = &ret->device_id, .needs = "a device ID" },
                { "hub", .value = &ret->hub, .needs = "the host name of a hub" },
                { "dps-name", .value = &ret->dps_name, .needs = "the name of a DPS instance" },
                { "resource-group", .value = &ret->resource_group, .needs = "the name of a resource group" },
                { "serial", .value = &ret->serial_number },
                { "asset", .value = &ret->asset },
                { "ca-dir", .value = &ret->ca_dir, .needs = "a directory" },
                { "tcti", .value = &ret->tcti, .needs = "a TPM, for instance device:/dev/tpmrm0" },
                { "config", .value = &ret->paths.file, .needs = "a file" },
                {}
        };
        int r;

        r = parse_options(argc, argv, options, INT_MAX, print_help);
        if (r == GO_ON && format)
                r = parse_format(ret, argv[0], format);
        if (ret->output && streq(ret->output, "-")) {
                ret->output = NULL;
                ret->to_stdout = true;
        }
        return r == GO_ON ? check_options(ret, argv[0], argc - optind) : r;
}

/* What the TPM has to say. */
typedef struct Facts {
        TpmIdentity identity;
        TpmCertificates certificates;
        EkCertificate certificate;
} Facts;

static void facts_deinit(Facts *facts) {
        tpm_identity_deinit(&facts->identity);
        tpm_certificates_deinit(&facts->certificates);
}

/* Whatever is wrong with the certificate is no reason not to enrol the device. */
static int read_certificate(const Options *o, Tpm *tpm, Facts *facts, Failure *reterr) {
        Failure failure = {};
        int r;

        r = tpm_certificates(tpm, &facts->certificates, &failure);
        if (r < 0) {
                facts->certificate.verdict = EK_CERTIFICATE_UNREADABLE;
                (void) snprintf(facts->certificate.sentence, sizeof(facts->certificate.sentence), "%s",
                                failure.sentence);
                return 0;
        }
        r = ek_certificate_examine(&facts->certificate, &facts->certificates, &facts->identity.ek_public,
                                   o->ca_dir);
        if (r >= 0 || !o->ca_dir)
                return r;
        r = failure_set_errno(reterr, FAILURE_STORAGE, r, "'%s' can't be read", o->ca_dir);
        reterr->remedy = "Name the directory that has the manufacturers' certificates, as PEM or DER, with "
                         "--ca-dir=.";
        return r;
}

static bool wants_certificate(const Options *o) {
        return o->ca_dir || o->station || o->format == FORMAT_TEXT || o->format == FORMAT_CSV ||
               o->format == FORMAT_PEM;
}

static int read_tpm(const Options *o, const Config *config, Facts *ret, Failure *reterr) {
        CLEANUP(tpm_closep) Tpm *tpm = NULL;
        CLEANUP(config_auth_deinit) ConfigAuth endorsement_auth = {};
        ConfigPaths credential = {};
        int r;

        if (find_credential(&o->paths, EK_AUTH, &credential.credentials_dir) > 0)
                (void) config_read_auth(&endorsement_auth, &credential, EK_AUTH);
        r = tpm_open(&tpm,
                     &(TpmSettings){ .tcti = o->tcti ? o->tcti : config->tcti,
                                     .hub_key_handle = config->hub_key_handle,
                                     .endorsement_auth = { .data = endorsement_auth.value.data,
                                                           .size = endorsement_auth.value.size,
                                                           .source = endorsement_auth.path },
                                     .read_only = true },
                     NULL, reterr);
        if (r >= 0)
                r = tpm_identity(tpm, &ret->identity, reterr);
        return r >= 0 && wants_certificate(o) ? read_certificate(o, tpm, ret, reterr) : r;
}

/* A link, a device or a pipe must not be replaced by a file. */
static int write_special(const char *path, const void *data, size_t size) {
        FILE *f = fopen(path, "we");
        size_t written;

        if (!f)
                return -errno;
        written = fwrite(data, 1, size, f);
        return fclose(f) == EOF ? -errno : written == size ? 0 : -EIO;
}

int enrollment_write(const char *path, const void *data, size_t size) {
        struct stat st;
        int r;

        if (!path) {
                (void) fwrite(data, 1, size, stdout); /* main() looks whether it is out */
                return EXIT_OK;
        }
        r = lstat(path, &st) == 0 && !S_ISREG(st.st_mode) ? write_special(path, data, size)
                                                          : store_write(path, data, size, 0644);
        return r < 0 ? report_errno(r, "'%s' can't be written", path) : EXIT_OK;
}

static int print_qr(const Options *o, const Enrollment *e) {
        CLEANUP(freep) char *text = NULL;
        int r = 0;

        if (o->full)
                r = enrollment_to_compact_json(&text, e);
        return r < 0 ? report_errno(r, "The enrolment can't be printed")
                     : enrollment_qr(o->output, text ? text : e->registration_id);
}

static int print(const Options *o, const Enrollment *e) {
        static int (*const writers[_FORMAT_MAX])(char **ret, const Enrollment *e) = {
                [FORMAT_TEXT] = enrollment_to_text, [FORMAT_JSON] = enrollment_to_json,
                [FORMAT_CSV] = enrollment_to_csv,   [FORMAT_AZ] = enrollment_to_az,
                [FORMAT_BULK] = enrollment_to_bulk,
        };
        CLEANUP(freep) char *text = NULL;
        int r;

        if (o->format == FORMAT_QR)
                return print_qr(o, e);
        r = writers[o->format](&text, e);
        return r < 0 ? report_errno(r, "The enrolment can't be printed")
                     : enrollment_write(o->output, text, strlen(text));
}

/* With a table it prints only what was asked for by name. */
static int deliver(const Options *o, const Enrollment *e) {
        size_t line = 0;
        int r;

        if (!o->station)
                return print(o, e);
        r = enrollment_station(o->station, e, &line);
        if (r != EXIT_OK || o->format_given || o->output || o->to_stdout)
                return r != EXIT_OK ? r : print(o, e);
        (void) printf("%s is in line %zu of '%s'.\n", e->registration_id, line, o->station);
        return EXIT_OK;
}

static int print_pem(const Options *o, const Facts *facts) {
        CLEANUP(freep) char *pem = NULL;
        int r;

        r = ek_certificate_to_pem(&pem, &facts->certificates);
        if (r == -ENODATA) {
                (void) fprintf(stderr, "dps-provision: %s.\n%s\n",
                               facts->certificate.verdict == EK_CERTIFICATE_UNREADABLE
                                       ? facts->certificate.sentence
                                       : "The TPM holds no certificate of an endorsement key",
                               failure_remedy(WARNING_EK_CERTIFICATE));
                return EXIT_FAILED;
        }
        return r < 0 ? report_errno(r, "The certificates can't be printed")
                     : enrollment_write(o->output, pem, strlen(pem));
}

static int enroll(const Options *o, const Config *config, const Facts *facts, const char *registration_id) {
        CLEANUP(hardware_deinit) Hardware hardware = {};
        int r;

        if (o->hub && !config_hub_allowed(config, o->hub))
                (void) fprintf(
                        stderr,
                        "dps-provision: Warning: this device will refuse the hub '%s', which AllowedHubs= "
                        "does "
                        "not name.\nGive the hub's whole host name, as in NAME.azure-devices.net, or add it "
                        "to AllowedHubs=; see provisiond.conf(5).\n",
                        o->hub);
        r = hardware_read(&hardware, NULL);
        if (r < 0)
                return report_errno(r, "What this machine is can't be read");
        return deliver(
                o,
                &(Enrollment){
                        .registration_id = registration_id,
                        .device_id = o->device_id,
                        .hub = o->hub,
                        .ek_public = facts->identity.ek_public.data,
                        .ek_public_size = facts->identity.ek_public.size,
                        .ek_persistent = facts->identity.ek_persistent,
                        .ek_tcg_template = facts->identity.ek_tcg_template,
                        .certificate = facts->certificate.sentence,
                        .certificate_verdict = ek_certificate_verdict_to_string(facts->certificate.verdict),
                        .serial_number = o->serial_number ? o->serial_number : hardware.serial_number,
                        .mac = hardware.mac,
                        .host_name = hardware.host_name,
                        .asset = o->asset ? o->asset : hardware.asset,
                        .dps_name = o->dps_name,
                        .resource_group = o->resource_group,
                        .id_scope = config->id_scope,
                });
}

/* In the text it has its line; elsewhere it is told to those who asked. */
static void warn_of_certificate(const Options *o, const EkCertificate *certificate) {
        if (o->ca_dir && (o->format != FORMAT_TEXT || o->station) && ek_certificate_is_warning(certificate))
                (void) fprintf(stderr,
                               "dps-provision: Warning: the endorsement key's certificate: %s.\n%s\n",
                               certificate->sentence, failure_remedy(WARNING_EK_CERTIFICATE));
}

/* The daemon knows what this gateway was before. It need not run, and then nothing is said. */
static void warn_of_change(const Facts *facts, const char *registration_id) {
        CLEANUP(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        CLEANUP(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        CLEANUP(status_deinit) Status status = {};
        CLEANUP(bytes_deinit) Bytes known = {};

        if (sd_bus_open_system(&bus) < 0 || client_read_status(bus, &status, &error) < 0)
                return;
        for (size_t i = 0; i < status.warning_count; i++)
                if (failure_kind_from_string(status.warnings[i].kind) == WARNING_EK_CHANGED) {
                        (void) fprintf(stderr, "dps-provision: Warning: %s.\n%s\n",
                                       status.warnings[i].sentence, status.warnings[i].remedy);
                        return;
                }
        if (!status.endorsement_key || !status.endorsement_key[0] ||
            base64_decode(&known, status.endorsement_key, 4096) < 0 ||
            bytes_equal(&known, &facts->identity.ek_public))
                return;
        (void) fprintf(stderr,
                       "dps-provision: Warning: The TPM has another endorsement key than when '%s' was "
                       "provisioned; the registration ID is '%s' now.\n%s\n",
                       status.registration_id, registration_id, failure_remedy(WARNING_EK_CHANGED));
}

int verb_enrollment(int argc, char *argv[]) {
        CLEANUP(config_freep) Config *config = NULL;
        CLEANUP(facts_deinit) Facts facts = {};
        CLEANUP(freep) char *registration_id = NULL;
        Options options = { .paths = { .credentials_dir = getenv("CREDENTIALS_DIRECTORY") } };
        Failure failure = { .kind = FAILURE_TPM_FAILED, .sentence = "Out of memory" };
        sighandler_t before;
        int r;

        r = parse(&options, argc, argv);
        if (r != GO_ON)
                return r;
        if (options.merge)
                return enrollment_merge(options.output, argc - optind, argv + optind);
        r = config_load(&config, &options.paths);
        if (r < 0)
                return report_errno(r, "The configuration can't be read");
        if (config_failure(config, &failure))
                return report_failure(&failure);
        before = signal(SIGPIPE, SIG_IGN); /* a TPM behind a socket may go while it is spoken to */
        r = read_tpm(&options, config, &facts, &failure);
        (void) signal(SIGPIPE, before);
        if (r >= 0)
                r = identity_registration_id(&registration_id, config, &options.paths,
                                             facts.identity.ek_public.data, facts.identity.ek_public.size,
                                             &failure);
        if (r < 0)
                return report_failure(&failure);
        warn_of_certificate(&options, &facts.certificate);
        if (!options.tcti)
                warn_of_change(&facts, registration_id);
        return options.format == FORMAT_PEM ? print_pem(&options, &facts)
                                            : enroll(&options, config, &facts, registration_id);
}
