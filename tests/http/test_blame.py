#!/usr/bin/python3
"""Whom lib/http blames: DPS, the proxy before it, or the clock; and which limit it says has passed."""
import base64
import contextlib
import re
import select
import socket
import subprocess
import sys
import time

from serving import DEADLINE, answering, main, free_port, read_request, reply


def test_certificates(world):
    with world.emulated() as (url, ca):
        assert world.run(f"GET {url}/x", ca=ca)["status"] == 404
        outcome = world.run(f"GET {url}/x", ca=world.certificate)
        assert outcome["kind"] == "tls-trust" and "its issuer is" in outcome["sentence"], outcome
        assert "status" in world.run(f"GET {url}/x", ca=ca)
    hints = set()
    for fault, kind, says, hint in (("wrong-host-cert", "tls-trust", "localhost", "GlobalEndpoint="),
                                    ("untrusted-cert", "tls-trust", "issuer", "proxy.*CAFile="),
                                    ("expired-cert", "tls-trust", "expired", "clock.*renew"),
                                    ("future-cert", "tls-clock", "not yet valid", "Set the clock")):
        with world.emulated(fault) as (url, ca):
            outcome = world.run(f"GET {url}/x", ca=ca)
            assert outcome["kind"] == kind and says in outcome["sentence"], (fault, outcome)
            assert re.search(hint, outcome["hint"]), (fault, outcome)
            hints.add(outcome["hint"])
    assert len(hints) == 4
    with world.emulated("expired-cert") as (url, ca):
        outcome = world.run(f"GET {url}/x", ca=ca, build_time=1 << 40)
        assert outcome["kind"] == "tls-clock", outcome
        assert world.run(f"GET {url}/x", ca=ca, latest_time=1 << 30)["kind"] == "tls-clock"
        assert world.run(f"GET {url}/x", ca=ca, latest_time=1 << 40)["kind"] == "tls-trust"


def test_a_missing_ca_file_is_told(world):
    with world.server(answering(reply())) as server:
        outcome = world.run(f"GET {server.url}", ca="/nonexistent/ca.pem")
        assert outcome["kind"] == "config" and "/nonexistent/ca.pem" in outcome["sentence"], outcome


def copy_both_ways(one, other):
    """Until either ends. In one thread, since TLS connections can't be shared by two."""
    while True:
        ready = select.select([one, other], [], [], DEADLINE)[0]
        if not ready:
            return
        for source in ready:
            data = source.recv(65536)  # holds a whole record of TLS
            if not data:
                return
            (other if source is one else one).sendall(data)


def proxy(answer, seen, credentials=None):
    def handler(connection):
        head = read_request(connection)
        if not head:
            return
        if credentials and f"Proxy-Authorization: Basic {credentials}" not in head:
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
                               b"Content-Length: 0\r\n\r\n")
            return
        seen.append(head.splitlines()[0])
        connection.sendall(answer)
        if b" 200 " not in answer:
            return
        port = head.split()[1].partition(":")[2]
        # not "localhost": curl knows it without help, but a machine without /etc/hosts does not
        with socket.create_connection(("127.0.0.1", int(port))) as target, contextlib.suppress(OSError):
            copy_both_ways(connection, target)

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
        with free_port() as port:
            for address in ("http://no-such-proxy.invalid:3128", f"http://localhost:{port}"):
                outcome = world.run(f"GET {server.url}", proxy=address)
                assert outcome["kind"] == "proxy", outcome
            outcome = world.run(f"GET https://localhost:{port}/x")
            assert outcome["kind"] == "connect", outcome


CA_CONFIG = """[ca]
default_ca = x
[x]
dir = {dir}
database = $dir/index.txt
new_certs_dir = $dir
rand_serial = yes
default_md = sha256
policy = p
copy_extensions = copy
unique_subject = no
[p]
commonName = supplied
"""


def certificate(world, name, host="localhost", days=(-1, 2)):
    """A self-signed certificate with the server's key; `days` has its first and its last one, relative to now."""
    (world.dir / "index.txt").write_text("")
    (world.dir / "ca.conf").write_text(CA_CONFIG.format(dir=world.dir))
    subprocess.run(["openssl", "req", "-new", "-key", world.key, "-subj", f"/CN={name}", "-addext",
                    f"subjectAltName=DNS:{host}", "-out", world.dir / "request.pem"], check=True, capture_output=True)
    first, last = (time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 86400 * day)) for day in days)
    subprocess.run(["openssl", "ca", "-batch", "-config", world.dir / "ca.conf", "-selfsign", "-keyfile", world.key,
                    "-startdate", first, "-enddate", last, "-in", world.dir / "request.pem", "-out",
                    world.dir / f"{name}.pem", "-notext"], check=True, capture_output=True)
    return world.dir / f"{name}.pem"


def joined(world, *paths):
    both = world.dir / "both.pem"
    both.write_text("".join(path.read_text() for path in paths))
    return both


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def blames_the_proxy(outcome, port, *hint, kind="proxy"):
    assert outcome["kind"] == kind and f"the proxy 'localhost:{port}'" in outcome["sentence"], outcome
    assert all(word in outcome["hint"] for word in hint) and "DPS" not in outcome["sentence"], outcome


def test_a_proxy_spoken_to_with_tls(world):
    own = certificate(world, "proxy")
    with world.server(answering(reply())) as server, \
            world.server(proxy(ESTABLISHED, []), certificate=own) as good:
        address = f"https://user:secret@localhost:{good.port}"
        assert world.run(f"GET {server.url}", proxy=address, ca=joined(world, world.certificate, own))["status"] == 200
        outcome = world.run(f"GET {server.url}", proxy=address)
        blames_the_proxy(outcome, good.port, "CAFile=", "root certificate of the proxy")
        assert "its issuer is" in outcome["sentence"] and "secret" not in str(outcome), outcome
        outcome = world.run(f"GET {server.url}", env={"https_proxy": address})
        blames_the_proxy(outcome, good.port, "CAFile=")
        # the proxy is trusted, and the server is not
        outcome = world.run(f"GET {server.url}", proxy=address, ca=own)
        assert outcome["kind"] == "tls-trust" and f"'localhost:{server.port}'" in outcome["sentence"], outcome
        assert "the proxy '" not in outcome["sentence"] and "its issuer is" in outcome["sentence"], outcome


def test_certificates_of_a_proxy(world):
    for name, settings, kind, hint in (
            ("stale", {"days": (-9, -1)}, "proxy", "renew the proxy's certificate"),
            ("early", {"days": (1, 9)}, "tls-clock", "Set the clock"),
            ("other", {"host": "proxy.example"}, "proxy", "Name the proxy in Proxy=")):
        own = certificate(world, name, **settings)
        with world.server(answering(reply())) as server, \
                world.server(proxy(ESTABLISHED, []), certificate=own) as bad:
            outcome = world.run(f"GET {server.url}", proxy=f"https://localhost:{bad.port}",
                                ca=joined(world, world.certificate, own))
            blames_the_proxy(outcome, bad.port, hint, kind=kind)
            assert not server.connections


def test_proxies_that_fail_otherwise(world):
    refusal = "HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n"
    with world.server(answering(reply())) as server:
        for answer, hint in ((refusal.format(407), "dps.proxy"), (refusal.format(403), "what the proxy allows"),
                             (refusal.format(503), "can't reach the named host"), ("", "Proxy="), ("SSH-2.0\r\n", "Proxy=")):
            for tls in (False, True):
                with world.server(proxy(answer.encode(), []), tls=tls) as bad:
                    scheme = "https" if tls else "http"
                    outcome = world.run(f"GET {server.url}", proxy=f"{scheme}://localhost:{bad.port}")
                    blames_the_proxy(outcome, bad.port, hint)
        with world.server(lambda c: c.recv(65536) and c.sendall(refusal.format(400).encode()), tls=False) as plain:
            outcome = world.run(f"GET {server.url}", proxy=f"https://localhost:{plain.port}")
            blames_the_proxy(outcome, plain.port, "http://")
        with world.server(proxy(ESTABLISHED, [])) as tls:
            blames_the_proxy(world.run(f"GET {server.url}", proxy=f"http://localhost:{tls.port}"), tls.port, "Proxy=")
        with free_port() as port:
            for scheme in ("http", "https", "socks5", "socks5h"):
                outcome = world.run(f"GET {server.url}", proxy=f"{scheme}://localhost:{port}")
                blames_the_proxy(outcome, port, "Proxy=")
        outcome = world.run(f"GET {server.url}", proxy="http://no-such-proxy.invalid")
        assert outcome["kind"] == "proxy" and "no-such-proxy.invalid" in outcome["sentence"], outcome
        assert "localhost" not in outcome["sentence"], outcome


def test_no_proxy_has_the_last_word(world):
    with free_port() as port, free_port() as host:
        for exempt, kind in (("localhost", "connect"), (".example, localhost", "connect"), ("*", "connect"),
                             ("example", "proxy"), ("alhost", "proxy")):
            outcome = world.run(f"GET https://localhost:{host}/", proxy=f"http://localhost:{port}", env={"no_proxy": exempt})
            assert outcome["kind"] == kind, (exempt, outcome)


def test_what_is_behind_the_proxy_fails(world):
    def hang_up(connection):
        connection.recv(1)

    with world.server(proxy(ESTABLISHED, []), tls=False) as good:
        address = f"http://localhost:{good.port}"
        for handler, kind in ((hang_up, "connect"), (lambda c: c.sendall(reply()), "connect")):
            with world.server(handler, tls=False) as server:
                outcome = world.run(f"GET {server.url}", proxy=address)
                assert outcome["kind"] == kind and f"'localhost:{server.port}'" in outcome["sentence"], outcome
        # the second request goes over the kept connection, without another CONNECT
        with world.server(lambda c: read_request(c) and c.sendall(reply()) or read_request(c)) as server:
            first, second = world.run(f"GET {server.url}", f"PUT {server.url}", proxy=address)
            assert first["status"] == 200 and second["kind"] == "connect", second


def deaf(connection):
    while connection.recv(65536):
        pass


def test_the_limit_that_has_passed(world):
    def silent(connection):
        read_request(connection)
        deaf(connection)

    short = {"connect_ms": 300, "total_ms": 30000}
    whole = {"connect_ms": 20000, "total_ms": 500}
    for handler, tls, limits, key in ((deaf, False, short, "ConnectTimeoutSec="), (silent, True, whole, "RequestTimeoutSec="),
                                      (deaf, False, whole, "RequestTimeoutSec="),
                                      (silent, True, {**whole, "connect_ms": 400}, "RequestTimeoutSec=")):
        with world.server(handler, tls=tls) as server, world.server(handler if not tls else silent, tls=False) as mute:
            outcome = world.run(f"GET {server.url}", **limits)
            assert outcome["kind"] == "timeout" and f"'localhost:{server.port}'" in outcome["sentence"], outcome
            other = {"ConnectTimeoutSec=", "RequestTimeoutSec="} - {key}
            assert key in outcome["hint"] and not other & set(outcome["hint"].split()), outcome
            if not tls:  # a proxy that answers nothing, over TCP or over TLS
                for scheme in ("http", "https"):
                    outcome = world.run(f"GET {server.url}", proxy=f"{scheme}://localhost:{mute.port}", **limits)
                    blames_the_proxy(outcome, mute.port, key, "proxy of Proxy=", kind="timeout")
    with world.server(deaf, tls=False) as server, world.server(proxy(ESTABLISHED, []), tls=False) as good:
        outcome = world.run(f"GET {server.url}", proxy=f"http://localhost:{good.port}", **short)
        assert outcome["kind"] == "timeout" and f"TLS handshake with 'localhost:{server.port}'" in outcome["sentence"], outcome
        assert "firewall" in outcome["hint"], outcome


if __name__ == "__main__":
    sys.exit(main(globals()))
