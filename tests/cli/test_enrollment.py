"""What `dps-provision enrollment` prints, given to programs that are not ours."""
import argparse
import base64
import csv
import hashlib
import io
import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import subprocess
import time

import jsonschema
import pytest
from gateway import DEADLINE, PROGRAM, SOURCE, manufacture
from schema import BULK_OPERATION, INDIVIDUAL_ENROLLMENT

HUB = "hub-1.azure-devices.net"
# Characters that IoT Hub allows in a device ID and a shell, or a CSV parser, cares about.
DEVICE_ID = "gw'7!,$(x)*"
READS = {"GetCapability", "ReadPublic", "CreatePrimary", "FlushContext", "NV_ReadPublic", "NV_Read"}


def tool(*command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, timeout=DEADLINE, check=False, **options)
    assert result.returncode == 0, result
    return result.stdout


def ek_of_tools(gateway, handle="0x81010001"):
    gateway.tpm2("readpublic", "-c", handle, "-f", "tss", "-o", "ek.pub")
    return (gateway.dir / "ek.pub").read_bytes()


def key_of(enrollment):
    return base64.b64decode(enrollment["attestation"]["tpm"]["endorsementKey"], validate=True)


# --- the two values ---

def test_endorsement_key_equals_tpm2_tools(gateway):
    transient = key_of(gateway.json())
    gateway.tpm2("createek", "-c", "0x81010001", "-G", "rsa", "-u", "ek")
    assert key_of(gateway.json()) == ek_of_tools(gateway) == transient


@pytest.mark.parametrize("key_format, command", [
    ("sha256-hex", "sha256sum -b ek.pub | cut -d' ' -f1"),
    ("sha256-base32", "openssl dgst -sha256 -binary ek.pub | base32 -w0 | tr -d = | tr A-Z a-z"),
])
def test_registration_id_equals_the_tools(gateway, key_format, command):
    gateway.tpm2("createek", "-c", "0x81010001", "-G", "rsa", "-u", "ek")
    ek_of_tools(gateway)
    gateway.config = {"Provisioning": {"RegistrationIdFormat": key_format}}
    expected = tool("sh", "-c", command, cwd=gateway.dir).decode().strip()
    assert gateway.json()["registrationId"] == expected


@pytest.mark.parametrize("credential, expected", [("SN-4711\n", "gw-SN-4711"), ("SN-4711  \n", "gw-SN-4711"), ("\n", None),
                                                  (None, None)])
def test_registration_id_with_the_serial_number(gateway, credential, expected):
    """At a shell there is no credential: it comes from where root finds it."""
    gateway.config = {"Provisioning": {"RegistrationId": "gw-%s"}}
    (gateway.dir / "credentials").mkdir()
    if credential is not None:
        (gateway.dir / "credentials/dps.serial").write_text(credential)
    options = {"env": {"CREDENTIALS_DIRECTORY": f"{gateway.dir}/credentials"}}
    firmware = [path.read_text().strip(" \t\r\n\0") for path in
                (pathlib.Path("/sys/class/dmi/id/product_serial"),
                 pathlib.Path("/sys/firmware/devicetree/base/serial-number")) if os.access(path, os.R_OK)]
    if not expected and any(firmware):
        expected = "gw-" + next(filter(None, firmware))
    if expected:
        assert json.loads(gateway.run("--format=json", **options))["registrationId"] == expected
    else:
        assert gateway.run("--format=json", status=1, **options) == ""
        assert "no serial number" in gateway.stderr


# --- what it takes, and what it leaves ---

@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("output", ["text", "json", "bulk", "az", "csv", "qr"])
def test_nothing_is_stored_and_nothing_is_left(gateway, output, persistent):
    if persistent:
        gateway.tpm2("createek", "-c", "0x81010001", "-G", "rsa", "-u", "ek")
        gateway.tpm2("flushcontext", "-t")
    before = gateway.handles()
    assert gateway.run(f"--format={output}") and gateway.stderr == ""
    assert gateway.handles() == before
    assert set(gateway.commands()) <= READS
    assert ("CreatePrimary" in gateway.commands()) != persistent


def test_is_done_in_two_seconds(gateway):
    """The best of three, so that a busy machine does not fail it."""
    def once():
        start = time.monotonic()
        gateway.run("--format=json")
        return time.monotonic() - start
    assert min(once() for _ in range(3)) < 2


def works(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0 or not works("unshare", "-n", "true"),
                    reason="only root can become another user and make a network namespace")
def test_without_network_daemon_and_root(new_gateway, tmp_path_factory):
    """Only membership of the group that owns the device is needed. The socket takes the device's place."""
    gateway = new_gateway()
    copy = tmp_path_factory.mktemp("bin") / "dps-provision"
    shutil.copy(PROGRAM, copy)
    for path in (copy.parent, gateway.dir, *copy.parents):
        if pathlib.Path("/tmp") in path.parents:
            path.chmod(0o755)
    group = 12345
    for name in ("tpm", "tpm.ctrl"):
        os.chown(gateway.dir / name, 0, group)
        (gateway.dir / name).chmod(0o660)
    config = gateway.config_file()

    def as_user(*groups):
        return subprocess.run(["unshare", "-n", "setpriv", "--reuid=65534", "--regid=65534",
                               f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups",
                               copy, "enrollment", "--format=json", f"--config={config}"], capture_output=True,
                              text=True, timeout=DEADLINE, check=False,
                              env={"PATH": os.environ["PATH"], "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"})
    member, other = as_user(group), as_user()
    assert member.returncode == 0 and member.stderr == "", member
    assert json.loads(member.stdout) == gateway.json()
    assert other.returncode == 1 and other.stdout == "" and "can't be reached" in other.stderr, other


def test_no_tpm_is_told_with_a_remedy(gateway):
    for output in ("text", "json", "csv"):
        assert gateway.run(f"--format={output}", "--tcti=device:/dev/no-such-tpm", status=1) == ""
        assert "'/dev/no-such-tpm' does not exist" in gateway.stderr and "firmware" in gateway.stderr


def test_a_foreign_object_at_the_handle_is_told(gateway):
    gateway.tpm2("createek", "-c", "0x81010001", "-G", "ecc", "-u", "ek")
    assert gateway.run(status=1) == ""
    assert "0x81010001 is not an RSA-2048 endorsement key" in gateway.stderr


@pytest.mark.parametrize("rule, status, text", [
    ({"command": "GetCapability", "answer": "0x922", "times": 3}, 0, "Certificate: +It is for this key"),  # TPM_RC_RETRY
    ({"command": "NV_Read", "answer": "0x922", "times": 2}, 0, "Certificate: +It is for this key"),
    ({"command": "NV_Read", "answer": "0x101"}, 0, "Certificate: +.*0x01c00002 can't be read"),  # TPM_RC_FAILURE
    ({"command": "NV_Read", "nth": 2, "answer": "0x101"}, 0, "Certificate: +.*0x01c00002 can't be read"),
    ({"command": "NV_ReadPublic", "drop": True}, 0, "Certificate: +.*0x01c00002 can't be"),
    ({"command": "NV_Read", "answer": "0x0", "data": "0000000200000000"}, 0, "Certificate: +"),
    ({"command": "ReadPublic", "answer": "0x101"}, 1, "0x81010001 can't be read"),
    ({"command": "ReadPublic", "drop": True}, 1, "0x81010001 can't be read"),
    ({"command": "GetCapability", "drop": True}, 1, "TPM"),
])
def test_a_tpm_that_fails(new_gateway, rule, status, text):
    gateway = new_gateway(prepare=manufacture)
    (gateway.dir / "faults.json").write_text(json.dumps({"rules": [rule]}))
    output = gateway.run(status=status)
    assert re.search(text, output if status == 0 else gateway.stderr), (output, gateway.stderr)
    assert (output == "") == (status != 0)
    (gateway.dir / "faults.json").write_text("{}")
    assert gateway.handles()["transient"] == []


@pytest.mark.parametrize("persistent", [False, True])
def test_an_endorsement_authorization(gateway, persistent):
    """It is needed to make the key, not to read it."""
    expected = gateway.json()
    if persistent:
        gateway.tpm2("createek", "-c", "0x81010001", "-G", "rsa", "-u", "ek")
        gateway.tpm2("flushcontext", "-t")
    gateway.tpm2("changeauth", "-c", "endorsement", "secret")
    (gateway.dir / "credentials").mkdir()
    (gateway.dir / "credentials/dps.tpm_endorsement_auth").write_text("secret\n")
    assert json.loads(gateway.run("--format=json", env={"CREDENTIALS_DIRECTORY": f"{gateway.dir}/credentials"})) == expected
    if persistent:
        assert gateway.json() == expected
    else:
        assert gateway.run("--format=json", status=1) == "" and "dps.tpm_endorsement_auth" in gateway.stderr


# --- text ---

def test_text_says_where_the_key_came_from(gateway):
    text = gateway.run()
    assert re.search(r"Source: +created for this call and not stored", text)
    assert re.search(r"Template: +TCG L-1", text)
    assert re.search(r"Certificate: +The TPM holds none", text)
    assert re.search(r"ID scope: +in no file", text)
    assert "Next:" in text and "IoT Edge device" in text
    gateway.config = {"Provisioning": {"IdScope": "0ne00ABCDEF"}}
    assert re.search(r"ID scope: +0ne00ABCDEF", gateway.run())
    gateway.tpm2("createek", "-c", "0x81010001", "-G", "rsa", "-u", "ek")
    assert re.search(r"Source: +read from 0x81010001", gateway.run())


def test_text_names_a_key_that_no_manufacturer_made(gateway):
    """The C SDK's template has an empty `unique` and further attributes."""
    gateway.tpm2("createprimary", "-C", "e", "-G", "rsa2048:aes128cfb", "-c", "ek.ctx", "-L",
                 policy_file(gateway), "-a", "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|"
                 "decrypt|noda")
    gateway.tpm2("evictcontrol", "-c", "ek.ctx", "0x81010001")
    gateway.tpm2("flushcontext", "-t")
    assert re.search(r"Template: +NOT the TCG L-1 template", gateway.run())


def policy_file(gateway):
    path = gateway.dir / "policy"
    path.write_bytes(bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"))
    return path


# --- json and bulk ---

@pytest.mark.parametrize("options, extra", [
    ([], {}),
    ([f"--device-id={DEVICE_ID}"], {"deviceId": DEVICE_ID}),
    ([f"--hub={HUB}", "--device-id=gw-7"], {"iotHubHostName": HUB, "deviceId": "gw-7"}),
])
def test_json_is_what_the_service_takes(gateway, options, extra):
    enrollment = gateway.json(*options)
    jsonschema.Draft7Validator(INDIVIDUAL_ENROLLMENT).validate(enrollment)
    assert enrollment == {
        "registrationId": hashlib.sha256(key_of(enrollment)).hexdigest(),
        "attestation": {"type": "tpm", "tpm": {"endorsementKey": enrollment["attestation"]["tpm"]["endorsementKey"]}},
        "capabilities": {"iotEdge": True},
        "provisioningStatus": "enabled",
        "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": True},
        **extra,
    }


@pytest.mark.parametrize("hub, warned", [(HUB, False), ("hub-1", True), ("hub-1.example.com", True)])
def test_a_hub_that_the_device_will_refuse(gateway, hub, warned):
    assert gateway.json(f"--hub={hub}")["iotHubHostName"] == hub
    assert ("AllowedHubs" in gateway.stderr) == warned


def test_bulk_is_what_the_service_takes(gateway):
    body = json.loads(gateway.run("--format=bulk", f"--hub={HUB}"))
    jsonschema.Draft7Validator(BULK_OPERATION).validate(body)
    assert body == {"mode": "create", "enrollments": [gateway.json(f"--hub={HUB}")]}


def devices(gateway, count):
    """As many enrolments as if they came from TPMs of their own: the keys differ in their modulus."""
    one = gateway.json()
    for i in range(count):
        key = bytearray(key_of(one))
        key[-4:] = i.to_bytes(4, "big")
        yield {**one, "registrationId": hashlib.sha256(key).hexdigest(),
               "attestation": {"type": "tpm", "tpm": {"endorsementKey": base64.b64encode(key).decode()}}}


def write_files(gateway, values):
    paths = [gateway.dir / f"device-{i}.json" for i in range(len(values))]
    for path, value in zip(paths, values):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return paths


def bodies(text):
    result = [json.loads(line) for line in text.splitlines()]
    for body in result:
        jsonschema.Draft7Validator(BULK_OPERATION).validate(body)
    return result


@pytest.mark.parametrize("count, sizes", [(1, [1]), (10, [10]), (11, [10, 1]), (35, [10, 10, 10, 5])])
def test_merge_makes_bodies_of_ten(gateway, count, sizes):
    all_devices = list(devices(gateway, count))
    before = len(gateway.commands())
    merged = bodies(gateway.run("--format=bulk", "--merge", *write_files(gateway, all_devices)))
    assert [len(body["enrollments"]) for body in merged] == sizes
    assert [e for body in merged for e in body["enrollments"]] == all_devices
    assert len(gateway.commands()) == before, "no TPM is needed"


def test_merge_keeps_to_the_size_of_a_request(gateway):
    d = list(devices(gateway, 7))
    for device, size in zip(d, (30000, 30000, 30000, 30000, 95000, 120000, 10)):
        device["initialTwin"] = {"tags": {"text": size * "x"}}
    lines = gateway.run("--merge", *write_files(gateway, d)).splitlines()
    assert [len(json.loads(line)["enrollments"]) for line in lines] == [3, 1, 1, 1, 1]
    assert [len(line) <= 96000 for line in lines] == [True, True, True, False, True]  # one alone can't be made smaller
    assert [e for body in bodies("\n".join(lines)) for e in body["enrollments"]] == d


def test_merge_takes_arrays_and_bodies_too(gateway):
    d = list(devices(gateway, 6))
    d[3]["initialTwin"] = {"tags": {"site": "Köln", "height": 1.50}}
    files = write_files(gateway, [d[0], d[1:3], {"mode": "create", "enrollments": d[3:5]}, d[5]])
    [body] = bodies(gateway.run("--format=bulk", "--merge", *files, f"--output={gateway.dir}/body.json"
                                ) or (gateway.dir / "body.json").read_text())
    assert body["enrollments"] == d


def test_merge_takes_the_table_of_a_factory_line(new_gateway):
    gateways = [new_gateway() for _ in range(3)]
    path = gateways[0].dir / "line.csv"
    options = [["--device-id=-x"], [f"--hub={HUB}", "--asset=a\nb"], ["--device-id='=y"]]
    for gateway, given in zip(gateways, options):
        gateway.run(f"--station={path}", *given)
    [body] = bodies(gateways[0].run("--format=bulk", "--merge", path))
    assert body["enrollments"] == [g.json(*[o for o in given if "asset" not in o])
                                   for g, given in zip(gateways, options)]
    # as a spreadsheet saves it, with a line that somebody spoilt
    rows = list(csv.reader(path.open(newline="")))
    rows[1][3], rows[2][2] = "FALSE", "spoilt"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    [body] = bodies(gateways[0].run("--format=bulk", "--merge", path, path, status=1))
    assert [e["deviceId"] for e in body["enrollments"]] == ["-x", "'=y"]
    assert f"{path}:2: '-x'" not in gateways[0].stderr and f"{path}:3: " in gateways[0].stderr
    assert gateways[0].stderr.count("same registrationId") == 2 and "4 refused" in gateways[0].stderr
    assert "will not be an IoT Edge device" in gateways[0].stderr
    path.write_text(path.read_text() + '"torn')
    gateways[0].run("--format=bulk", "--merge", path, status=1)
    assert "unfinished row" in gateways[0].stderr


def changed(enrollment, path, value):
    copy = json.loads(json.dumps(enrollment))
    *way, last = path.split(".")
    target = copy
    for key in way:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return copy


@pytest.mark.parametrize("path, value, why", [
    ("registrationId", None, "registrationId"),
    ("registrationId", "no spaces", "registrationId"),
    ("registrationId", 7, "registrationId"),
    ("deviceId", 7, "deviceId"),
    ("deviceId", "a b", "deviceId"),
    ("iotHubHostName", "https://hub", "iotHubHostName"),
    ("attestation", None, "attestation.type"),
    ("attestation.type", "x509", "attestation.type"),
    ("attestation.tpm", None, "endorsementKey"),
    ("attestation.tpm.endorsementKey", "bm90IGEga2V5", "endorsementKey"),
    # the commonest mistake: the key without its size bytes, as tpm2_createek writes it by default
    ("attestation.tpm.endorsementKey", "AAEACwADALIAIA==", "endorsementKey"),
    ("attestation.tpm.endorsementKey", "!", "endorsementKey"),
])
def test_merge_refuses_what_the_service_would(gateway, path, value, why):
    good, bad = devices(gateway, 2)
    files = write_files(gateway, [changed(bad, path, value), good])
    [body] = bodies(gateway.run("--format=bulk", "--merge", *files, status=1))
    assert body["enrollments"] == [good]
    assert str(files[0]) in gateway.stderr and why in gateway.stderr and "1 refused" in gateway.stderr


@pytest.mark.parametrize("text", ["", "{", "[]]", "{} {}", "nul", '{"registrationId": NaN}', "\udcff", "[1, null]"])
def test_merge_refuses_what_is_no_enrolment(gateway, text):
    path = gateway.dir / "bad.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert gateway.run("--format=bulk", "--merge", path, status=1) == ""
    assert str(path) in gateway.stderr


def test_merge_refuses_duplicates_across_files(gateway):
    a, b, c, d, e = devices(gateway, 5)
    b = changed(b, "registrationId", a["registrationId"].upper())
    c["attestation"] = a["attestation"]
    d["deviceId"] = a["registrationId"]
    e["deviceId"] = a["registrationId"].upper()  # device IDs have a case
    files = write_files(gateway, [a, b, c, d, e])
    [body] = bodies(gateway.run("--format=bulk", "--merge", *files, status=1))
    assert body["enrollments"] == [a, e]
    lines = gateway.stderr.splitlines()
    for line, path, what in zip(lines, files[1:4], ("registrationId", "endorsementKey", "device ID")):
        assert str(path) in line and str(files[0]) in line and what in line
    assert "3 refused" in lines[3]


def test_merge_names_a_file_that_is_missing(gateway):
    good, = devices(gateway, 1)
    [path] = write_files(gateway, [good])
    [body] = bodies(gateway.run("--format=bulk", "--merge", "/no/such", path, status=1))
    assert body["enrollments"] == [good] and "/no/such can't be read" in gateway.stderr


def test_merge_warns_of_a_missing_edge_flag(gateway):
    d = list(devices(gateway, 3))
    files = write_files(gateway, [d[0], changed(d[1], "capabilities.iotEdge", False), changed(d[2], "capabilities", None)])
    [body] = bodies(gateway.run("--format=bulk", "--merge", *files))
    assert len(body["enrollments"]) == 3
    assert gateway.stderr.count("will not be an IoT Edge device") == 2


# --- az ---

def az_parser():
    """The options that the extension azure-iot 0.2x knows for `az iot dps enrollment create`."""
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for option in ("dps-name", "resource-group", "enrollment-id", "endorsement-key"):
        parser.add_argument(f"--{option}", required=True)
    for option in ("device-id", "initial-twin-tags", "initial-twin-properties", "webhook-url", "api-version", "login"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--attestation-type", required=True, choices=["tpm", "x509", "symmetricKey"])
    parser.add_argument("--provisioning-status", choices=["enabled", "disabled"])
    parser.add_argument("--reprovision-policy",
                        choices=["reprovisionandmigratedata", "reprovisionandresetdata", "never"])
    parser.add_argument("--allocation-policy", choices=["static", "hashed", "geoLatency", "custom"])
    parser.add_argument("--iot-hubs", nargs="+")
    parser.add_argument("--edge-enabled", choices=["true", "false"])
    return parser


@pytest.mark.parametrize("options, expected", [
    ([], {"dps_name": "dps 1", "resource_group": "rg", "device_id": None, "iot_hubs": None,
          "allocation_policy": None}),
    ([f"--device-id={DEVICE_ID}", f"--hub={HUB}", "--dps-name=my'dps", "--resource-group=a b"],
     {"dps_name": "my'dps", "resource_group": "a b", "device_id": DEVICE_ID, "iot_hubs": [HUB],
      "allocation_policy": "static"}),
])
def test_az_is_one_line_for_a_shell(gateway, options, expected):
    line = gateway.run("--format=az", *options)
    assert line.count("\n") == 1
    tool("bash", "-n", "-c", line)
    tool("sh", "-n", "-c", line)
    script = "az() { printf '%s\\0' \"$@\"; }\nDPS_NAME='dps 1' RESOURCE_GROUP=rg\n" + line
    words = tool("bash", "-euc", script).decode().split("\0")[:-1]
    assert words[:4] == ["iot", "dps", "enrollment", "create"]
    if expected["dps_name"] != "dps 1":
        assert shlex.split(line) == ["az", *words]
    enrollment = gateway.json()
    assert vars(az_parser().parse_args(words[4:])).items() >= {
        "enrollment_id": enrollment["registrationId"], "attestation_type": "tpm", "edge_enabled": "true",
        "endorsement_key": enrollment["attestation"]["tpm"]["endorsementKey"], "provisioning_status": "enabled",
        "reprovision_policy": "reprovisionandmigratedata", **expected}.items()


def test_az_stops_without_the_names(gateway):
    line = gateway.run("--format=az")
    result = subprocess.run(["bash", "-c", "az() { echo called; }\n" + line], capture_output=True, text=True,
                            check=False, env={"PATH": os.environ["PATH"]})
    assert result.returncode != 0 and result.stdout == "" and "DPS_NAME" in result.stderr


# --- csv ---

COLUMNS = ["registration_id", "device_id", "endorsement_key", "iot_edge", "iot_hub", "serial_number", "mac",
           "host_name", "asset", "ek_certificate"]


def table(text):
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in rows)
    return [dict(zip(COLUMNS, row)) for row in rows[1:]]


@pytest.mark.parametrize("given, read", [
    ("A-17", "A-17"),
    ('19" rack, left; row 3', '19" rack, left; row 3'),
    ('""', '""'),
    ("two\nlines\rthree\ttabs", "two lines three tabs"),
    ("Köln 中文", "Köln 中文"),
    ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("'=1", "''=1"),
])
def test_csv_is_a_table_with_one_row(gateway, given, read):
    text = gateway.run("--format=csv", f"--asset={given}", f"--serial={given}", "--device-id=gw,7", f"--hub={HUB}")
    [row] = table(text)
    enrollment = gateway.json()
    assert row["registration_id"] == enrollment["registrationId"]
    assert row["endorsement_key"] == enrollment["attestation"]["tpm"]["endorsementKey"]
    assert (row["device_id"], row["iot_edge"], row["iot_hub"]) == ("gw,7", "true", HUB)
    assert row["asset"] == row["serial_number"] == read
    assert row["ek_certificate"] == "missing"
    assert row["host_name"] == os.uname().nodename
    assert row["mac"] == "" or re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", row["mac"])


# --- a factory line ---

def test_station_keeps_one_table(new_gateway):
    gateways = [new_gateway() for _ in range(3)]
    path = gateways[0].dir / "line.csv"
    for i, gateway in enumerate(gateways):
        assert f"line {i + 2} of" in gateway.run(f"--station={path}", f"--asset=A{i}")
    rows = table(path.read_text())
    assert [row["asset"] for row in rows] == ["A0", "A1", "A2"]
    assert [row["registration_id"] for row in rows] == [g.json()["registrationId"] for g in gateways]


def test_station_prints_what_is_asked_for_as_well(gateway):
    path = gateway.dir / "line.csv"
    assert json.loads(gateway.run(f"--station={path}", "--format=json"))
    assert len(table(path.read_text())) == 1
    assert gateway.run(f"--station={path}", "--format=json", status=1) == ""
    path.unlink()
    assert gateway.run(f"--station={path}", f"--output={gateway.dir}/text") == ""
    assert "Registration ID" in (gateway.dir / "text").read_text()


def test_station_refuses_duplicates_and_names_the_line(new_gateway):
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}", "--device-id=gw-7", '--asset=a "b" c')
    other.run(f"--station={path}")
    before = path.read_text()

    def refused(gateway, line, what, *options):
        assert gateway.run(f"--station={path}", *options, status=1) == ""
        assert f"Line {line} of" in gateway.stderr and what in gateway.stderr
        assert path.read_text() == before

    refused(one, 2, "registration ID")
    refused(other, 3, "registration ID")
    other.config = {"Provisioning": {"RegistrationId": "another"}}
    refused(other, 3, "endorsement key")
    before = "".join(before.splitlines(keepends=True)[:2])
    path.write_text(before)
    refused(other, 2, "device ID", "--device-id=gw-7")
    for device_id in ("-x", "'x", "@x"):  # what is protected from spreadsheets is compared as it was
        path.unlink()
        one.run(f"--station={path}", f"--device-id={device_id}")
        before = path.read_text()
        refused(other, 2, "device ID", f"--device-id={device_id}")
    other.config = {"Provisioning": {"RegistrationId": one.json()["registrationId"].upper()}}
    refused(other, 2, "registration ID")


def test_stations_share_a_table(new_gateway):
    gateways = [new_gateway() for _ in range(4)]
    path = gateways[0].dir / "line.csv"
    for _ in range(5):
        path.unlink(missing_ok=True)
        running = [subprocess.Popen(g.command(f"--station={path}"), stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE) for g in gateways for _ in range(2)]
        results = [(p.communicate(timeout=DEADLINE)[1], p.returncode) for p in running]
        assert sorted(status for _, status in results) == [0] * 4 + [1] * 4, results
        assert {row["registration_id"] for row in table(path.read_text())} == \
            {g.json()["registrationId"] for g in gateways}


def test_station_takes_a_table_that_a_spreadsheet_saved(new_gateway):
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}")
    with io.StringIO(newline="") as saved:
        csv.writer(saved, lineterminator="\r\n").writerows([COLUMNS, table(path.read_text())[0].values()])
        path.write_text("\ufeff" + saved.getvalue(), newline="")
    one.run(f"--station={path}", status=1)
    assert "Line 2 of" in one.stderr
    other.run(f"--station={path}")
    assert len(table(path.read_text().lstrip("\ufeff"))) == 2


@pytest.mark.parametrize("text, line", [
    ("hello\n", 1), ("hello", 1), ("registration_id;device_id\n", 1), ("\n", 1),
    (",".join(COLUMNS) + "\na,b,c\n", 2), (",".join(COLUMNS) + "\n\n", 2),
    (",".join(COLUMNS) + "\n,,,,,,,,,\n\",,,,,,,,,\n,,,,,,,,,\n", 3),  # a quote that is never closed
    (",".join(COLUMNS) + "\nhalf a line", 2),  # of a hand, not of us
])
def test_station_leaves_another_file_alone(gateway, text, line):
    path = gateway.dir / "line.csv"
    path.write_text(text)
    gateway.run(f"--station={path}", status=1)
    assert f"Line {line} of" in gateway.stderr and path.read_text() == text


def test_station_heals_what_a_power_cut_left(new_gateway):
    """Cut at any byte of the last row: the rows before it stay, and the device is in the table afterwards."""
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}")
    first = path.read_bytes()
    other.run(f"--station={path}")
    both = path.read_bytes()
    for size in [*range(len(first) + 1, len(both) - 1, 29), len(both) - 2]:
        path.write_bytes(both[:size])
        other.run(f"--station={path}")
        assert path.read_bytes() == both and "cut off" in other.stderr
    path.write_bytes(both[:-1])  # all but the line feed: the row is whole
    other.run(f"--station={path}", status=1)
    for size in range(0, first.index(b"\n"), 13):  # cut in the header
        path.write_bytes(both[:size])
        one.run(f"--station={path}")
        assert path.read_bytes() == first


def test_station_undoes_a_write_that_fails(new_gateway):
    one, other = new_gateway(), new_gateway()
    path = one.dir / "line.csv"
    one.run(f"--station={path}")
    before = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        other.run(f"--station={path}", status=1, prefix=["prlimit", f"--fsize={len(before) + 100}"],
                  restore_signals=False)
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert "can't be written" in other.stderr and path.read_bytes() == before


@pytest.mark.skipif(not works("strace", "-o", "/dev/null", "true"), reason="a process may not be traced here")
def test_station_locks_before_it_reads_and_syncs_before_it_reports(gateway):
    path = gateway.dir / "line.csv"
    gateway.run(f"--station={path}", prefix=["strace", "-f", "-o", gateway.dir / "trace", "-e",
                                             "trace=openat,flock,read,write,fsync,ftruncate", "-y"],
                env={"ASAN_OPTIONS": "detect_leaks=0"})  # which does not work in a traced process
    trace = (gateway.dir / "trace").read_text()
    steps = [re.search(pattern, trace, re.MULTILINE) for pattern in (
        rf"flock\(\d+<{path}>, LOCK_EX\) += 0",
        rf"read\(\d+<{path}>",
        rf"write\(\d+<{path}>",
        rf"fsync\(\d+<{path}>\) += 0",
        rf"fsync\(\d+<{path.parent}>\) += 0",
        r"write\(1<")]
    assert all(steps), trace
    positions = [step.start() for step in steps]
    assert positions == sorted(positions), trace


# --- qr ---

def decode(path):
    return tool("zbarimg", "-q", "--raw", path, env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/dev/null"}
                ).decode().rstrip("\n")


def decode_blocks(gateway, text):
    """Draws the half blocks as the terminal would, light on dark, into a grey map."""
    rows = [bits for line in text.splitlines() for bits in
            ([c in "█▀" for c in line], [c in "█▄" for c in line])]
    scale = 6
    pixels = b"".join(bytes(255 if bit else 0 for bit in row for _ in range(scale)) * scale for row in rows)
    path = gateway.dir / "terminal.pgm"
    path.write_bytes(b"P5 %d %d 255\n" % (len(rows[0]) * scale, len(rows) * scale) + pixels)
    return decode(path)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("ending", ["png", "svg", ""])
def test_qr_is_read_by_zbar(gateway, ending, full):
    options = ["--format=qr", *(["--full", f"--hub={HUB}"] if full else [])]
    if ending:
        path = gateway.dir / f"label.{ending}"
        assert gateway.run(*options, f"--output={path}") == ""
        if ending == "svg":
            tool("rsvg-convert", path, "-o", gateway.dir / "drawn.png")
            path = gateway.dir / "drawn.png"
        text = decode(path)
    else:
        text = decode_blocks(gateway, gateway.run(*options))
    if full:
        assert json.loads(text) == gateway.json(f"--hub={HUB}")
    else:
        assert text == gateway.json()["registrationId"]


@pytest.mark.parametrize("no_color", [False, True])
def test_qr_on_a_terminal_brings_its_colours(gateway, no_color):
    master, slave = pty.openpty()
    with subprocess.Popen(gateway.command("--format=qr"), stdout=slave, stderr=subprocess.PIPE,
                          env={**os.environ, "NO_COLOR": "1" if no_color else ""}) as process:
        os.close(slave)
        output = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            output += part
            if not part:
                break
        assert process.wait(DEADLINE) == 0
    os.close(master)
    text = output.decode().replace("\r\n", "\n")
    assert ("\x1b[40;97m" in text) != no_color
    assert decode_blocks(gateway, re.sub(r"\x1b\[[0-9;]*m", "", text)) == gateway.json()["registrationId"]


# --- usage ---

@pytest.mark.parametrize("arguments", [
    ["--format=xml"], ["--format"], ["--no-such-option"], ["surplus"], ["--full"], ["--format=pem", "--station=x"], ["--format=qr", "--output=label.gif"],
    ["--merge"], ["--format=bulk", "--merge"], ["--format=csv", "--merge", "x"], ["--hub=a b"], ["--hub=-x"],
    ["--device-id="], ["--device-id=a b"], ["--device-id=" + 129 * "a"], ["--format=bulk", "--merge", "--hub=h", "x"],
])
def test_wrong_usage_exits_2(gateway, arguments):
    assert gateway.run(*arguments, status=2) == ""
    assert "Try 'dps-provision enrollment --help'." in gateway.stderr


def test_output_replaces_a_whole_file(gateway):
    path = gateway.dir / "enrolment.json"
    path.write_text(5000 * "x")
    assert gateway.run("--format=json", f"--output={path}") == ""
    assert json.loads(path.read_text()) == gateway.json()
    gateway.run("--format=json", "--output=/no/such/directory/file", status=1)
    assert "'/no/such/directory/file' can't be written" in gateway.stderr


def test_a_full_disk_is_an_error(gateway):
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(gateway.command("--format=json"), stdout=full, stderr=subprocess.PIPE, text=True,
                                timeout=DEADLINE, check=False)
    assert result.returncode == 1 and "can't be printed" in result.stderr


def test_help_names_every_option(gateway):
    help_text, source = gateway.run("--help"), (SOURCE / "cli/enrollment.c").read_text()
    for option in re.findall(r'\{ "([a-z-]+)", (?:no|required)_argument', source):
        assert option == "help" or f"--{option}" in help_text
