/* LD_PRELOAD: a name server that does not answer. getaddrinfo() takes SLOW_RESOLVER_SEC seconds and fails.
 */
#include <netdb.h>
#include <stdlib.h>
#include <time.h>

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): glibc's names are reserved ones */
int getaddrinfo(const char *restrict node, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict result) {
        const char *seconds = getenv("SLOW_RESOLVER_SEC");
        struct timespec left = { .tv_sec = seconds ? strtol(seconds, NULL, 10) : 1 };

        while (nanosleep(&left, &left) < 0)
                ;
        return EAI_AGAIN;
}
