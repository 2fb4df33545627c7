"""The formats of `dps-provision enrollment`, given to programs that are not ours."""
import argparse
import hashlib
import json
import os
import pty
import re
import shlex
import subprocess

import jsonschema
import pytest
from enrollment_tool import DEADLINE, HUB, key_of, table, tool
from schema import BULK_OPERATION, INDIVIDUAL_ENROLLMENT

# Characters that IoT Hub allows in a device ID and a shell, or a CSV parser, cares about.
DEVICE_ID = "gw'7!,$(x)*"


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


@pytest.mark.smoke
def test_bulk_is_what_the_service_takes(gateway):
    body = json.loads(gateway.run("--format=bulk", f"--hub={HUB}"))
    jsonschema.Draft7Validator(BULK_OPERATION).validate(body)
    assert body == {"mode": "create", "enrollments": [gateway.json(f"--hub={HUB}")]}


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


# --- qr ---

def decode(path):
    # the other symbologies are off: zbarimg sees one of their bar codes in a QR code now and then
    return tool("zbarimg", "-q", "--raw", "-Sdisable", "-Sqrcode.enable", path, env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/dev/null"}
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
