"""What tests need to know of other processes: what they have logged, whether they listen, a port for them."""
import errno
import json
import pathlib
import socket


def json_lines(path):
    """The objects in a log that has one a line. Its process may be at the last one: what one write() writes may be seen
    in parts."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


def listens(path):
    """Whether a connection to this unix socket would be taken; its file is there a moment before."""
    accepts = 0x10000  # __SO_ACCEPTCON
    rows = [line.split(maxsplit=7) for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(row[7:] == [str(path)] and int(row[3], 16) & accepts for row in rows)


def bound(family, address, port):
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def reserve_port():
    """A port on the loopback addresses, and the sockets that hold it. Connections are refused, and nobody is given the
    port by chance; who asks for it with SO_REUSEADDR may listen there."""
    while True:
        first = bound(socket.AF_INET, "127.0.0.1", 0)
        port = first.getsockname()[1]
        try:
            return port, [first, bound(socket.AF_INET6, "::1", port)]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # there is no IPv6
                return port, [first]
            first.close()
