#!/usr/bin/python3
"""lib/http against real TLS servers: the emulator for certificates, and a server here that misbehaves on purpose.

test_http.py --client=PROGRAM --emulator=PROGRAM prints TAP. Everything happens on the loopback interface.
"""
import argparse
import base64
import contextlib
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
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


def test_one_connection_serves_several_requests(world):
    headers = (b"dAtE: Wed, 21 Oct 2015 12:00:00 GMT", b"X-MS-Request-ID: r-1", b"retry-after:  7 ")
    with world.server(answering(reply(b'{"a":1}', headers=headers))) as server:
        outcomes = world.run(f"PUT {server.url}", f"GET {server.url} SharedAccessSignature x", f"PUT {server.url}")
        for outcome in outcomes:
            assert outcome == {"status": 200, "size": 7, "date": 1445428800, "body": '{"a":1}', "requestId": "r-1",
                               "retryAfter": "7"}, outcome
        assert server.connections == 1


def test_the_token_is_sent_with_its_request_only(world):
    seen = []

    def handler(connection):
        while head := read_request(connection):
            seen.append(head)
            connection.sendall(reply())

    with world.server(handler) as server:
        world.run(f"PUT {server.url}", f"GET {server.url} Secret token", f"PUT {server.url}")
    assert [("Authorization: Secret token" in head) for head in seen] == [False, True, False]
    assert all("User-Agent: dps-provisiond/" in head for head in seen)
    assert "Content-Type: application/json; charset=utf-8" in seen[0]


def test_a_kept_connection_that_was_closed_is_opened_again(world):
    def handler(connection):
        if read_request(connection):
            connection.sendall(reply())  # and closes

    with world.server(handler) as server:
        first, second = world.run(f"GET {server.url}", f"GET {server.url}")
        assert first["status"] == second["status"] == 200
        assert server.connections == 2


def test_an_error_status_is_a_reply(world):
    with world.server(answering(reply(b"busy", "503 Nope"))) as server:
        assert world.run(f"GET {server.url}")["status"] == 503


def test_redirects_are_not_followed(world):
    with world.server(answering(reply())) as other:
        for status in ("301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Moved"):
            with world.server(answering(reply(b"", status, (f"Location: {other.url}".encode(),)))) as server:
                for outcome in world.run(f"GET {server.url} SharedAccessSignature x", f"PUT {server.url}"):
                    assert outcome["status"] == int(status[:3]), outcome
                assert server.connections == 1
        assert other.connections == 0


def test_old_versions_of_tls_are_refused(world):
    version = ssl.TLSVersion
    for versions in ((version.TLSv1, version.TLSv1), (version.TLSv1_1, version.TLSv1_1), (version.TLSv1, version.TLSv1_1)):
        with world.server(answering(reply()), versions=versions) as server:
            assert b"New, TLSv1" in subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-cipher",
                                                    "ALL:@SECLEVEL=0"], input=b"", capture_output=True, check=False).stdout
            outcome = world.run(f"GET {server.url}")
            assert "status" not in outcome and outcome["kind"].startswith(("tls-", "connect")), outcome
    for newer in (version.TLSv1_2, version.TLSv1_3):
        with world.server(answering(reply()), versions=(newer, newer)) as server:
            assert world.run(f"GET {server.url}")["status"] == 200


def test_who_intercepts_is_named(world):
    """A company's proxy that opens TLS shows itself by the issuer of its certificates."""
    names = {"authority": "/O=Example Corp/CN=Example TLS Inspection", "leaf": "/CN=localhost"}
    for name, subject in names.items():
        issuer = ["-CA", world.dir / "authority.pem", "-CAkey", world.key] if name == "leaf" else []
        subprocess.run(["openssl", "req", "-x509", "-key", world.key, "-days", "2", "-subj", subject, *issuer, "-addext",
                        "subjectAltName=DNS:localhost", "-out", world.dir / f"{name}.pem"], check=True, capture_output=True)
    with world.server(answering(reply()), certificate=world.dir / "leaf.pem") as server:
        outcome = world.run(f"GET {server.url}")
        assert outcome["kind"] == "tls-trust" and "Example TLS Inspection" in outcome["sentence"], outcome
        assert world.run(f"GET {server.url}", ca=world.dir / "authority.pem")["status"] == 200


def test_headers_that_make_no_sense(world):
    for headers, expected in (
            ((b"Date: Fri, 31 Dec 9999 23:59:59 GMT",), {}), ((b"Date: Thu, 01 Jan 1970 00:00:00 GMT",), {}),
            ((b"Date: Tue, 35 Feb 2026 25:61:61 GMT",), {}), ((b"Date:",), {}), ((b"Date: " + b"1" * 5000,), {}),
            ((b"Date: Wed, 21 Oct 2015 12:00:00 GMT", b"Date: Wed, 21 Oct 2015 12:00:01 GMT"), {"date": 1445428801}),
            ((b"Retry-After: 1", b"Retry-After: 99999999999999999999"), {"retryAfter": "99999999999999999999"}),
            ((b"Retry-After: " + b"9" * 5000,), {}), ((b"x-ms-request-id:\t \t", b": empty"), {})):
        with world.server(answering(reply(headers=headers))) as server:
            outcome = world.run(f"GET {server.url}")
            assert outcome == {"status": 200, "size": 2, "date": 0, "body": "{}", "requestId": None, "retryAfter": None,
                               **expected}, (headers, outcome)
    for headers in ((b"no-colon",), (b"X-Nul: a\0b",), (b"Date: Wed, 21 Oct\0 2015 12:00:00 GMT",), (b"Content-Length: -1",),
                    (b"Transfer-Encoding: chunked",)):
        with world.server(answering(reply(headers=headers))) as server:
            outcome = world.run(f"GET {server.url}", total_ms=3000)
            assert outcome.get("kind") in ("protocol", "connect", "timeout"), (headers, outcome)


def test_large_bodies_are_cut_off(world):
    with world.server(answering(reply(b" " * 64 * 1024))) as server:
        assert world.run(f"GET {server.url}")["size"] == 64 * 1024
    with world.server(answering(reply(b" " * 64 * 1024 + b" "))) as server:
        assert world.run(f"GET {server.url}")["kind"] == "protocol"


def endless(first, more):
    def handler(connection):
        read_request(connection)
        connection.sendall(first)
        while True:
            connection.sendall(more * 100)

    return handler


def test_endless_replies_end(world):
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    with world.server(endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk)) as server:
        assert world.run(f"GET {server.url}")["kind"] == "protocol"
    with world.server(endless(b"HTTP/1.1 200 OK\r\n", b"X-More: yes\r\n")) as server:
        assert world.run(f"GET {server.url}")["kind"] == "protocol"
    with world.server(endless(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 1000)) as server:
        assert world.run(f"GET {server.url}").get("kind") in ("protocol", "connect")


def test_half_replies_are_failures(world):
    # curl takes headers that just end for complete: such a reply has no body, which no reply of the service lacks
    for part in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", b"HTTP/1.1 200 OK\r\nConte"):
        def handler(connection, part=part):
            read_request(connection)
            connection.sendall(part)

        with world.server(handler) as server:
            outcome = world.run(f"GET {server.url}")
            assert outcome.get("kind") == "connect" or outcome["size"] == 0, outcome


def test_what_is_not_http_is_a_protocol_failure(world):
    def handler(connection):
        read_request(connection)
        connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

    with world.server(handler) as server:
        assert world.run(f"GET {server.url}")["kind"] == "protocol"


def test_silence_ends_in_time(world):
    def silent(connection):
        read_request(connection)
        connection.recv(1)

    def drip(connection):
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        done = threading.Event()
        while not done.wait(0.05):
            connection.sendall(b" ")

    for handler in (silent, drip):
        with world.server(handler) as server:
            start = time.monotonic()
            assert world.run(f"GET {server.url}", total_ms=700)["kind"] == "timeout"
            assert time.monotonic() - start < 20
    def deaf(connection):
        while connection.recv(65536):
            pass

    with world.server(deaf, tls=False) as server:
        assert world.run(f"GET {server.url}", total_ms=700)["kind"] == "timeout"


@contextlib.contextmanager
def nobody():
    """A port where nobody listens, and nobody else will meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_nobody_there(world):
    with nobody() as port:
        outcome = world.run(f"GET https://localhost:{port}/")
    assert outcome["kind"] == "connect" and f"localhost:{port}" in outcome["sentence"], outcome
    outcome = world.run("GET https://no-such-host.invalid/")
    assert outcome["kind"] == "dns" and "no-such-host.invalid" in outcome["sentence"], outcome


def test_plain_http_is_refused(world):
    with world.server(lambda connection: connection.sendall(reply()), tls=False) as server:
        assert world.run(f"GET https://localhost:{server.port}/")["kind"] in ("connect", "protocol")
        assert "kind" in world.run(f"GET http://localhost:{server.port}/")


def test_certificates(world):
    with world.emulated() as (url, ca):
        assert world.run(f"GET {url}/x", ca=ca)["status"] == 404
        outcome = world.run(f"GET {url}/x", ca=world.certificate)
        assert outcome["kind"] == "tls-trust" and "its issuer is" in outcome["sentence"], outcome
        assert "status" in world.run(f"GET {url}/x", ca=ca)
    for fault, kind, says in (("wrong-host-cert", "tls-trust", "localhost"), ("untrusted-cert", "tls-trust", "issuer"),
                              ("expired-cert", "tls-trust", "expired"), ("future-cert", "tls-clock", "not yet valid")):
        with world.emulated(fault) as (url, ca):
            outcome = world.run(f"GET {url}/x", ca=ca)
            assert outcome["kind"] == kind and says in outcome["sentence"], (fault, outcome)
    with world.emulated("expired-cert") as (url, ca):
        outcome = world.run(f"GET {url}/x", ca=ca, build_time=1 << 40)
        assert outcome["kind"] == "tls-clock", outcome
        assert world.run(f"GET {url}/x", ca=ca, latest_time=1 << 30)["kind"] == "tls-clock"
        assert world.run(f"GET {url}/x", ca=ca, latest_time=1 << 40)["kind"] == "tls-trust"


def test_a_missing_ca_file_is_told(world):
    with world.server(answering(reply())) as server:
        outcome = world.run(f"GET {server.url}", ca="/nonexistent/ca.pem")
        assert outcome["kind"] == "config" and "/nonexistent/ca.pem" in outcome["sentence"], outcome


def proxy(answer, seen, credentials=None):
    def handler(connection):
        head = read_request(connection)
        if credentials and f"Proxy-Authorization: Basic {credentials}" not in head:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
                               b"Content-Length: 0\r\n\r\n")
            return
        seen.append(head.splitlines()[0])
        connection.sendall(answer)
        if b" 200 " not in answer:
            return
        port = head.split()[1].partition(":")[2]
        # not "localhost": curl knows it by itself, but a machine without /etc/hosts does not
        with socket.create_connection(("127.0.0.1", int(port))) as target:
            def copy(source, sink):
                with contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=copy, args=(target, connection), daemon=True)
            thread.start()
            copy(connection, target)
            thread.join(DEADLINE)

    return handler


def test_proxies(world):
    seen = []
    with world.server(answering(reply())) as server:
        established = b"HTTP/1.1 200 Connection established\r\nDate: Wed, 21 Oct 2015 12:00:00 GMT\r\n\r\n"
        with world.server(proxy(established, seen), tls=False) as good:
            address = f"http://localhost:{good.port}"
            outcome = world.run(f"GET {server.url}", proxy=address)
            assert outcome["status"] == 200 and outcome["date"] == 0, outcome
            assert world.run(f"GET {server.url}", env={"https_proxy": address})["status"] == 200
        assert seen == [f"CONNECT localhost:{server.port} HTTP/1.1"] * 2
        word = base64.b64encode(b"gateway:p@ss").decode()
        with world.server(proxy(established, seen, word), tls=False) as closed:
            for credentials, result in (("gateway:p%40ss@", True), ("", False), ("gateway:wrong@", False)):
                outcome = world.run(f"GET {server.url}", proxy=f"http://{credentials}localhost:{closed.port}")
                assert outcome.get("status") == 200 if result else outcome["kind"] == "proxy", (credentials, outcome)
                assert result or "407" in outcome["code"], outcome
                assert "ss@" not in str(outcome) and "wrong" not in str(outcome), outcome
        for status in ("403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"):
            refusal = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
            with world.server(proxy(refusal, seen), tls=False) as bad:
                outcome = world.run(f"GET {server.url}", proxy=f"http://localhost:{bad.port}")
                assert outcome["kind"] == "proxy" and status[:3] in outcome["code"], outcome
        with world.server(lambda connection: read_request(connection), tls=False) as mute:
            outcome = world.run(f"GET {server.url}", proxy=f"http://localhost:{mute.port}")
            assert outcome["kind"] == "proxy", outcome
        with nobody() as port:
            for address in ("http://no-such-proxy.invalid:3128", f"http://localhost:{port}"):
                outcome = world.run(f"GET {server.url}", proxy=address)
                assert outcome["kind"] == "proxy", outcome
            outcome = world.run(f"GET https://localhost:{port}/x")
            assert outcome["kind"] == "connect", outcome


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", required=True)
    parser.add_argument("--emulator", required=True)
    arguments = parser.parse_args()
    key = os.environ.get("TEST_FILTER", "")
    tests = [(name[5:], value) for name, value in globals().items() if name.startswith("test_") and key in name]
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


if __name__ == "__main__":
    sys.exit(main())
