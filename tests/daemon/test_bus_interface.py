"""Suite "daemon": what one sees and asks for from outside: the bus, polkit, the tools."""
import asyncio
import base64
import hashlib
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import dbus_next.aio
import pytest
from harness import BUILD, NAME, PATH, SOURCE

NO_EDGE = {"HandOff": {"Target": "none"}}


def test_introspection_is_the_installed_interface(new_world):
    w = new_world(Provisioning={"IdScope": None})
    w.start_daemon()
    for name in ("Provisioning1", "Tpm1", "HandOff1"):
        installed = (SOURCE / f"config/org.dps.{name}.xml").read_text()
        running = w.bus.busctl("introspect", f"org.dps.{name}", f"/org/dps/{name}", "--xml-interface")
        assert interface(running, f"org.dps.{name}") == interface(installed, f"org.dps.{name}")


async def follow_properties(world, steps):
    """What PropertiesChanged says from the start on, put together; steps() is run meanwhile."""
    bus = await dbus_next.aio.MessageBus(world.environment["DBUS_SYSTEM_BUS_ADDRESS"]).connect()
    seen, history = {}, []

    def on_message(message):
        if message.member == "PropertiesChanged" and message.body[0] == "org.dps.Provisioning1":
            values = {name: value.value for name, value in message.body[1].items()}
            assert not message.body[2]  # nothing is only invalidated
            seen.update(values)
            history.append(values)

    bus.add_message_handler(on_message)
    await bus.call(dbus_next.Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                     "AddMatch", signature="s", body=["path='/org/dps/Provisioning1'"]))
    await asyncio.get_running_loop().run_in_executor(None, steps)
    await bus.call(dbus_next.Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId"))
    bus.disconnect()
    return seen, history


async def polkit(world, questions):
    """Takes so many questions and lets them wait, then sees to it that no more is asked, and answers."""
    bus = await dbus_next.aio.MessageBus(world.environment["DBUS_SYSTEM_BUS_ADDRESS"]).connect()
    asked, enough = [], asyncio.Event()

    def on_message(message):
        if message.member == "CheckAuthorization":
            asked.append(message)
            if len(asked) == questions:
                enough.set()
            return True
        return None

    bus.add_message_handler(on_message)
    await bus.request_name("org.freedesktop.PolicyKit1")

    async def ask():
        return await asyncio.create_subprocess_exec(
            "setpriv", "--reuid=65534", "--clear-groups", "busctl", "--system", "--timeout=250", "call", NAME, PATH, NAME,
            "Reprovision", env=world.environment, stderr=asyncio.subprocess.PIPE)

    callers = [await ask() for _ in range(questions)]
    await asyncio.wait_for(enough.wait(), 60)
    with pytest.raises(asyncio.TimeoutError):  # who has to type a password takes his time
        await asyncio.wait_for(callers[0].wait(), 7)
    too_many = await ask()
    assert b"Too many" in (await asyncio.wait_for(too_many.communicate(), 60))[1]
    for message in asked:
        await bus.send(dbus_next.Message.new_method_return(message, "(bba{ss})", [[message is asked[0], False, {}]]))
    outcomes = [(await caller.communicate())[1] for caller in callers]
    bus.disconnect()
    return sorted(outcomes)


def test_polkit_is_given_time_but_not_the_bus(new_world):
    w = new_world(Retry={"OperatorInitialSec": 600}, **NO_EDGE)
    w.dir.chmod(0o755)
    w.start_daemon(environment={"SYSTEMD_BUS_TIMEOUT": "5s"})
    w.wait_for_failure("enrollment-missing")
    first, *others = asyncio.run(polkit(w, 16))
    assert first == b"" and len(others) == 15 and all(b"Access denied" in other for other in others)
    assert w.wait("another attempt", lambda p: len(w.requests()) == 2)["State"] == "attesting"


def test_every_change_is_announced(new_world):
    w = new_world(polls=1, **NO_EDGE)
    w.write_config(Provisioning={"Unknown": 1})
    final = []

    def steps():
        w.start_daemon()
        w.wait_for_failure("enrollment-missing")
        w.enroll(w.enrollment())
        w.retry()
        final.append(w.wait_for_state("handed-off"))

    seen, history = asyncio.run(follow_properties(w, steps))
    properties = final[0]
    for name in properties.keys() - {"Version"}:
        assert json.loads(json.dumps(seen[name])) == properties[name], name
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
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    assert cli("status").returncode == 3 and "enrolment" in cli("status").stdout
    w.enroll(w.enrollment())
    assert cli("retry").returncode == 0
    w.wait_for_state("handed-off")
    assert cli("status").returncode == 0
    status_json = json.loads(cli("status", "--json").stdout)
    assert status_json["State"] == "handed-off" if "State" in status_json else status_json["state"] == "handed-off"
    assert cli("reprovision", "--wait", "--yes").returncode == 0
    assert cli("nonsense").returncode == 2 and cli("status", "--nonsense").returncode == 2
