"""Suite "daemon": what goes wrong with a TPM in the field, through the real helper, without IoT Edge."""
import pytest
from power import power_cut

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
