#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <systemd/sd-event.h>

#include "identityd.h"
#include "paths.h"
#include "store.h"
#include "test.h"

/* Accepts, since that is the kernel's, and says nothing. */
static int listen_silently(const char *root) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char directory[sizeof(address.sun_path)];
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        (void) snprintf(directory, sizeof(directory), "%s/run/aziot", root);
        assert_int_equal(store_make_directory(directory, 0700), 0);
        (void) snprintf(address.sun_path, sizeof(address.sun_path), "%s" PATH_SOCKET, root);
        assert_int_equal(bind(fd, (const struct sockaddr *) &address, sizeof(address)), 0);
        assert_int_equal(listen(fd, 1), 0);
        return fd;
}

typedef struct Outcome {
        sd_event *event;
        IdentitydAnswer answer;
        bool done;
} Outcome;

static void on_answer(void *userdata, const IdentitydAnswer *answer) {
        Outcome *outcome = userdata;

        outcome->answer = *answer;
        outcome->done = true;
        (void) sd_event_exit(outcome->event, 0);
}

/* Takes IDENTITYD_LEAST_USEC of real time: curl's timeout is what is tested. */
static void a_question_ends_with_the_call(void **state) {
        char root[] = "/tmp/test-identityd-XXXXXX", command[64];
        Outcome outcome = {};
        Identityd *identityd;
        usec_t begun;
        int fd;

        assert_non_null(mkdtemp(root));
        fd = listen_silently(root);
        assert_true(sd_event_new(&outcome.event) >= 0);
        assert_int_equal(identityd_new(&identityd, outcome.event, root), 0);

        begun = now_usec(CLOCK_MONOTONIC);
        identityd_set_deadline(identityd, begun + USEC_PER_SEC);
        assert_int_equal(identityd_ask(identityd, IDENTITYD_REPROVISION, on_answer, &outcome), 0);
        assert_true(sd_event_add_time_relative(outcome.event, NULL, CLOCK_MONOTONIC,
                                               3 * IDENTITYD_LEAST_USEC, 0, NULL, NULL) >= 0); /* enough */
        assert_true(sd_event_loop(outcome.event) >= 0);
        assert_true(outcome.done);
        assert_int_equal(outcome.answer.status, 0);
        assert_true(now_usec(CLOCK_MONOTONIC) - begun >= IDENTITYD_LEAST_USEC);

        (void) identityd_free(identityd);
        (void) sd_event_unref(outcome.event);
        (void) close(fd);
        (void) snprintf(command, sizeof(command), "rm -r %s", root);
        assert_int_equal(system(command), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_question_ends_with_the_call),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
