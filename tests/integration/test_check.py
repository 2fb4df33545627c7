"""Suite "check": `dps-provision check` on machines that are broken for real. Each test names every line that is not ok:
the right one fails with the right remedy, and no other line lies."""
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading

import pytest
from harness import BUILD, wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

# What a machine looks like that has everything and was never provisioned, without the daemon.
FRESH = {"daemon": ("warn", None), "identityd": ("skip", None),
         "hub-443": ("skip", None), "hub-5671": ("skip", None), "hub-8883": ("skip", None)}
NO_TARGET = {"daemon": ("warn", None), "iotedge": ("skip", None)}


def run(world, *arguments, prefix=(), environment=None):
    return subprocess.run([*prefix, BUILD / "cli/dps-provision", "check", f"--config={world.config_path}",
                           f"--root={world.root}", *arguments], env={**world.environment, **(environment or {})},
                          text=True, capture_output=True, timeout=120, check=False)


def check(world, *arguments, **options):
    """The lines that are not ok, by their ID: (result, kind); and all lines."""
    result = run(world, "--json", *arguments, **options)
    report = json.loads(result.stdout)
    lines = report["checks"]
    results = {line["result"] for line in lines}
    assert result.returncode == (1 if "fail" in results else 0) and result.stderr == "", result
    assert report["result"] == ("fail" if "fail" in results else "warn" if "warn" in results else "ok")
    for line in lines:
        assert len(line["message"]) >= 4, line
        assert (line["remedy"] is None) == (line["result"] == "ok"), line
        assert line["result"] == "ok" or len(line["remedy"]) > 10, line
    return {line["id"]: (line["result"], line["kind"]) for line in lines if line["result"] != "ok"}, lines


def line(lines, name):
    found = [x for x in lines if x["id"] == name]
    assert len(found) == 1, found
    return found[0]


def expect(world, name, result, kind, message, remedy, *arguments, base=None, others=None, **options):
    """One line is not ok beside those of the base (and `others`, which depend on it)."""
    bad, lines = check(world, *arguments, **options)
    assert bad == {**(FRESH if base is None else base), name: (result, kind), **(others or {})}, lines
    found = line(lines, name)
    assert re.search(message, found["message"]), found
    assert re.search(remedy, found["remedy"]), found
    return lines


@pytest.fixture
def fresh(new_world):
    """IoT Edge is installed, the device is enrolled, nothing was ever provisioned."""
    def make(**settings):
        w = new_world(**settings)
        w.start_standins()
        w.enroll(w.enrollment(capabilities={"iotEdge": True}))
        return w
    return make


@pytest.fixture
def plain(new_world):
    """The same without IoT Edge, and Target=none."""
    def make(**settings):
        w = new_world(**{**settings, "HandOff": {"Target": "none", **settings.get("HandOff", {})}})
        w.enroll(w.enrollment())
        return w
    return make


@pytest.fixture
def hub_ports():
    """Somebody who listens on the hub's two other ports; several tests may at once."""
    listeners = []
    for port in (5671, 8883):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(16)
        listeners.append(listener)
    yield
    for listener in listeners:
        listener.close()


SKIP_NETWORK = {"connect": ("skip", None), "tls": ("skip", None), "clock": ("skip", None), "enrollment": ("skip", None)}


# --- nothing is wrong ---

def test_a_working_gateway(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    requests = len(w.service_requests())
    bad, lines = check(w)
    assert bad == {"enrollment": ("skip", None)}, lines
    assert len(w.service_requests()) == requests  # it is provisioned: not asked
    assert "localhost" in line(lines, "identityd")["message"]
    bad, lines = check(w, "--dps")
    assert bad == {} and len(w.service_requests()) == requests + 1, lines
    text = run(w)
    assert text.returncode == 0 and "0 failed, 0 warnings" in text.stdout and "\033" not in text.stdout, text


def test_a_fresh_machine(fresh):
    w = fresh()
    bad, lines = check(w)
    assert bad == FRESH, lines
    assert "has an enrolment" in line(lines, "enrollment")["message"]
    assert w.registrations() == 0 and w.persistent_handles() == []  # nothing was registered, nothing changed
    assert w.loaded() == ""


def test_without_a_network(fresh):
    w = fresh()
    bad, lines = check(w, "--no-network")
    network = ("proxy", "dns", "route", "connect", "tls", "clock", "enrollment", "hub-443", "hub-5671", "hub-8883")
    assert bad == {**FRESH, **dict.fromkeys(network, ("skip", None))}, lines
    assert w.requests() == []


@pytest.mark.root
def test_as_nobody_in_particular(fresh):
    """Somebody who may not open the TPM nor read root's files is told so, and nothing is wrong."""
    w = fresh()
    w.start_daemon()
    w.wait_for_state("handed-off")
    for path in [w.dir, *w.dir.rglob("*")]:
        if path.is_dir() and "dps-handoffd" not in str(path):
            path.chmod(0o755)
    (w.dir / "emulator/ca.pem").chmod(0o644)
    (w.dir / "tpm").chmod(0o600)
    w.config_toml.chmod(0o600)
    (w.root / "run/aziot/identityd.sock").chmod(0o600)
    bad, lines = check(w, "--no-network", prefix=NOBODY)
    for name in ("iotedge-config", "identityd"):
        assert bad.pop(name) == ("skip", None), lines
        assert "root" in line(lines, name)["remedy"]
    assert set(bad) >= {"dns"} and all(result == "skip" for result, _ in bad.values()), lines
    assert line(lines, "daemon")["result"] == "ok"


# --- the TPM ---

def test_no_tpm(fresh):
    w = fresh()
    w.write_config(Tpm={"Tcti": "device:/dev/dps-test/tpmrm0"})
    expect(w, "tpm-device", "fail", "tpm-missing", "does not exist", "firmware", others={"enrollment": ("skip", None)})


def node(world, mode, group="root"):
    """A device node that is not a TPM: to look at, not to talk to."""
    path = world.dir / "tpmrm0"
    subprocess.run(["mknod", path, "c", "1", "3"], check=True)
    subprocess.run(["chown", f"root:{group}", path], check=True)
    path.chmod(mode)
    world.dir.chmod(0o755)
    world.write_config(Tpm={"Tcti": f"device:{path}"})
    for directory in (world.dir / "conf", world.dir / "emulator", world.root):
        directory.chmod(0o755)
    (world.dir / "emulator/ca.pem").chmod(0o644)
    return path


SKIP_TPM = {"tpm-answers": ("skip", None), "ek": ("skip", None), "enrollment": ("skip", None)}


@pytest.mark.root
def test_no_permission(plain):
    w = plain()
    node(w, 0o600)
    lines = expect(w, "tpm-access", "fail", "tpm-missing", "root:root .*0600.*dps-tpmd", "group is tss", base=NO_TARGET,
                   others=SKIP_TPM, prefix=NOBODY)
    assert "tss" in line(lines, "tpm-answers")["remedy"]


@pytest.mark.root
def test_no_permission_for_this_user_only(plain):
    w = plain()
    node(w, 0o660, group="tss")
    bad, lines = check(w, prefix=NOBODY)
    assert bad == {**NO_TARGET, **SKIP_TPM}, lines


@pytest.mark.root
def test_another_group_by_a_drop_in(fresh):
    w = fresh()
    node(w, 0o660, group="daemon")
    bad, lines = check(w, "--no-network", prefix=NOBODY)
    assert bad["tpm-access"] == ("fail", "tpm-missing") and "root:daemon" in line(lines, "tpm-access")["message"], lines
    assert "SupplementaryGroups=" in line(lines, "tpm-access")["remedy"]
    w.standin_faults(groups=["tss", "daemon"])
    bad, lines = check(w, "--no-network", prefix=NOBODY)
    assert "tpm-access" not in bad, lines


def test_no_resource_manager(plain):
    w = plain()
    path = node(w, 0o660, group="tss")
    path.rename(w.dir / "tpm0")
    w.write_config(Tpm={"Tcti": f"device:{w.dir}/tpm0"})
    expect(w, "tpm-device", "warn", None, "no resource manager", "/dev/tpmrm0", base=NO_TARGET, others=SKIP_TPM,
           prefix=NOBODY)


def test_lockout(plain):
    w = plain()
    w.tpm2("dictionarylockout", "-s", "-n", "2", "-t", "3600", "-l", "7200")
    w.tpm2("createprimary", "-Q", "-C", "o", "-c", "p.ctx", "-p", "right")
    w.tpm2("flushcontext", "-t")
    w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "p.ctx", "0x81000123")
    w.tpm2("flushcontext", "-t")
    (w.dir / "secret").write_text("x")
    for _ in range(2):
        w.tpm2("create", "-C", "0x81000123", "-P", "wrong", "-i", "secret", "-u", "x.pub", "-r", "x.priv", check=False)
        w.tpm2("flushcontext", "-t", check=False)
    lines = expect(w, "tpm-lockout", "fail", "tpm-lockout", "after 2 wrong.*3600 s", "dictionarylockout", base=NO_TARGET)
    assert line(lines, "ek")["result"] == "ok"


def test_near_lockout(plain):
    w = plain()
    w.tpm2("dictionarylockout", "-s", "-n", "5", "-t", "3600", "-l", "7200")
    w.tpm2("createprimary", "-Q", "-C", "o", "-c", "p.ctx", "-p", "right")
    (w.dir / "secret").write_text("x")
    w.tpm2("create", "-C", "p.ctx", "-P", "wrong", "-i", "secret", "-u", "x.pub", "-r", "x.priv", check=False)
    w.tpm2("flushcontext", "-t")
    expect(w, "tpm-lockout", "warn", None, "1 of 5", "Find the program", base=NO_TARGET)


def test_owner_authorization_for_iotedge(fresh):
    w = fresh()
    w.tpm2("changeauth", "-c", "owner", "secret")
    expect(w, "tpm-owner-auth", "warn", "tpm-auth", "register by itself", "dps.tpm_owner_auth")


def test_owner_authorization_without_iotedge(plain):
    w = plain()
    w.tpm2("changeauth", "-c", "owner", "secret")
    expect(w, "tpm-owner-auth", "fail", "tpm-auth", "no credential", "dps.tpm_owner_auth", base=NO_TARGET)
    (w.dir / "credentials").mkdir()
    (w.dir / "credentials/dps.tpm_owner_auth").write_text("secret")
    bad, lines = check(w, environment={"CREDENTIALS_DIRECTORY": str(w.dir / "credentials")})
    assert bad == NO_TARGET, lines


def test_endorsement_authorization(plain):
    w = plain()
    w.tpm2("changeauth", "-c", "endorsement", "secret")
    expect(w, "tpm-endorsement-auth", "fail", "tpm-auth", "no challenge", "dps.tpm_endorsement_auth", base=NO_TARGET,
           others={"ek": ("skip", None), "enrollment": ("skip", None)})


def persist(world, handle, *template):
    world.tpm2("createprimary", "-Q", "-c", "o.ctx", *template)
    world.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "o.ctx", handle)
    world.tpm2("flushcontext", "-t")


def test_ecc_srk_in_the_way(fresh):
    w = fresh()
    persist(w, "0x81000001", "-C", "o", "-G", "ecc")
    expect(w, "srk", "warn", "srk-unsuitable", "0x81000001 holds an ECC storage key", "RSA storage root key")


@pytest.mark.parametrize("template, what", [(("-C", "e", "-G", "ecc"), "ECC"), (("-C", "o", "-G", "rsa"), "RSA")])
def test_wrong_ek_at_the_handle(plain, template, what):
    w = plain()
    persist(w, "0x81010001", *template)
    expect(w, "ek", "fail", "tpm-handle-taken", "0x81010001 is not an RSA-2048 endorsement key", "tpm2_readpublic",
           base=NO_TARGET, others={"enrollment": ("skip", None)})
    assert what


def test_foreign_object_at_the_hub_keys_handle(plain):
    w = plain()
    persist(w, "0x81000100", "-C", "o", "-G", "ecc")
    expect(w, "hub-key", "fail", "tpm-handle-taken", "0x81000100 holds an ECC", "HubKeyHandle=", base=NO_TARGET)


def test_a_certificate_of_another_key(plain):
    w = plain()
    w.start_daemon()  # makes the endorsement key persistent
    w.wait_for_state("handed-off")
    w.stop_daemon()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "x.key", "-outform", "DER",
                    "-out", "x.der", "-days", "3650", "-subj", "/CN=another"], cwd=w.dir, check=True, capture_output=True)
    size = (w.dir / "x.der").stat().st_size
    w.tpm2("nvdefine", "-Q", "0x01c00002", "-C", "o", "-s", str(size), "-a", "ownerread|ownerwrite|authread|authwrite|no_da")
    w.tpm2("nvwrite", "-Q", "0x01c00002", "-C", "o", "-i", "x.der")
    expect(w, "ek-certificate", "warn", "ek-certificate", "key", "Nothing has to be done for DPS", base=NO_TARGET)


# --- the configuration ---

def test_mistakes_in_the_configuration(plain):
    w = plain()
    text = w.config_path.read_text() + "\n[Tpm]\nHubKeyHandle=7\nNonsense=1\n[Retry]\nMaxSec=never\n"
    w.config_path.write_text(text)
    bad, lines = check(w)
    found = [(x["result"], x["kind"], re.search(r":(\d+): (\w+)", x["message"]).groups()) for x in lines
             if x["id"] == "config-files"]
    numbers = {word: str(text.split("\n").index(want) + 1) for word, want in
               (("HubKeyHandle", "HubKeyHandle=7"), ("Nonsense", "Nonsense=1"), ("MaxSec", "MaxSec=never"))}
    assert found == [("fail", "config", (numbers["HubKeyHandle"], "HubKeyHandle")),
                     ("warn", "config-ignored", (numbers["Nonsense"], "Nonsense")),
                     ("fail", "config", (numbers["MaxSec"], "MaxSec"))], lines
    assert set(bad) == {*NO_TARGET, "config-files"}, lines


def test_no_scope(plain):
    w = plain(Provisioning={"IdScope": None})
    expect(w, "scope", "fail", "config", "No ID scope", "set-scope", base=NO_TARGET,
           others={"enrollment": ("skip", None)})


def test_files_that_are_missing(plain):
    w = plain(Provisioning={"Payload": "/nowhere/payload.json"})
    expect(w, "payload", "fail", "config", "Payload=/nowhere/payload.json can't be read", "Correct", base=NO_TARGET)


# --- the network ---

def in_namespace(world, **files):
    """A prefix that gives the command an /etc of its own: a copy, since a bare machine may lack the files that differ."""
    etc = world.dir / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    for name, text in files.items():
        path = etc / name.replace("_", ".")
        path.unlink(missing_ok=True)  # resolv.conf may be a link to somewhere
        path.write_text(text)
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh")


@pytest.mark.namespaces
def test_dns_dead(plain):
    w = plain()
    w.write_config(Provisioning={"GlobalEndpoint": f"https://dps.example:{w.port}"})
    expect(w, "dns", "fail", "dns", "'dps.example' can't be resolved", "name server", base=NO_TARGET,
           others={"route": ("skip", None), **SKIP_NETWORK},
           prefix=in_namespace(w, resolv_conf="nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"))


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
    """An HTTP proxy on a port of its own: it tunnels, refuses, or opens TLS with a certificate of its own."""

    def __init__(self, status=200, context=None):
        self.status = status
        self.context = context
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
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            target = head.split(b" ")[1].decode()
            self.asked.append(target)
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


def test_proxy_refuses(plain, new_proxy):
    w, proxy = plain(), new_proxy(status=403)
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{proxy.port}"})
    expect(w, "connect", "fail", "proxy", "proxy refuses", "what the proxy allows", base=NO_TARGET,
           others=SKIP_AFTER_CONNECT)
    assert proxy.asked == [f"localhost:{w.port}"]


def test_proxy_is_down(plain):
    w = plain()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{port}"})
    expect(w, "connect", "fail", "proxy", "Failed to connect to 127.0.0.1", "Check Proxy=", base=NO_TARGET,
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


def test_intercepting_proxy(plain, new_proxy):
    w = plain()
    proxy = new_proxy(context=certificate(w.dir, "Corporate Inspection"))
    w.write_config(Network={"Proxy": f"http://127.0.0.1:{proxy.port}"})
    lines = expect(w, "tls", "fail", "tls-trust", "issuer is '.*Corporate Inspection", "exempt the service.*CAFile=",
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
    lines = expect(w, "tls", "fail", "tls-trust", "expired", "ca-certificates", base=NO_TARGET,
                   others={"enrollment": ("skip", None)})
    assert line(lines, "clock")["result"] == "ok"


# --- the service ---

def test_wrong_scope(plain):
    w = plain(Provisioning={"IdScope": "0ne00WRONG"})
    expect(w, "enrollment", "fail", "scope-unknown", "does not know the ID scope '0ne00WRONG'", "overview page", base=NO_TARGET)


def test_enrollment_missing(plain):
    w = plain()
    w.enroll()
    expect(w, "enrollment", "fail", "enrollment-missing", "no enrolment", "Create an individual enrolment", base=NO_TARGET)


def test_enrollment_for_another_ek(plain, new_world):
    w, other = plain(), new_world(**NO_EDGE)
    mine = w.enrollment()
    w.enroll({**other.enrollment(), "registrationId": mine["registrationId"]})
    expect(w, "enrollment", "fail", "identity-mismatch", "another endorsement key", "Compare the enrolment's", base=NO_TARGET)


def test_while_the_daemon_asks(plain):
    w = plain()
    w.faults("slow:confirm=30")
    w.start_daemon()
    w.wait("confirm", lambda p: p["Step"] == "confirm")
    bad, lines = check(w, "--dps")
    assert bad == {"iotedge": ("skip", None), "enrollment": ("skip", None)}, lines
    assert "the daemon is at it" in line(lines, "enrollment")["message"]


# --- IoT Edge ---

def test_iotedge_missing(new_world):
    w = new_world()
    w.enroll(w.enrollment())
    base = {name: FRESH[name] for name in FRESH if name != "identityd"}
    expect(w, "iotedge", "fail", "runtime-missing", "not installed", "aziot-edge", base=base)


@pytest.mark.parametrize("load, message", [("not-found", "no unit 'aziot-edged.service'"), ("masked", "is masked")])
def test_iotedge_unusable(fresh, load, message):
    w = fresh()
    w.standin_faults(units={"aziot-edged.service": {"load": load}})
    base = {name: FRESH[name] for name in FRESH if name != "identityd"}
    expect(w, "iotedge", "fail", "runtime-missing", message, "unmask", base=base)


OTHERS = '[provisioning]\nsource = "dps"\nglobal_endpoint = "https://x"\nid_scope = "0neTHEIRS"\n' \
         '[provisioning.attestation]\nmethod = "x509"\n'


@pytest.mark.parametrize("text, result, kind, message, remedy", [
    (OTHERS, "fail", "config-conflict", "somebody else.*0neTHEIRS", "ReplaceProvisioning="),
    ("parent_hostname = \"p\"\n", "fail", "config-conflict", "parent_hostname", "Remove or correct"),
    ("[tpm]\nauth_key_index = 7\n", "fail", "config-conflict", "auth_key_index 0x7", "Remove or correct"),
    ("a = 1\nb = = 2\n", "fail", "config-conflict", r"config\.toml:2: not TOML", "Remove or correct"),
    ('auto_reprovisioning_mode = "AlwaysOnStartup"\n', "warn", "reprovisions-itself", "AlwaysOnStartup", "adopt"),
])
def test_config_toml(fresh, text, result, kind, message, remedy):
    w = fresh()
    w.config_toml.write_text(text)
    expect(w, "iotedge-config", result, kind, message, remedy)


def test_config_toml_that_may_be_replaced(fresh):
    w = fresh(HandOff={"ReplaceProvisioning": "yes"})
    w.config_toml.write_text(OTHERS)
    expect(w, "iotedge-config", "warn", "config-conflict", "is replaced", "ReplaceProvisioning=")


def test_a_unit_that_fails(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    w.standin_faults(units={"aziot-edged.service": {"start": "flap"}})
    w.bus.busctl("call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager",
                 "RestartUnit", "ss", "aziot-edged.service", "replace")
    wait_for("the job", lambda: w.jobs()[-1] == ("restart", "aziot-edged.service") and
             len(w.standin_events("edged-start")) > 2)
    expect(w, "iotedge-units", "fail", "restart-failed", "'aziot-edged.service' has failed: exit-code", "journalctl",
           base={"enrollment": ("skip", None)})


def test_identityd_is_silent(new_world, hub_ports):
    w = new_world()
    w.start_gateway()
    w.standin_faults(identityd="silent")
    expect(w, "identityd", "fail", "confirm-timeout", "does not answer", "journalctl", base={"enrollment": ("skip", None)})


def test_identityd_has_no_socket(new_world, hub_ports):
    """No proxy is blamed for it."""
    w = new_world()
    w.start_gateway()
    (w.root / "run/aziot/identityd.sock").unlink()
    expect(w, "identityd", "fail", "confirm-timeout", "does not answer: The connection to 'identityd.sock' failed",
           "journalctl", base={"enrollment": ("skip", None)})


@pytest.mark.namespaces
def test_a_firewall_before_the_hub(new_world):
    """DPS is reached, the hub is not: its name leads to an address where nobody answers, as behind a firewall."""
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}, iotHubHostName=f"hub-b.localhost:{w.port}"))
    w.start_daemon()
    w.wait_for_state("handed-off")
    prefix = in_namespace(w, hosts="127.0.0.1 localhost\n127.0.9.9 hub-b.localhost\n")
    bad, lines = check(w, prefix=prefix)
    assert bad == {"enrollment": ("skip", None), "hub-443": ("fail", "hub-unreachable"),
                   "hub-5671": ("warn", "hub-unreachable"), "hub-8883": ("warn", "hub-unreachable")}, lines
    assert "firewall" in line(lines, "hub-443")["remedy"] and "AmqpWs" in line(lines, "hub-5671")["remedy"]
    with socket.create_server(("127.0.9.9", w.port)):
        bad, lines = check(w, prefix=prefix)
    assert "hub-443" not in bad and bad["hub-5671"][0] == "warn", lines


# --- the daemon ---

def test_what_the_daemon_says(plain):
    w = plain()
    w.enroll()
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    bad, lines = check(w)
    assert bad == {"daemon-error": ("fail", "enrollment-missing"), "enrollment": ("fail", "enrollment-missing"),
                   "iotedge": ("skip", None)}, lines
    assert line(lines, "daemon-error")["remedy"] in line(lines, "enrollment")["remedy"]


def test_usage(plain):
    w = plain()
    assert run(w, "--nonsense").returncode == 2 and run(w, "x").returncode == 2
    assert run(w, "--dps", "--no-network").returncode == 2
    assert "--no-network" in run(w, "--help").stdout
    assert os.path.exists(w.config_path)
