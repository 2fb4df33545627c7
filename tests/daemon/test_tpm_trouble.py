"""Suite "daemon": what goes wrong with a TPM in the field, through the real helper."""
import json
import re
import signal

import pytest
from checking import check
from handoff import IDENTITYD
from power import Since, boot, hub_accepts, power_cut, settled
from tpm_states import SRK

NO_EDGE = {"HandOff": {"Target": "none"}}


@pytest.mark.parametrize("hierarchy, enable", [("e", "ehEnable"), ("o", "shEnable")])
def test_a_disabled_hierarchy(new_world, hierarchy, enable):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm2("hierarchycontrol", "-C", hierarchy, enable, "clear")
    w.start_daemon()
    error = w.wait_for_failure("tpm-hierarchy")["LastError"]
    assert "firmware" in error[3] and "power-cycle" not in error[3]
    assert w.registrations() == 0
    power_cut(w)
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_a_broken_connection_is_no_fault_of_the_key(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "ActivateCredential", "drop": True}])
    w.start_daemon()
    sentence = w.wait_for_failure("tpm-missing")["LastError"][2]
    assert "another TPM" not in sentence
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_a_tpm_without_hmac(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "HMAC", "times": 0, "answer": "0x143"}])
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1 and "SequenceComplete" in w.tpm_commands()


def key_is_marked(world):
    return json.loads((world.dir / "state/state.json").read_text())["intended"]["keyChanged"]


@pytest.mark.parametrize("event", ["power cut", "crash"])
def test_the_mark_of_a_replaced_key_survives(new_world, event):
    """The TPM has the new key, and the daemon ends before it knows."""
    w = new_world(emulator=["--rotate-keys"])
    hub = w.start_gateway()["AssignedHub"]
    old = w.hub_key()
    w.tpm_faults(rules=[{"command": "EvictControl", "nth": 2, "cut": "after", "startup": True}])
    w.bus.call("Reprovision")
    w.wait("the cut", lambda p: p["LastError"][0] == "tpm-missing")
    if event == "power cut":
        power_cut(w)
    else:
        w.stop_daemon(signal.SIGKILL)
    assert w.hub_key() not in (None, old) and key_is_marked(w)
    if event == "power cut":
        boot(w)
    since = Since(w)
    w.start_daemon()
    settled(w, hub)
    assert since.registrations() == 0 and since.events("start", unit=IDENTITYD)
    assert not key_is_marked(w) and hub_accepts(w)


@pytest.mark.parametrize("hierarchy", ["owner", "endorsement"])
def test_an_authorization_value_with_a_blank_too_many(new_world, hierarchy):
    """A line end does not count. The hint, followed literally, mends it."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm2("changeauth", "-c", hierarchy, "secret")
    directory = w.dir / "credentials"
    directory.mkdir()
    path = directory / f"dps.tpm_{hierarchy}_auth"
    path.write_text("secret \n")
    w.helpers_environment(CREDENTIALS_DIRECTORY=directory)
    w.start_daemon()
    error = w.wait_for_failure("tpm-auth")["LastError"]
    assert f"'{path}', which ends in a blank" in error[2] and "secret" not in error[2]
    assert "blanks included" in error[3]
    path.write_text("secret\n")
    w.kill_helper("dps-tpmd")
    w.retry()
    w.wait_for_state("handed-off")


def test_an_unusable_endorsement_key(new_world):
    """The daemon and 'check' have the same hint, which mends it when it is followed literally."""
    w = new_world(tpm="fresh", **NO_EDGE)
    w.tpm2("createek", "-G", "ecc", "-c", "ek.ctx", "-u", "x")
    w.tpm2("flushcontext", "-t", check=False)
    w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "ek.ctx", "0x81010001")
    w.tpm2("flushcontext", "-t")
    w.start_daemon()
    hint = w.wait_for_failure("tpm-handle-taken")["LastError"][3]
    assert {x["remedy"] for x in check(w)[1] if x["kind"] == "tpm-handle-taken"} == {hint}
    assert "HubKeyHandle=" not in hint and "ReplaceProvisioning=" not in hint
    w.tpm2(*re.search(r"'tpm2_(evictcontrol [^']*)'", hint)[1].split())
    w.enroll(w.enrollment())
    w.retry()
    w.wait_for_state("handed-off")


def test_an_unsuitable_storage_root_key(new_world):
    w = new_world(tpm="fresh", **NO_EDGE)
    w.tpm2("createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "srk.ctx")
    w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "srk.ctx", SRK)
    w.tpm2("flushcontext", "-t")
    w.enroll(w.enrollment())
    w.start_daemon()
    hint = next(x[2] for x in w.wait_for_state("handed-off")["Warnings"] if x[0] == "srk-unsuitable")
    assert {x["remedy"] for x in check(w)[1] if x["kind"] == "srk-unsuitable"} == {hint}
    w.tpm2(*re.search(r"'tpm2_(evictcontrol [^']*)'", hint)[1].split())
    w.restart_daemon()
    w.wait("no warning", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and not p["Warnings"])
    assert w.hub_key(SRK) and w.registrations() == 1
