"""Suite "daemon": AllowedHubs= before, during and after the hand-off."""
import signal

import pytest
from harness import wait_for
from power import Since, hub_accepts, kinds, settled

LOCAL = "localhost *.localhost"  # every hub of the tests
OTHER = "*.azure-devices.net"
LONG = 50  # seconds: lasts until the fault is taken away


def stored(world):
    return (world.dir / "state/state.json").read_text()


def hub_b(world):
    return f"hub-b.localhost:{world.port}"


def start(new_world, target, **settings):
    """A gateway with or without IoT Edge, enrolled, its daemon not started."""
    w = new_world(HandOff={"Target": target, **settings})
    if target == "iotedge":
        w.start_standins()
    w.enroll(enrollment(w))
    return w


def enrollment(world, **changes):
    return world.enrollment(capabilities={"iotEdge": True}, **changes)


def refused(world):
    p = world.wait_for_failure("hub-not-allowed")
    assert p["State"] == "attesting" and p["Step"] == "wait"
    return p


# --- an assignment that is refused ---

@pytest.mark.parametrize("target", ["none", "iotedge"])
def test_refused_assignment_is_not_stored(new_world, target):
    w = start(new_world, target, AllowedHubs="localhost")
    w.enroll(enrollment(w, iotHubHostName=hub_b(w)))
    w.start_daemon()
    refused(w)
    assert hub_b(w) not in stored(w) and w.hub_key() is None
    w.restart_daemon(signal.SIGKILL)
    refused(w)
    assert hub_b(w) not in stored(w) and w.hub_key() is None
    assert w.registrations() <= 2
    registrations = w.registrations()
    w.write_config(HandOff={"AllowedHubs": LOCAL})
    p = settled(w, hub_b(w), may_wait=True)
    assert kinds(p) == [] and p["LastError"][0] == ""
    assert w.registrations() == registrations + 1


def test_refused_move_is_healed_at_dps(new_world):
    """What was confirmed before stays until another assignment is allowed."""
    w = start(new_world, "iotedge", AllowedHubs="localhost")
    w.start_daemon(environment=w.clock())
    hub, name = w.wait_for_state("handed-off")["AssignedHub"], w.hub_key()
    w.move()
    w.faults("status:hub=500")  # so that IoT Edge does not register by itself
    w.bus.call("Reprovision")
    p = refused(w)
    assert p["AssignedHub"] == hub and hub_b(w) not in stored(w) and w.hub_key() == name
    wait_for("identityd's start", lambda: w.requests(kind="hub", status=500))
    w.faults()
    w.enroll(enrollment(w, iotHubHostName=hub))
    w.retry()
    p = settled(w, hub, may_wait=True)
    assert w.registrations() == 3 and hub_accepts(w) and p["LastError"][0] == ""
    assert not w.standin_events("edged-device", hub=hub_b(w))


# --- an edit after DPS has assigned ---

def test_intent_that_is_no_longer_allowed_is_dropped(new_world):
    """DPS has assigned, `iotedge config apply` fails, and the hub is struck off the list."""
    w = start(new_world, "iotedge")
    w.enroll(enrollment(w, iotHubHostName=hub_b(w)))
    w.standin_faults(apply="told to fail")
    w.start_daemon()
    assert w.wait_for_failure("apply-failed")["State"] == "assigned"
    assert w.registrations() == 1
    w.write_config(HandOff={"AllowedHubs": "localhost"})
    refused(w)
    assert hub_b(w) not in stored(w) and w.registrations() == 2
    w.standin_faults()
    hub = f"localhost:{w.port}"
    w.enroll(enrollment(w, iotHubHostName=hub))
    w.retry()
    p = settled(w, hub, may_wait=True)
    assert p["LastError"][0] == "" and w.registrations() == 3
    assert hub_accepts(w) and not w.requests(kind="hub", status=401)
    assert not w.standin_events("edged-device", hub=hub_b(w)) and not w.standin_events("registers-itself")


def test_key_that_is_no_longer_allowed_is_not_adopted(new_world):
    """Without IoT Edge: the TPM has no room for the hub key until the hub is struck off the list."""
    w = start(new_world, "none")
    w.enroll(enrollment(w, iotHubHostName=hub_b(w)))
    w.faults(f"slow:poll={LONG}")
    w.start_daemon()
    w.wait("the poll", lambda p: p["Step"] == "poll")
    w.tpm_faults(rules=[{"command": "EvictControl", "times": 0, "answer": "0x14b"}])
    w.faults()
    assert w.wait_for_failure("tpm-full")["State"] == "assigned"
    w.tpm_faults()
    w.write_config(HandOff={"AllowedHubs": OTHER})
    p = w.wait("a decision", lambda p: p["LastError"][0] == "hub-not-allowed" or p["State"] == "handed-off")
    assert p["State"] == "attesting" and w.hub_key() is None
    assert hub_b(w) not in stored(w) and w.registrations() == 2
    w.write_config(HandOff={"AllowedHubs": LOCAL})
    p = settled(w, hub_b(w), may_wait=True)
    assert kinds(p) == [] and w.registrations() == 3


@pytest.mark.parametrize("target", ["none", "iotedge"])
def test_handed_off_gateway_stays_and_is_told(new_world, target):
    w = start(new_world, target)
    w.start_daemon()
    hub, name = w.wait_for_state("handed-off")["AssignedHub"], w.hub_key()
    if target == "iotedge":
        wait_for("IoT Edge", lambda: w.standin_events("edged-device", hub=hub))
    since = Since(w)
    w.write_config(HandOff={"AllowedHubs": OTHER})
    p = w.wait("the warning", lambda p: p["Warnings"], deadline=20)
    assert kinds(p) == ["hub-not-allowed"] and p["State"] == "handed-off" and p["AssignedHub"] == hub
    w.restart_daemon(signal.SIGKILL)
    p = settled(w, hub)
    assert kinds(p) == ["hub-not-allowed"] and p["LastError"][0] == ""
    w.write_config(HandOff={"AllowedHubs": LOCAL})
    w.wait("no warning", lambda p: not p["Warnings"] and p["State"] == "handed-off")
    assert w.hub_key() == name and since.requests(kind="register") == [] and since.events("queued") == []
