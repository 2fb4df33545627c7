"""The emulator, asked from outside by a client that shares no code with it."""
import contextlib
import email.utils
import json
import os
import pathlib
import re
import resource
import socket
import ssl
import subprocess
import time

import pytest
from emulator_service import Service
from harness import BUILD, DEADLINE, SCOPE
from script_client import API, split

EMULATOR = BUILD / "tests/emulator/dps-emulator"
# what the clients in the field do; the last is aziot-identityd
CLIENTS = {"c": {"spelling": "%2f"},
           "node": {"spelling": "%2F", "api": "api-version=2019-03-31", "poll_body": {}},
           "java": {"spelling": "/", "key_name": "", "api": "api-version=2019-03-31"},
           "c-without-tpm": {"spelling": "%2f", "repeat_tpm": False},
           "identityd": {"spelling": "/", "lower": True, "life": 30, "repeat_tpm": False,
                         "content_type": "application/json"}}


# --- clients of every kind ---

@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.smoke
def test_a_client_is_assigned_and_let_in_by_the_hub(new_service, client):
    s = new_service(polls=1)
    s.enroll(s.enrollment(deviceId="Truck-7"))
    script = s.script(**CLIENTS[client])
    challenge, confirmed, assigning, assigned = script.register()

    assert challenge.status == 401 and challenge.headers["transfer-encoding"] == "chunked"
    assert challenge.headers["content-type"].startswith("application/json")
    assert re.fullmatch("[0-9a-f-]{36}", challenge.headers["x-ms-request-id"])
    assert set(challenge.body) == {"message", "authenticationKey", "unencryptedAuthenticationKey", "keyName"}
    assert challenge.body["keyName"] == "registration" and challenge.body["unencryptedAuthenticationKey"] is None

    assert confirmed.status == 202 and confirmed.body["status"] == "assigning"
    assert confirmed.headers["retry-after"] == "1"
    assert assigning.status == 202 and assigning.body["status"] == "assigning"
    assert assigning.body["registrationState"]["registrationId"] == "GW-1"  # identityd can't read a reply without it
    assert assigned.status == 200 and assigned.body["status"] == "assigned"
    assert assigned.body["operationId"] == assigning.body["operationId"] == confirmed.body["operationId"]
    state = assigned.body["registrationState"]
    hub = f"localhost:{s.port}"
    assert (state["assignedHub"], state["deviceId"], state["substatus"]) == (hub, "Truck-7", "initialAssignment")

    key = s.tpm.activate(state["tpm"]["authenticationKey"])
    reply = script.modules(hub, "Truck-7", key)
    assert reply.status == 200 and {m["moduleId"] for m in reply.body} == {"$edgeAgent", "$edgeHub"}, reply
    assert [(r["kind"], r["status"], r["authorized"]) for r in s.requests()] == [
        ("register", 401, False), ("confirm", 202, True), ("poll", 202, True), ("poll", 200, True), ("hub", 200, True)]


def test_the_challenge_has_the_real_ones_form(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    first, second = (split(s.script().challenge().body["authenticationKey"]) for _ in range(2))
    assert [len(part) - 2 for part in first.values()] == [52, 256, 142, 256, 48, 154]
    public = first["public"]
    assert public[2:10] == bytes.fromhex("0008 000b 00040440") and public[10:12] == b"\0\0"  # attributes; no policy
    assert public[12:16] == bytes.fromhex("0005 000b") and len(public) == 2 + 48
    assert not set(first.values()) & set(second.values())  # another key each time


def test_enrolments_as_our_tool_prints_them(new_service, tpm):
    s = new_service()
    for form in ("json", "bulk"):
        result = subprocess.run([BUILD / "cli/dps-provision", "enrollment", f"--format={form}",
                                 f"--tcti=swtpm:path={tpm.dir}/tpm"], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result
        (s.dir / "enrollments.json").write_text(result.stdout)
        registration_id = re.search(r'"registrationId": *"([^"]+)"', result.stdout)[1]
        assert s.script(registration_id).register()[-1].body["status"] == "assigned"
        (s.dir / "enrollments.json").unlink()


# --- who is not let in ---

def test_only_the_challenges_key_opens(new_service):
    s = new_service()
    s.enroll(s.enrollment(), s.enrollment("gw-2"))
    script, other = s.script(), s.script("gw-2")
    key = s.tpm.activate(script.challenge().body["authenticationKey"])
    resource = f"{SCOPE}/registrations/GW-1"
    good = script.token(resource, key, "registration")
    replace = "sig=" + "A" * 43 + "%3D"
    bad = {"no signature": re.sub("sig=[^&]*", replace, good),
           "another expiry": re.sub("se=[0-9]*", "se=4000000000", good),
           "another spelling": good.replace("%2F", "%2f"),
           "another device": script.token(f"{SCOPE}/registrations/gw-2", key, "registration"),
           "another scope": script.token("0ne00OTHER/registrations/GW-1", key, "registration"),
           "another key name": script.token(resource, key, "iothubowner"),
           "expired": s.script(life=-1).token(resource, key, "registration"),
           "no token": "Bearer x"}
    for name, token in bad.items():
        reply = script.confirm(token)
        assert reply.status == 401 and reply.body["errorCode"] == 401002 and "authenticationKey" not in reply.body, name
        assert reply.body["trackingId"] == reply.headers["x-ms-request-id"]
    errors = [r["error"] for r in s.requests(kind="confirm")]
    assert len(set(errors)) >= 5, errors  # the log says which it was

    assert other.confirm(good).status == 401
    operation = script.confirm(good).body["operationId"]
    assert script.poll(operation, bad["expired"]).status == 401
    assert script.poll("5.0.0", good).status == 404
    other_token = other.registration_token(other.challenge())
    assert other.confirm(other_token).status == 202
    assert other.poll(operation, other_token).status == 404
    assert script.poll(operation, good).body["status"] == "assigned"


def test_what_the_service_answers_to_a_wrong_device(new_service):
    s = new_service()
    s.enroll(s.enrollment(), s.enrollment("srk", attestation={"tpm": {"endorsementKey": s.tpm.srk}}))
    assert s.script("nobody").challenge().status == 404
    reply = s.script("srk").challenge()
    assert reply.status == 401 and "authenticationKey" not in reply.body and reply.body["errorCode"] == 401002
    script = s.script()
    script.scope = "0ne00OTHER"
    assert script.challenge().status == 404
    script.scope = SCOPE
    assert script.request("PUT", f"/{SCOPE}/registrations/GW-1/register", script.body()).status == 400  # no api-version
    for body in (script.body(registrationId="gw-2"), {"registrationId": "GW-1"}, {**script.body(), "tpm": {"endorsementKey": 7}},
                 {**script.body(), "tpm": {"endorsementKey": "AAAA", "storageRootKey": "AAAA"}}, ["x"], "x", {}):
        reply = script.request("PUT", script.path(), body)
        assert reply.status == 400 and reply.body["errorCode"] // 1000 == 400, (body, reply)
    assert s.script("gw-1").challenge().status == 401  # IDs have no case


def test_disabled_failed_and_refused(new_service):
    s = new_service("--retry-after=0")
    s.enroll(s.enrollment("off", provisioningStatus="disabled"),
             s.enrollment("bad", emulator={"result": "failed", "errorCode": 400209, "errorMessage": "no hub", "times": 1}),
             s.enrollment("new", emulator={"result": "unassigned-forever"}),
             s.enrollment("busy", emulator=[{"status": 429, "retryAfter": 7, "times": 1},
                                            {"status": 503, "on": "confirm", "retryAfter": "+60", "times": 1},
                                            {"status": 500, "on": "poll", "times": 1, "errorCode": 500123}]))
    _, confirmed, disabled = s.script("off").register()
    assert "retry-after" not in confirmed.headers
    assert disabled.body["status"] == disabled.body["registrationState"]["status"] == "disabled"
    assert "tpm" not in disabled.body["registrationState"]
    state = s.script("bad").register()[-1].body["registrationState"]
    assert (state["status"], state["errorCode"], state["errorMessage"]) == ("failed", 400209, "no hub")
    assert s.script("bad").register()[-1].body["status"] == "assigned"

    new = s.script("new")
    token = new.registration_token(new.challenge())
    operation = new.confirm(token).body["operationId"]
    for _ in range(3):
        assert new.poll(operation, token).body["status"] == "unassigned"

    busy = s.script("busy")
    reply = busy.challenge()
    assert reply.status == 429 and reply.headers["retry-after"] == "7" and reply.body["errorCode"] == 429001
    token = busy.registration_token(busy.challenge())
    reply = busy.confirm(token)
    assert reply.status == 503 and re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", reply.headers["retry-after"])
    operation = busy.confirm(token).body["operationId"]
    assert busy.poll(operation, token).body["errorCode"] == 500123
    assert busy.poll(operation, token).body["status"] == "assigned"


# --- assignments and hubs ---

def assigned(script):
    """(hub, device, substatus, the context of the hub's key)"""
    state = script.register()[-1].body["registrationState"]
    key = script.tpm.activate(state["tpm"]["authenticationKey"])
    return state["assignedHub"], state["deviceId"], state["substatus"], key


def signature(script, key):
    return script.tpm.hmac(key, "the same text")


@pytest.mark.smoke
def test_moving_to_another_hub_and_back(new_service):
    s = new_service()
    a, b = (f"hub-{name}.localhost:{s.port}" for name in "ab")
    script = s.script()

    def move(hub, **changes):
        s.enroll(s.enrollment(iotHubHostName=hub, **changes))
        hub, device, substatus, key = assigned(script)
        key = key.rename(key.with_name(f"key-{len(s.requests())}"))
        return hub, substatus, device, key

    hub, substatus, device, key_a = move(a)
    assert (hub, substatus) == (a, "initialAssignment")
    assert script.modules(a, device, key_a).status == 200
    hub, substatus, _, key = move(a)  # the same hub: the same key
    assert (hub, substatus) == (a, "reprovisionedToInitialAssignment")
    assert signature(script, key) == signature(script, key_a)

    s.stop()  # it remembers
    s.start_emulator(port=s.port)
    assert script.modules(a, device, key_a).status == 200

    hub, substatus, _, key_b = move(b)
    assert (hub, substatus) == (b, "deviceDataMigrated")
    assert signature(script, key_b) != signature(script, key_a)
    assert script.modules(b, device, key_b).status == 200
    assert script.modules(b, device, key_a).status == 401
    assert script.modules(a, device, key_a).status == 401  # gone there
    assert script.modules(a, device, key_b).status == 401
    assert script.modules("hub-c.localhost", device, key_b).status == 401
    hub, substatus, *_ = move(a, reprovisionPolicy={"updateHubAssignment": False, "migrateDeviceData": True})
    assert (hub, substatus) == (b, "reprovisionedToInitialAssignment")
    hub, substatus, *_ = move(a, reprovisionPolicy={"updateHubAssignment": True, "migrateDeviceData": False})
    assert (hub, substatus) == (a, "deviceDataReset")


def test_replies_of_a_newer_dps(new_service):
    s = new_service()
    hub, chain = "contoso.device.azure-devices.net", ["MIIB", "MIIC"]
    s.enroll(s.enrollment(iotHubHostName=hub, emulatorState={"connectionProfile": "classic", "issuedCertificateChain": chain,
                                                            "status": "failed", "assignedHub": "no.example"}))
    state = s.script().register()[-1].body["registrationState"]
    assert state["issuedCertificateChain"] == chain and state["connectionProfile"] == "classic", state
    assert state["assignedHub"] == hub and state["status"] == "assigned", state


def test_device_that_stays_at_its_old_hub(new_service):
    s = new_service("--fault=keep-old-device")
    a, b = (f"hub-{name}.localhost:{s.port}" for name in "ab")
    script, keys = s.script(), {}
    for hub in (a, b):
        s.enroll(s.enrollment(iotHubHostName=hub))
        *_, key = assigned(script)
        keys[hub] = key.rename(key.with_name(f"key-{len(keys)}"))
    for _ in range(2):
        assert [script.modules(hub, "GW-1", keys[key]).status for hub in (a, b) for key in (a, b)] == [200, 401, 401, 200]
        s.stop()  # it remembers both
        s.start_emulator(port=s.port)
    s.enroll(s.enrollment(iotHubHostName=a))
    *_, substatus, key = assigned(script)  # it comes back, and gets a new key
    assert substatus == "deviceDataMigrated"
    assert script.modules(a, "GW-1", key).status == 200 and script.modules(a, "GW-1", keys[a]).status == 401


def test_a_new_hub_key_at_every_registration(new_service):
    s = new_service("--rotate-keys")
    s.enroll(s.enrollment())
    script = s.script()
    hub, device, _, key = assigned(script)
    first = signature(script, key)
    hub, device, substatus, key = assigned(script)
    assert signature(script, key) != first and substatus == "reprovisionedToInitialAssignment"
    assert script.modules(hub, device, key).status == 200


def test_one_hub_key_for_ever(new_service):
    s = new_service("--keep-keys")
    script = s.script()
    signatures = set()
    for hub in (f"localhost:{s.port}", f"hub-b.localhost:{s.port}", f"localhost:{s.port}"):
        s.enroll(s.enrollment(iotHubHostName=hub))
        assigned_hub, device, _, key = assigned(script)
        assert assigned_hub == hub and script.modules(hub, device, key).status == 200
        signatures.add(signature(script, key))
    assert len(signatures) == 1
    assert script.modules(f"hub-b.localhost:{s.port}", device, key).status == 401  # it has moved away


def test_modules_are_kept(new_service):
    s = new_service()
    s.enroll(s.enrollment(capabilities={"iotEdge": False}), s.enrollment("gw-2"))
    script, other = s.script(), s.script("gw-2")
    hub, device, _, key = assigned(script)
    key = key.rename(key.with_name("key-1"))
    *_, other_key = assigned(other)

    def module(method, name, body=None, **options):
        return script.modules(hub, device, options.get("key", key), method, name, body)

    assert script.modules(hub, device, key).body == []  # no IoT Edge, no system modules
    assert module("GET", "$edgeAgent").status == 404
    created = module("PUT", "m_1", {"moduleId": "m_1", "managedBy": "IotEdge"})
    assert created.status == 200 and created.body["managedBy"] == "IotEdge"
    assert len(created.body["authentication"]["symmetricKey"]["primaryKey"]) == 44
    assert module("PUT", "m_1", {"moduleId": "m_1"}).status == 409
    assert module("PUT", "m_2", {"moduleId": "m_1"}).status == 400
    assert module("GET", "m_1").body == created.body
    assert [m["moduleId"] for m in script.modules(hub, device, key).body] == ["m_1"]
    assert module("GET", "m_1", key=other_key).status == 401
    assert script.modules(hub, "gw-2", key).status == 401
    assert module("DELETE", "m_1").status == 204
    assert module("DELETE", "m_1").status == 404
    assert module("POST", "m_1", {}).status == 405

    hub, device, *_ = assigned(other)
    reply = other.modules(hub, device, other_key, "DELETE", "$edgeAgent")
    assert reply.status == 400
    assert other.modules(hub, device, other_key, "GET", "$edgeAgent").body["managedBy"] == "iotEdge"


def test_what_else_a_device_asks_of_its_hub_is_refused_as_a_hub_does(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    script = s.script()
    hub, device, _, key = assigned(script)
    token = script.token(f"{hub}/devices/{device}", key)
    path = f"/devices/{device}/messages/events?api-version=2020-09-30"
    for body in ("hello", "", "\0"):  # what a device's messages are made of is its own business
        for authorization, status, code in ((token, 404, "NotFound"), (re.sub("se=[0-9]*", "se=4000000000", token), 401,
                                                                       "IotHubUnauthorizedAccess")):
            got, _, text = s.ask("POST", path, body, **{"Authorization": authorization, "Host": hub,
                                                        "Content-Type": "application/octet-stream"})
            assert (got, json.loads(text)["Message"].partition(";")[0]) == (status, f"ErrorCode:{code}"), text
    assert [r["authorized"] for r in s.requests(kind="hub")] == [True, False] * 3


# --- its files and options ---

def test_the_enrolments_are_read_again(new_service):
    s = new_service()
    script = s.script()
    assert script.challenge().status == 404
    s.enroll(s.enrollment())
    assert "authenticationKey" in script.challenge().body
    (s.dir / "enrollments.json").write_text('[{"registrationId": "GW-1",')
    assert "authenticationKey" in script.challenge().body  # the last good one holds
    s.emulator.wait_for_line("the last good one stays in force: line 1: it ends in the middle")
    s.enroll(s.enrollment("gw-2"))
    assert script.challenge().status == 404
    (s.dir / "enrollments.json").unlink()
    assert s.script("gw-2").challenge().status == 404


def test_what_the_log_says(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    script = s.script()
    script.request("PUT", script.path(), script.body(payload={"site": 7}))
    script.request("GET", "/no/such%00thing")
    first, second = s.requests()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert first | {"time": "", "userAgent": ""} == {
        "time": "", "connection": 1, "method": "PUT", "path": f"/{SCOPE}/registrations/GW-1/register", "status": 401,
        "kind": "register", "registrationId": "GW-1", "userAgent": "", "authorized": False, "payload": {"site": 7}}
    assert first["userAgent"].startswith("curl/")
    assert (second["connection"], second["kind"], second["status"], second["error"]) == (2, "other", 404,
                                                                                         "Resource not found")
    secrets = [script.challenge().body["authenticationKey"], s.tpm.ek]
    assert not any(secret in (s.dir / "emulator/requests.jsonl").read_text() for secret in secrets)
    assert (s.dir / "emulator/registry.json").exists() is False  # nobody was assigned
    assert oct((s.dir / "emulator").stat().st_mode & 0o777) in ("0o755", "0o700")


def test_a_lookup_tells_the_last_registration(new_service):
    s = new_service()
    s.enroll(s.enrollment())
    script = s.script()
    path = f"/{SCOPE}/registrations/GW-1?{API}"
    token = script.registration_token(script.request("POST", path, script.body()))
    assert script.request("POST", path, script.body(), token).status == 404
    hub, device, *_ = assigned(script)
    token = script.registration_token(script.challenge())
    reply = script.request("POST", path, script.body(), token)
    assert reply.status == 200 and (reply.body["assignedHub"], reply.body["deviceId"]) == (hub, device)
    assert "tpm" not in reply.body


def test_a_clock_of_its_own(new_service):
    s = new_service("--clock-offset=-7200", "--retry-after=+30")
    s.enroll(s.enrollment())
    script = s.script(life=-3600)  # for this service's clock an hour from now
    challenge, confirmed, reply = script.register()
    assert reply.body["status"] == "assigned"
    date = email.utils.parsedate_to_datetime(challenge.headers["date"]).timestamp()
    assert abs(date - (time.time() - 7200)) < DEADLINE
    assert confirmed.headers["retry-after"].endswith("GMT")
    old = s.script(life=-7300)
    assert old.confirm(old.registration_token(old.challenge())).status == 401


def run(*options, timeout=DEADLINE):
    return subprocess.run([EMULATOR, *map(str, options)], capture_output=True, text=True, check=False, timeout=timeout)


def test_wrong_usage_is_told(tmp_path):
    good = {"--scope": "0ne00TEST", "--enrollments": tmp_path / "e.json", "--state-dir": tmp_path / "state"}

    def start(**changes):
        changes = {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        return run(*(f"{name}={value}" for name, value in {**good, **changes}.items() if value is not None))

    for result, says in ((start(scope=None), "--scope"), (start(scope="a b"), "--scope"), (start(port="x"), "--port"),
                         (start(enrollments=None), "--enrollments"), (start(state_dir=None), "--state-dir"),
                         (start(port=65536), "--port"), (start(polls="-1"), "--polls"), (start(fault="x"), "x"),
                         (start(retry_after="soon"), "--retry-after"), (start(clock_offset="1h"), "--clock-offset"),
                         (start(no_such_option=1), "no-such-option"), (run("x"), "x")):
        assert result.returncode == 2 and says in result.stderr, result
    assert "--fault" in run("--help").stdout and re.match(r"dps-emulator \d", run("--version").stdout)
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert subprocess.run([EMULATOR, "--help"], stdout=full, stderr=subprocess.DEVNULL, check=False).returncode == 1
    (tmp_path / "file").write_text("")
    result = start(state_dir=tmp_path / "file")
    assert result.returncode == 1 and "file" in result.stderr, result
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = start(port=taken.getsockname()[1])
        assert result.returncode == 1 and "port" in result.stderr, result


def listens_at(pid):
    """The addresses, as the kernel writes them."""
    fds = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            fds.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    rows = [line.split() for table in ("tcp", "tcp6") for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in fds]


def test_it_listens_where_it_is_told(tpm):
    with Service(tpm, "--listen=127.0.0.2", "--host=dps.example", "--host=10.0.2.2") as s:
        assert listens_at(s.emulator.process.pid) == [f"0200007F:{s.port:04X}"]
        for name in ("dps.example", "10.0.2.2", "localhost"):
            context = ssl.create_default_context(cafile=s.ca)
            with context.wrap_socket(socket.create_connection(("127.0.0.2", s.port), DEADLINE), server_hostname=name):
                pass


def test_every_name_that_a_client_asks_for_is_certified(new_service):
    """The SDKs are given host names without a port, and verify them: the service's, and then the hub's."""
    s = new_service()
    context = ssl.create_default_context(cafile=s.ca)
    for name in ("global.azure-devices-provisioning.net", "Hub-B.azure-devices.net", "hub-b.localhost", "gateway"):
        with context.wrap_socket(socket.create_connection(("127.0.0.1", s.port), DEADLINE), server_hostname=name) as peer:
            names = [value for kind, value in peer.getpeercert()["subjectAltName"] if kind == "DNS"]
            assert name.lower() in [n.lower() for n in names] and "localhost" in names


def test_half_an_authority_is_made_anew(tpm):
    """As a kill between its two files leaves it."""
    with Service(tpm) as other, Service(tpm) as s:
        s.stop()
        (s.dir / "emulator/ca-key.pem").write_bytes((other.dir / "emulator/ca-key.pem").read_bytes())
        s.start_emulator()
        assert s.ask("GET", "/")[0] == 404


def test_a_full_disk_leaves_no_half_line_in_the_log(tpm):
    """A limit on the size of files does the same to a write."""
    with Service(tpm) as s:
        log = s.dir / "emulator/requests.jsonl"
        assert s.ask("GET", "/")[0] == 404
        resource.prlimit(s.emulator.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 20, resource.RLIM_INFINITY))
        assert s.ask("GET", "/")[0] == 404
        resource.prlimit(s.emulator.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert s.ask("GET", "/")[0] == 404
        assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [404, 404]
