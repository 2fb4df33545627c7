"""Suite "daemon": keys that others left in the TPM, through the real helper."""
import re

import pytest
from harness import wait_for
from power import power_cut
from tpm_states import SRK

NO_EDGE = {"HandOff": {"Target": "none"}}
TPM = "org.dps.Tpm1"
STORAGE_KEY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt"


def lockout_counter(world):
    return int(re.search(r"LOCKOUT_COUNTER: (\S+)", world.tpm2("getcap", "properties-variable"))[1], 16)


@pytest.mark.parametrize("noda, auth", [("", ("-p", "secret")), ("|noda", ("-p", "secret")), ("", ())],
                         ids=["auth", "auth-noda", "empty"])
def test_srk_of_somebody_else_is_left_alone(new_world, noda, auth):
    """A transient one serves, also after a reboot. swtpm is in lockout after the third wrong authorization value."""
    w = new_world(tpm="fresh", **NO_EDGE)
    w.tpm2("createprimary", "-C", "o", "-c", "srk", "-G", "rsa2048:aes128cfb", "-a", STORAGE_KEY + noda, *auth)
    w.tpm2("evictcontrol", "-C", "o", "-c", "srk", SRK)
    w.tpm2("flushcontext", "-t")
    name = w.hub_key(SRK)
    w.enroll(w.enrollment())
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert [warning[0] for warning in p["Warnings"]] == ["srk-unsuitable"]
    bus = w.new_bus()
    for _ in range(40):
        identity = bus.call("Identity", name=TPM)[0]
        assert identity["storageRootKeyUnsuitable"] and not identity["storageRootKeyPersistent"]
    assert lockout_counter(w) == 0

    key = w.hub_key()
    w.tpm2("evictcontrol", "-c", "0x81000100")
    registrations = w.registrations()
    power_cut(w)
    w.start_daemon()
    wait_for("the key", lambda: w.hub_key() == key)
    w.wait_for_state("handed-off")
    assert w.registrations() == registrations
    assert lockout_counter(w) == 0 and w.hub_key(SRK) == name
