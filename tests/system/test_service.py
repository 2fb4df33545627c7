"""The units under systemd's hands: stopped, restarted, hung, killed in the middle."""
import os
import re
import signal

import pytest
from machine import SCOPE, wait_for

UNIT = "dps-provisiond.service"
HANDOFFD = "dps-handoffd.service"
TPMD = "dps-tpmd.service"
DROP_IN = "/run/systemd/system/{}.d/50-test.conf"


def drop_in(machine, unit, text):
    """The machine is up: its /run is another one than the disk's."""
    path = DROP_IN.format(unit)
    machine.run("sh", "-c", f"mkdir -p {os.path.dirname(path)} && cat >{path} && systemctl daemon-reload", text=text)


def main_pid(machine, unit):
    return int(machine.show(unit, "MainPID"))


def kill(machine, unit, name):
    machine.run("systemctl", "kill", f"--signal={name}", "--kill-whom=main", unit)


def edge_runs(machine):
    """What a hand-off stops for a while."""
    units = ("aziot-edged.service", "aziot-edged.mgmt.socket", "aziot-edged.workload.socket", "aziot-identityd.socket",
             "aziot-tpmd.socket")
    return all(machine.show(unit, "ActiveState") == "active" for unit in units)


# --- what an operator does ---

def test_restart_keeps_the_state_and_asks_nobody(gateway, network):
    before, requests = main_pid(gateway, UNIT), len(network.requests())
    gateway.run("systemctl", "restart", UNIT)
    assert main_pid(gateway, UNIT) not in (0, before)
    gateway.wait_for_state("handed-off")
    assert len(network.requests()) == requests and gateway.show(UNIT, "NRestarts") == "0"


def test_stop_ends_it_cleanly_and_leaves_iot_edge_alone(gateway):
    starts = len(gateway.standin_events("edged-start"))
    gateway.run("systemctl", "stop", UNIT)
    assert gateway.show(UNIT, "Result") == "success" and gateway.show(UNIT, "ActiveState") == "inactive"
    assert gateway.show(UNIT, "ExecMainStatus") == "0"
    result = gateway.run("dps-provision", "status", check=False)
    assert result.returncode == 1 and "systemctl" in result.stderr, "says what to do"
    gateway.run("systemctl", "start", UNIT)
    gateway.wait_for_state("handed-off")
    assert len(gateway.standin_events("edged-start")) == starts and edge_runs(gateway)


@pytest.mark.parametrize("before, after, message, remedy", [
    (["true"], ["true"], "The daemon does not run.", "systemctl start dps-provisiond"),
    (["systemctl", "mask", "--runtime"], ["systemctl", "unmask", "--runtime"], "is masked", "systemctl unmask dps-provisiond"),
    (["systemctl", "disable"], ["systemctl", "enable"], "is disabled", "systemctl enable --now dps-provisiond"),
])
def test_a_daemon_that_was_stopped_is_not_started_by_a_call(gateway, before, after, message, remedy):
    """Neither by the command nor by the bus; and the command that is recommended helps."""
    gateway.run("systemctl", "stop", UNIT)
    gateway.run(*before, UNIT)
    for verb in (["status"], ["retry"], ["reprovision", "--yes"], ["factory-reset", "--yes"]):
        result = gateway.run("dps-provision", *verb, check=False)
        assert result.returncode == 1 and message in result.stderr and remedy in result.stderr, result
    assert gateway.show(UNIT, "ActiveState") == "inactive"
    result = gateway.run("dps-provision", "status", user="nobody", check=False)
    assert result.returncode == 1 and message in result.stderr, result
    gateway.run(*after, UNIT)
    gateway.run("systemctl", "start", "dps-provisiond")
    gateway.wait_for_state("handed-off")


def test_reload_rereads_the_configuration(new_machine):
    machine = new_machine(scope=None)
    machine.start()
    machine.wait_for_state("unprovisioned")
    before = main_pid(machine, UNIT)
    machine.run("sh", "-c", "cat >/etc/dps-provisiond/provisiond.conf.d/10-scope.conf",
                text=f"[Provisioning]\nIdScope={SCOPE}\n")
    machine.run("systemctl", "reload", UNIT)
    machine.wait_for_state("handed-off")
    assert main_pid(machine, UNIT) == before


def test_helpers_are_started_by_the_bus_alone_and_end_when_idle(gateway):
    """Takes up to a minute of real time: the helpers' idle time in a real system, where no clock is ours."""
    for unit in (HANDOFFD, TPMD):
        assert gateway.show(unit, "UnitFileState") == "static"
    assert gateway.show(UNIT, "UnitFileState") == "enabled"
    for unit in (HANDOFFD, TPMD):
        wait_for(f"the end of {unit}", lambda u=unit: gateway.show(u, "ActiveState") == "inactive", 180)
        assert gateway.show(unit, "Result") == "success" and gateway.show(unit, "NRestarts") == "0"
    gateway.run("dps-provision", "reprovision")  # they come again
    gateway.wait_for_state("handed-off")


@pytest.mark.parametrize("unit, name, last, question", [
    (TPMD, "org.dps.Tpm1", "Later", "HubKey"),
    (HANDOFFD, "org.dps.HandOff1", "Later", "Check us 4 gw-1"),
    (HANDOFFD, "org.dps.HandOff1", "Check us 2 gw-1", "Check us 4 gw-1"),
])
def test_no_call_is_lost_while_a_helper_leaves(gateway, unit, name, last, question):
    """It leaves after a call of another version: one that it doesn't know, or with another number."""
    drop_in(gateway, unit, "[Unit]\nStartLimitIntervalSec=0\n")
    call = f"busctl --timeout=60 call {name} /{name.replace('.', '/')} {name}"
    questions = f"{call} {question} >/dev/null 2>&1 || echo lost; " * 3
    lost = gateway.run("sh", "-c", f"for i in $(seq 30); do {call} {last} 2>/dev/null & for j in 1 2 3; do "
                                   f"( {questions}) & done; wait; done", timeout=300).stdout  # half a minute
    assert lost == ""
    assert gateway.show(unit, "Result") == "success" and gateway.show(unit, "NRestarts") == "0"


# --- what fails ---

def test_watchdog_restarts_a_hung_daemon(gateway, network):
    """Takes 15 s of real time: systemd's watchdog, which a loaded machine must not trigger before."""
    drop_in(gateway, UNIT, "[Service]\nWatchdogSec=15\nTimeoutAbortSec=2\nRestartSec=100ms\n")
    gateway.run("systemctl", "restart", UNIT)
    gateway.wait_for_state("handed-off")
    before, requests = main_pid(gateway, UNIT), len(network.requests())
    kill(gateway, UNIT, "STOP")
    wait_for("a new daemon", lambda: main_pid(gateway, UNIT) not in (0, before))
    gateway.wait_for_state("handed-off")
    assert gateway.show(UNIT, "NRestarts") == "1"
    assert gateway.journal(f"UNIT={UNIT}", "--grep=Watchdog timeout")
    assert len(network.requests()) == requests


@pytest.mark.parametrize("name", ["KILL", "SEGV"])
def test_killed_daemon_comes_back(gateway, name):
    before = main_pid(gateway, UNIT)
    kill(gateway, UNIT, name)
    wait_for("a new daemon", lambda: main_pid(gateway, UNIT) not in (0, before))
    gateway.wait_for_state("handed-off")


def test_handoff_helper_killed_in_the_middle(new_machine):
    machine = new_machine()
    machine.write("/etc/systemd/system/dps-iotedge-apply.service.d/50-test.conf", "[Service]\nExecStartPre="
                  "/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'\n")
    machine.start()
    wait_for("the apply", lambda: machine.show("dps-iotedge-apply.service", "ActiveState") == "activating")
    assert not edge_runs(machine)
    before = main_pid(machine, HANDOFFD)
    kill(machine, HANDOFFD, "KILL")
    wait_for("a new helper", lambda: main_pid(machine, HANDOFFD) not in (0, before))
    machine.run("touch", "/run/go")
    properties = machine.wait_for_state("handed-off")
    wait_for("IoT Edge", lambda: edge_runs(machine))
    assert machine.read("/etc/aziot/config.toml").count("[provisioning]") == 1
    machine.wait_for_edge_as(hub=properties["AssignedHub"])
    assert not (machine.root / "var/lib/dps-handoffd/stopped").exists()


def test_tpm_helper_killed_in_the_middle(new_machine):
    machine = new_machine()
    os.kill(machine.tpm.process.pid, signal.SIGSTOP)  # a TPM that does not answer
    try:
        machine.start()
        before = wait_for("the helper", lambda: main_pid(machine, TPMD))
        machine.wait_for_step("identity")
        kill(machine, TPMD, "KILL")
        entry = machine.wait_for_entry("DPS_STEP=identity", "DPS_FAILURE=tpm-failed")
    finally:
        os.kill(machine.tpm.process.pid, signal.SIGCONT)
    assert re.search(r"Next attempt in \d+ s", entry["MESSAGE"])
    machine.wait_for_state("handed-off")
    assert main_pid(machine, TPMD) != before


def test_daemon_killed_in_the_middle_needs_no_second_registration(new_machine, network):
    machine = new_machine()
    machine.write("/etc/systemd/system/dps-iotedge-apply.service.d/50-test.conf", "[Service]\nExecStartPre="
                  "/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'\n")
    registrations = network.registrations()
    machine.start()
    wait_for("the apply", lambda: machine.show("dps-iotedge-apply.service", "ActiveState") == "activating")
    before = main_pid(machine, UNIT)
    kill(machine, UNIT, "KILL")
    machine.run("touch", "/run/go")
    wait_for("a new daemon", lambda: main_pid(machine, UNIT) not in (0, before))
    machine.wait_for_state("handed-off")
    assert network.registrations() == registrations + 1 and edge_runs(machine)


def test_state_of_another_uid_is_taken_over(gateway, network):
    """After an update whose users have other numbers."""
    requests = len(network.requests())
    gateway.run("systemctl", "stop", UNIT)
    gateway.run("chown", "-R", "4242:4242", "/var/lib/dps-provisiond")
    gateway.run("systemctl", "start", UNIT)
    gateway.wait_for_state("handed-off")
    assert gateway.output("stat", "-c", "%U", "/var/lib/dps-provisiond/state.json") == "dps-provision"
    assert len(network.requests()) == requests


def test_unprovisioned_gateway_is_idle_and_healthy(new_machine, network):
    machine = new_machine(scope=None)
    requests = len(network.requests())
    machine.start()
    machine.wait_for_state("unprovisioned")
    assert machine.show(UNIT, "ActiveState") == "active" and len(network.requests()) == requests
    assert "set-scope" in machine.run("dps-provision", "status", check=False).stdout
    assert machine.output("systemctl", "is-system-running", "--wait", check=False) in ("running", "degraded")
    assert machine.show(HANDOFFD, "ActiveState") == "inactive"
