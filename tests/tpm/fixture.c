#include "fixture.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tpm-crypto.h"

#define OUTPUT_MAX ((size_t) 64 * 1024)

Failure last_failure;

TpmAuthValue auth_value(const char *text) {
        return (TpmAuthValue){ .data = text, .size = text ? strlen(text) : 0, .source = "/creds/auth" };
}

static pid_t start(char *const argv[], int *ret_stdout) {
        int fds[2] = { -1, -1 };
        pid_t pid;

        if (ret_stdout)
                assert_int_equal(pipe(fds), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                if (ret_stdout && dup2(fds[1], STDOUT_FILENO) < 0)
                        _exit(126);
                if (ret_stdout)
                        (void) close(fds[0]);
                execvp(argv[0], argv);
                _exit(127);
        }
        if (ret_stdout) {
                (void) close(fds[1]);
                *ret_stdout = fds[0];
        }
        return pid;
}

static void stop(pid_t pid) {
        if (pid <= 0)
                return;
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
}

/* swtpm has no way to say that it listens: connecting to its control socket is it. */
static void wait_for_swtpm(const Fixture *f) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        usec_t deadline = now_usec(CLOCK_MONOTONIC) + 20 * USEC_PER_SEC;

        (void) snprintf(address.sun_path, sizeof(address.sun_path), "%s/tpm.ctrl", f->dir);
        for (;;) {
                CLEANUP(closep) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

                if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
                        return;
                if (now_usec(CLOCK_MONOTONIC) > deadline)
                        fail_msg("swtpm does not listen");
                (void) usleep(2000);
        }
}

/* Keys take swtpm up to seconds, so a TPM is a copy of one that was prepared; see tpm_states.py. */
static void copy_state(const Fixture *f, const char *kind) {
        char *argv[] = { (char *) TPM_STATES, (char *) f->dir, (char *) kind, NULL };
        pid_t pid = start(argv, NULL);
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void start_swtpm(Fixture *f) {
        char state[64], server[80], control[80], log[64];
        char *argv[] = { (char *) "swtpm",
                         (char *) "socket",
                         (char *) "--tpm2",
                         (char *) "--tpmstate",
                         state,
                         (char *) "--server",
                         server,
                         (char *) "--ctrl",
                         control,
                         (char *) "--log",
                         log,
                         (char *) "--flags",
                         (char *) "not-need-init,startup-clear",
                         NULL };

        (void) snprintf(state, sizeof(state), "dir=%s", f->dir);
        (void) snprintf(server, sizeof(server), "type=unixio,path=%s/tpm", f->dir);
        (void) snprintf(control, sizeof(control), "type=unixio,path=%s/tpm.ctrl", f->dir);
        (void) snprintf(log, sizeof(log), "file=%s/swtpm.log", f->dir);
        f->swtpm = start(argv, NULL);
        wait_for_swtpm(f);
}

void power_cut(Fixture *f) {
        stop(f->swtpm);
        start_swtpm(f);
}

static void start_proxy(Fixture *f) {
        char listen[64], tpm[64], log[64], faults[64], ready[sizeof("ready\n") - 1];
        size_t got = 0;
        CLEANUP(closep) int fd = -1;
        char *argv[] = { (char *) TPM_PROXY, listen, tpm, log, faults, NULL };

        (void) snprintf(listen, sizeof(listen), "--listen=%s/proxy", f->dir);
        (void) snprintf(tpm, sizeof(tpm), "--tpm=%s/tpm", f->dir);
        (void) snprintf(log, sizeof(log), "--log=%s/log", f->dir);
        (void) snprintf(faults, sizeof(faults), "--faults=%s/faults", f->dir);
        f->proxy = start(argv, &fd);
        while (got < sizeof(ready)) {
                ssize_t n = read(fd, ready + got, sizeof(ready) - got);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        fail_msg("the proxy does not start: %s", n == 0 ? "it has ended" : strerror(errno));
                got += (size_t) n;
        }
}

static int setup(void **state, const char *kind) {
        Fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        (void) snprintf(f->dir, sizeof(f->dir), "/tmp/dps-tpm.XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        copy_state(f, kind);
        start_swtpm(f);
        start_proxy(f);
        (void) snprintf(f->tcti, sizeof(f->tcti), "swtpm:path=%s/proxy", f->dir);
        f->settings = (TpmSettings){ .tcti = f->tcti, .hub_key_handle = TPM_DEFAULT_HUB_KEY };
        assert_int_equal(tpm_cache_new(&f->cache), 0);
        *state = f;
        return 0;
}

int fixture_setup(void **state) {
        return setup(state, "keys");
}

int fixture_setup_fresh(void **state) {
        return setup(state, "fresh");
}

int fixture_teardown(void **state) {
        Fixture *f = *state;
        char command[64];

        stop(f->proxy);
        stop(f->swtpm);
        (void) snprintf(command, sizeof(command), "rm -r %s", f->dir);
        assert_int_equal(system(command), 0);
        f->cache = tpm_cache_free(f->cache);
        free(f);
        return 0;
}

PRINTF_LIKE(2, 0)
static char *shell(const Fixture *f, const char *format, va_list ap, int *ret_status) {
        CLEANUP(freep) char *command = NULL, *line = NULL;
        char *output = calloc(1, OUTPUT_MAX);
        size_t size;
        FILE *p;

        assert_non_null(output);
        assert_true(vasprintf(&command, format, ap) >= 0);
        assert_true(asprintf(&line, "cd %s && export TPM2TOOLS_TCTI=swtpm:path=tpm && { %s; } 2>errors",
                             f->dir, command) >= 0);
        p = popen(line, "re");
        assert_non_null(p);
        size = fread(output, 1, OUTPUT_MAX - 1, p);
        if (size > 0 && output[size - 1] == '\n')
                output[size - 1] = '\0';
        *ret_status = pclose(p);
        if (*ret_status != 0)
                print_message("# failed: %s\n", command);
        return output;
}

void run(Fixture *f, const char *format, ...) {
        CLEANUP(freep) char *output = NULL;
        int status;
        va_list ap;

        va_start(ap, format);
        output = shell(f, format, ap, &status);
        va_end(ap);
        assert_int_equal(status, 0);
}

char *output_of(Fixture *f, const char *format, ...) {
        char *output;
        int status;
        va_list ap;

        va_start(ap, format);
        output = shell(f, format, ap, &status);
        va_end(ap);
        assert_int_equal(status, 0);
        return output;
}

void set_faults(Fixture *f, const char *json) {
        char temporary[64], path[64];
        FILE *file;

        (void) snprintf(temporary, sizeof(temporary), "%s/faults.new", f->dir);
        (void) snprintf(path, sizeof(path), "%s/faults", f->dir);
        file = fopen(temporary, "we");
        assert_non_null(file);
        assert_true(fputs(json, file) >= 0);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(rename(temporary, path), 0);
}

static unsigned count_log(Fixture *f, const char *what) {
        CLEANUP(freep) char *count = output_of(f, "grep -c '\"command\": \"%s' log || true", what);

        return (unsigned) strtoul(count, NULL, 10);
}

unsigned commands_since_last(Fixture *f) {
        unsigned before = f->counted;

        f->counted = count_log(f, "");
        return f->counted - before;
}

unsigned commands_named(Fixture *f, const char *name) {
        char pattern[64];

        (void) snprintf(pattern, sizeof(pattern), "%s\"", name);
        return count_log(f, pattern);
}

void assert_nothing_left(Fixture *f) {
        CLEANUP(freep)
        char *left = output_of(f, "tpm2_getcap handles-transient; "
                                  "tpm2_getcap handles-loaded-session; "
                                  "tpm2_getcap handles-saved-session");

        assert_string_equal(left, "");
}

static Tpm *open_tpm(Fixture *f) {
        Tpm *tpm = NULL;

        last_failure = (Failure){};
        if (tpm_open(&tpm, &f->settings, f->cache, &last_failure) < 0)
                fail_msg("tpm_open: %s", last_failure.sentence);
        return tpm;
}

static void expect(int r, FailureKind kind) {
        if (kind == FAILURE_NONE && r < 0)
                fail_msg("%s [%s]: %s", failure_kind_to_string(last_failure.kind), last_failure.code,
                         r == failure_to_errno(last_failure.kind) ? last_failure.sentence : strerror(-r));
        if (kind == FAILURE_NONE)
                return;
        assert_true(r < 0);
        if (last_failure.kind != kind)
                fail_msg("%s instead of %s [%s]: %s", failure_kind_to_string(last_failure.kind),
                         failure_kind_to_string(kind), last_failure.code, last_failure.sentence);
        assert_int_equal(r, failure_to_errno(kind));
}

static void expect_identity(Fixture *f, TpmIdentity *ret, FailureKind kind) {
        Tpm *tpm = open_tpm(f);
        int r = tpm_identity(tpm, ret, &last_failure);

        tpm = tpm_close(tpm);
        expect(r, kind);
}

void identity(Fixture *f, TpmIdentity *ret) {
        expect_identity(f, ret, FAILURE_NONE);
}

void identity_fails(Fixture *f, FailureKind kind) {
        TpmIdentity untouched = {};

        expect_identity(f, &untouched, kind);
        assert_null(untouched.ek_public.data);
}

static void expect_sign(Fixture *f, const Bytes *blob, const char *message, uint8_t *ret, FailureKind kind) {
        Tpm *tpm = open_tpm(f);
        int r = tpm_sign_challenge(tpm, blob, message, strlen(message), ret, &last_failure);

        tpm = tpm_close(tpm);
        expect(r, kind);
}

void sign(Fixture *f, const Bytes *blob, const char *message, uint8_t ret[static SHA256_SIZE]) {
        expect_sign(f, blob, message, ret, FAILURE_NONE);
}

void sign_fails(Fixture *f, const Bytes *blob, FailureKind kind) {
        uint8_t hmac[SHA256_SIZE];

        expect_sign(f, blob, "message", hmac, kind);
}

void import_key(Fixture *f, const Bytes *blob, Bytes *ret_private, Bytes *ret_public) {
        Tpm *tpm = open_tpm(f);
        int r = tpm_import_hub_key(tpm, blob, ret_private, ret_public, &last_failure);

        tpm = tpm_close(tpm);
        expect(r, FAILURE_NONE);
}

static void expect_adopt(Fixture *f, const Bytes *private, const Bytes *public, const Bytes *names,
                         size_t name_count, bool *ret_changed, Bytes *ret_name, FailureKind kind) {
        Tpm *tpm = open_tpm(f);
        int r = tpm_adopt_hub_key(tpm, private, public, names, name_count, ret_changed, ret_name,
                                  &last_failure);

        tpm = tpm_close(tpm);
        expect(r, kind);
}

bool adopt(Fixture *f, const Bytes *private, const Bytes *public, const Bytes *names, size_t name_count,
           Bytes *ret_name) {
        CLEANUP(bytes_deinit) Bytes name = {};
        bool changed = false;

        expect_adopt(f, private, public, names, name_count, &changed, &name, FAILURE_NONE);
        if (ret_name)
                assert_int_equal(bytes_copy(ret_name, name.data, name.size), 0);
        return changed;
}

void adopt_fails(Fixture *f, const Bytes *private, const Bytes *public, const Bytes *names,
                 size_t name_count, FailureKind kind) {
        Bytes name = {};
        bool changed = false;

        expect_adopt(f, private, public, names, name_count, &changed, &name, kind);
        assert_false(changed);
        assert_null(name.data);
}

TpmHubKeyState hub_key_state(Fixture *f, Bytes *ret_name) {
        CLEANUP(bytes_deinit) Bytes name = {};
        TpmHubKeyState state = TPM_HUB_KEY_FOREIGN;
        Tpm *tpm = open_tpm(f);
        int r = tpm_hub_key(tpm, &state, &name, &last_failure);

        tpm = tpm_close(tpm);
        expect(r, FAILURE_NONE);
        if (ret_name)
                assert_int_equal(bytes_copy(ret_name, name.data, name.size), 0);
        return state;
}

void make_blob(Fixture *f, uint8_t key, Bytes *ret) {
        CLEANUP(tpm_identity_deinit) TpmIdentity id = {};
        uint8_t bytes[TPM_CRYPTO_KEY_SIZE];

        identity(f, &id);
        memset(bytes, key, sizeof(bytes));
        assert_int_equal(tpm_crypto_wrap_for(ret, &id.ek_public, &id.srk_public, bytes), 0);
}

void adopt_new(Fixture *f, uint8_t key, Bytes *ret_name) {
        CLEANUP(bytes_deinit) Bytes blob = {}, private = {}, public = {}, before = {};

        make_blob(f, key, &blob);
        import_key(f, &blob, &private, &public);
        read_hub_key_name(f, &before);
        (void) adopt(f, &private, &public, &before, 1, ret_name);
}

char *hub_key_name(Fixture *f) {
        return output_of(f, "! tpm2_getcap handles-persistent | grep -qi 81000100 || "
                            "tpm2_readpublic -c 0x81000100 | sed -n 's/^name: //p'");
}

void read_hub_key_name(Fixture *f, Bytes *ret) {
        CLEANUP(freep) char *hex = hub_key_name(f);

        assert_int_equal(hex_decode(ret, hex, 66), 0);
}
