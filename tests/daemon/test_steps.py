"""Suite "daemon": whatever dies, in whichever step, and Reprovision in each of them."""
import hashlib
import json
import os
import re
import signal
import time

import pytest
from bus import BusError
from harness import DEADLINE, wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}


def edge(world, **changes):
    return world.enrollment(capabilities={"iotEdge": True}, **changes)


LONG = 50  # seconds: a step lasts until it is sped up

STEPS = {
    "identity": ("tpm", [{"command": "GetCapability", "delay": LONG}]),
    "prepare": ("standins", {"slow": LONG}),
    "register": ("service", "slow:register"),
    "activate": ("tpm", [{"command": "ActivateCredential", "delay": LONG}]),
    "confirm": ("service", "slow:confirm"),
    "poll": ("service", "slow:poll"),
    "import": ("tpm", [{"command": "ActivateCredential", "nth": 2, "delay": LONG}]),
    "adopt": ("tpm", [{"command": "HMAC", "nth": 2, "delay": LONG}, {"command": "EvictControl", "delay": LONG}]),
    "handoff": ("standins", {"units": {"dps-iotedge-apply.service": {"delay": LONG}}}),
}


def slow_down(world, step):
    where, how = STEPS[step]
    if where == "tpm":
        world.tpm_faults(rules=how)
    elif where == "service":
        world.faults(f"{how}={LONG}")
    else:
        world.standin_faults(**how)


def speed_up(world):
    world.tpm_faults()
    world.faults()
    world.standin_faults()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("victim", ["daemon", "dps-tpmd", "dps-handoffd"])
def test_killed_in_every_step(new_world, victim, step):
    w = new_world(polls=1)
    w.start_standins()
    w.enroll(edge(w))
    slow_down(w, step)
    w.start_daemon()
    w.wait(step, lambda p: p["Step"] == step)
    if victim == "daemon":
        w.stop_daemon(signal.SIGKILL)
        speed_up(w)
        w.start_daemon()
    else:
        w.kill_helper(victim)
        speed_up(w)
    # what fails in IMPORT waits for long, because each attempt costs a registration
    w.wait("handed-off or waiting", lambda p: p["State"] == "handed-off" or p["Step"] == "wait")
    w.retry()
    w.wait_for_state("handed-off")
    # what a killed process leaves in the TPM is the kernel's resource manager's to flush, and there is none here
    assert victim == "dps-tpmd" or w.loaded() == ""
    assert w.hub_key()
    assert w.requests(kind="hub", authorized=True)
    assert not w.standin_events("registers-itself")
    assert not (w.root / "var/lib/dps-handoffd/stopped").exists()


@pytest.mark.parametrize("victim", ["daemon", "dps-handoffd"])
def test_killed_in_quiesce(new_world, victim):
    w = new_world(polls=1)
    hub = quiescing(w)
    if victim == "daemon":
        w.stop_daemon(signal.SIGKILL)
    else:
        w.kill_helper(victim)
    speed_up(w)
    if victim == "daemon":
        w.start_daemon()
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] == hub)
    assert not (w.root / "var/lib/dps-handoffd/stopped").exists()
    assert not w.standin_events("registers-itself")


@pytest.mark.parametrize("victim", ["daemon", "dps-handoffd"])
def test_killed_in_verify(new_world, victim):
    w = new_world(polls=1)
    go_on = verifying(w)
    if victim == "daemon":
        w.stop_daemon(signal.SIGKILL)
        go_on()
        w.start_daemon()
    else:
        w.kill_helper(victim)
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert w.registrations() == 1


@pytest.mark.parametrize("victim", ["daemon", "dps-handoffd"])
def test_killed_while_iot_edge_is_quiesced(new_world, victim):
    w = new_world(polls=1)
    w.start_gateway()
    hub = w.move()
    w.faults(f"slow:confirm={LONG}")
    w.bus.call("Reprovision")
    w.wait("confirm", lambda p: p["Step"] == "confirm")
    assert (w.root / "var/lib/dps-handoffd/stopped").exists()
    if victim == "daemon":
        w.stop_daemon(signal.SIGKILL)
        wait_for("identityd to run again", lambda: w.jobs().count(("start", "aziot-identityd.service")))
        w.faults()
        w.start_daemon()
    else:
        w.kill_helper(victim)
        w.faults()
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] == hub)
    assert not (w.root / "var/lib/dps-handoffd/stopped").exists()


def test_iot_edge_stays_quiesced_while_a_poll_waits(new_world):
    """The service may ask for as long a wait as the helper keeps IoT Edge stopped."""
    w = new_world()
    w.start_gateway()
    w.stop_emulator()
    w.start_emulator("--polls=1", "--retry-after=200", port=w.port)
    w.move()
    w.stop_daemon()
    w.start_daemon(environment=w.clock())
    calls, monitor = [], w.new_bus()
    monitor.monitor("Quiesce", calls.append)
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    w.bus.call("Reprovision")
    w.wait("the poll", lambda p: p["Step"] == "poll")
    assert len(calls) == 1
    w.let_pass(89)
    wait_for("another call", lambda: len(calls) == 2)
    p = w.bus.properties()
    assert p["Step"] == "poll" and p["NextAttemptUSec"] == 0
    assert (w.root / "var/lib/dps-handoffd/stopped").exists()


# --- Reprovision ---

@pytest.mark.parametrize("step", STEPS)
def test_reprovision_in_every_step(new_world, step):
    w = new_world(polls=1)
    w.start_standins()
    w.enroll(edge(w))
    slow_down(w, step)
    w.start_daemon()
    w.daemon.wait_for_line(f"Step {step}$")
    if STEPS[step][0] == "service":  # DPS counts a registration when it has received the request
        wait_for("the request", lambda: w.requests(kind=step))
    call = w.bus.begin("Reprovision")
    w.daemon.wait_for_line("Reprovisioning was asked for")
    speed_up(w)
    w.bus.end(call)
    w.wait_for_state("handed-off")
    lines = [match[1] for line in w.daemon.lines if (match := re.search(r"Step (\S+)$|(Reprovisioning was)", line))]
    called = lines.index(None)
    assert lines[called - 1] == step and lines[called + 1] == "identity"
    assert w.registrations() == (1 if step in ("identity", "prepare", "register", "activate") else 2)
    assert w.loaded() == "" and w.hub_key()
    assert not w.standin_events("registers-itself")


def verifying(world):
    """A gateway that is handed off, and the daemon, started again, is in VERIFY; returns what ends that."""
    world.start_gateway()
    world.stop_daemon()
    world.bus.introspect("org.dps.HandOff1")  # the helper runs, and stops
    pids = world.helper_pids("dps-handoffd")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    world.start_daemon()
    world.wait("verify", lambda p: p["Step"] == "verify")
    return lambda: [os.kill(pid, signal.SIGCONT) for pid in pids]


def quiescing(world):
    """A gateway that works is moved, and the daemon is in QUIESCE; returns the name of the new hub."""
    world.start_gateway()
    hub = world.move()
    world.tpm_faults(rules=[{"command": "ActivateCredential", "delay": LONG}])
    world.bus.call("Reprovision")
    world.wait("activate", lambda p: p["Step"] == "activate")
    world.standin_faults(slow=LONG)
    world.tpm_faults()
    world.wait("quiesce", lambda p: p["Step"] == "quiesce")
    return hub


def test_reprovision_in_quiesce(new_world):
    w = new_world(polls=1)
    hub = quiescing(w)
    call = w.bus.begin("Reprovision")
    wait_for("both calls", lambda: sum("Reprovisioning was asked for" in line for line in w.daemon.lines) == 2)
    speed_up(w)
    w.bus.end(call)
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] == hub)
    assert w.registrations() == 2 and not w.standin_events("registers-itself")
    assert not (w.root / "var/lib/dps-handoffd/stopped").exists()


def test_reprovision_in_verify(new_world):
    w = new_world(polls=1)
    go_on = verifying(w)
    call = w.bus.begin("Reprovision")
    w.daemon.wait_for_line("Reprovisioning was asked for")
    assert w.bus.properties()["Step"] == "verify"
    go_on()
    w.bus.end(call)
    w.wait("another registration", lambda p: w.registrations() == 2 and p["State"] == "handed-off")


@pytest.mark.smoke
def test_reprovision_while_handed_off(new_world):
    """The old hub is told until the new one is proven."""
    w = new_world(polls=1)
    old = w.start_gateway()["AssignedHub"]
    w.faults(f"slow:poll={LONG}")
    hub = w.move()
    w.bus.call("Reprovision")
    p = w.bus.properties()
    assert p["State"] == "attesting" and p["AssignedHub"] == old and p["LastSuccessUSec"] > 0
    w.faults()
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] == hub)


def test_reprovision_while_assigned_and_waiting(new_world):
    w = new_world()
    w.start_standins()
    w.enroll(edge(w))
    w.set_clock(-86400)
    w.start_daemon(environment=w.clock())
    assert w.wait_for_failure("clock-behind")["State"] == "assigned"
    w.bus.call("Reprovision")
    wait_for("another registration", lambda: w.registrations() == 2)
    assert w.wait_for_failure("clock-behind")["State"] == "assigned"
    w.set_clock(0)
    w.wait_for_state("handed-off")


def test_reprovision_does_not_wait_for_a_failure(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    assert w.wait_for_failure("enrollment-missing")["Step"] == "wait"
    w.enroll(w.enrollment())
    w.bus.call("Reprovision")
    w.wait_for_state("handed-off")


def test_reprovision_waits_for_a_429(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "600", "times": 1}]))
    w.start_daemon(environment=w.clock())
    due = w.wait_for_failure("http-throttled")["NextAttemptUSec"]
    w.bus.call("Reprovision")
    p = w.bus.properties()
    assert p["State"] == "attesting" and p["Step"] == "wait" and p["LastError"][0] == "http-throttled"
    assert abs(p["NextAttemptUSec"] - due) < 0.5e6
    w.let_pass(590)
    assert w.bus.properties()["Step"] == "wait" and len(w.requests()) == 1
    w.fast_forward("another attempt", lambda: w.bus.properties()["Step"] != "wait")  # something is added at random
    w.wait_for_state("handed-off")


def test_several_callers_are_answered_once_it_attests(new_world):
    w = new_world(polls=1)
    go_on = verifying(w)
    calls = [w.bus.begin("Reprovision") for _ in range(3)]
    wait_for("the calls", lambda: sum("Reprovisioning was asked for" in line for line in w.daemon.lines) == 3)
    assert not any(call.done() for call in calls)
    go_on()
    assert [w.bus.end(call) for call in calls] == [[], [], []]
    w.wait("one more registration", lambda p: w.registrations() == 2 and p["State"] == "handed-off")


# --- what is remembered ---

def test_warnings_of_the_assignment_survive_a_restart(new_world):
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": False}))
    w.start_daemon()
    warnings = w.wait_for_state("handed-off")["Warnings"]
    assert [warning[0] for warning in warnings] == ["edge-flag-missing"]
    w.restart_daemon()
    p = w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert p["Warnings"] == warnings
    w.enroll(edge(w))
    w.bus.call("Reprovision")
    w.wait("no warning", lambda p: p["State"] == "handed-off" and not p["Warnings"])


def test_throttling_survives_a_restart(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "600"}]))
    w.start_daemon()
    p = w.wait_for_failure("http-throttled")
    due, attempts = p["NextAttemptUSec"], p["Attempts"]
    w.restart_daemon(signal.SIGKILL)
    p = w.wait("the wait", lambda p: p["Step"] == "wait")
    assert abs(p["NextAttemptUSec"] - due) < 2e6 and p["Attempts"] == attempts
    assert p["State"] == "attesting" and p["LastError"][0] == "http-throttled"
    with pytest.raises(BusError, match=r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC") as refusal:
        w.bus.call("Retry")
    assert refusal.value.kind == "TooEarly"
    assert len(w.requests()) == 1


def test_throttling_does_not_grow_with_a_clock_that_went_back(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "600"}]))
    w.start_daemon()
    w.wait_for_failure("http-throttled")
    w.stop_daemon(signal.SIGKILL)
    w.set_clock(-30 * 86400)
    w.start_daemon(environment=w.clock())
    p = w.wait("the wait", lambda p: p["Step"] == "wait")
    assert 300 < p["NextAttemptUSec"] / 1e6 - (time.time() - 30 * 86400) < 720
    assert len(w.requests()) == 1


def test_the_bus_dies(new_world):
    """systemd starts the daemon again then; nothing else brings it back onto the bus."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.bus_process.kill()
    assert w.daemon.process.wait(DEADLINE) == 1
    w.daemon.wait_for_line("connection to the system bus was lost")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.smoke
def test_restart_without_traffic(new_world, end):
    w = new_world(polls=1)
    w.start_gateway()
    requests, jobs = len(w.service_requests()), len(w.jobs())
    assert w.stop_daemon(end) == (0 if end == signal.SIGTERM else -signal.SIGKILL)
    w.start_daemon()
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    w.daemon.wait_for_line("DPS_STATE=handed-off|Verify|verif")
    assert len(w.service_requests()) == requests and len(w.jobs()) == jobs


def test_another_tpm_is_attested_anew(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.stop_daemon()
    state = w.dir / "state/state.json"
    stored = json.loads(state.read_text())
    stored["intended"]["endorsementKeyHash"] = stored["confirmed"]["endorsementKeyHash"] = hashlib.sha256(b"another TPM").hexdigest()
    state.write_text(json.dumps(stored))
    w.start_daemon()
    w.wait("another registration", lambda p: w.registrations() == 2 and p["State"] == "handed-off")


def test_cleared_tpm_is_attested_anew(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.stop_daemon()
    w.tpm2("clear", "-c", "p")
    assert w.hub_key() is None
    w.start_daemon()
    w.wait("the key again", lambda p: p["State"] == "handed-off" and w.hub_key())
    w.daemon.wait_for_line("DPS_FAILURE=identity-mismatch.*|begins anew at once")
    assert w.registrations() == 2
