"""A gateway with the product from its Debian package, and the rights of everybody around it."""
import json
import re

import pytest
from machine import NAME, PATH, SCOPE, SOURCE, wait_for

HELPERS = (("org.dps.Tpm1", "/org/dps/Tpm1", "Identity", ()),
           ("org.dps.HandOff1", "/org/dps/HandOff1", "Check", ("us", "4", "gw-1")),
           ("org.dps.HandOff1", "/org/dps/HandOff1", "Quiesce", ("u", "4")))
RULE = """polkit.addRule(function(action, subject) {
        if (action.id == "org.dps.provisioning.%s" && subject.user == "games")
                return polkit.Result.YES;
});
"""


def call_as(machine, user, member, *arguments, name=NAME, path=PATH):
    return machine.busctl("call", name, path, name, member, *arguments, user=user, check=False)


# --- the way there ---

def test_boots_to_handed_off_with_nobody_logging_in(network, new_machine):
    machine = new_machine()
    before = network.registrations()
    machine.start()
    properties = machine.wait_for_state("handed-off")
    assert properties["LastError"] == ["", "", "", ""] and properties["Warnings"] == []
    assert network.registrations() == before + 1
    machine.wait_for_edge_as(hub=properties["AssignedHub"], device=properties["DeviceId"])
    assert machine.standin_events("hub", status=200) and not machine.standin_events("registers-itself")
    assert machine.output("systemctl", "--failed", "--no-legend", "--plain") == ""
    assert (machine.root / "etc/aziot/config.toml").stat().st_mode & 0o777 == 0o600
    assert not machine.journal("--identifier=dbus-daemon", "--grep=denied|Rejected"), "a policy that is too tight"


def test_state_survives_a_reboot_without_network_traffic(network, new_machine):
    machine = new_machine()
    machine.start()
    before = machine.wait_for_state("handed-off")
    requests = len(network.requests())
    machine.reboot()
    after = machine.wait_for_state("handed-off")
    assert {k: after[k] for k in ("AssignedHub", "DeviceId", "RegistrationId")} == \
           {k: before[k] for k in ("AssignedHub", "DeviceId", "RegistrationId")}
    ours = [r for r in network.requests()[requests:] if r["kind"] != "hub"]
    assert not ours, "the daemon has nothing to ask"


def test_a_boot_with_a_clock_to_be_set_holds_identityd(network, new_machine):
    """With a unit that waits for the time service. The hub refuses tokens of a wrong clock, and identityd then throws
    the adopted key away."""
    machine = new_machine()
    machine.start()
    machine.wait_for_state("handed-off")
    machine.run("sync")
    machine.power_off()
    machine.write("/etc/systemd/system/sysinit.target.d/clock.conf", "[Unit]\nWants=clock.service\n")
    machine.write("/etc/systemd/system/clock.service", """[Unit]
DefaultDependencies=no
Wants=time-sync.target
Before=time-sync.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'until test -e /run/clock-is-set; do sleep 0.1; done'
""")
    events, requests = len(machine.standin_events()), len(network.requests())

    machine.launch()
    wait_for("aziot-edged", lambda: [e for e in machine.standin_events()[events:] if e["event"] == "edged-start"])
    # its request has started identityd, which waits
    wait_for("identityd's job", lambda: "aziot-identityd.service" in
             machine.output("systemctl", "list-jobs", "--no-legend", check=False))
    for unit in ("aziot-identityd.service", "dps-provisiond.service"):
        assert machine.show(unit, "ActiveState") == "inactive", unit
    assert len(network.requests()) == requests

    machine.run("touch", "/run/clock-is-set")
    machine.wait_for_state("handed-off")
    wait_for("IoT Edge", lambda: [e for e in machine.standin_events()[events:] if e["event"] == "edged-device"])
    assert {r["kind"] for r in network.requests()[requests:]} == {"hub"}


def test_reads_the_scope_when_it_comes_later(network, new_machine):
    machine = new_machine(scope=None)
    machine.start()
    machine.wait_for_state("unprovisioned")
    machine.run("dps-provision", "set-scope", SCOPE)
    machine.wait_for_state("handed-off")


# --- who may what on the bus ---

def test_unprivileged_user_reads_the_status(gateway):
    result = gateway.run("dps-provision", "status", "--json", user="games")
    assert json.loads(result.stdout)["state"] == "handed-off"
    assert gateway.properties(user="nobody")["State"] == "handed-off"


DENIED = "Only root, or whom polkit allows it, may call this"  # says the daemon, not the bus


@pytest.mark.parametrize("verb", ["reprovision", "retry"])
def test_unprivileged_user_is_denied(gateway, network, verb):
    before = len(network.requests())
    result = gateway.run("dps-provision", verb, user="games", check=False)
    assert result.returncode == 1 and DENIED in result.stderr
    assert len(network.requests()) == before and gateway.properties()["State"] == "handed-off"


def test_unprivileged_user_is_denied_without_polkit(gateway):
    gateway.run("systemctl", "mask", "--runtime", "--now", "polkit.service")
    try:
        result = gateway.run("dps-provision", "reprovision", user="games", check=False)
        assert result.returncode == 1 and DENIED in result.stderr
    finally:
        gateway.run("systemctl", "unmask", "--runtime", "polkit.service")


def test_polkit_rule_allows_one_action_to_one_user(new_machine, network):
    machine = new_machine()
    machine.write("/etc/polkit-1/rules.d/50-test.rules", RULE % "reprovision")
    machine.start()
    machine.wait_for_state("handed-off")
    before = network.registrations()
    for user, verb in (("news", "reprovision"), ("games", "retry")):
        assert DENIED in machine.run("dps-provision", verb, user=user, check=False).stderr
    machine.run("dps-provision", "reprovision", user="games")
    machine.wait_for_state("handed-off")
    assert network.registrations() == before + 1


@pytest.mark.parametrize("user", ["nobody", "games", "dps-tpm"])
@pytest.mark.parametrize("name, path, member, arguments", HELPERS)
def test_nobody_else_calls_the_helpers(gateway, user, name, path, member, arguments):
    result = call_as(gateway, user, member, *arguments, name=name, path=path)
    assert result.returncode != 0 and "Access denied" in result.stderr, result


@pytest.mark.parametrize("user", ["nobody", "dps-provision", "root"])
def test_only_its_user_owns_a_name(gateway, user):
    owners = {"org.dps.Provisioning1": "dps-provision", "org.dps.Tpm1": "dps-tpm", "org.dps.HandOff1": "root"}
    for name, owner in owners.items():
        result = gateway.run("busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su",
                             name, "4", user=user, check=False)
        assert (result.returncode == 0) == (user == owner), (name, result.stderr)


# --- what the daemon's user can't do, even outside of its sandbox ---

@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
@pytest.mark.parametrize("unit", ["aziot-edged.service", "dps-iotedge-apply.service", "dps-provisiond.service"])
def test_daemons_user_has_no_say_in_units(gateway, unit, verb):
    result = gateway.run("systemctl", "--no-ask-password", verb, unit, user="dps-provision", check=False)
    assert result.returncode != 0 and "authentication" in result.stderr.lower(), result


@pytest.mark.parametrize("path", ["/etc/aziot/config.toml", "/etc/dps-provisiond/provisiond.conf",
                                  "/var/lib/aziot/identityd/device_info", "/var/lib/dps-handoffd/record.json"])
def test_daemons_user_writes_no_file_of_others(gateway, path):
    assert (gateway.root / path.lstrip("/")).exists()
    result = gateway.run("sh", "-c", f"echo >>{path}", user="dps-provision", check=False)
    assert result.returncode != 0 and "Permission denied" in result.stderr


@pytest.mark.parametrize("user, denied", [("dps-provision", True), ("games", True), ("dps-tpm", False)])
def test_only_the_tpm_helpers_user_opens_the_tpm(gateway, user, denied):
    script = "import socket; socket.socket(socket.AF_UNIX).connect('/mnt/tpm/tpm')"
    result = gateway.run("python3", "-c", script, user=user, check=False)
    assert ("PermissionError" in result.stderr) == denied, result


def test_iot_edges_tpm_service_has_its_access_from_our_drop_in(gateway):
    assert "tss" in gateway.show("aziot-tpmd.service", "SupplementaryGroups")
    assert "time-sync.target" in gateway.show("aziot-identityd.service", "After")
    script = "import socket; socket.socket(socket.AF_UNIX).connect('/mnt/tpm/tpm')"
    result = gateway.run("python3", "-c", script, user="aziottpm", check=False)
    assert "PermissionError" in result.stderr, "without the drop-in it has none"


def test_state_is_for_its_owner_alone(gateway):
    for path, user in (("/var/lib/dps-provisiond", "dps-provision"), ("/var/lib/dps-handoffd", "root")):
        assert gateway.output("stat", "-c", "%U %a", path) == f"{user} 700"
        assert gateway.run("ls", path, user="games", check=False).returncode != 0


# --- what an operator sees ---

def test_journal_fields(gateway):
    entries = {e["DPS_STATE"]: e for e in gateway.journal("--unit=dps-provisiond", "--grep=.")
               if "MESSAGE_ID" in e and "DPS_FAILURE" not in e and "DPS_STATE" in e}
    properties = gateway.properties()
    assert set(entries) == {"attesting", "assigned", "handed-off"}
    for state, entry in entries.items():
        assert entry["DPS_SCOPE_ID"] == SCOPE and entry["PRIORITY"] == "5", state
        assert entry["_SYSTEMD_UNIT"] == "dps-provisiond.service" and len(entry["MESSAGE_ID"]) == 32
        assert entry["SYSLOG_IDENTIFIER"] == "dps-provisiond"
    for state in ("assigned", "handed-off"):
        assert entries[state]["DPS_HUB"] == properties["AssignedHub"]
        assert entries[state]["DPS_DEVICE_ID"] == properties["DeviceId"]
        assert entries[state]["DPS_REGISTRATION_ID"] == properties["RegistrationId"]
    assert len({entry["MESSAGE_ID"] for entry in entries.values()}) == 3


def test_catalog_explains_a_state(gateway):
    gateway.sync_journal()
    text = gateway.output("journalctl", "-x", "--no-pager", "--unit=dps-provisiond")
    properties = gateway.properties()
    assert "Subject: Device provisioning: handed-off" in text and "Defined-By: dps-provisiond" in text
    assert f"IoT Edge runs as the device {properties['DeviceId']}, and the hub {properties['AssignedHub']} has" in text


def test_failure_says_what_to_do_in_journal_catalog_and_status(new_machine):
    machine = new_machine(enrolled=False)
    machine.start()
    entry = machine.wait_for_entry("DPS_FAILURE=enrollment-missing")
    assert entry["DPS_STATE"] == "attesting" and entry["DPS_STEP"] == "register" and entry["PRIORITY"] == "4"
    remedy = machine.properties()["LastError"][3]
    assert len(remedy) > 20 and entry["DPS_REMEDY"] == remedy
    page = (SOURCE / "docs/dps-provisiond.8.in").read_text()
    fields = {name for e in machine.journal("--unit=dps-provisiond") for name in e if name.startswith("DPS_")}
    assert {"DPS_FAILURE", "DPS_CODE", "DPS_STATE"} <= fields <= set(re.findall(r"\bDPS_[A-Z_]+\b", page))
    text = machine.output("journalctl", "-x", "--no-pager", "--unit=dps-provisiond")
    assert "Documentation: man:dps-provisiond(8)" in text
    assert " ".join(remedy.split()) in " ".join(text.replace("░░", "").split())
    assert machine.run("dps-provision", "status", check=False).returncode == 3
    status = machine.run("systemctl", "status", "--no-pager", "dps-provisiond", check=False).stdout
    assert 'Status: "' in status, status


def test_status_line_of_the_unit(gateway):
    hub = gateway.properties()["AssignedHub"]
    wait_for("the status", lambda: hub in gateway.show("dps-provisiond.service", "StatusText"))
