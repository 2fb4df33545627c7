"""Suite "daemon": the TPM of a handed-off gateway was cleared. All its keys except the endorsement key are gone.

The emulator and the fakes count the registrations of the daemon and of identityd, and the jobs of IoT Edge's units.
"""
import pytest
from handoff import EDGED, IDENTITYD
from power import Since, boot, hub_accepts, kinds, power_cut, settled

LONG = 50  # seconds: lasts until the fault is taken away
KEYS = pytest.mark.parametrize("keys", ["--keep-keys", "--rotate-keys"], ids=["keep", "rotate"])


def cleared(new_world, keys, **options):
    """A handed-off gateway without our daemon, whose TPM was cleared while IoT Edge ran. Returns its hub as well."""
    w = new_world(emulator=[keys], **options)
    hub = w.start_gateway()["AssignedHub"]
    w.stop_daemon()
    w.tpm2("clear")
    assert w.hub_key() is None
    return w, hub


def one_registration_by_us(world, since):
    assert since.registrations() == 1
    assert since.events("registers-itself") == [] and since.refusals() == []
    assert since.events("job", unit=EDGED) == [], "no module was stopped"
    assert len(since.events("stop", unit=IDENTITYD)) == len(since.events("start", unit=IDENTITYD)) == 1
    assert world.hub_key() and hub_accepts(world)


@KEYS
def test_cleared_while_iot_edge_runs(new_world, keys):
    w, hub = cleared(new_world, keys)
    since = Since(w)
    w.start_daemon()
    settled(w, hub)
    one_registration_by_us(w, since)
    w.restart_daemon()
    settled(w, hub)
    assert since.registrations() == 1


@KEYS
@pytest.mark.parametrize("fault", ["register", "confirm"])
def test_dps_fails_once(new_world, keys, fault):
    """IoT Edge has no key and stays quiesced while the daemon repeats the request, so it does not register."""
    w, hub = cleared(new_world, keys)
    w.faults(f"drop-connection:{fault}=1")
    since = Since(w)
    w.start_daemon()
    settled(w, hub, may_wait=True)
    one_registration_by_us(w, since)


@KEYS
def test_cleared_before_a_boot(new_world, keys):
    """identityd starts first, finds no key and registers. Its key is newer than ours, so the daemon does not register."""
    w, hub = cleared(new_world, keys)
    power_cut(w)
    since = Since(w)
    w.faults(f"slow:confirm={LONG}")
    boot(w)
    since.wait_for_event("registers-itself")
    w.start_daemon()
    w.wait("a look at IoT Edge", lambda p: p["Step"] in ("prepare", "verify"))
    w.faults()
    p = settled(w, hub)
    assert "adoption-refused" in kinds(p)
    assert since.registrations() == len(since.events("registers-itself")) == 1
    since.wait_for_event("edged-device", hub=hub)
    assert since.refusals() == [] and since.events("job", unit=EDGED) == []
    assert hub_accepts(w)
