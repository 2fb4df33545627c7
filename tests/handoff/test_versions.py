"""Suite "handoff": calls from a daemon of another version. The arguments are those of commit d4a0379."""
import pytest
from bus import BusError
from dbus_next import Variant
from handoff import Caller, prepared, queued, snapshot

TPM = "org.dps.Tpm1"
KEY = b"\x00" * 64
ASSIGNMENT = {"registrationId": Variant("s", "gw-1"), "hub": Variant("s", "localhost:1"), "deviceId": Variant("s", "gw-1"),
              "adopt": Variant("b", True)}
HANDOFF_CALLS = [("Apply", "a{sv}", ASSIGNMENT), ("Verify", ""), ("Check", "s", "gw-1"), ("Quiesce", ""), ("Later", ""),
                 ("Check", "us", 1, "gw-1"), ("Quiesce", "u", 1)]
TPM_CALLS = [("AdoptHubKey", "ayayayb", KEY, KEY, b"", True), ("ForgetHubKey", "ay", b"")]


def refused(caller, name, *call):
    """The call is refused with a reason, and the helper exits, so that the next call starts the installed one."""
    with pytest.raises(BusError) as caught:
        caller.call(*call, name=name)
    assert caught.value.kind in ("InvalidArgs", "UnknownMethod") and str(caught.value)
    caller.wait_for("the helper's end", lambda: not caller.has_owner(name), 20)  # an idle one stays for a minute


@pytest.mark.parametrize("call", HANDOFF_CALLS, ids=lambda call: call[0])
def test_handoff_helper_refuses_and_makes_room(new_world, call):
    w = prepared(new_world)
    with Caller(w) as c:
        c.verify()
        before = snapshot(w)
        refused(c, c.name, *call)
    assert snapshot(w) == before and not queued(w)


@pytest.mark.parametrize("call", TPM_CALLS, ids=lambda call: call[0])
def test_tpm_helper_refuses_and_makes_room(new_world, call):
    w = new_world()
    handles = w.persistent_handles()
    refused(w.new_bus(), TPM, *call)
    assert w.persistent_handles() == handles
