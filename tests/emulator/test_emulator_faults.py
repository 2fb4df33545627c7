"""What the emulator does wrong when it is told to, and what nobody can make it do: end, grow, or stop answering."""
import contextlib
import http.client
import json
import os
import pathlib
import select
import socket
import ssl
import time

import pytest
from harness import DEADLINE, SCOPE, wait_for
from script_client import API, TpmRefused, split

PATH = f"/{SCOPE}/registrations/GW-1/register?{API}"
JSON = {"Content-Type": "application/json"}


def body(service):
    return json.dumps(service.script().body())


@pytest.mark.parametrize("fault, code", [("expired-cert", 10), ("future-cert", 9), ("wrong-host-cert", 62),
                                         ("untrusted-cert", 20)])
def test_certificates_that_must_be_refused(new_service, fault, code):
    s = new_service(f"--fault={fault}")
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        s.raw()
    assert refused.value.verify_code in (code, 64 if code == 62 else code)
    assert s.requests() == []
    s.faults()  # the file takes the option's place
    assert s.ask("GET", "/")[0] == 404


def test_faults_of_replies(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    text = body(s)
    for fault, check in (
            ("garbage-body", lambda status, headers, reply: status == 401 and not reply.startswith('{"message')),
            ("oversized-body", lambda status, headers, reply: len(reply) > 1 << 20 and json.loads(reply)["keyName"]),
            ("oversized-body=70000", lambda status, headers, reply: 70000 < len(reply) < 72000),
            ("no-date", lambda status, headers, reply: status == 401 and "Date" not in headers),
            ("status:register=503", lambda status, headers, reply: status == 503),
            ("status=302", lambda status, headers, reply: status == 302 and headers["Location"].startswith("https://")),
            ("2xx-first", lambda status, headers, reply: status == 202 and json.loads(reply)["status"] == "assigning"),
            ("garbage-body:poll", lambda status, headers, reply: status == 401 and json.loads(reply)["keyName"])):
        s.faults(fault)
        with contextlib.closing(s.connection()) as connection:
            connection.request("PUT", PATH, text.encode(), JSON)
            reply = connection.getresponse()
            read = reply.read().decode(errors="replace")
            assert check(reply.status, reply.headers, read), (fault, reply.status, read[:200])
    s.faults()
    status, headers, reply = s.ask("PUT", PATH, text, **JSON)
    assert status == 401 and "Date" in headers and json.loads(reply)["keyName"] == "registration"


def test_lost_connections(new_service):
    s = new_service("--fault=drop-connection:register=1", "--fault=lose-reply:confirm=1")
    s.enroll(s.enrollment())
    script = s.script()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        s.ask("PUT", PATH, body(s), **JSON)
    token = script.registration_token(script.challenge())
    with pytest.raises((ConnectionError, ssl.SSLError)):
        s.ask("PUT", PATH, body(s), Authorization=token)
    dropped, _, lost = s.requests()
    assert (dropped["status"], dropped["authorized"]) == (0, False) and "dropped" in dropped["error"]
    assert (lost["status"], lost["authorized"]) == (0, True) and "lost" in lost["error"]  # it has taken effect
    assert script.poll(script.confirm(token).body["operationId"], token).body["status"] == "assigned"


def test_replies_that_are_cut_off(new_service):
    """The request has taken effect."""
    s = new_service("--fault=cut-reply:confirm=1")
    s.enroll(s.enrollment())
    script = s.script()
    token = script.registration_token(script.challenge())
    with contextlib.closing(s.connection()) as connection:
        connection.request("PUT", PATH, body(s), {**JSON, "Authorization": token})
        reply = connection.getresponse()
        assert reply.status == 202
        with pytest.raises((http.client.IncompleteRead, ConnectionError, ssl.SSLError)):
            reply.read()
    operation = script.confirm(token).body["operationId"]
    assert script.poll(operation, token).body["status"] == "assigned"


def test_captive_portal(new_service):
    s = new_service("--fault=captive-portal:register=1")
    s.enroll(s.enrollment())
    status, headers, reply = s.ask("PUT", PATH, body(s), **JSON)
    assert status == 403 and headers["Content-Type"] == "text/html" and "x-ms-request-id" not in headers
    assert reply.startswith("<!DOCTYPE html>")
    assert s.requests()[0]["status"] == 403 and "captive portal" in s.requests()[0]["error"]
    assert s.ask("PUT", PATH, body(s), **JSON)[0] == 401


def test_slowness_is_the_one_connections_own(new_service):
    s = new_service("--fault=slow:register=3600")
    s.enroll(s.enrollment())
    with contextlib.closing(s.connection()) as waiting:
        waiting.request("PUT", PATH, body(s), JSON)
        wait_for("the request", lambda: s.requests(kind="register"))
        assert s.ask("GET", "/")[0] == 404
        assert select.select([waiting.sock], [], [], 0)[0] == []
        s.faults()  # which also ends what waits already
        assert waiting.getresponse().status == 401
    s.faults("slow:register=0.5")
    start = time.monotonic()
    assert s.ask("PUT", PATH, body(s), **JSON)[0] == 401
    assert 0.5 <= time.monotonic() - start < DEADLINE


def test_faults_of_keys(new_service):
    s = new_service("--fault=wrong-ek-challenge")
    s.enroll(s.enrollment())
    script = s.script()
    with pytest.raises(TpmRefused):
        script.registration_token(script.challenge())
    s.faults("no-hub-key=1")
    state = script.register()[-1].body["registrationState"]
    assert state["status"] == "assigned" and "tpm" not in state
    assert "tpm" in script.register()[-1].body["registrationState"]
    for fault, error in (("bad-hub-key", TpmRefused), ("bad-hub-key=garbage", ValueError),
                         ("bad-hub-key=not-base64", ValueError), ("bad-hub-key=fixed", TpmRefused),
                         ("bad-hub-key=long", TpmRefused)):
        s.faults(fault)
        state = script.register()[-1].body["registrationState"]
        with pytest.raises((error, AssertionError) if error is ValueError else error):
            script.tpm.activate(state["tpm"]["authenticationKey"])


def test_hub_key_without_noda(new_service):
    """A TPM takes it, and the hub accepts what it signs."""
    s = new_service("--fault=bad-hub-key=lockout/1")
    s.enroll(s.enrollment())
    script = s.script()
    for attributes in ("00040040", "00040440"):  # the second one is as usual
        state = script.register()[-1].body["registrationState"]
        blob = state["tpm"]["authenticationKey"]
        assert split(blob)["public"][6:10].hex() == attributes
        assert script.modules(state["assignedHub"], "GW-1", script.tpm.activate(blob)).status == 200


def test_faults_of_the_hub(new_service):
    s = new_service("--fault=status:hub=503")
    s.enroll(s.enrollment())
    script = s.script()
    state = script.register()[-1].body["registrationState"]
    key = script.tpm.activate(state["tpm"]["authenticationKey"])
    assert script.modules(state["assignedHub"], "GW-1", key).status == 503
    s.faults()
    assert script.modules(state["assignedHub"], "GW-1", key).status == 200


# --- hostile clients ---

BODIES = [b"", b"{", b"[" * 60000, b'{"a":' * 10000, b"null", b"\xff\xfe{}", b'{"registrationId":"GW-1\x00"}', b"{}{}", b"{} x",
          b'{"registrationId":"GW-1","tpm":null}', b'{"registrationId":"GW-1","tpm":[]}', b'{"registrationId":{}}',
          b'{"registrationId":"' + b"a" * 65000 + b'"}', b'{"registrationId":"GW-1","payload":' + b"9" * 60000 + b"}",
          b'{"registrationId":"GW-1","tpm":{"endorsementKey":"' + b"A" * 4000 + b'","storageRootKey":""}}']
PATHS = ["/", "//", "/" + "a" * 20000, "/%", "/%zz", "/%00", "/a/registrations/%2e%2e/register", "/../../etc/passwd",
         "/devices", "/devices/", "/devices//modules", "/devices/%00/modules", "/devices/a/modules/" + "%41" * 500,
         f"/{SCOPE}/registrations/{'a' * 200}/register?{API}", f"/{SCOPE}/registrations/a%2Fb/register?{API}",
         "/a/registrations/b/c/d/e/f/g/h?api-version=" + "1" * 5000, "/?" + "a&" * 100]
RAW = [b"", b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", b"GET /?" + b"a&" * 3000 + b" HTTP/1.1\r\n\r\n", b"\0" * 1000, b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
       b"GET /devices/a/modules HTTP/1.0\r\nAuthorization: SharedAccessSignature sr=a&sig=b&se=c\r\n\r\n",
       b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1e9\r\n\r\n",
       b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
       b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
       b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
       b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 100000 + b"\r\n\r\n",
       b"X" * 100000 + b" / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: \xff\xfe\x01\r\nAuthorization: \xff\r\n\r\n"]


def answers(service):
    """A well-behaved client is served, and at once."""
    start = time.monotonic()
    assert service.ask("PUT", PATH, body(service), **JSON)[0] == 401
    assert time.monotonic() - start < DEADLINE / 2
    assert service.emulator.running()


def test_senseless_requests(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    for text in BODIES:
        status, _, reply = s.ask("PUT", PATH, text, **JSON)
        assert status == 400 and json.loads(reply)["errorCode"] // 1000 == 400, (text[:40], status, reply)
    for path in PATHS:
        for method, authorization in (("GET", {}), ("PUT", {"Authorization": "SharedAccessSignature sr=%zz&sig=%&se=1&skn="}),
                                      ("DELETE", {"Authorization": "x" * 9000})):
            with contextlib.suppress(http.client.HTTPException, ConnectionError, ssl.SSLError), \
                    contextlib.closing(s.connection()) as connection:
                connection.putrequest(method, path, skip_host=False)
                for name, value in authorization.items():
                    connection.putheader(name, value)
                connection.endheaders()
                assert 400 <= connection.getresponse().status < 500, (method, path)
    answers(s)


def test_what_is_not_http(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    for data in RAW:
        for tls in (True, False):
            with contextlib.suppress(OSError):
                with s.raw() if tls else socket.create_connection(("127.0.0.1", s.port), DEADLINE) as connection:
                    connection.sendall(data)
                    if not tls:
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass
    answers(s)


def resident(service):
    status = pathlib.Path(f"/proc/{service.emulator.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_bodies_without_end(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    status, _, reply = s.ask("PUT", PATH, b" " * (64 * 1024 + 1), **JSON)
    assert status == 413 and json.loads(reply)["errorCode"] == 413000
    assert s.ask("PUT", PATH, body(s).ljust(64 * 1024), **JSON)[0] == 401
    before = resident(s)
    with s.raw() as connection:
        connection.sendall(f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # it may close at any point
            for _ in range(256):
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
    assert resident(s) - before < 8192  # of 16 MiB
    answers(s)


def test_connections_that_dribble(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", s.port), DEADLINE)) for _ in range(150)]
        for connection in silent[:50]:
            connection.sendall(b"\x16\x03\x01")  # the beginning of a handshake
        slow = [stack.enter_context(s.raw()) for _ in range(50)]
        for byte in f"PUT {PATH} HTTP/1.1\r\nHost: a\r\nX: ".encode()[:40]:
            for connection in slow:
                connection.sendall(bytes([byte]))
        answers(s)
    answers(s)


def test_more_connections_than_it_takes(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    with contextlib.ExitStack() as stack:
        for _ in range(900):
            try:
                stack.enter_context(socket.create_connection(("127.0.0.1", s.port), DEADLINE))
            except OSError:
                break
        assert s.emulator.running()
    answers(s)
    wait_for("the end of the connections", lambda: len(os.listdir(f"/proc/{s.emulator.process.pid}/fd")) < 100)
