"""Suite "daemon": a handed-off gateway whose TPM can't be read when the daemon starts: a late driver, a busy TPM."""
import pytest
from power import kinds

# What is wrong with the TPM, and the kind of the warning.
TPMS = {"late": ({"absent": True}, "tpm-missing"),
        "busy": ({"rules": [{"command": "GetCapability", "times": 0, "answer": "0x902"}]}, "tpm-busy"),
        "fails": ({"rules": [{"command": "GetCapability", "times": 0, "answer": "0x101"}]}, "tpm-failed")}
RETRY = {"InitialSec": 5, "MaxSec": 600}

def started_without_tpm(new_world, tpm, **settings):
    """A handed-off gateway; the daemon is started while the TPM can't be read."""
    w = new_world(Retry=RETRY, **settings)
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    w.stop_daemon()
    w.kill_helper("dps-tpmd")  # it keeps the endorsement key that it has read
    faults, kind = TPMS[tpm]
    w.tpm_faults(**faults)
    w.start_daemon(environment=w.clock())
    w.wait("the warning", lambda p: p["State"] == "handed-off" and kind in kinds(p))
    return w, kind


def looks(world):
    return world.tpm_commands().count("GetCapability")


def assert_nothing_else(world, jobs):
    """One registration, the first one; no unit of IoT Edge was touched."""
    assert len(world.requests(kind="register")) == 1 and world.registrations() == 1
    assert world.jobs() == jobs and not world.standin_events("registers-itself")


@pytest.mark.parametrize("tpm", TPMS)
@pytest.mark.parametrize("target", ["iotedge", "none"])
def test_the_warning_goes_once_the_tpm_is_read(new_world, tpm, target):
    w, kind = started_without_tpm(new_world, tpm, HandOff={"Target": target})
    jobs = w.jobs()
    for _ in range(20):
        w.let_pass(30)
        p = w.bus.properties()
        assert p["State"] == "handed-off" and kind in kinds(p)
    w.tpm_faults()
    for _ in range(2 * RETRY["MaxSec"] // 20):
        w.let_pass(20)
        w.bus.introspect("org.dps.Tpm1")  # the daemon's call has ended
    p = w.bus.properties()
    assert kind not in kinds(p)
    assert p["State"] == "handed-off" and p["EndorsementKey"] and p["LastError"][0] == ""
    w.wait("idle", lambda p: p["Step"] == "idle")
    assert_nothing_else(w, jobs)


def test_the_tpm_is_looked_at_with_backoff(new_world):
    w, _ = started_without_tpm(new_world, "fails")
    w.bus.introspect("org.dps.Tpm1")  # the first look has ended
    first = looks(w)
    for _ in range(120):  # two hours
        w.let_pass(60)
        w.bus.properties()
        w.bus.introspect("org.dps.Tpm1")
    assert 2 * 3600 / RETRY["MaxSec"] / 2 <= looks(w) - first <= 100
    assert w.bus.properties()["State"] == "handed-off"


@pytest.mark.root
@pytest.mark.parametrize("tpm", TPMS)
def test_retry_looks_at_once(new_world, tpm):
    w, kind = started_without_tpm(new_world, tpm)
    jobs = w.jobs()
    for _ in range(10):
        w.let_pass(60)  # until the backoff is long
        w.bus.properties()
    w.wait("the end of the last look", lambda p: p["Step"] in ("idle", "wait"))
    w.tpm_faults()
    w.bus.call("Retry")
    p = w.wait("the TPM to be read", lambda p: kind not in kinds(p))
    assert p["State"] == "handed-off" and p["EndorsementKey"]
    assert_nothing_else(w, jobs)
