"""Suite "handoff": what happens to IoT Edge, with systemd and IoT Edge played by tests/standins."""
import ctypes
import json
import os
import subprocess
import tomllib

import pytest
from bus import BusError
from handoff import (members, APPLY, IDENTITYD, MANUAL, OPERATORS, Caller, backups, edge, info_path, info_text, ours, prepared,
                     queued, set_confirm_timeout, snapshot, stopped_path, write_config_toml)
from harness import SCOPE, wait_for


def refused(world, kind, sentence):
    """A refusal costs no request and touches nothing."""
    before = world.config_toml.read_bytes() if world.config_toml.is_file() else None
    world.start_daemon()
    p = world.wait_for_failure(kind)
    assert sentence in p["LastError"][2], p["LastError"]
    assert not world.requests() and not world.jobs() and world.hub_key() is None
    assert before == (world.config_toml.read_bytes() if world.config_toml.is_file() else None)
    assert not list(world.config_toml.parent.glob("config.toml?*"))


# --- whose config.toml it is ---

def test_no_config_toml(new_world):
    w = new_world()
    w.start_gateway()
    written = tomllib.loads(w.config_toml.read_text())
    assert written == tomllib.loads(ours(w, w.bus.properties()["RegistrationId"]))
    assert w.config_toml.stat().st_mode & 0o777 == 0o600
    assert (w.root / "var/lib/aziot/identityd/device_info").stat().st_mode & 0o777 == 0o644
    applied = list((w.root / "etc/aziot").glob("*d/config.d/00-super.toml"))
    assert len(applied) == 5 and {path.stat().st_mode & 0o777 for path in applied} == {0o600}


@pytest.mark.root
@pytest.mark.smoke
def test_config_toml_without_provisioning(new_world):
    w = prepared(new_world, OPERATORS)
    w.config_toml.chmod(0o640)
    os.chown(w.config_toml, 1234, 1234)
    w.start_daemon()
    w.wait_for_state("handed-off")
    text = w.config_toml.read_text()
    assert text.startswith(OPERATORS)
    assert tomllib.loads(text)["provisioning"]["id_scope"] == SCOPE
    status = w.config_toml.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 1234, 1234)
    assert [path.name for path in backups(w)] == ["config.toml.before-dps-provisiond-1"]
    assert backups(w)[0].read_text() == OPERATORS and backups(w)[0].stat().st_mode & 0o777 == 0o640


def test_config_toml_of_somebody_else(new_world):
    w = prepared(new_world, MANUAL)
    refused(w, "config-conflict", "did not write")
    w.write_config(HandOff={"ReplaceProvisioning": "yes"})
    w.wait_for_state("handed-off")
    before, after = tomllib.loads(MANUAL), tomllib.loads(w.config_toml.read_text())
    assert after.pop("provisioning")["source"] == "dps"
    del before["provisioning"]
    assert before == after


def test_our_config_toml_after_the_scope_changed(new_world):
    w = new_world()
    w.start_gateway()
    text = w.config_toml.read_text().replace(SCOPE, "0neOther")
    w.write_config(Provisioning={"RegistrationId": "renamed"})
    w.enroll(edge(w))
    w.wait("the new name", lambda p: p["State"] == "handed-off" and p["RegistrationId"] == "renamed")
    assert tomllib.loads(w.config_toml.read_text())["provisioning"]["attestation"]["registration_id"] == "renamed"
    assert text != w.config_toml.read_text()


@pytest.mark.parametrize("text, kind, sentence", [
    ('parent_hostname = "up"\n', "config-conflict", "parent_hostname"),
    ("[tpm]\nauth_key_index = 0x200\n", "config-conflict", "auth_key_index"),
    ("a = \n", "config-conflict", "config.toml:1:"),
    ('[[provisioning]]\nsource = "dps"\n', "config-conflict", "config.toml:1:"),
])
def test_what_can_not_be_used_is_refused(new_world, text, kind, sentence):
    w = prepared(new_world, text)
    refused(w, kind, sentence)
    w.config_toml.unlink()
    w.retry()
    w.wait_for_state("handed-off")


def test_symbolic_link_is_refused(new_world):
    w = prepared(new_world)
    (w.root / "etc/aziot/real.toml").write_text("a = 1\n")
    w.config_toml.symlink_to("real.toml")
    w.start_daemon()
    p = w.wait_for_failure("config-conflict")
    assert "symbolic link" in p["LastError"][2] and not w.requests()
    assert w.config_toml.is_symlink()


@pytest.mark.parametrize("unit, fault, sentence", [("aziot-identityd.service", "not-found", "not installed"),
                                                   ("aziot-identityd.service", "masked", "is masked"),
                                                   ("aziot-edged.service", "masked", "is masked")])
def test_missing_runtime(new_world, unit, fault, sentence):
    w = new_world()
    w.standin_faults(units={unit: {"load": fault}})
    w.start_standins()
    w.enroll(edge(w))
    refused(w, "runtime-missing", sentence)
    w.standin_faults()
    w.retry()
    w.wait_for_state("handed-off")


def test_legacy_runtime(new_world):
    w = prepared(new_world)
    (w.root / "etc/iotedge").mkdir(parents=True)
    (w.root / "etc/iotedge/config.yaml").write_text("provisioning:\n")
    refused(w, "config-conflict", "iotedge config import")


def test_without_systemd(new_world):
    w = new_world()
    w.enroll(edge(w))
    w.start_daemon()
    w.wait_for_failure("restart-failed")
    assert not w.requests()
    w.start_standins()
    w.wait_for_state("handed-off")


# --- whom IoT Edge runs as ---

def test_gateway_that_works_already(new_world):
    """Our package is installed beside an IoT Edge that was provisioned without us."""
    w = new_world()
    enrollment = edge(w)
    w.enroll(enrollment)
    write_config_toml(w, ours(w, enrollment["registrationId"]))
    w.start_standins("--configured")
    wait_for("IoT Edge's own registration", lambda: w.standin_events("identityd-ready"))
    requests, jobs, key = len(w.service_requests()), len(w.jobs()), w.hub_key()
    text = w.config_toml.read_bytes()
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert p["AssignedHub"] == f"localhost:{w.port}" and p["DeviceId"] == enrollment["registrationId"]
    assert len(w.service_requests()) == requests and len(w.jobs()) == jobs
    assert w.hub_key() == key and w.config_toml.read_bytes() == text
    w.restart_daemon()
    w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")
    assert len(w.service_requests()) == requests and len(w.jobs()) == jobs


def marks(world):
    paths = [world.config_toml, world.root / "etc/aziot/identityd/config.d/00-super.toml",
             world.root / "var/lib/dps-handoffd/record.json"]
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]


def test_reprovisioned_to_the_same(new_world):
    w = new_world(polls=1)
    w.start_gateway()
    before, jobs, key = marks(w), len(w.jobs()), w.hub_key()
    w.bus.call("Reprovision")
    wait_for("a registration", lambda: w.registrations() == 2)
    w.wait_for_state("handed-off")
    assert marks(w) == before and w.hub_key() == key
    assert {unit for _, unit in w.jobs()[jobs:]} == {"aziot-identityd.socket", "aziot-identityd.service",
                                                     "aziot-tpmd.socket", "aziot-tpmd.service"}
    assert not w.standin_events("registers-itself")
    w.restart_daemon()  # which knows the key that stayed
    assert w.wait("idle", lambda p: p["State"] == "handed-off" and p["Step"] == "idle")["Warnings"] == []


@pytest.mark.smoke
def test_moved_to_another_hub(new_world):
    w = new_world(polls=1)
    w.start_gateway()
    jobs, old = len(w.jobs()), w.hub_key()
    hub = w.move()
    w.bus.call("Reprovision")
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] == hub)
    assert w.hub_key() != old
    assert w.requests(kind="hub", hub=hub, authorized=True)
    assert w.jobs()[jobs:].count(("restart", "aziot-edged.service")) == 1
    assert not w.standin_events("registers-itself")


def test_network_gone_before_the_move(new_world):
    w = new_world(polls=1)
    w.start_gateway()
    before, key, jobs = marks(w), w.hub_key(), len(w.jobs())
    w.move()
    w.stop_emulator()
    w.bus.call("Reprovision")
    w.wait_for_failure("connect")
    assert marks(w) == before and w.hub_key() == key and len(w.jobs()) == jobs


@pytest.mark.parametrize("moved", [True, False])
def test_iot_edge_registered_by_itself_since(new_world, moved):
    w = new_world(emulator=("--rotate-keys",))
    hub = w.start_gateway()["AssignedHub"]
    w.stop_daemon()
    hub = w.move() if moved else hub
    seen, ready = len(w.standin_events("hub", hub=hub, status=200)), len(w.standin_events("identityd-ready"))
    w.tpm2("evictcontrol", "-c", "0x81000100")  # the hub will refuse what is signed without it
    with Caller(w) as caller:
        caller.job("StopUnit", "aziot-tpmd.service")
        caller.job("RestartUnit", "aziot-identityd.service")
    wait_for("its own registration", lambda: len(w.standin_events("hub", hub=hub, status=200)) > seen and
             len(w.standin_events("identityd-ready")) > ready)
    requests, key = len(w.service_requests()), w.hub_key()
    for _ in range(2):  # and it is not forgotten
        w.start_daemon()
        p = w.wait("the look at it", lambda p: p["State"] == "handed-off" and p["Step"] == "idle" and p["Warnings"])
        assert p["AssignedHub"] == hub and p["Warnings"][0][0] == "adoption-refused"
        assert len(w.service_requests()) == requests and w.hub_key() == key
        w.stop_daemon()
        stored = json.loads((w.dir / "state/state.json").read_text())
        assert "keyPrivate" not in stored["intended"]  # it is not the hub's any more


@pytest.mark.parametrize("unknown", ["the TPM", "the registration ID"])
def test_what_can_not_be_told_now_is_not_forgotten(new_world, unknown):
    """Whom IoT Edge has become is taken over also when the daemon can't tell which machine this is."""
    w = new_world()
    w.start_gateway()
    w.stop_daemon()
    state = w.dir / "state/state.json"
    before = json.loads(state.read_text())
    info_path(w).write_text(info_text("hub-b.localhost", "gw-b"))
    credentials = w.dir / "credentials"
    credentials.mkdir()
    if unknown == "the TPM":
        w.write_config(Tpm={"Tcti": "device:/nonexistent"})
    else:
        w.write_config(Provisioning={"RegistrationId": "%s"})
        (credentials / "dps.serial").write_text("no/registration/id")
    w.start_daemon(environment={"CREDENTIALS_DIRECTORY": str(credentials)})
    w.wait("both warnings", lambda p: p["Step"] == "wait" and len({x[0] for x in p["Warnings"]} - {"edge-config"}) == 2)
    w.stop_daemon()
    after = json.loads(state.read_text())
    assert after["state"] == "handed-off"
    for which in ("intended", "confirmed"):
        assert (after[which]["hub"], after[which]["deviceId"]) == ("hub-b.localhost", "gw-b")
        for key in ("idScope", "globalEndpoint", "registrationId", "endorsementKeyHash"):
            assert after[which].get(key) == before[which][key], key


@pytest.mark.parametrize("what", ["config", "device_info", "applied", "all"])
def test_lost_hand_off_is_written_again_offline(new_world, what):
    w = new_world()
    w.start_gateway()
    w.stop_daemon()
    paths = {"config": [w.config_toml], "device_info": [w.root / "var/lib/aziot/identityd/device_info"],
             "applied": [w.root / "etc/aziot/identityd/config.d/00-super.toml"]}
    for path in paths.get(what) or sum(paths.values(), []):
        path.unlink()
    requests = len(w.service_requests())
    w.start_daemon()
    w.daemon.wait_for_line("DPS_STATE=assigned")
    w.wait_for_state("handed-off")
    for path in sum(paths.values(), []):
        assert path.exists()
    assert len(w.service_requests()) == requests and not w.standin_events("registers-itself")


def test_hub_out_of_reach(new_world):
    """identityd asks its hub when it starts, so each attempt ends with its answer, and the next one restarts it."""
    w = prepared(new_world)
    w.faults("drop-connection:hub")
    set_confirm_timeout(w, 300)
    w.start_daemon()
    w.wait_for_failure("hub-unreachable")
    jobs = len(queued(w))
    w.wait("other attempts", lambda p: p["Attempts"] >= 3)
    assert not stopped_path(w).exists()
    w.faults()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1 and not w.standin_events("registers-itself")
    assert set(queued(w)[jobs:]) == {("restart", IDENTITYD)}


def test_hub_out_of_reach_of_an_iot_edge_that_registers(new_world):
    """Without device_info each restart is another registration, so identityd is asked for all of the time."""
    w = prepared(new_world, HandOff={"Identity": "register"})
    w.faults("drop-connection:hub")
    set_confirm_timeout(w, 300)
    w.start_daemon()
    wait_for("some answers", lambda: len(w.standin_events("asked", path="/identities/device")) >= 4)
    assert w.bus.properties()["LastError"][0] == ""
    assert len(w.standin_events("registers-itself")) == 1
    w.kill_helper("dps-handoffd")
    w.faults()
    w.wait_for_state("handed-off")


@pytest.mark.parametrize("status", [401, 403, 503])
def test_hub_that_refuses(new_world, status):
    """identityd registers by itself then, is refused again, ends, and answers nobody: IoT Edge's own way."""
    w = prepared(new_world)
    w.faults(f"status:hub={status}")
    set_confirm_timeout(w, 2)
    w.start_daemon()
    # whichever identityd is in when the time is over: just ended, or asking DPS
    w.wait("a failure", lambda p: p["LastError"][0] in ("restart-failed", "confirm-timeout"))
    wait_for("two rounds", lambda: len(w.standin_events("died", unit="aziot-identityd.service")) >= 2)
    w.faults()
    p = w.wait_for_state("handed-off")
    assert p["LastError"][0] == "" and w.standin_events("hub", hub=p["AssignedHub"], status=200)


def test_hub_with_an_error_of_its_own(new_world):
    """500 is to identityd as good as no network: it goes on with what it has, until it is started again."""
    w = prepared(new_world)
    w.faults("status:hub=500")
    set_confirm_timeout(w, 300)
    w.start_daemon()
    w.wait_for_failure("hub-unreachable")
    edged = w.jobs().count(("restart", "aziot-edged.service"))
    w.faults()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1 and not w.standin_events("registers-itself")
    assert w.jobs().count(("restart", "aziot-edged.service")) == edged
    assert ("restart", "aziot-identityd.service") in w.jobs()


def test_identityd_that_never_answers(new_world):
    w = prepared(new_world)
    set_confirm_timeout(w, 1)
    w.standin_faults(identityd="silent")
    w.helpers_environment(**w.clock())
    w.start_daemon()
    wait_for("the question", lambda: w.standin_events("connected"))
    w.fast_forward("the end of its patience", lambda: w.bus.properties()["LastError"][0])
    w.wait_for_failure("confirm-timeout")
    w.standin_faults()
    w.wait_for_state("handed-off")


def test_enrolment_without_the_edge_flag(new_world):
    w = new_world()
    p = w.start_gateway(capabilities={"iotEdge": False})
    assert [warning[0] for warning in p["Warnings"]] == ["edge-flag-missing"]
    w.enroll(edge(w))
    w.bus.call("Reprovision")
    wait_for("a registration", lambda: w.registrations() == 2)
    assert w.wait_for_state("handed-off")["Warnings"] == []


def test_always_on_startup_registers_by_itself(new_world):
    w = prepared(new_world, 'auto_reprovisioning_mode = "AlwaysOnStartup"\n')
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert "reprovisions-itself" in [warning[0] for warning in p["Warnings"]]
    assert w.standin_events("registers-itself")


def test_service_without_hub_key(new_world):
    w = prepared(new_world)
    w.faults("no-hub-key:poll", "no-hub-key:confirm")
    w.start_daemon()
    w.wait("assigned", lambda p: p["State"] in ("assigned", "handed-off"))
    w.faults()
    w.wait_for_state("handed-off")
    assert w.standin_events("registers-itself")


def test_register_to_another_hub(new_world):
    """The old hub refuses the device, so identityd registers by itself; it need not be told to do so once more."""
    w = new_world(HandOff={"Identity": "register"})
    w.start_gateway()
    hub = w.move()
    restarts = w.jobs().count(("restart", "aziot-edged.service"))
    w.bus.call("Reprovision")
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] == hub)
    assert not w.standin_events("told-to-reprovision") and w.registrations() == 4
    assert w.jobs().count(("restart", "aziot-edged.service")) == restarts + 1
    w.bus.call("Allow", name="org.dps.HandOff1")
    w.bus.call("Reprovision")
    wait_for("a registration of identityd's", lambda: w.standin_events("told-to-reprovision"))
    w.wait_for_state("handed-off")
    assert w.registrations() == 6


def test_payload_reaches_iot_edge(new_world):
    w = new_world()
    (w.dir / "payload.json").write_text('{"site": "north"}')
    w.write_config(Provisioning={"Payload": w.dir / "payload.json"})
    w.start_gateway()
    assert tomllib.loads(w.config_toml.read_text())["provisioning"]["payload"] == {
        "uri": f"file://{w.dir}/payload.json"}


# --- units that fail ---

@pytest.mark.parametrize("how", ["fail", "flap"])
def test_edged_that_does_not_start(new_world, how):
    w = prepared(new_world)
    w.standin_faults(units={"aziot-edged.service": {"start": how}})
    w.start_daemon()
    p = w.wait_for_failure("restart-failed")
    assert "aziot-edged.service" in p["LastError"][2] and p["State"] == "assigned"
    w.standin_faults()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


@pytest.mark.smoke
def test_apply_that_fails(new_world):
    w = prepared(new_world, OPERATORS)
    w.standin_faults(apply="told to fail")
    w.start_daemon()
    p = w.wait_for_failure("apply-failed")
    assert "dps-iotedge-apply.service" in p["LastError"][2]
    sockets = [e for e in w.standin_events("start") if e["unit"] == "aziot-identityd.socket"]
    assert len(sockets) >= 2  # stopped, and started again although it failed
    w.standin_faults()
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_failed_apply_puts_the_old_config_back(new_world):
    w = new_world(HandOff={"Identity": "register"}, Retry={"InitialSec": 600, "MaxSec": 600})
    w.start_gateway()
    before = w.config_toml.read_text()
    w.standin_faults(apply="told to fail")
    w.write_config(Provisioning={"RegistrationId": "renamed"})
    w.enroll(edge(w))
    p = w.wait_for_failure("apply-failed")
    assert "put back" in p["LastError"][2]
    assert w.config_toml.read_text() == before
    w.standin_faults()
    w.retry()
    w.wait("the new name", lambda p: p["State"] == "handed-off" and p["RegistrationId"] == "renamed")


# --- who may call, and with what ---

BAD = [{"registrationId": None}, {"registrationId": ""}, {"registrationId": "../x"}, {"registrationId": "x" * 129},
       {"hub": None}, {"hub": ""}, {"hub": "a b"}, {"hub": 'x"\ny'}, {"hub": "x" * 256}, {"hub": "\u00e9.example"},
       {"deviceId": None}, {"deviceId": ""}, {"deviceId": 'x"'}, {"deviceId": "x\ny"}, {"deviceId": "x" * 129},
       {"forced": 7}, {"forced": "yes"}, {"handOver": "no"}, {"hub": True}, {"keyName": "00"}, {"keyName": bytes(67)},
       {"snapshotHub": "a b"}, {"snapshotHub": "hub.example"}, {"keyPrivate": bytes(1)},
       {"command": "reboot"}]


class Watch:
    """Whether anything below some directories is opened, by whomever."""

    def __init__(self, world):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for directory in ("etc/aziot", "var/lib/dps-handoffd", "var/lib/aziot/identityd"):
            everything = 0xfff
            assert self.libc.inotify_add_watch(self.fd, bytes(world.root / directory), everything) > 0

    def quiet(self):
        try:
            return os.read(self.fd, 4096) == b""
        except BlockingIOError:
            return True


def test_bad_arguments(new_world):
    w = prepared(new_world, OPERATORS)
    with Caller(w) as caller:
        assert caller.apply_refused(**BAD[0])[0] == "InvalidArgs"
        w.bus_process.wait_for_line("bad argument")  # and all before it has been read
        before, watch = snapshot(w), Watch(w)
        logged = len(w.bus_process.lines)
        for number, changes in enumerate(BAD, 1):
            assert caller.apply_refused(**changes)[0] == "InvalidArgs", changes
            w.bus_process.wait_for_line("bad argument", logged + number - 1)
            assert len(w.bus_process.lines) == logged + number, w.bus_process.lines[logged:]
        for bad in ("", "no good", "x" * 129, "a/b"):
            assert caller.refused("Check", "us", 4, bad)[0] == "InvalidArgs"
        assert watch.quiet() and snapshot(w) == before and not queued(w)
        for method, signature, body in (("Apply", "s", ["x"]), ("Apply", "a{sv}", [members()]), ("Check", "", []), ("Check", "us", [2, "gw-1"]),
                                        ("Quiesce", "s", ["x"]), ("Quiesce", "u", [2])):
            assert caller.refused(method, signature, *body)[0] == "InvalidArgs"
        assert snapshot(w) == before and not queued(w)


def test_hub_that_is_not_allowed(new_world):
    w = prepared(new_world)
    with Caller(w) as caller:
        caller.verify()
        before = snapshot(w)
        kind, sentence = caller.apply_refused(hub="evil.example")
        assert kind == "hub-not-allowed" and "evil.example" in sentence
        assert snapshot(w) == before and not queued(w)


@pytest.mark.parametrize("name, method, arguments", [
    ("HandOff1", "Check", ["us", "4", "x"]), ("HandOff1", "Quiesce", ["u", "4"]), ("HandOff1", "Resume", []),
    ("HandOff1", "Verify", ["a{sv}b", "0", "false"]), ("HandOff1", "Apply", ["a{sv}b", "0", "false"]),
    ("Tpm1", "Identity", []), ("Tpm1", "ForgetHubKey", ["aay", "0"]),
])
@pytest.mark.root
def test_other_users_are_refused(new_world, name, method, arguments):
    w = prepared(new_world, OPERATORS)
    with Caller(w) as caller:
        caller.verify()
        before, watch, commands = snapshot(w), Watch(w), len(w.tpm_commands())
        w.dir.chmod(0o755)
        (w.dir / "bus").chmod(0o777)
        result = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "busctl", "--system",
                                 "call", f"org.dps.{name}", f"/org/dps/{name}", f"org.dps.{name}", method, *arguments],
                                env=w.environment, capture_output=True, text=True, timeout=30, check=False)
        assert result.returncode != 0 and "Access denied" in result.stderr, result
        refusal = f"Refused '{method}' to the user with the ID 65534"
        w.bus_process.wait_for_line(refusal)
        assert len([line for line in w.bus_process.lines if refusal in line]) == 1
        assert watch.quiet() and snapshot(w) == before and not queued(w) and len(w.tpm_commands()) == commands


def test_second_apply_is_told_to_wait(new_world):
    w = prepared(new_world)
    w.standin_faults(units={APPLY: {"delay": 50}})
    with Caller(w) as first, Caller(w, allows=False) as second:
        under_way = first.begin_apply(handOver="register")
        wait_for("the apply", lambda: w.standin_events("start", unit=APPLY))
        assert second.apply_refused(handOver="register")[0] == "Busy"
        under_way.cancel()


def test_reading_needs_nothing(new_world):
    w = prepared(new_world)
    with pytest.raises(BusError):
        w.bus.call("Nothing", name="org.dps.HandOff1")
    with Caller(w) as caller:
        assert caller.verify()["result"] == "lost"
