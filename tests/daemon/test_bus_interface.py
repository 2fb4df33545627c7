"""Suite "daemon": what one sees and asks for from outside: the bus, polkit, the tools."""
import base64
import hashlib
import json
import re
import subprocess
import threading
import xml.etree.ElementTree as ElementTree

import dbus_next
import pytest
from harness import BUILD, DEADLINE, NAME, PATH, SOURCE

NO_EDGE = {"HandOff": {"Target": "none"}}


@pytest.mark.smoke
def test_introspection_is_the_installed_interface(new_world):
    w = new_world(Provisioning={"IdScope": None})
    w.start_daemon()
    for name in ("Provisioning1", "Tpm1", "HandOff1"):
        installed = (SOURCE / f"config/org.dps.{name}.xml").read_text()
        running = w.bus.introspect(f"org.dps.{name}")
        assert interface(running, f"org.dps.{name}") == interface(installed, f"org.dps.{name}")


def polkit(world, questions):
    """Takes so many questions and lets them wait, then sees to it that no more is asked, and answers."""
    bus, asked, enough = world.new_bus(), [], threading.Event()

    def on_question(message):
        asked.append(message)
        if len(asked) == questions:
            enough.set()
        return True

    def ask():
        return subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "busctl", "--system", "--timeout=250", "call",
                                 NAME, PATH, NAME, "Reprovision"], env=world.environment, stderr=subprocess.PIPE, text=True)

    bus.own("org.freedesktop.PolicyKit1", on_question)
    callers = [ask() for _ in range(questions)]
    assert enough.wait(DEADLINE)
    world.let_pass(7)  # who has to type a password takes his time
    for _ in range(2):
        bus.properties()
    assert callers[0].poll() is None
    assert "Too many" in ask().communicate(timeout=DEADLINE)[1]
    for message in asked:
        bus.reply(dbus_next.Message.new_method_return(message, "(bba{ss})", [[message is asked[0], False, {}]]))
    return sorted(caller.communicate(timeout=DEADLINE)[1] for caller in callers)


def test_polkit_is_given_time_but_not_the_bus(new_world):
    w = new_world(Retry={"OperatorInitialSec": 600}, **NO_EDGE)
    w.dir.chmod(0o755)
    w.start_daemon(environment={**w.clock(), "SYSTEMD_BUS_TIMEOUT": "5s"})
    w.wait_for_failure("enrollment-missing")
    first, *others = polkit(w, 16)
    assert first == "" and len(others) == 15 and all("Access denied" in other for other in others)
    assert w.wait("another attempt", lambda p: len(w.requests()) == 2)["State"] == "attesting"


def test_every_change_is_announced(new_world):
    w = new_world(polls=1, **NO_EDGE)
    w.write_config(Provisioning={"Unknown": 1})
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    w.enroll(w.enrollment())
    w.retry()
    properties = w.wait_for_state("handed-off")
    seen, history = {}, w.bus.changes
    for values in history:
        seen.update(values)
    for name in properties.keys() - {"Version"}:
        assert seen[name] == properties[name], name
    assert [h["State"] for h in history if "State" in h][-3:] == ["attesting", "assigned", "handed-off"]
    assert [h["Step"] for h in history if "Step" in h][-7:] == [
        "register", "activate", "confirm", "poll", "import", "adopt", "idle"]
    waits = [h for h in history if h.get("NextAttemptUSec")]
    assert waits and waits[0]["LastError"][0] == "enrollment-missing" and waits[0]["Attempts"] == 1


@pytest.mark.parametrize("name, unit, kind", [("org.dps.Tpm1", "dps-tpmd", "tpm-failed"),
                                              ("org.dps.HandOff1", "dps-handoffd", "apply-failed")])
def test_what_to_do_about_a_helper_that_is_not_there(new_world, name, unit, kind):
    w = new_world()
    service = w.dir / f"services/{name}.service"
    good = service.read_text()
    service.unlink()
    w.reload_bus()
    w.start_daemon()
    p = w.wait_for_failure(kind)
    assert unit in p["LastError"][2] and f"journalctl -u {unit}" in p["LastError"][3]
    w.daemon.wait_for_line(f"could not be used.*journalctl -u {unit}")
    service.write_text(good)
    w.reload_bus()
    w.wait_for_failure("restart-failed")  # there is no systemd on this bus: it has got that far


def interface(xml, name):
    xml = re.sub(r"<!DOCTYPE.*?>", "", xml, flags=re.DOTALL)
    node = next(i for i in ElementTree.fromstring(xml).iter("interface") if i.get("name") == name)
    members = set()
    for member in node:
        if member.tag in ("method", "signal"):
            arguments = tuple((a.get("name"), a.get("type"), a.get("direction", "in")) for a in member.iter("arg"))
            members.add((member.tag, member.get("name"), arguments))
        elif member.tag == "property":
            members.add((member.tag, member.get("name"), (member.get("type"), member.get("access"))))
    return members


def test_enrollment_equals_tpm2_tools(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    w.tpm2("readpublic", "-c", "0x81010001", "-f", "tss", "-o", "ek.pub")
    public = (w.dir / "ek.pub").read_bytes()
    assert w.enrollment()["attestation"]["tpm"]["endorsementKey"] == base64.b64encode(public).decode()
    assert w.enrollment()["registrationId"] == hashlib.sha256(public).hexdigest() == p["RegistrationId"]
    w.write_config(Provisioning={"RegistrationIdFormat": "sha256-base32"})
    expected = base64.b32encode(hashlib.sha256(public).digest()).decode().rstrip("=").lower()
    assert w.enrollment()["registrationId"] == expected


def test_cli(new_world):
    w = new_world(**NO_EDGE)

    def cli(*arguments):
        return subprocess.run([BUILD / "cli/dps-provision", *arguments], env=w.environment, text=True,
                              capture_output=True, timeout=60, check=False)

    assert cli("status").returncode == 1 and "daemon does not run" in cli("status").stderr.lower()
    w.start_daemon(environment=w.clock())
    w.wait_for_failure("enrollment-missing")
    assert cli("status").returncode == 3 and "enrolment" in cli("status").stdout
    w.enroll(w.enrollment())
    assert cli("retry").returncode == 0
    w.wait_for_state("handed-off")
    assert cli("status").returncode == 0
    status_json = json.loads(cli("status", "--json").stdout)
    assert status_json["State"] == "handed-off" if "State" in status_json else status_json["state"] == "handed-off"
    w.let_pass(10)  # the last attempt that a call began is long enough ago
    assert cli("reprovision", "--wait", "--yes").returncode == 0
    assert cli("nonsense").returncode == 2 and cli("status", "--nonsense").returncode == 2
