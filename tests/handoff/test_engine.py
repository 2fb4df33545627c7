"""Suite "handoff": a container engine that does not answer. aziot-edged ends without one, and systemd starts it again.

The fake aziot-edged is started again 5 seconds after each end, like the real one.
"""
import time

import pytest
from handoff import EDGED, edge, prepared, queued, set_confirm_timeout
from harness import wait_for
from power import kinds

ENGINE_TO_HANDED_OFF = 15  # seconds


def restarts_by_systemd(world):
    return [e for e in world.standin_events("died") if e["unit"] == EDGED]


def run_engine(world, runs=True):
    verb = "start" if runs else "stop"
    seen = len(world.jobs())
    world.bus.systemd(f"{verb.title()}Unit", "docker.service")
    wait_for(f"the {verb} of the engine", lambda: (verb, "docker.service") in world.jobs()[seen:])


def remove_engine(world):
    run_engine(world, False)
    world.standin_faults(units={"docker.service": {"load": "not-found"}})
    (world.root / "var/run/docker.sock").unlink()


def install(world, release):
    path = world.root / "var/lib/dpkg/status"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Package: aziot-edge\nStatus: install ok installed\nVersion: {release}-1\n\n")


def test_engine_that_comes_late(new_world):
    """A new gateway registers and adopts without the engine, and repeats no request when the engine comes."""
    w = prepared(new_world, Retry={"InitialSec": 5, "MaxSec": 600})
    set_confirm_timeout(w, 300)
    run_engine(w, False)
    w.start_daemon()
    p = w.wait_for_failure("engine-unreachable")
    assert p["State"] == "assigned" and "engine-unreachable" in kinds(p)
    jobs, requests = len(queued(w)), len(w.requests())
    died = len(restarts_by_systemd(w))
    w.wait("other attempts", lambda p: p["Attempts"] >= 3)
    wait_for("starts by systemd", lambda: len(restarts_by_systemd(w)) >= died + 2)
    assert w.bus.properties()["State"] == "assigned"
    assert queued(w)[jobs:] == [], "systemd starts aziot-edged again"
    assert len(w.requests()) == requests

    run_engine(w)
    jobs += 1
    began = time.monotonic()
    p = w.wait_for_state("handed-off")
    assert time.monotonic() - began < ENGINE_TO_HANDED_OFF
    assert w.registrations() == 1 and not w.standin_events("registers-itself")
    assert queued(w)[jobs:] == [] and kinds(p) == []


def test_engine_that_is_installed_late(new_world):
    """Nothing is asked of DPS without an engine. Its start ends a wait of minutes."""
    w = prepared(new_world, Retry={"OperatorInitialSec": 600, "OperatorMaxSec": 600})
    remove_engine(w)
    w.start_daemon()
    p = w.wait_for_failure("runtime-missing")
    assert p["State"] == "attesting" and p["LastError"][1] == "engine" and "Install a container engine" in p["LastError"][3]
    assert w.requests() == []
    w.standin_faults()
    run_engine(w)
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_engine_that_refuses_the_version(new_world):
    """It is asked for what the installed release asks. The restart that the hint names ends the wait."""
    w = prepared(new_world, Retry={"OperatorInitialSec": 600, "OperatorMaxSec": 600})
    install(w, "1.5.21")
    w.standin_faults(engine={"min": "1.40"}, release="1.5.21")
    w.start_daemon()
    p = w.wait_for_failure("engine-unsuitable")
    assert p["LastError"][1] == "1.34" and "too old" in p["LastError"][2] and "DOCKER_MIN_API_VERSION" in p["LastError"][3]
    assert w.requests() == []
    w.standin_faults(release="1.5.21")
    w.bus.systemd("RestartUnit", "docker.service")
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_later_hand_off_with_an_engine_that_fails(new_world):
    w = new_world()
    w.start_gateway()
    w.standin_faults(engine={"status": 500, "message": "no space left on device"})
    requests = len(w.requests())
    w.write_config(Provisioning={"RegistrationId": "renamed"})
    w.enroll(edge(w))
    p = w.wait_for_failure("engine-unreachable")
    assert p["LastError"][1] == "HTTP 500" and "no space left" in p["LastError"][2]
    assert len(w.requests()) == requests
    w.standin_faults(engine={"max": "1.30"})
    p = w.wait_for_failure("engine-unsuitable")
    assert "Upgrade the container engine" in p["LastError"][3] and len(w.requests()) == requests


@pytest.mark.parametrize("installed", [True, False], ids=["stopped", "removed"])
def test_later_hand_off_without_the_engine(new_world, installed):
    """`iotedge config apply` would fail. The attempt ends before DPS is asked and before a unit is stopped."""
    w = new_world(Retry={"InitialSec": 5, "MaxSec": 600})
    w.start_gateway()
    run_engine(w, False) if installed else remove_engine(w)
    jobs, requests = len(queued(w)), len(w.requests())
    w.write_config(Provisioning={"RegistrationId": "renamed"})
    w.enroll(edge(w))
    w.wait_for_failure("engine-unreachable" if installed else "runtime-missing")
    assert len(queued(w)) == jobs and len(w.requests()) == requests
    if not installed:
        return
    run_engine(w)
    began = time.monotonic()
    w.wait("the new name", lambda p: p["State"] == "handed-off" and p["RegistrationId"] == "renamed")
    assert time.monotonic() - began < ENGINE_TO_HANDED_OFF


def test_each_unit_of_an_engine_ends_the_wait(new_world):
    """A change of another property does not."""
    w = prepared(new_world, Retry={"OperatorInitialSec": 600, "OperatorMaxSec": 600})
    w.standin_faults(engine={"max": "1.30"})
    w.start_daemon()
    w.wait_for_failure("engine-unsuitable")
    units = ["docker.socket", "podman.service", "podman.socket"]
    for attempts, unit in enumerate(units, 2):
        w.bus.plug(unit, "inactive")
        w.bus.plug(unit, "active")
        w.wait("another attempt", lambda p, n=attempts: p["Attempts"] == n)
        w.bus.plug(unit, "active")
    w.bus.plug("docker.service", "inactive")
    assert sum("brought forward: the container engine has started" in line for line in w.daemon.lines) == len(units)
