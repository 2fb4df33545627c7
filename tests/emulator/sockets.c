#include "sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT_TRIES 20

int socket_listen(const char *address, uint16_t *port) {
        union {
                struct sockaddr any;
                struct sockaddr_in in;
                struct sockaddr_in6 in6;
        } sa = {};
        socklen_t size = sizeof(sa.in);
        int fd, one = 1, r;

        if (inet_pton(AF_INET, address, &sa.in.sin_addr) == 1) {
                sa.in.sin_family = AF_INET;
                sa.in.sin_port = htons(*port);
        } else if (inet_pton(AF_INET6, address, &sa.in6.sin6_addr) == 1) {
                sa.in6.sin6_family = AF_INET6;
                sa.in6.sin6_port = htons(*port);
                size = sizeof(sa.in6);
        } else
                return -EINVAL;

        fd = socket(sa.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (sa.any.sa_family == AF_INET6)
                (void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
        if (bind(fd, &sa.any, size) < 0 || listen(fd, SOMAXCONN) < 0 ||
            getsockname(fd, &sa.any, &size) < 0) {
                r = -errno;
                (void) close(fd);
                return r;
        }
        *port = ntohs(sa.any.sa_family == AF_INET6 ? sa.in6.sin6_port : sa.in.sin_port);
        return fd;
}

int socket_listen_loopback(int fds[static SOCKETS_MAX], uint16_t *port) {
        for (unsigned tries = 0; tries < PORT_TRIES; tries++) {
                uint16_t wanted = *port;

                fds[0] = socket_listen("127.0.0.1", &wanted);
                if (fds[0] < 0)
                        return fds[0];
                fds[1] = socket_listen("::1", &wanted);
                if (fds[1] == -EADDRINUSE && *port == 0) {
                        (void) close(fds[0]); /* free for one of the two only: another one */
                        continue;
                }
                if (fds[1] == -EADDRINUSE) {
                        (void) close(fds[0]);
                        return fds[1];
                }
                *port = wanted;
                return fds[1] < 0 ? 1 : 2;
        }
        return -EADDRINUSE;
}
