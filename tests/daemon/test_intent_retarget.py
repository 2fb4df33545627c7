"""Suite "daemon": the same assignment handed over in another way, after IoT Edge has registered itself."""
import pytest
from handoff import info_path
from harness import SCOPE
from power import Since, hub_accepts, kinds, register_iot_edge, settled

ROTATE = ["--rotate-keys"]  # the hub key changes at every registration


def change(world, **sections):
    seen = len(world.daemon.lines)
    world.write_config(**sections)
    world.daemon.wait_for_line("The configuration has changed", start=seen)


def test_newer_key_stays_when_adoption_comes_back(new_world):
    """Identity=register lets IoT Edge get a key of its own. Identity=adopt must not put the older one back."""
    w = new_world(emulator=ROTATE)
    hub = w.start_gateway()["AssignedHub"]
    ours = w.hub_key()
    change(w, HandOff={"Identity": "register"})
    settled(w, hub)
    name = register_iot_edge(w)
    assert name != ours and hub_accepts(w)
    since = Since(w)
    change(w, HandOff={"Identity": "adopt"})
    p = settled(w, hub, may_wait=True)
    assert w.hub_key() == name and "adoption-refused" in kinds(p)
    assert since.registrations() == 0 and since.refusals() == []


@pytest.mark.parametrize("what", ["handle", "identity"])
def test_newer_device_stays_when_the_hand_over_changes(new_world, what):
    """DPS has moved the device, and IoT Edge has followed before the daemon knows."""
    w = new_world(emulator=ROTATE)
    w.start_gateway()
    hub = w.move()
    register_iot_edge(w)
    assert hub_accepts(w)
    since = Since(w)
    if what == "handle":
        w.config_toml.write_text(w.config_toml.read_text() + "\n[tpm]\nauth_key_index = 0x111\n")
        change(w, Tpm={"HubKeyHandle": "0x81000111"})
    else:
        change(w, HandOff={"Identity": "register"})
    p = w.wait("rest", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and p["AssignedHub"] == hub)
    assert "adoption-refused" in kinds(p) and hub in info_path(w).read_text()
    assert w.registrations() == 2 and since.refusals() == []


def test_scope_removed_before_dps_is_asked(new_world):
    """IoT Edge has to register, and DPS has to answer first, in a scope that goes while IoT Edge is looked at."""
    w = new_world(HandOff={"Identity": "register"})
    w.start_gateway()
    w.move()
    w.standin_faults(**{"identityd-status": {"POST /identities/device/reprovision": 500}})
    w.faults("keep-old-device")
    w.bus.call("Reprovision")
    w.wait("the failure", lambda p: p["State"] == "assigned" and p["LastError"][0] and p["Step"] == "wait")
    w.standin_faults(slow=50)
    w.wait("the look", lambda p: p["Step"] == "prepare")
    change(w, Provisioning={"IdScope": None})
    w.standin_faults()
    p = w.wait("the failure", lambda p: p["LastError"][0] == "config" and p["Step"] == "wait")
    assert p["State"] == "assigned"
    change(w, Provisioning={"IdScope": SCOPE})
    w.wait("the end", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
