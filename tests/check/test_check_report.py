"""Suite "check": `dps-provision check` on machines that are broken for real. Each test names every line that is
not ok: the right one fails with the right remedy, and no other line lies."""
import os
import pathlib
import re

import pytest
from checking import FRESH, NOBODY, NO_TARGET, check, expect, line, run
from harness import NAME, own_etc


# --- nothing is wrong ---

@pytest.mark.smoke
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


@pytest.mark.smoke
def test_a_fresh_machine(fresh):
    w = fresh(tpm="fresh")
    bad, lines = check(w)
    assert bad == FRESH, lines
    assert "has an enrollment" in line(lines, "enrollment")["message"]
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
    assert set(bad) == {*NO_TARGET, "config-files", "hub-key"}, lines


def test_no_scope(plain):
    w = plain(Provisioning={"IdScope": None})
    expect(w, "scope", "fail", "config", "No ID scope", "set-scope", base=NO_TARGET,
           others={"enrollment": ("skip", None)})


REFUSED = {"config-files": ("fail", "config"), "enrollment": ("skip", None)}
NOT_TRIED = dict.fromkeys(("dns", "route", "connect", "tls", "clock", "enrollment"), ("skip", None))


@pytest.mark.parametrize("section, key, value, name, others", [
    ("Provisioning", "IdScope", "0ne_", "scope", {}),
    ("Provisioning", "GlobalEndpoint", "http://x", "proxy", NOT_TRIED),
    ("Network", "Proxy", "x y", "proxy", NOT_TRIED),
    ("Tpm", "HubKeyHandle", "7", "hub-key", None),
])
def test_a_value_that_is_refused(plain, section, key, value, name, others):
    """What is in force instead of it is not judged."""
    w = plain()
    w.write_config(**{section: {key: value}})
    bad, lines = check(w)
    expected = {**NO_TARGET, **REFUSED, **(others or {}), name: ("skip", None)}
    if others is None:
        del expected["enrollment"]
    assert bad == expected, lines
    assert f"{key}= in {w.config_path}:" in line(lines, name)["message"]


@pytest.mark.namespaces
def test_a_scope_that_only_the_daemon_is_given(plain):
    w = plain(Provisioning={"IdScope": None})
    prefix = own_etc(w)
    (w.dir / "etc/credstore").mkdir(exist_ok=True)
    (w.dir / "etc/credstore/dps.id_scope").write_text("0ne00CRED")
    expect(w, "scope", "skip", None, "dps.id_scope is in '/etc/credstore'", "Start the daemon", base=NO_TARGET,
           others={"enrollment": ("skip", None)}, prefix=prefix)


@pytest.mark.parametrize("text, message", [(None, "No such file"), ("hello\n", "no certificate in PEM form")])
def test_a_ca_file_that_is_no_use(plain, text, message):
    """It has its line; that the connection can't be tried then is no failure of the network."""
    w = plain()
    path = w.dir / "ca"
    if text:
        path.write_text(text)
    w.write_config(Network={"CAFile": path})
    expect(w, "ca-file", "fail", "config", message, "Correct", base=NO_TARGET,
           others={name: ("skip", None) for name in ("connect", "tls", "clock", "enrollment")})


@pytest.mark.namespaces
@pytest.mark.parametrize("name", ["provisiond.conf", "ca.pem", "payload.json"])
def test_a_file_that_is_closed_to_the_daemon(plain, name):
    """Root, who runs this, may read it."""
    w = plain()
    (w.dir / "emulator/ca.pem").rename(w.dir / "conf/ca.pem")
    (w.dir / "conf/payload.json").write_text("{}")
    w.write_config(Network={"CAFile": w.dir / "conf/ca.pem"}, Provisioning={"Payload": w.dir / "conf/payload.json"})
    for path in (w.dir, w.dir / "conf"):
        path.chmod(0o755)
    for path in (w.dir / "conf").iterdir():
        path.chmod(0o600 if path.name == name else 0o644)
    users = pathlib.Path("/etc/passwd").read_text()
    prefix = own_etc(w, passwd=users + "dps-provision:x:65533:65533::/:/bin/false\n")
    probe = {"provisiond.conf": "config-files", "ca.pem": "ca-file", "payload.json": "payload"}[name]
    expect(w, probe, "fail", "config", rf"{name}' can't be read by the user dps-provision", r"chmod a\+r", base=NO_TARGET,
           prefix=prefix)


def test_a_configuration_that_is_closed_to_this_user(plain):
    """What it says is not known; the defaults in its place are not judged."""
    w = plain()
    w.dir.chmod(0o755)
    w.config_path.parent.chmod(0o755)
    w.config_path.chmod(0o600)
    bad, lines = check(w, prefix=NOBODY)
    assert bad.pop("daemon") == ("warn", None) and not {x["result"] for x in lines} & {"fail"}, lines
    assert set(bad.values()) == {("skip", None)} and {"scope", "proxy", "iotedge", "config-files"} <= set(bad), lines
    if "tpm-device" in bad:  # where there is no /dev/tpmrm0
        assert "Tcti= may be set in" in line(lines, "tpm-device")["message"]


def test_files_that_are_missing(plain):
    w = plain(Provisioning={"Payload": "/nowhere/payload.json"})
    expect(w, "payload", "fail", "config", "Payload=/nowhere/payload.json can't be read", "Correct", base=NO_TARGET)


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


def test_a_daemon_that_does_not_answer(plain):
    """Its name is there: it is not said to be stopped."""
    w = plain()

    w.new_bus().own(NAME, lambda _: None)
    lines = expect(w, "daemon", "fail", None, "can't be asked", "systemctl status", base=NO_TARGET)
    assert line(lines, "enrollment")["result"] == "ok"


def test_usage(plain):
    w = plain()
    assert run(w, "--nonsense").returncode == 2 and run(w, "x").returncode == 2
    assert run(w, "--dps", "--no-network").returncode == 2
    assert "--no-network" in run(w, "--help").stdout
    assert os.path.exists(w.config_path)
