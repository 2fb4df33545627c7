"""Upgrade from the packages of an older commit, and downgrade to them.

The older packages are built from the history by that commit's own "./dev deb", once: they stay in a directory of their
own beside the current ones.
"""
import shutil
import subprocess
import tempfile

import pytest
from conftest import DEBS, packages
from machine import SCOPE, SOURCE, wait_for

UNIT = "dps-provisiond.service"
DAEMON, HANDOFFD, TPMD = ("usr/bin/dps-provisiond", "usr/libexec/dps-provisiond/dps-handoffd",
                          "usr/libexec/dps-provisiond/dps-tpmd")
COMMIT = "d4a037971b978b5518d2602c5eee77231269e1de"  # the last one whose state file has version 1
APPLY_FAILS = """[Unit]
StartLimitIntervalSec=0
[Service]
ExecStartPre=/usr/bin/test -e /run/apply
"""


def old_package():
    """Builds it if need be. Skips the test where the clone has no such commit."""
    directory = DEBS / f"of-{COMMIT[:12]}"
    if not (directory / "complete").exists():
        if subprocess.run(["git", "-C", SOURCE, "cat-file", "-e", f"{COMMIT}^{{commit}}"], capture_output=True,
                          check=False).returncode != 0:
            pytest.skip(f"the commit {COMMIT[:12]} is not in this clone; 'git fetch --unshallow' brings it")
        with tempfile.TemporaryDirectory(prefix="dps-old-") as stage:
            for command in (["git", "clone", "-q", "--shared", "--no-checkout", SOURCE, stage],
                            ["git", "-C", stage, "checkout", "-q", COMMIT], [f"{stage}/dev", "deb", directory]):
                result = subprocess.run(command, text=True, capture_output=True, check=False)
                assert result.returncode == 0, (command, result.stdout, result.stderr)
        (directory / "complete").touch()
    return next(directory.glob("dps-provisiond_*.deb"))


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("debs")
    shutil.copy(old_package(), directory / "old.deb")
    shutil.copy(packages()[0], directory / "current.deb")
    return directory


@pytest.fixture
def old_machine(new_machine, debs):
    """Runs the older package, and has no scope yet."""
    machine = new_machine(scope=None)
    machine.start(f"--bind-ro={debs}:/mnt/debs")
    install(machine, "old")
    return machine


def install(machine, name):
    """Returns the process ID of the daemon."""
    before = machine.show(UNIT, "MainPID")
    machine.run("dpkg", "-i", f"/mnt/debs/{name}.deb")
    return wait_for("the other daemon", lambda: {machine.show(UNIT, "MainPID")} - {"0", before}).pop()


def states(machine, pid):
    """Every State that this daemon has logged."""
    return {entry["DPS_STATE"] for entry in machine.journal(f"_PID={pid}") if "DPS_STATE" in entry}


def handed_off(machine):
    """The properties, once the daemon is through with what it does at its start."""
    properties = machine.wait_for_step("idle")
    assert properties["State"] == "handed-off" and properties["LastError"] == ["", "", "", ""]
    return {name: properties[name] for name in ("State", "AssignedHub", "DeviceId", "RegistrationId")}


def hold_at_assigned(machine):
    """'iotedge config apply' fails until release()."""
    directory = "/etc/systemd/system/dps-iotedge-apply.service.d"
    machine.run("sh", "-ec", f"mkdir -p {directory}; cat >{directory}/50-test.conf; systemctl daemon-reload",
                text=APPLY_FAILS)


def release(machine):
    machine.run("touch", "/run/apply")
    machine.run("dps-provision", "retry", check=False)  # unless it is at work just now
    machine.wait_for_state("handed-off")


def test_a_handed_off_gateway_is_upgraded_and_downgraded(old_machine, network):
    registrations = network.registrations()
    old_machine.run("dps-provision", "set-scope", SCOPE)
    old_machine.wait_for_state("handed-off")
    before = handed_off(old_machine)
    old_machine.wait_for_edge_as(hub=before["AssignedHub"])
    starts = len(old_machine.standin_events("edged-start"))
    config = old_machine.read("/etc/aziot/config.toml")

    def unchanged():
        return (handed_off(old_machine) == before and old_machine.read("/etc/aziot/config.toml") == config
                and len(old_machine.standin_events("edged-start")) == starts
                and not old_machine.standin_events("registers-itself"))

    pid = install(old_machine, "current")
    assert unchanged() and states(old_machine, pid) == {"handed-off"}
    assert network.registrations() == registrations + 1

    install(old_machine, "old")
    assert unchanged()
    downgraded = network.registrations()
    assert downgraded <= registrations + 2, "one, if the older daemon sets a newer state aside"

    pid = install(old_machine, "current")
    assert unchanged() and states(old_machine, pid) == {"handed-off"}
    assert network.registrations() == downgraded


def test_an_assigned_gateway_is_upgraded(old_machine, network):
    registrations = network.registrations()
    hold_at_assigned(old_machine)
    old_machine.run("dps-provision", "set-scope", SCOPE)
    old_machine.wait_for_entry("DPS_FAILURE=apply-failed")

    pid = install(old_machine, "current")
    old_machine.wait_for_entry("DPS_FAILURE=apply-failed", f"_PID={pid}")
    assert states(old_machine, pid) == {"assigned"}
    assert not old_machine.standin_events("edged-start")
    release(old_machine)
    assert network.registrations() == registrations + 1
    assert not old_machine.standin_events("registers-itself")


def test_an_assigned_gateway_is_downgraded(old_machine, network):
    registrations = network.registrations()
    hold_at_assigned(old_machine)
    pid = install(old_machine, "current")
    old_machine.run("dps-provision", "set-scope", SCOPE)
    old_machine.wait_for_entry("DPS_FAILURE=apply-failed", f"_PID={pid}")
    pid = install(old_machine, "old")
    old_machine.wait_for_entry("DPS_FAILURE=apply-failed", "DPS_STATE=assigned", f"_PID={pid}")
    assert not old_machine.standin_events("edged-start")
    release(old_machine)
    assert network.registrations() <= registrations + 2, "one, if the older daemon sets a newer state aside"
    assert not old_machine.standin_events("registers-itself")


# --- programs of two versions ---

def old_program(debs):
    """Unpacks the older package into the directory that machines see as /mnt/debs."""
    subprocess.run(["dpkg-deb", "-x", debs / "old.deb", debs / "old"], check=True)


def exchange(machine, source, *programs):
    """Installs the programs from this directory and stops the running ones."""
    for program in programs:
        machine.run("cp", "--remove-destination", f"{source}/{program}", f"/{program}")
        machine.run("systemctl", "stop", f"{program.rpartition('/')[2]}.service")


def both_versions(new_machine, debs, **options):
    """A gateway with the current package. The older programs are in /mnt/debs/old, the current ones in /root."""
    if not (debs / "old").exists():
        old_program(debs)
    machine = new_machine(**options)
    machine.start(f"--bind-ro={debs}:/mnt/debs")
    for program in (DAEMON, HANDOFFD, TPMD):
        machine.run("install", "-D", f"/{program}", f"/root/{program}")
    return machine


def wait_for_refusal(machine):
    """Waits for the failure of a refused call, with a message and a hint; returns the properties."""
    wait_for("a refusal", lambda: machine.properties()["LastError"][0])
    properties = machine.wait_for_step("wait")
    kind, code, message, hint = properties["LastError"]
    assert kind in ("apply-failed", "tpm-failed"), properties["LastError"]
    assert code == "version" or code.endswith((".InvalidArgs", ".UnknownMethod")), properties["LastError"]
    assert len(message) > 20 and len(hint) > 20
    return properties


def edge_runs(machine):
    units = ("aziot-edged.service", "aziot-identityd.socket", "aziot-tpmd.socket")
    return all(machine.show(unit, "ActiveState") == "active" for unit in units)


def test_an_older_handoff_helper_is_refused(new_machine, network, debs):
    """The helper still runs the older program after the upgrade."""
    machine = both_versions(new_machine, debs)
    before = machine.wait_for_state("handed-off")
    requests, starts = len(network.requests(kind="register")), len(machine.standin_events("edged-start"))
    exchange(machine, "/mnt/debs/old", HANDOFFD)
    machine.run("systemctl", "restart", UNIT)
    assert wait_for_refusal(machine)["State"] == "handed-off"

    exchange(machine, "/root", HANDOFFD)
    machine.run("dps-provision", "retry", check=False)
    after = machine.wait_for_property("LastError", ["", "", "", ""])
    assert (after["State"], after["AssignedHub"]) == ("handed-off", before["AssignedHub"])
    assert len(network.requests(kind="register")) == requests
    assert len(machine.standin_events("edged-start")) == starts


def test_an_older_handoff_helper_does_not_hold_iot_edge(new_machine, network, debs):
    """The daemon moves the device, and the older helper may accept the call that stops identityd."""
    machine = both_versions(new_machine, debs)
    machine.wait_for_state("handed-off")
    registrations = network.registrations()
    hub = f"hub-b.localhost:{network.port}"
    network.enroll(*network.enrollments[:-1], {**network.enrollments[-1], "iotHubHostName": hub})
    exchange(machine, "/mnt/debs/old", HANDOFFD)
    machine.run("dps-provision", "reprovision")
    wait_for_refusal(machine)
    wait_for("IoT Edge", lambda: edge_runs(machine), 60)  # the helper itself would wait for 5 minutes
    assert network.registrations() == registrations

    exchange(machine, "/root", HANDOFFD)
    machine.run("dps-provision", "retry", check=False)
    wait_for("the other hub", lambda: machine.wait_for_step("idle")["AssignedHub"] == hub)
    assert network.registrations() == registrations + 1


def test_an_older_tpm_helper_is_refused(new_machine, network, debs):
    registrations = network.registrations()
    machine = both_versions(new_machine, debs, scope=None)
    exchange(machine, "/mnt/debs/old", TPMD)
    machine.run("dps-provision", "set-scope", SCOPE)
    wait_for_refusal(machine)
    assert not machine.standin_events("edged-start")

    exchange(machine, "/root", TPMD)
    machine.run("dps-provision", "retry", check=False)
    machine.wait_for_state("handed-off")
    assert network.registrations() == registrations + 1


def test_an_older_daemon_is_refused(new_machine, network, debs):
    registrations = network.registrations()
    machine = both_versions(new_machine, debs, scope=None)
    exchange(machine, "/mnt/debs/old", DAEMON)
    machine.run("systemctl", "start", UNIT)
    machine.run("dps-provision", "set-scope", SCOPE)
    wait_for_refusal(machine)
    assert not machine.standin_events("edged-start")

    exchange(machine, "/root", DAEMON)
    machine.run("systemctl", "start", UNIT)
    machine.wait_for_state("handed-off")
    assert network.registrations() == registrations + 1
