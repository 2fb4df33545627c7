"""`dps-provision enrollment --merge`: many devices in the service's bulk requests."""
import base64
import csv
import hashlib
import json

import jsonschema
import pytest
from enrollment_tool import HUB, key_of
from schema import BULK_OPERATION


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


@pytest.mark.smoke
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
    assert body["enrollments"] == [good] and "'/no/such' can't be read" in gateway.stderr


def test_merge_warns_of_a_missing_edge_flag(gateway):
    d = list(devices(gateway, 3))
    files = write_files(gateway, [d[0], changed(d[1], "capabilities.iotEdge", False), changed(d[2], "capabilities", None)])
    [body] = bodies(gateway.run("--format=bulk", "--merge", *files))
    assert len(body["enrollments"]) == 3
    assert gateway.stderr.count("will not be an IoT Edge device") == 2


def test_merge_takes_files_that_were_written_on_windows(gateway):
    path = gateway.dir / "device.json"
    path.write_text(gateway.run("--format=json"), encoding="utf-8-sig", newline="\r\n")
    assert len(bodies(gateway.run("--merge", path))) == 1


def test_merge_tells_what_it_refuses_without_commanding_the_terminal(gateway):
    (path := gateway.dir / "device.json").write_text(json.dumps({**gateway.json(), "registrationId": "\033[2Ja\u009b2J"}))
    gateway.run("--merge", path, "/dev/null", status=1)
    assert "'?[2Ja??2J' is refused" in gateway.stderr and "'/dev/null' is not a regular file" in gateway.stderr
    assert "\033" not in gateway.stderr
