#!/usr/bin/python3
"""lib/http against real TLS servers: the emulator for certificates, and a server here that misbehaves on purpose.

test_http.py --client=PROGRAM --emulator=PROGRAM prints TAP. Everything happens on the loopback interface.
"""
import ssl
import subprocess
import sys
import threading
import time

from serving import answering, main, free_port, read_request, reply


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


def test_nobody_there(world):
    with free_port() as port:
        outcome = world.run(f"GET https://localhost:{port}/")
    assert outcome["kind"] == "connect" and f"localhost:{port}" in outcome["sentence"], outcome
    outcome = world.run("GET https://no-such-host.invalid/")
    assert outcome["kind"] == "dns" and "no-such-host.invalid" in outcome["sentence"], outcome


def test_plain_http_is_refused(world):
    with world.server(lambda connection: connection.sendall(reply()), tls=False) as server:
        assert world.run(f"GET https://localhost:{server.port}/")["kind"] in ("connect", "protocol")
        assert "kind" in world.run(f"GET http://localhost:{server.port}/")


if __name__ == "__main__":
    sys.exit(main(globals()))
