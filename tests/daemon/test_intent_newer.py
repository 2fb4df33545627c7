"""Suite "daemon": a key or a device that differs from the snapshot and from what we wrote is newer and stays.

Counted at the emulator and at the fakes: registrations that DPS bills, tokens that a hub refuses, and the name of the
object at the hub key's handle.
"""
import shutil

import pytest
from handoff import info_path, set_confirm_timeout
from harness import SCOPE, wait_for
from observe import json_lines
from power import Since, boot, hub_accepts, kinds, power_cut, register_iot_edge, settled
from script_client import EK, SRK, Script, Tpm

ROTATE = ["--rotate-keys"]  # the hub key changes at every registration
LONG = 50  # seconds: lasts until the fault is taken away
HANDLE = "0x81000100"


def edge(world, **changes):
    return world.enrollment(capabilities={"iotEdge": True}, **changes)


# --- IoT Edge registers itself, and later /etc/aziot is lost ---

@pytest.mark.parametrize("seen, offline, lost", [
    (False, False, "etc"), (False, True, "etc"), (True, False, "etc"), (True, True, "etc"),
    (False, False, "device_info"), (True, False, "device_info"),
], ids=["unseen", "unseen-offline", "seen", "seen-offline", "unseen-device_info", "seen-device_info"])
def test_newer_key_stays_when_files_are_lost(new_world, seen, offline, lost):
    """The same device has a newer key. `seen`: our daemon ran before the files were lost."""
    w = new_world(emulator=ROTATE)
    hub = w.start_gateway()["AssignedHub"]
    w.stop_daemon()
    name = register_iot_edge(w)
    if seen:
        w.start_daemon()
        assert "adoption-refused" in kinds(settled(w, hub))
    power_cut(w)
    shutil.rmtree(w.root / "etc/aziot")  # an update that replaces /etc
    if lost == "device_info":
        info_path(w).unlink()
    if offline:
        w.stop_emulator()
        set_confirm_timeout(w, 1)
    since = Since(w)
    boot(w)
    w.start_daemon()
    if offline:
        since.wait_for_event("edged-device", hub=hub)  # it runs with what it has
        assert w.hub_key() == name
        w.start_emulator(port=w.port)
    p = settled(w, hub, may_wait=offline)
    own = len(since.events("registers-itself"))  # which IoT Edge may have to without device_info
    assert since.registrations() == own <= (lost == "device_info")
    assert own or w.hub_key() == name
    assert since.refusals() == [] and hub_accepts(w)
    assert "adoption-refused" in kinds(p)


# --- a power cut in the middle of a move ---

# The TPM command before which the power is cut, and its number after DPS has said `assigned`.
IMPORT = ("ActivateCredential", 1)
ADOPT = ("EvictControl", 1)    # the old key is still there
PERSIST = ("EvictControl", 2)  # no key is there


def cut_in_the_middle_of_a_move(world, command, nth, *faults):
    """Moves a gateway to another hub and cuts the power after DPS has assigned it. Returns both hubs."""
    old = world.start_gateway()["AssignedHub"]
    new = world.move()
    world.faults(f"slow:poll={LONG}")
    world.bus.call("Reprovision")
    world.wait("the poll", lambda p: p["Step"] == "poll")
    sent = world.tpm_commands().count(command)
    world.tpm_faults(rules=[{"command": command, "nth": nth, "delay": LONG}])
    world.faults(*faults)
    wait_for(command, lambda: world.tpm_commands().count(command) == sent + nth)
    power_cut(world)
    return old, new


@pytest.mark.parametrize("keys, cut, back", [
    ("--rotate-keys", IMPORT, True), ("--rotate-keys", ADOPT, True), ("--rotate-keys", PERSIST, True),
    ("--keep-keys", IMPORT, True), ("--rotate-keys", IMPORT, False),
], ids=["rotate-import", "rotate-adopt", "rotate-persist", "keep-import", "rotate-import-not-rolled-back"])
def test_identityd_that_registers_first_wins(new_world, keys, cut, back):
    """The old hub refuses identityd, so identityd registers at the boot. Its identity is the newer one."""
    w = new_world(emulator=[keys])
    old, new = cut_in_the_middle_of_a_move(w, *cut)
    hub = old if back else new
    w.enroll(edge(w, iotHubHostName=hub))
    booted = Since(w)
    boot(w)
    booted.wait_for_event("registered-itself", hub=hub)
    booted.wait_for_event("identityd-ready")
    assert booted.registrations() == 1
    name = w.hub_key()
    since = Since(w)
    w.start_daemon()
    for _ in range(2):
        p = settled(w, hub)
        assert since.requests(kind="register") == [] and since.refusals() == []
        assert w.hub_key() == name and hub_accepts(w)
        assert f'"{hub}"' in info_path(w).read_text()
        assert "adoption-refused" in kinds(p)
        w.restart_daemon()
    booted.wait_for_event("edged-device", hub=hub)
    settled(w, hub)


def test_nothing_is_decided_while_identityd_registers(new_world):
    """aziot-tpmd has already put the challenge's key at the handle."""
    w = new_world(emulator=ROTATE)
    old, _ = cut_in_the_middle_of_a_move(w, *IMPORT)
    w.enroll(edge(w, iotHubHostName=old))
    w.faults(f"slow:confirm={LONG}")
    since = Since(w)
    boot(w)
    since.wait_for_event("registers-itself")
    wait_for("its second request", lambda: w.tpm_commands()[-1] == "HMAC" and since.requests(kind="register"))
    w.start_daemon()
    w.wait("a look at IoT Edge", lambda p: since.events("connected") or p["Step"] == "idle")
    w.faults()
    since.wait_for_event("registered-itself", hub=old)
    p = settled(w, old, may_wait=True)
    assert since.registrations() == 1 and len(since.refusals()) == 1  # identityd's, and what made it register
    assert hub_accepts(w) and "adoption-refused" in kinds(p)


@pytest.mark.parametrize("cut, fault", [(IMPORT, "status:hub=500"), (ADOPT, "status:hub=500"),
                                        (IMPORT, "keep-old-device")], ids=["import", "adopt", "import-old-hub-accepts"])
def test_move_goes_on_after_a_power_cut(new_world, cut, fault):
    """identityd uses its backup, since the old hub has an error or still accepts the device. Nothing is newer than the
    intended assignment."""
    w = new_world(emulator=ROTATE)
    old, new = cut_in_the_middle_of_a_move(w, *cut, "keep-old-device")
    assert new in (w.dir / "state/state.json").read_text()
    name = w.hub_key()
    w.faults(fault)
    since = Since(w)
    boot(w)
    since.wait_for_event("provisioned-with-backup", hub=old)
    since.wait_for_event("hub", hub=old, status=200 if fault == "keep-old-device" else 500)
    since.wait_for_event("identityd-ready")
    w.faults()
    w.start_daemon()
    p = settled(w, new)
    assert since.requests(kind="register") == [] and since.refusals() == []
    assert w.hub_key() not in (name, None) and hub_accepts(w)
    assert "adoption-refused" not in kinds(p)
    since.wait_for_event("edged-device", hub=new)


# --- without IoT Edge: an SDK on the same TPM ---

class Sdk:
    """Registers as a device SDK does, and makes its key persistent at the handle that all of them use."""

    def __init__(self, world, registration_id):
        self.tpm = Tpm.__new__(Tpm)  # without a TPM of its own
        self.tpm.dir = world.dir
        self.tpm.ek, self.tpm.srk = self.tpm.public(EK), self.tpm.public(SRK)
        self.script = Script(f"https://localhost:{world.port}", world.dir / "emulator/ca.pem", self.tpm, SCOPE,
                             registration_id)

    def register(self):
        state = self.script.register()[-1].body["registrationState"]
        self.hub, self.device = state["assignedHub"], state["deviceId"]
        key = self.tpm.activate(state["tpm"]["authenticationKey"])
        self.tpm.tool("evictcontrol", "-c", HANDLE)
        self.tpm.tool("evictcontrol", "-c", key, HANDLE)
        self.tpm.tool("flushcontext", "-t")

    def hub_accepts(self):
        return self.script.modules(self.hub, self.device, HANDLE).status == 200


def put_other_key(world):
    """Puts another program's HMAC key at the handle; returns its name."""
    if world.hub_key():
        world.tpm2("evictcontrol", "-c", HANDLE)
    (world.dir / "key").write_bytes(b"k" * 32)
    world.tpm2("import", "-C", SRK, "-G", "hmac", "-i", "key", "-u", "other.pub", "-r", "other.priv")
    world.tpm2("flushcontext", "-t")
    world.tpm2("load", "-C", SRK, "-u", "other.pub", "-r", "other.priv", "-c", "other.ctx")
    world.tpm2("evictcontrol", "-c", "other.ctx", HANDLE)
    world.tpm2("flushcontext", "-t")
    return world.hub_key()


@pytest.mark.parametrize("replace", ["no", "yes"])
def test_key_of_an_sdk_stays(plain, replace):
    w = plain(emulator=ROTATE, HandOff={"ReplaceProvisioning": replace})
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    ours = w.hub_key()
    w.stop_daemon()
    sdk = Sdk(w, p["RegistrationId"])
    sdk.register()
    name = w.hub_key()
    assert name not in (ours, None) and sdk.hub_accepts()
    since = Since(w)
    for _ in range(2):
        w.start_daemon()
        warnings = kinds(settled(w, p["AssignedHub"]))
        assert w.hub_key() == name and "adoption-refused" in warnings
        w.stop_daemon()
    assert since.requests(kind="register") == []
    assert sdk.hub_accepts()


@pytest.mark.parametrize("replace, first", [("no", True), ("yes", True), ("yes", False)],
                         ids=["no-first", "yes-first", "yes-again"])
def test_key_of_an_sdk_that_comes_while_we_register(plain, replace, first):
    """Between CONFIRM and ADOPT. ReplaceProvisioning= permits replacing what was there before."""
    w = plain(emulator=ROTATE, HandOff={"ReplaceProvisioning": replace})
    if first:
        w.faults(f"slow:poll={LONG}")
        w.start_daemon()
    else:
        w.start_daemon()
        w.wait_for_state("handed-off")
        w.faults(f"slow:poll={LONG}")
        w.bus.call("Reprovision")
    w.wait("the poll", lambda p: p["Step"] == "poll")
    registrations = w.registrations()
    name = put_other_key(w)
    w.faults()
    for _ in range(2):
        warnings = kinds(settled(w, f"localhost:{w.port}"))
        assert w.hub_key() == name and "adoption-refused" in warnings
        w.restart_daemon()
    settled(w, f"localhost:{w.port}")
    assert w.registrations() == registrations and w.hub_key() == name


# --- our own key, whose name is not recorded yet ---

@pytest.mark.parametrize("target, first", [("none", True), ("none", False), ("iotedge", True)],
                         ids=["none-first", "none-again", "iotedge-first"])
def test_own_key_is_known_without_its_name(new_world, target, first):
    """The power is cut after the TPM has made the key persistent and before the daemon has recorded it."""
    w = new_world(emulator=ROTATE, HandOff={"Target": target})
    if target == "iotedge":
        w.start_standins()
    w.enroll(edge(w))
    if not first:
        w.start_daemon()
        w.wait_for_state("handed-off")
    w.faults(f"slow:poll={LONG}")
    if first:
        w.start_daemon()
    else:
        w.bus.call("Reprovision")
    w.wait("the poll", lambda p: p["Step"] == "poll")
    seen = len(json_lines(w.dir / "tpm.jsonl"))
    w.tpm_faults(rules=[{"command": "EvictControl", "nth": 1 if first else 2, "late": LONG}])
    w.faults()

    def persisted():
        lines = json_lines(w.dir / "tpm.jsonl")[seen:]
        sent = [line["n"] for line in lines if line.get("command") == "EvictControl"]
        return len(sent) == (1 if first else 2) and any(line["n"] == sent[-1] and "rc" in line for line in lines)
    wait_for("the key to be persistent", persisted)
    power_cut(w)
    name = w.hub_key()
    assert name
    since, evictions = Since(w), w.tpm_commands().count("EvictControl")
    if target == "iotedge":
        boot(w)
    w.start_daemon()
    p = settled(w, f"localhost:{w.port}")
    assert kinds(p) == [] and w.hub_key() == name
    assert w.tpm_commands().count("EvictControl") == evictions
    assert since.requests(kind="register") == [] and since.refusals() == []
