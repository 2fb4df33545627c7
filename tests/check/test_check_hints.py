"""Suite "check": one failure has one hint, wherever it is shown."""
import json
import re
import subprocess

import dbus_next
import pytest
from checking import check, line
from harness import BUILD, NAME, SOURCE

TABLE = re.findall(r'^ +\[(FAILURE|WARNING)_\w+\] = \{ "([a-z0-9-]+)"', (SOURCE / "lib/failure.c").read_text(), re.MULTILINE)
KINDS = [name for _, name in TABLE]


def status(world):
    result = subprocess.run([BUILD / "cli/dps-provision", "status", "--json"], env=world.environment, text=True,
                            capture_output=True, timeout=60, check=False)
    return json.loads(result.stdout)


def test_every_kind_as_the_daemon_says_it(new_world):
    """The hints are not those of the table: a failure may have a separate one."""
    w = new_world(HandOff={"Target": "none"})
    properties = {name: dbus_next.Variant("s", "x") for name in ("State", "Step", "AssignedHub", "DeviceId", "Version")}
    w.new_bus().own(NAME, lambda call: dbus_next.Message.new_method_return(call, "a{sv}", [properties]))
    assert len(KINDS) > 40
    properties["Warnings"] = dbus_next.Variant("a(sss)", [[kind, f"What {kind} says", f"What helps against {kind}."]
                                                         for kind in KINDS])
    for kind in KINDS[:-1]:
        properties["LastError"] = dbus_next.Variant("(ssss)", [kind, "", f"The error {kind}", f"Hint for {kind}."])
        told = status(w)
        assert told["lastError"]["remedy"] == f"Hint for {kind}.", told["lastError"]
    assert [x["remedy"] for x in told["warnings"]] == [f"What helps against {kind}." for kind in KINDS]
    checked = [x for x in check(w, "--no-network")[1] if x["id"] == "daemon-error"]
    assert [(x["kind"], x["remedy"]) for x in checked] == \
           [(x["kind"], x["remedy"]) for x in (told["lastError"], *told["warnings"])]
    for kind in KINDS:
        properties["LastError"] = dbus_next.Variant("(ssss)", [kind, "", f"The error {kind}", ""])
        properties["Warnings"] = dbus_next.Variant("a(sss)", [])
        assert len(status(w)["lastError"]["remedy"]) > 20, f"{kind} without a hint has that of the table"


@pytest.mark.parametrize("fault", [
    {"status": 403, "on": "register", "errorCode": 403000, "errorMessage": "Public network access is disabled"},
    {"status": 401, "on": "register", "errorCode": 401002, "errorMessage": "Unauthorized"},
    {"status": 404, "on": "register", "errorCode": 404201, "errorMessage": "No such scope"},
    {"status": 500, "on": "register", "errorCode": 500001, "errorMessage": "x"},
], ids=lambda fault: str(fault["status"]))
def test_what_dps_answers(plain, fault):
    """The daemon and the probe that asks DPS itself."""
    w = plain()
    w.enroll(w.enrollment(emulator=fault))
    before = line(check(w)[1], "enrollment")
    w.start_daemon()
    error = w.wait_for_failure(before["kind"])["LastError"]
    found = [x["remedy"] for x in check(w)[1] if x["kind"] == before["kind"]]
    assert {before["remedy"], error[3], *found} == {error[3]}, (before, error, found)


def test_what_the_tpm_helper_says(plain):
    w = plain()
    w.write_config(Tpm={"Tcti": "nosuch:x"})
    before = line(check(w)[1], "tpm-answers")
    w.start_daemon()
    error = w.wait_for_failure(before["kind"])["LastError"]
    assert "Tcti=" in error[3] and before["remedy"] == error[3] == line(check(w)[1], "daemon-error")["remedy"], (before, error)


@pytest.mark.parametrize("text, name", [("[edge_ca]\n", "iotedge-apply"), ("cloud_retries = '1'\n", "iotedge-apply")])
def test_a_rule_of_config_apply(fresh, text, name):
    w = fresh()
    w.config_toml.write_text(text)
    found = line(check(w)[1], name)
    w.start_daemon()
    failure = w.wait_for_failure("config-conflict")["LastError"]
    assert (found["kind"], found["message"], found["remedy"]) == (failure[0], failure[2], failure[3])


def test_a_warning_of_the_hand_off(fresh):
    """The helper's warning has the hint that `check` gives without the daemon."""
    w = fresh()
    w.config_toml.write_text('auto_reprovisioning_mode = "AlwaysOnStartup"\n')
    found = line(check(w)[1], "iotedge-config")
    w.start_daemon()
    warnings = w.wait_for_state("handed-off")["Warnings"]
    assert [(found["kind"], found["message"], found["remedy"])] == [tuple(x) for x in warnings]
