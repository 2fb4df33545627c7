"""Suite "daemon": an assignment is on disk as soon as DPS has made it, so no crash costs a second registration."""
import signal

import pytest
from handoff import APPLY, edge, set_confirm_timeout
from harness import DEADLINE, wait_for
from samples import billed

LONG = 50  # seconds: until the fault is taken away

# The challenge's key is the first that is activated, imported and loaded; the hub key is the second.
POINTS = {
    "activate": ("import", {"rules": [{"command": "ActivateCredential", "nth": 2, "delay": LONG}]}, {}),
    "import": ("import", {"rules": [{"command": "Import", "nth": 2, "delay": LONG}]}, {}),
    "load": ("adopt", {"rules": [{"command": "Load", "nth": 2, "delay": LONG}]}, {}),
    "persist": ("adopt", {"rules": [{"command": "EvictControl", "nth": 1, "delay": LONG}]}, {}),
    "apply": ("handoff", {}, {"units": {APPLY: {"delay": LONG}}}),
    "identityd": ("handoff", {}, {"identityd": "hold"}),
}
WITHOUT_IOT_EDGE = {"HandOff": {"Target": "none"}}


def assigned_and_held(world, point, target="iotedge"):
    step, tpm, standins = POINTS[point]
    world.tpm_faults(**tpm)
    world.standin_faults(**standins)
    if target == "iotedge":
        world.start_standins()
    world.enroll(edge(world))
    world.start_daemon()
    world.wait(step, lambda p: p["Step"] == step)
    if tpm:
        rule = tpm["rules"][0]
        wait_for(point, lambda: world.tpm_commands().count(rule["command"]) >= rule["nth"])


def go_on(world):
    world.tpm_faults()
    world.standin_faults()


def one_registration(world):
    assert world.registrations() == 1
    assert not world.standin_events("registers-itself")
    assert world.hub_key()


@pytest.mark.parametrize("helpers", [(), ("dps-tpmd", "dps-handoffd")], ids=["daemon", "all"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_after_the_assignment(new_world, point, helpers):
    w = new_world()
    assigned_and_held(w, point)
    w.stop_daemon(signal.SIGKILL)
    for name in helpers:
        w.kill_helper(name)
    go_on(w)
    w.start_daemon()
    w.wait_for_state("handed-off")
    one_registration(w)
    assert len(w.requests(kind="register")) == 1
    wait_for("edged", lambda: w.standin_events("edged-device", hub=f"localhost:{w.port}"))


@pytest.mark.parametrize("point", ["activate", "import", "load", "persist"])
def test_killed_after_the_assignment_without_iot_edge(new_world, point):
    w = new_world(**WITHOUT_IOT_EDGE)
    assigned_and_held(w, point, "none")
    w.stop_daemon(signal.SIGKILL)
    go_on(w)
    w.start_daemon()
    w.wait_for_state("handed-off")
    one_registration(w)


@pytest.mark.parametrize("point", ["activate", "import", "persist", "apply"])
def test_offline_after_the_assignment(new_world, point):
    """The hub key is adopted without a network. The hand-off ends when the hub is reachable again."""
    w = new_world()
    set_confirm_timeout(w, 2)
    assigned_and_held(w, point)
    w.stop_emulator()
    w.stop_daemon(signal.SIGKILL)
    go_on(w)
    w.start_daemon()
    p = w.wait("the hand-off", lambda p: p["Step"] == "handoff" or p["LastError"][0])
    assert p["State"] == "assigned" and w.hub_key()
    w.start_emulator(port=w.port)
    w.wait_for_state("handed-off")
    one_registration(w)
    assert len(w.requests(kind="register")) == 1


@pytest.mark.parametrize("point", ["activate", "import", "load", "persist"])
def test_offline_after_the_assignment_without_iot_edge(new_world, point):
    w = new_world(**WITHOUT_IOT_EDGE)
    assigned_and_held(w, point, "none")
    w.stop_emulator()
    w.stop_daemon(signal.SIGKILL)
    go_on(w)
    w.start_daemon()
    p = w.wait("the end", lambda p: p["State"] == "handed-off" or p["LastError"][0])
    assert p["State"] == "handed-off"
    one_registration(w)


@pytest.mark.parametrize("point", ["activate", "import", "load"])
def test_killed_in_a_move(new_world, point):
    """A handed-off gateway moves to another hub. The old hub still accepts the device, so IoT Edge runs on there."""
    w = new_world()
    old = w.start_gateway()["AssignedHub"]
    step, tpm, _ = POINTS[point]
    w.faults("keep-old-device")
    w.tpm_faults(**tpm)
    hub, commands = w.move(), len(w.tpm_commands())
    w.bus.call("Reprovision")
    w.wait(step, lambda p: p["Step"] == step)
    rule = tpm["rules"][0]
    wait_for(point, lambda: w.tpm_commands()[commands:].count(rule["command"]) >= rule["nth"])
    w.stop_daemon(signal.SIGKILL)
    go_on(w)  # the fake TPM has time for one command only
    wait_for("IoT Edge to go on", lambda: not (w.root / "var/lib/dps-handoffd/stopped").exists())
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert p["AssignedHub"] == hub != old
    # dps-tpmd goes on to the end of ADOPT, and IoT Edge may be started as the old device with the new key: it registers
    ours, identityds = billed(w)
    assert ours == 2 and identityds <= (1 if point == "load" else 0)
    wait_for("edged", lambda: w.standin_events("edged-device", hub=hub), DEADLINE / 4)


# The TSS and lib/tpm repeat a command that ends with 0x922 or 0x908, for 20 s.
@pytest.mark.parametrize("code, times, target, restart", [
    ("0x922", 0, "iotedge", False), ("0x908", 0, "none", True),
    *[("0x921", 1, target, restart) for target in ("iotedge", "none") for restart in (False, True)],
    ("0x902", 1, "iotedge", True),
])
def test_tpm_that_can_not_import_now(new_world, code, times, target, restart):
    w = new_world(**(WITHOUT_IOT_EDGE if target == "none" else {}))
    if target == "iotedge":
        w.start_standins()
    w.enroll(edge(w))
    w.tpm_faults(rules=[{"command": "Import", "nth": 2, "times": times, "answer": code}])
    w.helpers_environment(**w.clock())
    w.start_daemon()
    if times == 0:
        wait_for("the command", lambda: w.tpm_commands().count("Import") >= 2)
        w.fast_forward("the failure", lambda: w.bus.properties()["LastError"][0])
    failed = w.wait("the failure", lambda p: p["LastError"][0])
    assert failed["LastError"][0].startswith("tpm-") and int(failed["LastError"][1], 0) & 0xfff == int(code, 0)
    if restart:
        w.stop_daemon(signal.SIGKILL)
    w.tpm_faults()
    if restart:
        w.start_daemon()
    else:
        w.retry()
    w.wait_for_state("handed-off")
    one_registration(w)
    assert failed["State"] == "assigned" and w.loaded() == ""
