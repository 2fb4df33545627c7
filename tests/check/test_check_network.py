"""Suite "check", the network and the service: machines that are broken for real; see test_check.py."""
import json
import pathlib
import socket
import ssl
import subprocess
import threading

import pytest
from checking import NO_EDGE, NO_TARGET, SKIP_NETWORK, check, expect, line
from harness import own_etc


# --- the network ---

@pytest.mark.namespaces
def test_dns_dead(plain):
    w = plain()
    w.write_config(Provisioning={"GlobalEndpoint": f"https://dps.example:{w.port}"})
    expect(w, "dns", "fail", "dns", "'dps.example' can't be resolved", "name server", base=NO_TARGET,
           others={"route": ("skip", None), **SKIP_NETWORK},
           prefix=own_etc(w, resolv_conf="nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"))


@pytest.mark.namespaces
def test_no_route(plain):
    w = plain()
    expect(w, "route", "fail", "connect", "no route to 'localhost", "default route", base=NO_TARGET, others=SKIP_NETWORK,
           prefix=("unshare", "-n"))


def test_nobody_listens(plain):
    w = plain()
    w.stop_emulator()
    expect(w, "connect", "fail", "connect", "connection to 'localhost", "firewall", base=NO_TARGET,
           others={name: ("skip", None) for name in ("tls", "clock", "enrollment")})


class Proxy:
    """An HTTP proxy: it tunnels, refuses, or opens TLS with another certificate.

    outer: the TLS in which it is spoken to; status None: it answers nothing."""

    def __init__(self, status=200, context=None, outer=None):
        self.status = status
        self.context = context
        self.outer = outer
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.tunnel, args=(client,), daemon=True).start()

    def tunnel(self, client):
        try:
            client = self.outer.wrap_socket(client, server_side=True) if self.outer else client
        except OSError:
            return
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            method, target, *_ = head.decode().split(" ")
            if method != "CONNECT":  # for its Date
                client.sendall(b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n")
                return
            self.asked.append(target)
            if not self.status:
                client.recv(1)
                return
            client.sendall(f"HTTP/1.1 {self.status} X\r\nContent-Length: 0\r\n\r\n".encode() if self.status != 200
                           else b"HTTP/1.1 200 Connection established\r\n\r\n")
            if self.status == 200 and self.context:
                try:
                    with self.context.wrap_socket(client, server_side=True) as tls:
                        while b"\r\n\r\n" not in tls.recv(4096):
                            pass
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    pass
            elif self.status == 200:
                port = target.rsplit(":", 1)[1]
                # not "localhost": a machine without /etc/hosts does not know it
                with socket.create_connection(("127.0.0.1", int(port))) as server:
                    back = threading.Thread(target=self.copy, args=(server, client), daemon=True)
                    back.start()
                    self.copy(client, server)
                    back.join()

    @staticmethod
    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.close()


@pytest.fixture
def new_proxy():
    proxies = []

    def make(**settings):
        proxies.append(Proxy(**settings))
        return proxies[-1]
    yield make
    for proxy in proxies:
        proxy.close()


SKIP_AFTER_CONNECT = {"tls": ("skip", None), "clock": ("skip", None), "enrollment": ("skip", None)}


def test_through_a_proxy(plain, new_proxy):
    w, proxy = plain(), new_proxy()
    w.write_config(Network={"Proxy": f"http://user:secret@127.0.0.1:{proxy.port}"})
    bad, lines = check(w)
    assert bad == NO_TARGET, lines
    assert proxy.asked and "secret" not in json.dumps(lines)


def test_a_proxy_that_this_shell_exempts_but_the_daemon_does_not(plain, new_proxy):
    w, proxy = plain(), new_proxy()
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{proxy.port}"})
    expect(w, "proxy", "warn", None, "no_proxy of this shell", "without no_proxy", base=NO_TARGET,
           environment={"no_proxy": "localhost"})
    assert not proxy.asked


def test_proxy_refuses(plain, new_proxy):
    w, proxy = plain(), new_proxy(status=403)
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{proxy.port}"})
    expect(w, "connect", "fail", "proxy", "the proxy .* refuses", "what the proxy allows", base=NO_TARGET,
           others=SKIP_AFTER_CONNECT)
    assert proxy.asked == [f"localhost:{w.port}"]


def test_a_proxys_password_is_not_shown(plain):
    """A scheme that curl does not know, in the environment; curl's text has the whole URL."""
    w = plain()
    lines = check(w, environment={"https_proxy": "foo://user:geheim@127.0.0.1:9"})[1]
    assert "geheim" not in json.dumps(lines) and line(lines, "connect")["result"] == "fail", lines


def test_proxy_is_down(plain):
    w = plain()
    with socket.socket() as unused:  # nobody else gets the port meanwhile, and nobody listens
        unused.bind(("127.0.0.1", 0))
        w.write_config(Network={"Proxy": f"http://127.0.0.1:{unused.getsockname()[1]}"})
        expect(w, "connect", "fail", "proxy", "Failed to connect to 127.0.0.1", "in Proxy=", base=NO_TARGET,
               others=SKIP_AFTER_CONNECT)


def test_proxy_of_this_shell_only(plain, new_proxy):
    w, proxy = plain(), new_proxy()
    expect(w, "proxy", "warn", None, "environment of this shell", "Proxy=", base=NO_TARGET,
           environment={"https_proxy": f"http://127.0.0.1:{proxy.port}"})


def certificate(directory, issuer):
    """A certification authority of this name and its certificate for localhost; returns the server's context."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ica.key", "-out", "ica.pem", "-days", "10",
            "-subj", f"/O={issuer}/CN={issuer} CA")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "i.key", "-out", "i.csr", "-subj", "/CN=localhost")
    pathlib.Path(directory, "i.ext").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "i.csr", "-CA", "ica.pem", "-CAkey", "ica.key", "-CAcreateserial", "-out", "i.pem",
            "-days", "5", "-extfile", "i.ext")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pathlib.Path(directory, "i.pem"), pathlib.Path(directory, "i.key"))
    return context


@pytest.mark.smoke
def test_intercepting_proxy(plain, new_proxy):
    w = plain()
    proxy = new_proxy(context=certificate(w.dir, "Corporate Inspection"))
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{proxy.port}"})
    lines = expect(w, "tls", "fail", "tls-trust", "issuer is '.*Corporate Inspection", "exempt DPS.*CAFile=",
                   base=NO_TARGET, others={"clock": ("skip", None), "enrollment": ("skip", None)})
    assert line(lines, "connect")["result"] == "ok"


UNTRUSTED = {"tls": ("skip", None), "enrollment": ("skip", None)}  # by this clock


@pytest.mark.parametrize("years, kind, message, others", [
    (-2, "clock-behind", "(729|730) days behind", UNTRUSTED),
    (2, "tls-clock", "(729|730) days ahead", {}),  # the certificate is still good then
    (12, "tls-clock", "4380 days ahead", UNTRUSTED),
])
def test_clock_years_off(plain, years, kind, message, others):
    w = plain()
    w.set_clock(years * 365 * 24 * 3600)
    expect(w, "clock", "fail", kind, message, "NTP", base=NO_TARGET, others=others, environment=w.clock())


def test_clock_slightly_behind(fresh):
    w = fresh()
    w.set_clock(-90)
    expect(w, "clock", "fail", "clock-behind", r"\b[5-9]\d s behind", "NTP", environment=w.clock())


def test_expired_certificate(plain):
    w = plain()
    w.faults("expired-cert")
    lines = expect(w, "tls", "fail", "tls-trust", "expired", "clock.*ca-certificates", base=NO_TARGET,
                   others={"enrollment": ("skip", None)})
    assert line(lines, "clock")["result"] == "ok"


def test_certificate_for_another_host(plain):
    w = plain()
    w.faults("wrong-host-cert")
    expect(w, "tls", "fail", "tls-trust", "localhost.*issuer", "GlobalEndpoint=.*captive portal", base=NO_TARGET,
           others={"enrollment": ("skip", None)})


def with_status(w, expected):
    """status has the message and the hint that check has."""
    w.start_daemon()
    found = w.wait_for_failure(expected["kind"])["LastError"]
    w.stop_daemon()
    assert found[3] == expected["remedy"] and found[2] == expected["message"], (found, expected)


def trusted(w, *paths):
    """The file for CAFile= with DPS' root certificate and these."""
    both = w.dir / "both.pem"
    both.write_text("".join(path.read_text() for path in (w.dir / "emulator/ca.pem", *paths)))
    return both


def test_tls_to_the_proxy(plain, new_proxy):
    """CAFile= counts for the proxy, too; without its certificate the proxy is blamed, here and in status."""
    w = plain()
    proxy = new_proxy(outer=certificate(w.dir, "Site Proxy"))
    url = f"https://localhost:{proxy.port}"
    w.write_config(Network={"Proxy": url, "CAFile": trusted(w, w.dir / "ica.pem")})
    bad, lines = check(w)
    assert bad == NO_TARGET and proxy.asked, lines
    w.write_config(Network={"Proxy": url, "CAFile": w.dir / "emulator/ca.pem"})
    lines = expect(w, "connect", "fail", "proxy", f"certificate of the proxy 'localhost:{proxy.port}'.*Site Proxy",
                   "root certificate of the proxy.*CAFile=", base=NO_TARGET, others=SKIP_AFTER_CONNECT)
    with_status(w, line(lines, "connect"))


def test_a_proxy_with_a_certificate_for_another_name(plain, new_proxy):
    w = plain()
    proxy = new_proxy(outer=certificate(w.dir, "Site Proxy"))
    w.write_config(Network={"Proxy": f"https://127.0.0.1:{proxy.port}", "CAFile": trusted(w, w.dir / "ica.pem")})
    expect(w, "connect", "fail", "proxy", "certificate of the proxy", "host name that its certificate has", base=NO_TARGET,
           others=SKIP_AFTER_CONNECT)


def test_clock_before_the_certificate_of_a_proxy(plain, new_proxy):
    w = plain()
    proxy = new_proxy(outer=certificate(w.dir, "Site Proxy"))
    w.write_config(Network={"Proxy": f"https://localhost:{proxy.port}", "CAFile": trusted(w, w.dir / "ica.pem")})
    w.set_clock(-400 * 24 * 3600)
    expect(w, "clock", "fail", "tls-clock", "certificate of the proxy", "NTP", base=NO_TARGET,
           others={name: ("skip", None) for name in ("connect", "tls", "enrollment")}, environment=w.clock())


@pytest.mark.parametrize("status, message, hint", [
    (407, "the proxy .* refuses", "dps.proxy"),
    (503, "the proxy .* refuses", "on the proxy"),
    (None, "No tunnel through the proxy .* within 1 s", "ConnectTimeoutSec="),
])
def test_proxy_fails(plain, new_proxy, status, message, hint):
    w, proxy = plain(), new_proxy(status=status)
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{proxy.port}", "ConnectTimeoutSec": 1})
    lines = expect(w, "connect", "fail", "proxy" if status else "timeout", message, hint, base=NO_TARGET,
                   others=SKIP_AFTER_CONNECT)
    with_status(w, line(lines, "connect"))


def test_name_of_the_proxy(plain):
    w = plain()
    w.write_config(Network={"Proxy": "http://no-such-proxy.invalid:3128"})
    expect(w, "dns", "fail", "proxy", "name of the proxy 'no-such-proxy.invalid", "Proxy=", base=NO_TARGET,
           others={"route": ("skip", None), **SKIP_NETWORK})


@pytest.mark.parametrize("limits, key", [((1, 30), "ConnectTimeoutSec="), ((30, 1), "RequestTimeoutSec=")])
def test_nobody_answers_the_handshake(plain, limits, key):
    w = plain()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        port = listener.getsockname()[1]
        w.write_config(Provisioning={"GlobalEndpoint": f"https://localhost:{port}"},
                       Network=dict(zip(("ConnectTimeoutSec", "RequestTimeoutSec"), limits)))
        lines = expect(w, "connect", "fail", "timeout", f"TLS handshake with 'localhost:{port}' within 1 s", key,
                       base=NO_TARGET, others=SKIP_AFTER_CONNECT)
        with_status(w, line(lines, "connect"))


# --- the service ---

def test_wrong_scope(plain):
    w = plain(Provisioning={"IdScope": "0ne00WRONG"})
    expect(w, "enrollment", "fail", "scope-unknown", "does not know the ID scope '0ne00WRONG'", "overview page", base=NO_TARGET)


def test_enrollment_missing(plain):
    w = plain()
    w.enroll()
    expect(w, "enrollment", "fail", "enrollment-missing", "no enrollment", "Create an individual", base=NO_TARGET)


def test_enrollment_for_another_ek(plain, new_world):
    w, other = plain(), new_world(tpm_number=1, **NO_EDGE)
    mine = w.enrollment()
    w.enroll({**other.enrollment(), "registrationId": mine["registrationId"]})
    expect(w, "enrollment", "fail", "identity-mismatch", "another endorsement key", "Compare the enrollment's", base=NO_TARGET)


def test_the_service_s_own_refusal(plain):
    w = plain()
    w.enroll({**w.enrollment(), "emulator": {"status": 403}})
    expect(w, "enrollment", "fail", "protocol", "HTTP status 403", "tracking ID", base=NO_TARGET)


@pytest.mark.parametrize("reply, kind", [
    ({"status": 401, "errorCode": 401002, "errorMessage": "Unauthorized"}, "identity-mismatch"),
    ({"status": 403, "errorCode": 403002, "errorMessage": "Public network access is disabled"}, "protocol"),
])
def test_an_instance_that_is_closed_to_this_network(plain, reply, kind):
    w = plain()
    w.enroll({**w.enrollment(), "emulator": reply})
    lines = expect(w, "enrollment", "fail", kind, reply["errorMessage"], "IP filter.*GlobalEndpoint=", base=NO_TARGET)
    w.start_daemon()
    assert w.wait_for_failure(kind)["LastError"][3] == line(lines, "enrollment")["remedy"]


def test_a_scope_that_was_changed(plain):
    """The assignment is an older one's: that is no reason not to ask."""
    w = plain()
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.write_config(Provisioning={"IdScope": "0ne00WRONG"})
    w.wait_for_failure("scope-unknown")
    bad, lines = check(w)
    assert bad == {"daemon-error": ("fail", "scope-unknown"), "enrollment": ("fail", "scope-unknown"),
                   "iotedge": ("skip", None)}, lines


def test_while_the_service_wants_to_be_left_alone(plain):
    w = plain()
    w.enroll({**w.enrollment(), "emulator": {"status": 429, "retryAfter": 300}})
    w.start_daemon()
    w.wait_for_failure("http-throttled")
    before = len(w.service_requests())
    bad, lines = check(w, "--dps")
    assert bad == {"daemon-error": ("fail", "http-throttled"), "enrollment": ("skip", None), "iotedge": ("skip", None)}, lines
    assert len(w.service_requests()) == before


def test_while_the_daemon_asks(plain):
    w = plain()
    w.faults("slow:confirm=50")
    w.start_daemon()
    w.wait("confirm", lambda p: p["Step"] == "confirm")
    bad, lines = check(w, "--dps")
    assert bad == {"iotedge": ("skip", None), "enrollment": ("skip", None)}, lines
    assert "the daemon is at it" in line(lines, "enrollment")["message"]
