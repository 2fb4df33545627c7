"""Suite "handoff": the identity service without the IoT Edge runtime. There is no aziot-edged, no engine, and aziotctl applies."""
import pytest
from checking import check
from handoff import APPLY, EDGED, IDENTITYD, edged_state_path, info_path, stopped_path
from power import Since, hub_accepts, settled

ABSENT = {"units": {unit: {"load": "not-found"} for unit in (EDGED, "aziot-edged.mgmt.socket", "aziot-edged.workload.socket")}}


@pytest.fixture
def edgeless(new_world):
    """Without an engine."""
    def make(**settings):
        w = new_world(**settings)
        w.standin_faults(**ABSENT)
        w.start_standins()
        (w.root / "var/run/docker.sock").unlink()
        w.enroll(w.enrollment())
        return w
    return make


def applied(world):
    return sorted(path.parts[-3] for path in world.root.glob("etc/aziot/*/config.d/00-super.toml"))


@pytest.mark.parametrize("identity", ["adopt", "register"])
def test_handed_off(edgeless, identity):
    w = edgeless(HandOff={"Identity": identity})
    assert check(w)[0].get("iotedge", ("ok",))[0] == "ok"
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert hub_accepts(w) and not p["Warnings"], p
    assert applied(w) == ["certd", "identityd", "keyd", "tpmd"]
    assert w.registrations() == (1 if identity == "adopt" else 2) and not edged_state_path(w).exists()
    assert not [e for e in w.standin_events() if e.get("unit") == EDGED]
    bad, lines = check(w)
    assert not [x for x in lines if x["result"] == "fail"], bad
    # and it stays: nothing is done again
    since = Since(w)
    w.restart_daemon()
    settled(w, p["AssignedHub"])
    assert not since.events("job", unit=IDENTITYD) and not since.registrations()


def test_moved_to_another_hub(edgeless):
    """One stop of identityd, none that the disruption budget counts."""
    w = edgeless()
    w.start_daemon(environment=w.clock())
    w.wait_for_state("handed-off")
    for hub in ("hub-b.localhost", "hub-a.localhost", "hub-b.localhost"):
        name = w.move(hub)
        w.call_again("Reprovision")
        settled(w, name)
        assert hub in info_path(w).read_text() and hub_accepts(w)
    assert not stopped_path(w).exists()


def test_apply_that_fails(edgeless):
    w = edgeless()
    w.standin_faults(**ABSENT, apply="told to fail")
    w.start_daemon()
    failure = w.wait_for_failure("apply-failed")["LastError"]
    assert APPLY in failure[2], failure
    w.standin_faults(**ABSENT)
    w.retry()
    w.wait_for_state("handed-off")
