/* Runs a target over its corpus and over mutations of it, the same ones each time:
 *     fuzz-NAME CORPUS COUNT
 * The input at work is in a file of its own when the program dies. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "util.h"

#define SEEDS_MAX    256
#define INPUT_MAX    ((size_t) 16 * 1024)
#define MUTATION_MAX 8

typedef struct Seed {
        char *data;
        size_t size;
} Seed;

static Seed seeds[SEEDS_MAX];
static size_t seed_count;
static uint8_t input[INPUT_MAX];
static size_t input_size;
static char *crash_path;

/* In a sanitizer's binary; elsewhere NULL. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

/* Only what a signal handler may call. */
static void save_input(void) {
        int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        if (fd < 0 || write(fd, input, input_size) < 0)
                return;
        (void) !write(STDERR_FILENO, crash_path, strlen(crash_path));
        (void) !write(STDERR_FILENO, " has the input\n", 15);
}

static void on_signal(int number) {
        save_input();
        (void) signal(number, SIG_DFL);
        (void) raise(number);
}

/* SplitMix64: the same numbers everywhere. */
static uint64_t random_number(uint64_t below) {
        static uint64_t state;
        uint64_t z = state += 0x9e3779b97f4a7c15;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return below > 0 ? (z ^ z >> 31) % below : 0;
}

static void put(size_t at, const void *data, size_t size, size_t replaced) {
        size_t tail = input_size - at - replaced;

        if (at + size + tail > sizeof(input))
                return;
        memmove(input + at + size, input + at + replaced, tail);
        memcpy(input + at, data, size);
        input_size = at + size + tail;
}

static void mutate(void) {
        static const char *const tokens[] = { "\"",          "'",
                                              "\"\"\"",      "[",
                                              "]",           "{",
                                              "}",           "\n",
                                              "\r\n",        "\\",
                                              "\\u0000",     "#",
                                              "=",           ".",
                                              ",",           "[provisioning]\n",
                                              "%",           "*",
                                              ":",           "-1",
                                              "null",        "99999999999999999999",
                                              "\xff",        "\xed\xa0\x80",
                                              "\xe2\x82\xac" };
        static const uint8_t edges[] = { 0, 1, 0x7f, 0x80, 0xff };
        const Seed *other = &seeds[random_number(seed_count)];
        size_t at = random_number(input_size + 1), left = input_size - at;
        const char *token;
        uint8_t byte, part[256];
        size_t from, size;

        switch (random_number(7)) {
        case 0: /* one bit */
                if (left > 0)
                        input[at] ^= (uint8_t) (1u << random_number(8));
                break;
        case 1: /* one byte */
                byte = random_number(2) ? edges[random_number(sizeof(edges))] : (uint8_t) random_number(256);
                put(at, &byte, 1, left > 0 && random_number(2));
                break;
        case 2:
                put(at, "", 0, left > 0 ? 1 + random_number(left < 64 ? left : 64) : 0);
                break;
        case 3:
                token = tokens[random_number(ARRAY_SIZE(tokens))];
                put(at, token, strlen(token), 0);
                break;
        case 4: /* a part of itself again */
                size = random_number((left < sizeof(part) ? left : sizeof(part)) + 1);
                memcpy(part, input + at, size);
                put(random_number(input_size + 1), part, size, 0);
                break;
        case 5: /* the rest is another's */
                from = random_number(other->size + 1);
                put(at, other->data + from, other->size - from, left);
                break;
        case 6:
                input_size = at;
                break;
        }
}

static int load_seeds(const char *directory) {
        DIR *dir = opendir(directory);
        struct dirent *entry;

        if (!dir)
                return -1;
        while ((entry = readdir(dir)) && seed_count < SEEDS_MAX) {
                CLEANUP(freep) char *path = NULL;
                Seed *seed = &seeds[seed_count];

                if (entry->d_name[0] != '.' && asprintf(&path, "%s/%s", directory, entry->d_name) >= 0 &&
                    read_file(path, INPUT_MAX, &seed->data, &seed->size) >= 0)
                        seed_count++;
        }
        (void) closedir(dir);
        return 0;
}

static int compare_seeds(const void *a, const void *b) {
        const Seed *x = a, *y = b;

        if (x->size != y->size)
                return x->size < y->size ? -1 : 1;
        return memcmp(x->data, y->data, x->size);
}

/* An allocation of its size, so that a sanitizer sees each byte behind it. */
static void run_input(void) {
        uint8_t *copy = malloc(input_size);

        if (!copy && input_size > 0)
                abort();
        if (copy)
                memcpy(copy, input, input_size);
        (void) LLVMFuzzerTestOneInput(copy, input_size);
        free(copy);
}

int main(int argc, char **argv) {
        unsigned long count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;

        if (argc != 3 || load_seeds(argv[1]) < 0 || seed_count == 0) {
                (void) fprintf(stderr, "Usage: %s CORPUS COUNT\n", argv[0]);
                return 2;
        }
        if (asprintf(&crash_path, "%s.crash", argv[0]) < 0)
                return 1;
        qsort(seeds, seed_count, sizeof(seeds[0]), compare_seeds); /* a directory has no order */
        if (__sanitizer_set_death_callback)
                __sanitizer_set_death_callback(save_input);
        (void) signal(SIGABRT, on_signal);
        if (!__sanitizer_set_death_callback)
                (void) signal(SIGSEGV, on_signal);

        for (size_t i = 0; i < seed_count + count; i++) {
                const Seed *seed = &seeds[i < seed_count ? i : random_number(seed_count)];

                memcpy(input, seed->data, seed->size);
                input_size = seed->size;
                for (uint64_t n = i < seed_count ? 0 : 1 + random_number(MUTATION_MAX); n > 0; n--)
                        mutate();
                run_input();
        }
        for (size_t i = 0; i < seed_count; i++)
                free(seeds[i].data);
        free(crash_path);
        (void) printf("%zu inputs from the corpus, %lu mutations\n", seed_count, count);
        return 0;
}
