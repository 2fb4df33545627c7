"""Suite "daemon": what the configuration says, when it is wrong, and when it changes under way."""
import re
import shutil
import signal
import socket
import threading

import pytest
from bus import BusError
from harness import BUILD, SCOPE, Process, own_etc, wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}
SLOW_IDENTITY = [{"command": "GetCapability", "delay": 50}]


def change(world, **changes):
    """Writes the configuration and waits until the daemon has read it."""
    seen = len(world.daemon.lines)
    world.write_config(**changes)
    world.daemon.wait_for_line("The configuration has changed", start=seen)


def write_credentials(world, **credentials):
    """A credentials directory as systemd makes it; returns the environment to start the daemon with."""
    directory = world.dir / "credentials"
    directory.mkdir(exist_ok=True)
    for name, value in credentials.items():
        (directory / f"dps.{name}").write_text(value)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


@pytest.mark.smoke
def test_scope_from_a_credential(new_world):
    w = new_world(Provisioning={"IdScope": None}, **NO_EDGE)
    credentials = write_credentials(w, id_scope=SCOPE + "\n")
    w.helpers_environment(**credentials)
    w.enroll(w.enrollment())
    w.start_daemon(environment=credentials)
    assert w.wait_for_state("handed-off")["IdScope"] == SCOPE


def test_a_file_wins_over_the_credential(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon(environment=write_credentials(w, id_scope="0ne00OTHER"))
    assert w.wait_for_failure("enrollment-missing")["IdScope"] == SCOPE


def test_serial_number_in_the_registration_id(new_world):
    w = new_world(Provisioning={"RegistrationId": "gw-%s"}, **NO_EDGE)
    w.start_daemon(environment=write_credentials(w, serial=""))  # a machine without DMI
    p = w.wait_for_failure("config")
    assert "serial" in p["LastError"][2] and not w.requests()
    w.stop_daemon()
    w.start_daemon(environment=write_credentials(w, serial="SN0815\n"))
    assert w.wait_for_failure("enrollment-missing")["RegistrationId"] == "gw-SN0815"


def test_a_password_in_a_bad_proxy_is_not_told(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon(environment=write_credentials(w, proxy="htp://user:geheim@proxy:3128"))
    p = w.wait_for_failure("config")
    assert "credential dps.proxy" in p["LastError"][2]
    assert "geheim" not in "\n".join([*w.daemon.lines, *p["LastError"]])


def test_every_line_without_effect_is_told(new_world):
    w = new_world(**NO_EDGE)
    w.write_config(Provisioning={"IdScpoe": "x"}, Network={"Porxy": "y"})
    w.enroll(w.enrollment())
    w.start_daemon()
    (warning,) = w.wait_for_state("handed-off")["Warnings"]
    assert warning[0] == "config-ignored"
    assert re.search(r"provisiond\.conf:\d+: IdScpoe=.*provisiond\.conf:\d+: Porxy=", warning[1])


@pytest.mark.parametrize("key, value, says", [
    ("CAFile", "/nowhere/ca.pem", "/nowhere/ca.pem"),
    ("Payload", "/nowhere/payload.json", "/nowhere/payload.json"),
    ("Payload", "payload.json", "absolute"),
    ("Payload", "/etc/../payload.json", "absolute"),
    ("HubKeyHandle", "0x81010001", "0x81000002 to 0x817fffff"),
    ("RegistrationIdFormat", "sha1", "sha256-hex, sha256-base32"),
])
def test_mistakes_are_told_and_can_be_mended(new_world, key, value, says):
    section = {"CAFile": "Network", "HubKeyHandle": "Tpm"}.get(key, "Provisioning")
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    before = w.config[section].get(key)
    w.write_config(**{section: {key: value}})
    w.start_daemon()
    assert says in w.wait_for_failure("config")["LastError"][2]
    w.write_config(**{section: {key: before}})
    w.wait_for_state("handed-off")


# --- changes ---

def test_only_a_change_asks_the_service_again(new_world):
    """Files come and go in a directory that is watched; registrations are billed."""
    w = new_world(**NO_EDGE)
    w.start_daemon()
    due = w.wait_for_failure("enrollment-missing")["NextAttemptUSec"]
    for text in ("", "something"):
        seen = len(w.daemon.lines)
        (w.dir / "conf/unrelated").write_text(text)
        w.daemon.wait_for_line("configuration is unchanged", start=seen)
        seen = len(w.daemon.lines)
        w.write_config()
        w.daemon.wait_for_line("configuration is unchanged", start=seen)
    assert w.bus.properties()["NextAttemptUSec"] == due and len(w.requests(kind="register")) == 1
    w.daemon.process.send_signal(signal.SIGHUP)  # somebody wants it
    wait_for("another attempt", lambda: len(w.requests(kind="register")) == 2)
    w.wait_for_failure("enrollment-missing")
    w.write_config(Retry={"MaxSec": 3})
    wait_for("another attempt", lambda: len(w.requests(kind="register")) == 3)


def test_a_change_where_something_happens_all_the_time(new_world):
    w = new_world(Provisioning={"IdScope": None}, **NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("unprovisioned")
    done = threading.Event()

    def disturb():
        while not done.wait(0.01):
            (w.dir / "conf/unrelated").touch()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        w.write_config(Provisioning={"IdScope": SCOPE})
        w.wait_for_state("handed-off")
    finally:
        done.set()
        thread.join()


def test_a_change_does_not_end_a_429(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(emulator=[{"status": 429, "retryAfter": "300"}]))
    w.start_daemon()
    due = w.wait_for_failure("http-throttled")["NextAttemptUSec"]
    for change in ({"Retry": {"MaxSec": 3}}, {"Provisioning": {"RegistrationId": "gw-1"}}, {"HandOff": {"Identity": "register"}}):
        seen = len(w.daemon.lines)
        w.write_config(**change)
        w.daemon.wait_for_line("configuration has changed", start=seen)
        p = w.bus.properties()
        assert p["State"] == "attesting" and p["Step"] == "wait" and p["Attempts"] == 1
        assert p["LastError"][0] == "http-throttled" and abs(p["NextAttemptUSec"] - due) < 1e6
    assert len(w.requests(kind="register")) == 1


def test_target_changed_while_attesting(new_world):
    w = new_world()  # there is no IoT Edge
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait("a failure", lambda p: p["Step"] == "wait")
    assert not w.requests()
    w.write_config(**NO_EDGE)
    w.wait_for_state("handed-off")


def test_the_cure_comes_while_it_fails(new_world):
    """A proxy that does not answer is taken out of the configuration before its time is over."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        w = new_world(Retry={"InitialSec": 600, "MaxSec": 600},
                      Network={"Proxy": f"http://127.0.0.1:{silent.getsockname()[1]}"}, **NO_EDGE)
        w.enroll(w.enrollment())
        w.start_daemon()
        connection, _ = silent.accept()
        w.write_config(Network={"Proxy": None})
        w.daemon.wait_for_line("The configuration has changed")
        connection.close()
        w.daemon.wait_for_line("Next attempt in")
        w.daemon.wait_for_line("brought forward: an operator acted")
        w.wait_for_state("handed-off")


def test_a_mistake_during_a_call_of_a_helper(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=SLOW_IDENTITY)
    before = len(w.tpm_commands())
    w.start_daemon()
    wait_for("the slow command", lambda: len(w.tpm_commands()) > before)
    w.write_config(Network={"RequestTimeoutSec": "soon"})
    w.daemon.wait_for_line("RequestTimeoutSec=soon")
    w.tpm_faults()
    p = w.wait("the mistake", lambda p: p["State"] == "unprovisioned" and p["Step"] == "idle")
    assert p["LastError"][0] == "config"
    w.write_config(Network={"RequestTimeoutSec": 10})
    assert w.wait_for_state("handed-off")["LastError"][0] == ""


def importing(new_world):
    """A daemon that waits for its helper to import the hub's key, until the test takes the fault away."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "ActivateCredential", "nth": 2, "delay": 50}])
    w.start_daemon()
    w.wait("the import", lambda p: p["Step"] == "import")
    return w


def test_another_scope_by_way_of_a_mistake_during_a_call_of_a_helper(new_world):
    """What is compared is what the attempt began with, and not the mistake."""
    w = importing(new_world)
    change(w, Provisioning={"IdScope": "0ne00OTHER1"}, Network={"RequestTimeoutSec": "soon"})
    change(w, Network={"RequestTimeoutSec": 10})
    w.tpm_faults()
    p = w.wait_for_failure("scope-unknown")
    assert p["State"] == "attesting" and p["AssignedHub"] == ""


def test_a_scope_that_goes_and_comes_during_a_call_of_a_helper(new_world):
    """Is no change, so what the service has just assigned is not asked for twice."""
    w = importing(new_world)
    change(w, Provisioning={"IdScope": None})
    change(w, Provisioning={"IdScope": SCOPE})
    w.tpm_faults()
    assert w.wait_for_state("handed-off")["LastError"][0] == ""
    assert w.registrations() == 1


def test_another_handle_by_way_of_a_mistake_during_a_call_of_a_helper(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": "EvictControl", "delay": 50}])
    w.start_daemon()
    wait_for("the key to be made persistent", lambda: "EvictControl" in w.tpm_commands())
    change(w, Tpm={"HubKeyHandle": "0x81000105"}, Network={"RequestTimeoutSec": "soon"})
    change(w, Network={"RequestTimeoutSec": 10})
    w.tpm_faults()
    wait_for("the key at the other handle", lambda: w.hub_key("0x81000105"))
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_scope_removed_while_reprovision_waits(new_world):
    w = new_world(**NO_EDGE)
    w.tpm_faults(rules=SLOW_IDENTITY)
    before = len(w.tpm_commands())
    w.start_daemon()
    wait_for("the slow command", lambda: len(w.tpm_commands()) > before)
    call = w.bus.begin("Reprovision")
    w.daemon.wait_for_line("Reprovisioning was asked for")
    w.write_config(Provisioning={"IdScope": None})
    w.daemon.wait_for_line("The configuration has changed")
    w.tpm_faults()
    w.wait_for_state("unprovisioned")
    with pytest.raises(BusError, match="scope"):
        w.bus.end(call)
    assert not w.requests()


def test_started_without_a_scope_after_the_hand_off(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.stop_daemon()
    w.write_config(Provisioning={"IdScope": None})
    w.start_daemon()
    p = w.wait("a warning", lambda p: p["Warnings"])
    assert p["State"] == "handed-off" and p["Warnings"][0][0] == "config" and p["LastError"][0] == ""
    w.write_config(Provisioning={"IdScope": SCOPE})
    p = w.wait("no warning", lambda p: not p["Warnings"] and p["Step"] == "idle" and p["EndorsementKey"])
    assert p["State"] == "handed-off" and w.registrations() == 1


def test_a_typing_error_does_not_cost_a_registration(new_world):
    w = new_world(Provisioning={"RegistrationId": "gw-1"}, **NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.write_config(Provisioning={"RegistrationId": "gw 1"})
    p = w.wait("a warning", lambda p: p["Warnings"])
    assert p["State"] == "handed-off" and re.search(r"conf:\d+: RegistrationId=", p["Warnings"][0][1])
    w.write_config(Provisioning={"RegistrationId": "gw-1"})
    w.wait("no warning", lambda p: not p["Warnings"] and p["State"] == "handed-off")
    w.write_config(Provisioning={"RegistrationId": "gw-2"})
    w.wait_for_failure("enrollment-missing")
    assert w.registrations() == 1


def test_a_typing_error_while_switched_off(new_world):
    """The value that counts in its place is no other one to hand off with."""
    w = new_world(HandOff={"Identity": "register"})
    w.start_gateway()
    jobs = w.jobs()
    w.stop_daemon()
    w.write_config(HandOff={"Identity": "registers"})
    w.start_daemon()
    p = w.wait("a warning", lambda p: p["Warnings"])
    assert p["State"] == "handed-off" and p["Warnings"][0][0] == "config" and p["LastError"][0] == ""
    w.write_config(HandOff={"Identity": "register"})
    w.wait("no warning", lambda p: not p["Warnings"] and p["Step"] == "idle" and p["EndorsementKey"])
    assert w.bus.properties()["State"] == "handed-off" and w.jobs() == jobs


def test_another_scope_while_switched_off(new_world):
    """The last proven hub is told until another one is."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    hub = w.wait_for_state("handed-off")["AssignedHub"]
    w.stop_daemon()
    w.write_config(Provisioning={"IdScope": "0ne00OTHER1"})
    w.start_daemon()
    p = w.wait_for_failure("scope-unknown")
    assert p["State"] == "attesting" and p["AssignedHub"] == hub and w.hub_key()
    w.write_config(Provisioning={"IdScope": SCOPE})
    w.wait_for_state("handed-off")


@pytest.mark.root  # an /etc of its own
def test_directories_that_come_and_go(new_world):
    w = new_world()
    etc = w.dir / "etc/dps-provisiond"
    w.daemon = Process([*own_etc(w), BUILD / "daemon/provisiond/dps-provisiond", f"--state-dir={w.dir}/state",
                        "--log-target=stderr", "--log-level=debug"], "daemon", w.environment)
    w.wait_for_daemon()

    def make(name, scope):
        dropins = w.dir / "etc" / name / "provisiond.conf.d"
        dropins.mkdir(parents=True)
        (dropins / "scope.conf").write_text(f"[Provisioning]\nIdScope={scope}\n")
        return dropins.parent

    def noticed(scope):
        w.wait(f"the scope '{scope}'", lambda p: p["IdScope"] == scope)

    noticed("")
    make("dps-provisiond", "made")
    noticed("made")
    etc.rename(w.dir / "etc/away")
    noticed("")
    make("new", "renamed").rename(etc)
    noticed("renamed")
    (etc / "provisiond.conf.d/scope.conf").unlink()
    noticed("")
    (etc / "provisiond.conf.d").rmdir()
    (etc / "provisiond.conf.d").symlink_to(w.dir / "etc/away/provisiond.conf.d")
    noticed("made")
    (w.dir / "etc/away/provisiond.conf.d/scope.conf").write_text("[Provisioning]\nIdScope=linked\n")
    noticed("linked")
    shutil.rmtree(w.dir / "etc/away")
    noticed("")
    shutil.rmtree(etc)
    make("dps-provisiond", "again")
    noticed("again")


def test_a_scope_that_is_changed_back_during_a_helper_s_call(new_world):
    w = new_world()
    w.start_gateway()
    w.wait("idle", lambda p: p["Step"] == "idle")
    registrations, jobs = w.registrations(), len(w.jobs())
    w.stop_daemon()
    w.kill_helper("dps-tpmd")
    w.tpm_faults(rules=[{"command": "GetCapability", "delay": 50}])
    w.start_daemon()
    w.wait("the helper's call", lambda p: p["Step"] == "identity")
    w.write_config(Provisioning={"IdScope": "0ne00OTHER1"})
    w.wait("the other scope", lambda p: p["IdScope"] == "0ne00OTHER1")
    w.write_config(Provisioning={"IdScope": SCOPE})
    w.wait("the scope", lambda p: p["IdScope"] == SCOPE)
    w.tpm_faults()
    assert w.wait("idle", lambda p: p["Step"] == "idle")["State"] == "handed-off"
    assert w.registrations() == registrations and w.jobs()[jobs:] == []


def test_an_assigned_gateway_tells_a_configuration_error_at_its_start(new_world):
    w = new_world()
    w.start_standins()
    w.enroll(w.enrollment(capabilities={"iotEdge": True}))
    w.standin_faults(apply="told to fail")
    w.start_daemon()
    assert w.wait_for_failure("apply-failed")["State"] == "assigned"
    w.stop_daemon()
    w.write_config(Network={"RequestTimeoutSec": "soon"})
    w.start_daemon()
    p = w.wait_for_failure("config")
    assert p["State"] == "assigned" and p["Step"] == "idle"
