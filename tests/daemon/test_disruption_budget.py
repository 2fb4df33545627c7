"""Suite "daemon": a hand-off that has to wait for the disruption budget."""
import subprocess

import pytest
from handoff import EDGED, edged_state_path, stopped_path
from harness import BUILD, DEADLINE, wait_for
from power import Since, settled

HOUR = 3600


@pytest.mark.root
@pytest.mark.parametrize("end", ["root retries", "an hour passes"])
def test_a_second_move_within_the_hour(new_world, end):
    """DPS is not asked before another disruption is allowed: its answer would take the device from the old hub, and IoT Edge
    would register itself."""
    w = new_world(emulator=["--rotate-keys"], emulator_clock=True)
    w.allows = False
    w.helpers_environment(**w.clock())
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    w.start_daemon(environment=w.clock())
    settled(w, w.wait_for_state("handed-off")["AssignedHub"])
    wait_for("aziot-edged", edged_state_path(w).exists)
    hub = w.move("hub-b.localhost")
    w.bus.call("Reprovision")
    settled(w, hub)

    key, since = w.hub_key(), Since(w)
    hub = w.move("hub-c.localhost")
    w.call_again("Reprovision")
    p = w.wait("the wait", lambda p: p["Step"] == "wait" and p["LastError"][0])
    assert p["State"] == "attesting" and p["LastError"][0] == "disruption-budget" and "UTC" in p["LastError"][2]
    assert since.requests() == []
    assert HOUR - 120 < p["NextAttemptUSec"] / 1e6 - w.now() <= HOUR
    wait_for("IoT Edge to go on", lambda: not stopped_path(w).exists())
    assert w.hub_key() == key and not since.events("stop", unit=EDGED) and not since.events("registers-itself")
    if end == "root retries":
        w.let_pass(10)
        subprocess.run([BUILD / "cli/dps-provision", "retry"], env=w.environment, check=True, timeout=DEADLINE)
    else:
        w.let_pass(HOUR)
    settled(w, hub, may_wait=True)
    assert len(since.events("stop", unit=EDGED)) == 1 and since.registrations() == 1 and w.hub_key() != key
