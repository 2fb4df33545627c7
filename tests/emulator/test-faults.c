/* What is a fault and what is not, and when one is in force. That each does what it says is tested from
 * outside. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "faults.h"

static void names_kinds_and_arguments_are_read(void **state) {
        static const struct {
                const char *text;
                FaultType type;
                int kind;
                double number;
                int left; /* -1: for ever */
                const char *word;
        } cases[] = {
                { "expired-cert", FAULT_EXPIRED_CERT, _REQUEST_KIND_INVALID, 0, -1, "" },
                { "garbage-body", FAULT_GARBAGE_BODY, _REQUEST_KIND_INVALID, 0, -1, "" },
                { "garbage-body:poll", FAULT_GARBAGE_BODY, REQUEST_POLL, 0, -1, "" },
                { "oversized-body", FAULT_OVERSIZED_BODY, _REQUEST_KIND_INVALID, 0, -1, "" },
                { "oversized-body=70000", FAULT_OVERSIZED_BODY, _REQUEST_KIND_INVALID, 70000, -1, "" },
                { "drop-connection", FAULT_DROP_CONNECTION, _REQUEST_KIND_INVALID, 0, -1, "" },
                { "drop-connection=2", FAULT_DROP_CONNECTION, _REQUEST_KIND_INVALID, 0, 2, "" },
                { "lose-reply:confirm=1", FAULT_LOSE_REPLY, REQUEST_CONFIRM, 0, 1, "" },
                { "slow:register=0.5", FAULT_SLOW, REQUEST_REGISTER, 0.5, -1, "" },
                { "cut-reply:poll=1", FAULT_CUT_REPLY, REQUEST_POLL, 0, 1, "" },
                { "captive-portal", FAULT_CAPTIVE_PORTAL, _REQUEST_KIND_INVALID, 0, -1, "" },
                { "captive-portal:poll=2", FAULT_CAPTIVE_PORTAL, REQUEST_POLL, 0, 2, "" },
                { "status:hub=503", FAULT_STATUS, REQUEST_HUB, 503, -1, "" },
                { "bad-hub-key", FAULT_BAD_HUB_KEY, _REQUEST_KIND_INVALID, 0, -1, "" },
                { "bad-hub-key=not-base64", FAULT_BAD_HUB_KEY, _REQUEST_KIND_INVALID, 0, -1, "not-base64" },
                { "bad-hub-key=fixed/2", FAULT_BAD_HUB_KEY, _REQUEST_KIND_INVALID, 0, 2, "fixed" },
                { "bad-hub-key:poll=long", FAULT_BAD_HUB_KEY, REQUEST_POLL, 0, -1, "long" },
                { "no-hub-key=1", FAULT_NO_HUB_KEY, _REQUEST_KIND_INVALID, 0, 1, "" },
                { "keep-old-device", FAULT_KEEP_OLD_DEVICE, _REQUEST_KIND_INVALID, 0, -1, "" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const char *why = "";
                Fault fault;

                if (fault_parse(&fault, cases[i].text, &why) < 0)
                        fail_msg("%s: %s", cases[i].text, why);
                assert_int_equal(fault.type, cases[i].type);
                assert_int_equal(fault.kind, cases[i].kind);
                assert_true(fault.number == cases[i].number);
                assert_int_equal(fault.limited, cases[i].left >= 0);
                if (fault.limited)
                        assert_int_equal(fault.left, cases[i].left);
                assert_string_equal(fault.text, cases[i].word);
        }
}

static void what_is_no_fault_is_told(void **state) {
        static const char *const cases[] = {
                "",
                "no-such-fault",
                "slowly=1",
                "slow",
                "slow=",
                "slow=x",
                "slow=-1",
                "slow=1s",
                "slow=90000",
                "slow=nan",
                "status",
                "status=200",
                "status=600",
                "status=4e",
                "status:nowhere=500",
                "no-date=1",
                "no-date:",
                "expired-cert:poll",
                "drop-connection=x",
                "drop-connection=-1",
                "cut-reply=half",
                "captive-portal=403x",
                "bad-hub-key=wrong",
                "bad-hub-key=fix",
                "bad-hub-key=fixed/",
                "bad-hub-key=fixed/x",
                "bad-hub-key=/1",
                "keep-old-device=1",
                "garbage-body=1",
                "oversized-body=0",
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const char *why = NULL;
                Fault fault;

                if (fault_parse(&fault, cases[i], &why) != -EINVAL)
                        fail_msg("'%s' was taken", cases[i]);
                assert_non_null(why);
        }
}

static void a_limited_fault_is_used_up(void **state) {
        const char *why;
        Faults *faults;

        assert_int_equal(faults_new(&faults, "/nonexistent/fault"), 0);
        assert_int_equal(faults_add(faults, "lose-reply:confirm=2", &why), 0);
        assert_int_equal(faults_add(faults, "no-date", &why), 0);
        assert_null(faults_use(faults, FAULT_LOSE_REPLY, REQUEST_POLL));
        assert_non_null(faults_use(faults, FAULT_LOSE_REPLY, REQUEST_CONFIRM));
        assert_non_null(faults_use(faults, FAULT_LOSE_REPLY, REQUEST_CONFIRM));
        assert_null(faults_use(faults, FAULT_LOSE_REPLY, REQUEST_CONFIRM));
        for (RequestKind kind = 0; kind < _REQUEST_KIND_MAX; kind++)
                assert_non_null(faults_use(faults, FAULT_NO_DATE, kind));
        faults_free(faults);
}

static void write_file(const char *path, const char *text) {
        char temporary[80];
        FILE *file;

        (void) snprintf(temporary, sizeof(temporary), "%s.new", path);
        file = fopen(temporary, "w");
        assert_non_null(file);
        assert_true(fputs(text, file) >= 0);
        assert_int_equal(fclose(file), 0);
        assert_int_equal(rename(temporary, path), 0);
}

static void a_file_takes_the_options_place(void **state) {
        char dir[] = "/tmp/faults.XXXXXX", path[64];
        const char *why;
        char *broken = NULL;
        Faults *faults;

        assert_non_null(mkdtemp(dir));
        (void) snprintf(path, sizeof(path), "%s/fault", dir);
        assert_int_equal(faults_new(&faults, path), 0);
        assert_int_equal(faults_add(faults, "no-date", &why), 0);
        assert_int_equal(faults_refresh(faults, &broken), 0);
        assert_non_null(faults_use(faults, FAULT_NO_DATE, REQUEST_POLL));

        write_file(path, "# a remark\n\n  status:poll=500  \r\n");
        assert_int_equal(faults_refresh(faults, &broken), 0);
        assert_null(faults_use(faults, FAULT_NO_DATE, REQUEST_POLL));
        assert_non_null(faults_use(faults, FAULT_STATUS, REQUEST_POLL));

        write_file(path, "nonsense\nslow=1\n");
        assert_int_equal(faults_refresh(faults, &broken), -EBADMSG);
        assert_non_null(strstr(broken, "'nonsense'"));
        free(TAKE(broken));
        assert_non_null(faults_use(faults, FAULT_SLOW, REQUEST_POLL)); /* the other lines hold */
        assert_null(faults_use(faults, FAULT_STATUS, REQUEST_POLL));

        write_file(path, "");
        assert_int_equal(faults_refresh(faults, &broken), 0);
        assert_null(faults_use(faults, FAULT_NO_DATE, REQUEST_POLL));

        assert_int_equal(unlink(path), 0);
        assert_int_equal(faults_refresh(faults, &broken), 0);
        assert_non_null(faults_use(faults, FAULT_NO_DATE, REQUEST_POLL));
        assert_int_equal(rmdir(dir), 0);
        faults_free(faults);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_kinds_and_arguments_are_read),
                cmocka_unit_test(what_is_no_fault_is_told),
                cmocka_unit_test(a_limited_fault_is_used_up),
                cmocka_unit_test(a_file_takes_the_options_place),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
