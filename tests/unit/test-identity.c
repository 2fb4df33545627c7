#include "test.h"

#include "identity.h"

/* Vectors: printf abc | sha256sum; the digest through base32, lower case, without '='. */
static void both_formats_of_a_known_value(void **state) {
        CLEANUP(freep) char *hex = NULL, *base32 = NULL;

        assert_int_equal(identity_derive(&hex, REGISTRATION_ID_SHA256_HEX, "abc", 3), 0);
        assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_int_equal(identity_derive(&base32, REGISTRATION_ID_SHA256_BASE32, "abc", 3), 0);
        assert_string_equal(base32, "xj4bnp4pahh6uqkbidpf3lrceoyagyndsylxvhfucd7wd4qacwwq");
}

static void specifiers_are_expanded(void **state) {
        const IdentitySources sources = { .host_name = "gw7",
                                          .machine_id = "0123456789abcdef0123456789abcdef" };
        CLEANUP(freep) char *id = NULL;
        Failure f = {};
        char *unset = NULL;

        assert_int_equal(identity_expand(&id, "site-%H:%m", &sources, &f), 0);
        assert_string_equal(id, "site-gw7:0123456789abcdef0123456789abcdef");

        assert_true(identity_expand(&unset, "x-%s", &sources, &f) < 0);
        assert_int_equal(f.kind, FAILURE_CONFIG);
        assert_non_null(strstr(f.sentence, "serial number"));
        assert_true(identity_expand(&unset, "x-%q", &sources, &f) < 0);
        assert_true(identity_expand(&unset, "x-%", &sources, &f) < 0);
        assert_true(identity_expand(&unset, "%m%m%m%m%m", &sources, &f) < 0);
        assert_true(identity_expand(&unset, "x%%y", &sources, &f) < 0); /* no percent sign in an ID */
        assert_null(unset);
}

static void legal_ids(void **state) {
        for (const char *const *good = (const char *[]){ "a", "A1", "a-", "a.b_c:d", NULL }; *good; good++)
                assert_true(identity_registration_id_valid(*good));
        for (const char *const *bad =
                     (const char *[]){ "", "-a", ".a", "a.", "a:", "a b", "a/b", "\xc3\xa4", NULL };
             *bad; bad++)
                assert_false(identity_registration_id_valid(*bad));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(both_formats_of_a_known_value),
                cmocka_unit_test(specifiers_are_expanded),
                cmocka_unit_test(legal_ids),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
