"""What `dps-provision enrollment` says of a TPM, what it takes for that, and how it is called."""
import json
import os
import pathlib
import re
import stat
import shutil
import subprocess
import time

import pytest
from enrollment_tool import BUILD, DEADLINE, PROGRAM, key_of, tool, works

READS = {"GetCapability", "ReadPublic", "CreatePrimary", "FlushContext", "NV_ReadPublic", "NV_Read", "Certify"}


def ek_of_tools(gateway, handle="0x81010001"):
    gateway.tpm2("readpublic", "-c", handle, "-f", "tss", "-o", "ek.pub")
    return (gateway.dir / "ek.pub").read_bytes()


# --- the two values ---

@pytest.mark.smoke
def test_endorsement_key_equals_tpm2_tools(blank):
    transient = key_of(blank.json())
    blank.tpm2("createek", "-c", "0x81010001", "-G", "rsa", "-u", "ek")
    assert key_of(blank.json()) == ek_of_tools(blank) == transient


@pytest.mark.parametrize("key_format, command", [
    ("sha256-hex", "sha256sum -b ek.pub | cut -d' ' -f1"),
    ("sha256-base32", "openssl dgst -sha256 -binary ek.pub | base32 -w0 | tr -d = | tr A-Z a-z"),
])
def test_registration_id_equals_the_tools(gateway, key_format, command):
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
def test_nothing_is_stored_and_nothing_is_left(new_gateway, output, persistent):
    gateway = new_gateway("keys" if persistent else "fresh")
    before = gateway.handles()
    assert gateway.run(f"--format={output}") and gateway.stderr == ""
    assert gateway.handles() == before
    assert set(gateway.commands()) <= READS
    assert ("CreatePrimary" in gateway.commands()) != persistent


@pytest.mark.smoke
def test_is_done_in_two_seconds(blank):
    """The best of three, so that a busy machine does not fail it; and nobody is promised it of a sanitizer's build."""
    def once():
        start = time.monotonic()
        blank.run("--format=json")
        return time.monotonic() - start
    assert min(once() for _ in range(3)) < (2 if "asan" not in str(BUILD) else 10)


@pytest.mark.skipif(os.geteuid() != 0 or not works("unshare", "-n", "true"),
                    reason="only root can become another user and make a network namespace")
def test_without_network_daemon_and_root(new_gateway):
    """Only membership of the group that owns the device is needed. The socket takes the device's place."""
    gateway = new_gateway()
    copy = gateway.dir / "dps-provision"
    shutil.copy(PROGRAM, copy)
    gateway.dir.chmod(0o755)
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


def test_a_foreign_object_at_the_handle_is_told(blank):
    gateway = blank
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
def test_a_tpm_that_fails(made, rule, status, text):
    gateway = made
    (gateway.dir / "faults.json").write_text(json.dumps({"rules": [rule]}))
    output = gateway.run(status=status)
    assert re.search(text, output if status == 0 else gateway.stderr), (output, gateway.stderr)
    assert (output == "") == (status != 0)
    (gateway.dir / "faults.json").write_text("{}")
    assert gateway.handles()["transient"] == []


@pytest.mark.parametrize("persistent", [False, True])
def test_an_endorsement_authorization(new_gateway, persistent):
    """It is needed to make the key, not to read it."""
    gateway = new_gateway("keys" if persistent else "fresh")
    expected = gateway.json()
    gateway.tpm2("changeauth", "-c", "endorsement", "secret")
    (gateway.dir / "credentials").mkdir()
    (gateway.dir / "credentials/dps.tpm_endorsement_auth").write_text("secret\n")
    assert json.loads(gateway.run("--format=json", env={"CREDENTIALS_DIRECTORY": f"{gateway.dir}/credentials"})) == expected
    if persistent:
        assert gateway.json() == expected
    else:
        assert gateway.run("--format=json", status=1) == "" and "dps.tpm_endorsement_auth" in gateway.stderr


# --- text ---

def test_text_says_where_the_key_came_from(blank):
    gateway = blank
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


def test_text_names_a_key_that_no_manufacturer_made(blank):
    """The C SDK's template has an empty `unique` and further attributes."""
    gateway = blank
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


def test_output_leaves_links_and_devices_what_they_are(gateway):
    printed = gateway.run("--format=json")
    assert gateway.run("--format=json", "--output=-") == printed
    target, link, fifo = gateway.dir / "target.json", gateway.dir / "link.json", gateway.dir / "fifo"
    target.write_text("x" * 10000)
    link.symlink_to("target.json")
    os.mkfifo(fifo)
    assert gateway.run("--format=json", f"--output={link}") == ""
    assert link.is_symlink() and target.read_text() == printed
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    gateway.run("--format=json", f"--output={fifo}")
    assert os.read(reader, 65536).decode() == printed and stat.S_ISFIFO(fifo.stat().st_mode)
    os.close(reader)
    gateway.run("--format=json", "--output=/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    table = gateway.dir / "table.csv"
    assert gateway.run(f"--station={table}", "--output=-").startswith(gateway.run()[:20])
    gateway.run("--format=json", f"--output={gateway.dir}", status=1)
    assert "directory" in gateway.stderr

