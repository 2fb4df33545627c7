"""Suite "daemon": real processes on a private bus, from the scope to the hand-off and everything that goes wrong."""
import base64
import datetime
import email.utils
import http.client
import json
import re
import signal
import socket
import ssl
import time

import pytest
from bus import BusError
from harness import SCOPE, wait_for

NO_EDGE = {"HandOff": {"Target": "none"}}


def edge(world, **changes):
    return world.enrollment(capabilities={"iotEdge": True}, **changes)


def status(*rules):
    """Rules of the emulator for an enrolment."""
    return {"emulator": list(rules)}


# --- the way that is meant ---

@pytest.mark.smoke
def test_happy_path(new_world):
    w = new_world(polls=1)
    w.start_standins()
    w.enroll(edge(w))
    w.start_daemon()
    properties = w.wait_for_state("handed-off")
    assert [(r["kind"], r["status"]) for r in w.service_requests()] == [
        ("register", 401), ("confirm", 202), ("poll", 202), ("poll", 200)]
    assert len({r["connection"] for r in w.service_requests()}) == 1
    assert properties["AssignedHub"] == f"localhost:{w.port}"
    assert properties["LastError"] == ["", "", "", ""] and properties["Warnings"] == []
    assert w.requests(kind="hub", authorized=True)
    assert not w.standin_events("registers-itself")
    assert w.loaded() == ""
    wait_for("edged's answer", lambda: w.standin_events("edged-device", hub=f"localhost:{w.port}"))
    for state in ("attesting", "assigned", "handed-off"):
        w.daemon.wait_for_line(f"DPS_STATE={state}")


@pytest.mark.parametrize("case, expected", [("first", 20), ("same", 23), ("replaced", 25)])
def test_tpm_commands_are_counted(new_world, case, expected):
    """With EK and SRK persistent: up to the adoption of a first, of the same, of another hub key."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")  # now EK and SRK are persistent
    if case == "first":
        w.stop_daemon()
        w.tpm2("evictcontrol", "-c", "0x81000100")
        (w.dir / "state/state.json").unlink()
    elif case == "replaced":
        w.enroll(w.enrollment(iotHubHostName=f"hub-b.localhost:{w.port}"))
    for pid in w.helper_pids("dps-tpmd"):  # without what it may remember
        w.kill_helper("dps-tpmd")
        wait_for("its end", lambda p=pid: p not in w.helper_pids("dps-tpmd"))
    before = len(w.tpm_commands())
    if case == "first":
        w.start_daemon()
    else:
        registrations = w.registrations()
        w.bus.call("Reprovision")
        wait_for("another registration", lambda: w.registrations() > registrations)
    w.wait_for_state("handed-off")
    commands = w.tpm_commands()[before:]
    assert len(commands) <= expected, commands
    assert commands.index("HMAC") < (11 if case == "first" else 12), commands  # the token
    evictions = {"first": 1, "same": 0, "replaced": 2}[case]
    assert commands.count("EvictControl") == evictions


def test_enrolment_created_later(new_world):
    w = new_world(**NO_EDGE)
    w.start_daemon()
    w.wait_for_failure("enrollment-missing")
    w.enroll(w.enrollment())
    w.retry()
    w.wait_for_state("handed-off")


def test_many_attestations_leave_nothing_in_the_tpm(new_world):
    """Takes 7 s of processor time: the TPM has two hundred challenges to activate."""
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon(environment=w.clock())
    registration_id = w.wait_for_state("handed-off")["RegistrationId"]
    for n in range(2, 12):
        w.call_again("Reprovision")
        w.wait("the wait before the poll", lambda p: p["Step"] == "poll")
        w.let_pass(2)
        wait_for("a registration", lambda n=n: w.registrations() >= n)
        w.wait_for_state("handed-off")
    assert w.loaded() == ""
    assert sign_often(w, registration_id, 200) == 200
    assert w.loaded() == ""


def sign_often(world, registration_id, times):
    """The TPM's part of an attestation, each with a challenge of its own; returns how many tokens came."""
    context = ssl.create_default_context(cafile=world.dir / "emulator/ca.pem")
    path = f"/{SCOPE}/registrations/{registration_id}/register?api-version=2021-06-01"
    service = http.client.HTTPSConnection("127.0.0.1", world.port, context=context)
    enrollment, (keys,) = world.enrollment(), world.bus.call("Identity", name="org.dps.Tpm1")
    body = json.dumps({"registrationId": registration_id, "tpm": {
        "endorsementKey": enrollment["attestation"]["tpm"]["endorsementKey"],
        "storageRootKey": base64.b64encode(keys["storageRootKey"]).decode()}})
    tokens = set()
    for _ in range(times):
        service.request("PUT", path, body, {"Content-Type": "application/json"})
        challenge = base64.b64decode(json.loads(service.getresponse().read())["authenticationKey"])
        tokens.add(world.bus.call("SignRegistration", "ayst", challenge, registration_id, 4000000000, name="org.dps.Tpm1")[0])
    return len(tokens)


def test_registers_once_for_a_scope_set_later(new_world):
    w = new_world(Provisioning={"IdScope": None}, **NO_EDGE)
    w.start_daemon()
    assert w.wait_for_state("unprovisioned")["Step"] == "idle"
    with pytest.raises(BusError, match="NoScope|scope"):
        w.bus.call("Reprovision")
    w.enroll(w.enrollment())
    w.write_config(Provisioning={"IdScope": SCOPE})
    w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_payload_is_sent(new_world):
    w = new_world(**NO_EDGE)
    (w.dir / "payload.json").write_text('{"site": "north"}')
    w.write_config(Provisioning={"Payload": w.dir / "payload.json"})
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")


def test_payload_in_any_language(new_world):
    """Also sent as it was written: its numbers are longer than 64 bits."""
    w = new_world(**NO_EDGE)
    payload = {"site": "Łódź, 工場 7", "serial": 99999999999999999999}
    (w.dir / "payload.json").write_text(json.dumps(payload, ensure_ascii=False))
    w.write_config(Provisioning={"Payload": w.dir / "payload.json"})
    w.enroll(w.enrollment(payload={"größe": "5 m²"}))
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.requests(kind="register")[0]["payload"]["site"] == payload["site"]


NEWER_STATE = {"connectionProfile": "classic", "issuedCertificateChain": ["MIIB", "MIIC"], "another": {"member": [None]}}


def test_replies_of_a_newer_dps(new_world):
    w = new_world(HandOff={"Target": "none", "AllowedHubs": None})
    w.enroll(w.enrollment(iotHubHostName="contoso.device.azure-devices.net", emulatorState=NEWER_STATE))
    w.start_daemon()
    assert w.wait_for_state("handed-off")["AssignedHub"] == "contoso.device.azure-devices.net"


# --- what the service answers ---

@pytest.mark.parametrize("retry_after", ["2", "date"])
@pytest.mark.smoke
def test_throttled(new_world, retry_after):
    w = new_world(**NO_EDGE)
    date = int(time.time()) + 3
    if retry_after == "date":
        retry_after = email.utils.formatdate(date, usegmt=True)
    w.enroll(w.enrollment(**status({"status": 429, "retryAfter": retry_after, "times": 1})))
    w.start_daemon()
    w.daemon.wait_for_line("DPS_FAILURE=http-throttled")
    w.wait_for_state("handed-off")
    first, second = (datetime.datetime.fromisoformat(r["time"]) for r in w.requests(kind="register")[:2])
    if retry_after == "2":
        assert (second - first).total_seconds() >= 2
    else:
        assert second.timestamp() >= date


def test_server_errors_are_retried(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(**status({"status": 503, "times": 2}, {"status": 500, "on": "confirm", "times": 1})))
    w.start_daemon()
    w.daemon.wait_for_line("DPS_FAILURE=http-server")
    w.wait_for_state("handed-off")


@pytest.mark.parametrize("enrollment, kind", [
    (status({"result": "failed", "errorCode": 400209, "errorMessage": "Unauthorized"}), "assignment-failed"),
    ({"provisioningStatus": "disabled"}, "disabled"),
    (status({"status": 400}), "protocol"),
    (status({"status": 403}), "protocol"),
])
def test_refused(new_world, enrollment, kind):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment(**enrollment))
    w.start_daemon()
    p = w.wait("a failure", lambda p: p["LastError"][0])
    asked = datetime.datetime.fromisoformat(w.requests()[-1]["time"]).timestamp()
    assert p["LastError"][0] == kind and p["NextAttemptUSec"] > (asked + 25) * 1e6
    assert w.hub_key() is None
    w.enroll(w.enrollment())
    w.retry()
    w.wait_for_state("handed-off")


@pytest.mark.parametrize("fault, kind", [
    ("garbage-body:register", "identity-mismatch|protocol"), ("garbage-body:confirm", "protocol"), ("garbage-body:poll", "protocol"),
    ("oversized-body", "protocol"), ("2xx-first", "protocol"), ("wrong-ek-challenge", "identity-mismatch"),
    ("bad-hub-key=garbage", "protocol"), ("bad-hub-key=other-ek", "protocol"),
    ("bad-hub-key=not-base64", "protocol"), ("no-hub-key", "protocol"),
    ("expired-cert", "tls-trust"), ("future-cert", "tls-clock"), ("wrong-host-cert", "tls-trust"),
    ("untrusted-cert", "tls-trust"),
])
def test_hostile_replies_leave_the_tpm_alone(new_world, fault, kind):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon(environment=w.clock())
    hub = w.wait_for_state("handed-off")["AssignedHub"]
    key = w.hub_key()
    w.enroll(w.enrollment(iotHubHostName=f"hub-b.localhost:{w.port}"))
    w.faults(fault)
    w.bus.call("Reprovision")
    p = w.wait("a failure", lambda p: p["LastError"][0])
    assert re.fullmatch(kind, p["LastError"][0]), p["LastError"]
    assert ("its issuer is '" in p["LastError"][2]) == (kind == "tls-trust")
    assert len(p["LastError"][2]) > 20 and len(p["LastError"][3]) > 20
    assert p["AssignedHub"] == hub  # the last proven one
    assert w.hub_key() == key and w.loaded() == ""
    w.faults()
    w.retry()
    w.wait("the other hub", lambda p: p["State"] == "handed-off" and p["AssignedHub"] != hub)
    assert w.hub_key() not in (key, None)


@pytest.mark.parametrize("fault", ["drop-connection=2", "lose-reply:confirm=1", "lose-reply:register=1", "lose-reply:poll=1"])
def test_lost_connections_are_retried(new_world, fault):
    w = new_world(polls=1, **NO_EDGE)
    w.enroll(w.enrollment())
    w.faults(fault)
    w.start_daemon()
    w.wait_for_state("handed-off")


def test_connection_refused_then_back(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.stop_emulator()
    w.start_daemon()
    w.wait_for_failure("connect")
    w.start_emulator(port=w.port)
    w.wait_for_state("handed-off")


def test_unknown_host(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.write_config(Provisioning={"GlobalEndpoint": "https://nowhere.invalid"})
    w.start_daemon()
    w.wait_for_failure("dns")
    w.write_config(Provisioning={"GlobalEndpoint": f"https://localhost:{w.port}"})
    w.wait_for_state("handed-off")


def test_a_server_that_never_answers(new_world):
    w = new_world(Network={"RequestTimeoutSec": 1}, **NO_EDGE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        w.write_config(Provisioning={"GlobalEndpoint": f"https://localhost:{silent.getsockname()[1]}"})
        w.start_daemon()
        w.wait_for_failure("timeout")


def test_hub_that_is_not_allowed(new_world):
    w = new_world(HandOff={"Target": "none", "AllowedHubs": "*.azure-devices.net"})
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_failure("hub-not-allowed")
    assert w.hub_key() is None
    w.write_config(HandOff={"AllowedHubs": "localhost"})
    w.wait_for_state("handed-off")


# --- the configuration ---

def test_a_mistake_in_the_configuration(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.write_config(Provisioning={"GlobalEndpoint": "http://localhost"})
    w.start_daemon()
    p = w.wait_for_failure("config")
    assert re.search(r"provisiond\.conf:\d+: ", p["LastError"][2]) and not w.requests()
    w.write_config(Provisioning={"GlobalEndpoint": f"https://localhost:{w.port}"})
    w.wait_for_state("handed-off")


def test_an_unknown_key_is_a_warning(new_world):
    w = new_world(**NO_EDGE)
    w.write_config(Provisioning={"IdScpoe": "x"})
    w.enroll(w.enrollment())
    w.start_daemon()
    p = w.wait_for_state("handed-off")
    assert p["Warnings"][0][0] == "config-ignored" and "IdScpoe" in p["Warnings"][0][1]


def test_configuration_changed_while_attesting(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.faults("slow:confirm=50")
    w.start_daemon()
    w.wait("confirm", lambda p: p["Step"] == "confirm")
    w.enroll(w.enrollment(registrationId="renamed-1"))
    w.write_config(Provisioning={"RegistrationId": "renamed-1"})
    w.faults()
    p = w.wait_for_state("handed-off")
    assert p["RegistrationId"] == "renamed-1"


def test_scope_removed(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.write_config(Provisioning={"IdScope": None})
    p = w.wait("a warning", lambda p: p["Warnings"])
    assert p["State"] == "handed-off"
    w.write_config(Provisioning={"IdScope": SCOPE})
    w.wait("no warning", lambda p: not p["Warnings"] and p["State"] == "handed-off")
    assert w.registrations() == 1


# --- the TPM ---

@pytest.mark.smoke
def test_tpm_missing_then_present(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(absent=True)
    w.start_daemon()
    w.wait_for_failure("tpm-missing")
    w.tpm_faults()
    w.wait_for_state("handed-off")


@pytest.mark.parametrize("command", ["CreatePrimary", "ActivateCredential", "Import", "Load", "HMAC", "EvictControl"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_power_cut_of_the_tpm(new_world, command, when):
    """While the keys are made, too."""
    w = new_world(polls=1, tpm="fresh" if command in ("CreatePrimary", "EvictControl") else "keys", **NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm_faults(rules=[{"command": command, "cut": when, "startup": True}])
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.hub_key() and w.loaded() == ""


@pytest.mark.parametrize("when", ["before", "after"])
def test_power_cut_between_two_hub_keys_heals_offline(new_world, when):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    w.start_daemon()
    w.wait_for_state("handed-off")
    old = w.hub_key()
    w.enroll(w.enrollment(iotHubHostName=f"hub-b.localhost:{w.port}"))
    # the first EvictControl removes the old key, the second makes the new one persistent
    w.tpm_faults(rules=[{"command": "EvictControl", "nth": 2, "cut": when, "startup": True},
                        {"command": "ContextLoad", "times": 0, "drop": True}])
    w.bus.call("Reprovision")
    w.wait_for_state("assigned")
    w.stop_daemon(signal.SIGKILL)
    w.stop_emulator()  # the network is gone
    w.tpm_faults()
    w.start_daemon()
    w.wait_for_state("handed-off")
    assert w.hub_key() not in (None, old)


def test_foreign_key_at_the_handle(new_world):
    w = new_world()
    w.start_standins()
    w.tpm2("createprimary", "-C", "o", "-g", "sha256", "-G", "ecc", "-c", "x.ctx")
    w.tpm2("evictcontrol", "-c", "x.ctx", "0x81000100")
    name = w.hub_key()
    w.start_daemon()
    w.wait_for_failure("tpm-handle-taken")
    assert not w.requests() and w.hub_key() == name


def test_register_never_touches_the_handle(new_world):
    w = new_world(HandOff={"Identity": "register"})
    p = w.start_gateway()
    assert p["State"] == "handed-off"
    assert w.standin_events("registers-itself")  # that key is IoT Edge's own
    commands = w.tpm_commands()
    assert commands.count("ActivateCredential") == 3  # ours, and IoT Edge's two


def set_command_timeout(world, seconds):
    service = world.dir / "services/org.dps.Tpm1.service"
    text = re.sub(" --command-timeout=[0-9]+", "", service.read_text())
    service.write_text(text.replace(" --log-level", f" --command-timeout={seconds} --log-level"))
    world.reload_bus()


def test_stuck_tpm_helper_ends_itself(new_world):
    w = new_world(**NO_EDGE)
    w.enroll(w.enrollment())
    set_command_timeout(w, 1)
    w.tpm_faults(rules=[{"command": "ReadPublic", "delay": 300}])
    w.start_daemon()
    w.daemon.wait_for_line("DPS_FAILURE=tpm-failed")
    w.wait_for_state("handed-off")


def test_tpm_helper_stuck_while_it_cleans_up_ends_itself(new_world):
    """The answer was given before; but without an end no other call would get one."""
    w = new_world(tpm="fresh", **NO_EDGE)
    w.enroll(w.enrollment())
    w.tpm2("changeauth", "-c", "o", "secret")  # the keys are transient then
    set_command_timeout(w, 4)  # and it has to make keys in less
    w.tpm_faults(rules=[{"command": "FlushContext", "delay": 300}])
    w.start_daemon()
    w.wait_for_failure("tpm-auth")
    w.bus_process.wait_for_line("dps-tpmd: The TPM does not answer; the helper ends")
    wait_for("the helper's end", lambda: not w.helper_pids("dps-tpmd"))


# --- the clock ---

@pytest.mark.parametrize("days", [-2, 2])
@pytest.mark.smoke
def test_wrong_clock_attests(new_world, days):
    w = new_world()
    w.start_standins()
    w.enroll(edge(w))
    w.set_clock(days * 86400)
    w.start_daemon(environment=w.clock())
    if days < 0:
        w.wait_for_failure("clock-behind")
        assert w.registrations() == 1 and not w.standin_events("edged-start")
        w.set_clock(0)
        w.daemon.wait_for_line("brought forward: the clock was set")
        w.wait_for_state("handed-off")
    else:
        w.wait_for_state("handed-off")
    assert w.registrations() == 1


def test_clock_before_everything(new_world):
    """As without a battery: no certificate is valid yet. That costs no request, and setting the clock is all it takes."""
    w = new_world(Retry={"InitialSec": 600, "MaxSec": 600}, **NO_EDGE)
    w.enroll(w.enrollment())
    w.set_clock(86400 - int(time.time()))
    w.start_daemon(environment=w.clock())
    p = w.wait_for_failure("tls-clock")
    assert p["State"] == "attesting" and p["Step"] == "wait" and "NTP" in p["LastError"][3]
    assert not w.requests()
    w.set_clock(0)
    w.daemon.wait_for_line("brought forward: the clock was set")
    p = w.wait_for_state("handed-off")
    assert p["LastError"][0] == "" and not p["Warnings"]
