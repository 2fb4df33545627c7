#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store.h"

static char dir[] = "/tmp/test-store-XXXXXX";

static const char *in_dir(const char *name) {
        static char path[256];

        (void) snprintf(path, sizeof(path), "%s/%s", dir, name);
        return path;
}

static unsigned entries(void) {
        DIR *d = opendir(dir);
        unsigned n = 0;

        assert_non_null(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n - 2;
}

static void assert_content(const char *name, const char *expected) {
        CLEANUP(freep) char *text = NULL;

        assert_int_equal(read_file(in_dir(name), 100, &text, NULL), 0);
        assert_string_equal(text, expected);
}

static void writes_replaces_and_removes(void **state) {
        struct stat st;

        assert_int_equal(store_write(in_dir("a"), "one", 3, 0640), 0);
        assert_content("a", "one");
        assert_int_equal(store_write(in_dir("a"), "two!", 4, 0600), 0);
        assert_content("a", "two!");
        assert_int_equal(stat(in_dir("a"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(entries(), 1);
        assert_int_equal(store_remove(in_dir("a")), 0);
        assert_int_equal(store_remove(in_dir("a")), 0);
        assert_int_equal(entries(), 0);
}

static void failures_keep_the_old_file(void **state) {
        assert_int_equal(store_write(in_dir("a"), "old", 3, 0600), 0);
        assert_int_equal(mkdir(in_dir("d"), 0700), 0);
        assert_int_equal(store_write(in_dir("d"), "x", 1, 0600), -EISDIR);
        assert_int_equal(store_write(in_dir("no/such"), "x", 1, 0600), -ENOENT);
        assert_int_equal(store_write(in_dir(""), "x", 1, 0600), -EINVAL);
        assert_content("a", "old");
        assert_int_equal(entries(), 2); /* no temporary file stays */
        assert_int_equal(rmdir(in_dir("d")), 0);
        assert_int_equal(store_remove(in_dir("a")), 0);
}

static void prepare_a(StoreFile *f, int fd, const char *text) {
        const StoreAttributes attributes = { .mode = 0600, .uid = (uid_t) -1, .gid = (gid_t) -1 };

        assert_int_equal(store_prepare_at(f, fd, "a", text, strlen(text), &attributes), 0);
}

static void what_was_prepared_is_seen_when_it_is_committed(void **state) {
        CLEANUP(closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        StoreFile f = {};

        store_discard(&f);
        prepare_a(&f, fd, "one");
        assert_int_equal(access(in_dir("a"), F_OK), -1);
        store_discard(&f);
        assert_int_equal(entries(), 0);
        prepare_a(&f, fd, "two");
        assert_int_equal(store_commit(&f), 0);
        store_discard(&f);
        assert_content("a", "two");
        assert_int_equal(entries(), 1);
        assert_int_equal(store_remove(in_dir("a")), 0);
}

static void what_was_exchanged_is_put_back(void **state) {
        CLEANUP(closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        StoreFile f = {};
        struct stat before, after;

        prepare_a(&f, fd, "new"); /* there was none */
        assert_int_equal(store_exchange(&f), 0);
        assert_content("a", "new");
        assert_int_equal(store_put_back(&f), 0);
        store_discard(&f);
        assert_int_equal(entries(), 0);

        assert_int_equal(store_write(in_dir("a"), "old", 3, 0640), 0);
        assert_int_equal(stat(in_dir("a"), &before), 0);
        prepare_a(&f, fd, "new");
        assert_int_equal(store_exchange(&f), 0);
        assert_content("a", "new");
        assert_int_equal(store_put_back(&f), 0);
        store_discard(&f);
        assert_content("a", "old");
        assert_int_equal(stat(in_dir("a"), &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        assert_int_equal(entries(), 1);

        prepare_a(&f, fd, "new"); /* discarding it removes the old file */
        assert_int_equal(store_exchange(&f), 0);
        store_discard(&f);
        assert_content("a", "new");
        assert_int_equal(entries(), 1);
        assert_int_equal(store_remove(in_dir("a")), 0);
}

/* Editors, rsync and operators write names that begin as ours do. */
static void what_a_power_cut_left_is_removed(void **state) {
        static const char left[] = ".a.dps-x9YzQw";
        static const char *const others[] = {
                ".a.x9YzQw", ".a.backup", ".a.b", ".a.dps-x9YzQ", ".a.dps-x9YzQw7", ".ab.dps-x9YzQw",
        };

        assert_int_equal(store_write(in_dir(left), "new", 3, 0600), 0);
        for (size_t i = 0; i < ARRAY_SIZE(others); i++)
                assert_int_equal(store_write(in_dir(others[i]), "other", 5, 0600), 0);
        assert_int_equal(store_write(in_dir("a"), "new", 3, 0600), 0);
        assert_int_equal(access(in_dir(left), F_OK), -1);
        for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
                assert_content(others[i], "other");
                assert_int_equal(store_remove(in_dir(others[i])), 0);
        }
        assert_int_equal(store_remove(in_dir("a")), 0);
}

static void a_symlink_is_replaced_not_followed(void **state) {
        struct stat st;

        assert_int_equal(store_write(in_dir("target"), "t", 1, 0600), 0);
        assert_int_equal(symlink("target", in_dir("link")), 0);
        assert_int_equal(store_write(in_dir("link"), "new", 3, 0600), 0);
        assert_content("target", "t");
        assert_int_equal(lstat(in_dir("link"), &st), 0);
        assert_true(S_ISREG(st.st_mode));
        assert_int_equal(store_remove(in_dir("link")), 0);
        assert_int_equal(store_remove(in_dir("target")), 0);
}

static void a_link_is_put_where_a_file_was(void **state) {
        const StoreAttributes attributes = { .uid = (uid_t) -1, .gid = (gid_t) -1 };
        CLEANUP(closep) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char target[16] = "";

        assert_int_equal(store_write(in_dir("a"), "old", 3, 0600), 0);
        assert_int_equal(store_link_at(fd, "a", "nowhere", &attributes), 0);
        assert_int_equal(readlink(in_dir("a"), target, sizeof(target) - 1), 7);
        assert_string_equal(target, "nowhere");
        assert_int_equal(store_remove(in_dir("a")), 0);
        assert_int_equal(mkdir(in_dir("a"), 0700), 0);
        assert_int_equal(store_link_at(fd, "a", "nowhere", &attributes), -EISDIR);
        assert_int_equal(entries(), 1);
        assert_int_equal(rmdir(in_dir("a")), 0);
}

static int make_dir(void **state) {
        return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
        return rmdir(dir);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(writes_replaces_and_removes),
                cmocka_unit_test(failures_keep_the_old_file),
                cmocka_unit_test(what_was_prepared_is_seen_when_it_is_committed),
                cmocka_unit_test(what_was_exchanged_is_put_back),
                cmocka_unit_test(what_a_power_cut_left_is_removed),
                cmocka_unit_test(a_symlink_is_replaced_not_followed),
                cmocka_unit_test(a_link_is_put_where_a_file_was),
        };

        return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
