"""What the tests of lib/http share: a server that misbehaves on purpose, the client, and the TAP that they print."""
import argparse
import contextlib
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import threading
import warnings

DEADLINE = 60


class Server:
    """Accepts connections in a thread and gives each to `handler`, through TLS unless told otherwise."""

    def __init__(self, world, handler, tls=True, versions=None, certificate=None):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"https://localhost:{self.port}/x"
        self.connections = 0
        self.handler = handler
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate or world.certificate, world.key)
            if versions:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    self.context.minimum_version, self.context.maximum_version = versions
                self.context.set_ciphers("ALL:@SECLEVEL=0")  # or this library would refuse the old ones
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError, ssl.SSLError):
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            connection.settimeout(DEADLINE)
            self.handler(connection)
        with contextlib.suppress(OSError):
            connection.close()

    def close(self):
        # shutdown() wakes accept(), close() alone does not
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head.decode()


def answering(*parts):
    """A handler that sends these bytes after every request of a kept connection."""

    def handler(connection):
        while read_request(connection):
            for part in parts:
                connection.sendall(part)

    return handler


def reply(body=b"{}", status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}".encode(), b"Content-Length: " + str(len(body)).encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class World:
    def __init__(self, directory, client, emulator):
        self.dir = pathlib.Path(directory)
        self.client = client
        self.emulator = emulator
        self.certificate = self.dir / "server.pem"
        self.key = self.dir / "server.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-days", "2", "-subj", "/CN=Test of lib http", "-addext",
                        "subjectAltName=DNS:localhost", "-keyout", self.key, "-out", self.certificate],
                       check=True, capture_output=True)

    def run(self, *requests, env=None, **options):
        options.setdefault("ca", self.certificate)
        arguments = [f"{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        result = subprocess.run([self.client, *arguments], input="\n".join(requests) + "\n", text=True,
                                capture_output=True, timeout=DEADLINE, check=False,
                                env={**{k: v for k, v in os.environ.items() if "proxy" not in k.lower()},
                                     **(env or {})})
        assert result.returncode == 0, result
        outcomes = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(outcomes) == len(requests), result
        return outcomes if len(outcomes) > 1 else outcomes[0]

    @contextlib.contextmanager
    def server(self, handler, tls=True, **options):
        server = Server(self, handler, tls, **options)
        try:
            yield server
        finally:
            server.close()

    @contextlib.contextmanager
    def emulated(self, *faults):
        state = pathlib.Path(tempfile.mkdtemp(dir=self.dir))
        (state / "enrollments.json").write_text("[]")
        process = subprocess.Popen([self.emulator, "--port=0", "--scope=0ne00TEST", f"--state-dir={state}",
                                    f"--enrollments={state}/enrollments.json", *(f"--fault={f}" for f in faults)],
                                   stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on "), line
            yield line.split()[-1], state / "ca.pem"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@contextlib.contextmanager
def free_port():
    """A port without a listener, which no other process gets meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def main(functions):
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", required=True)
    parser.add_argument("--emulator", required=True)
    arguments = parser.parse_args()
    key = os.environ.get("TEST_FILTER", "")
    tests = [(name[5:], value) for name, value in functions.items() if name.startswith("test_") and key in name]
    print(f"1..{len(tests)}")
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        world = World(directory, arguments.client, arguments.emulator)
        for number, (name, test) in enumerate(tests, 1):
            try:
                test(world)
                print(f"ok {number} - {name}", flush=True)
            except Exception as error:  # whatever it is, it is this test's
                failed = True
                print(f"not ok {number} - {name}\n# {error!r}".replace("\n", "\n# "), flush=True)
    return failed
