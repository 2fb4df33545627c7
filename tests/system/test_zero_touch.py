"""The scope comes with the image, from whoever made it, and nobody touches the gateway."""
import os
import re
import shutil

import pytest
from machine import SCOPE, SOURCE

FILES = ("/usr/lib/dps-provisiond/provisiond.conf.d/60-scope.conf",
         "/etc/dps-provisiond/provisiond.conf",
         "/etc/dps-provisiond/provisiond.conf.d/60-scope.conf")
CREDENTIAL = f"--set-credential=dps.id_scope:{SCOPE}"


@pytest.mark.parametrize("path", FILES)
def test_scope_from_a_file_in_the_image(new_machine, path):
    machine = new_machine(scope=path)
    machine.start()
    assert machine.wait_for_state("handed-off")["IdScope"] == SCOPE


def test_scope_from_a_credential(new_machine):
    """As the kernel command line and SMBIOS pass it on: PID 1 has it, and gives it to the three services alone."""
    machine = new_machine(scope=None)
    machine.start(CREDENTIAL)
    assert machine.wait_for_state("handed-off")["IdScope"] == SCOPE
    assert SCOPE in machine.read("/etc/aziot/config.toml"), "the helper has it as well"


def test_file_wins_over_a_credential(new_machine):
    machine = new_machine()
    machine.start("--set-credential=dps.id_scope:0ne00000000")
    assert machine.wait_for_state("handed-off")["IdScope"] == SCOPE


def test_etc_wins_over_usr(new_machine):
    machine = new_machine()
    machine.write("/usr/lib/dps-provisiond/provisiond.conf.d/10-scope.conf", "[Provisioning]\nIdScope=0ne00000000\n")
    machine.start()
    assert machine.wait_for_state("handed-off")["IdScope"] == SCOPE


def test_read_only_root(new_machine):
    """/var and /etc/aziot are all that has to be writable, and to stay."""
    machine = new_machine(scope="/usr/lib/dps-provisiond/provisiond.conf.d/60-scope.conf")
    machine.run_in_namespaces("sh", "-ec", """
        mkdir -p /run/disk/data/aziot
        cp -a /run/disk/root/var /run/disk/data/
        cp -a /run/disk/root/etc/aziot/. /run/disk/data/aziot/
    """)
    options = ("--read-only", "--bind=/run/disk/data/var:/var", "--bind=/run/disk/data/aziot:/etc/aziot")
    machine.start(*options)
    before = machine.wait_for_state("handed-off")
    assert machine.run("touch", "/etc/dps-provisiond/x", check=False).returncode != 0, "the root is read-only"
    result = machine.run("dps-provision", "set-scope", "0ne00000000", check=False)
    assert result.returncode == 1 and "ead-only" in result.stderr
    requests = len(machine.network.requests())
    machine.power_off()
    machine.start(*options)
    after = machine.wait_for_state("handed-off")
    assert after["DeviceId"] == before["DeviceId"]
    assert not [r for r in machine.network.requests()[requests:] if r["kind"] != "hub"]


def documented(heading):
    """The paths in the first column of the table in docs/integration.md that follows this text."""
    text = (SOURCE / "docs/integration.md").read_text().partition(heading)[2]
    rows = re.search(r"^\|.*?(?=^\n|^[^|]|\Z)", text, re.MULTILINE | re.DOTALL)[0].splitlines()
    return re.findall(r"`(/[^`]+)`", "\n".join(row.split("|")[1] for row in rows))


def files_below(directory):
    """Also while the machine runs, and removes what is being looked at."""
    return {os.path.join(path, name) for path, _, names in os.walk(directory) for name in names}


def test_nothing_is_written_but_what_is_documented(new_machine):
    machine = new_machine()
    machine.run_in_namespaces("mkdir", "-p", "/run/disk/upper/var/lib/aziot", "/run/disk/upper/etc/aziot")
    upper = machine.namespaces.root / "run/disk/upper"
    before = files_below(upper)
    machine.start()
    machine.wait_for_state("handed-off")
    machine.run("systemctl", "stop", "dps-provisiond", "dps-tpmd", "dps-handoffd")
    # what systemd, the bus and the stand-ins keep of any boot
    others = ("/etc/machine-id", "/etc/hostname", "/etc/resolv.conf", "/var/log", "/var/lib/systemd", "/var/lib/private", "/var/lib/dbus",
              "/var/cache/private", "/usr/lib/standins/__pycache__", "/etc/.", "/var/tmp", "/tmp", "/run", "/dev", "/proc", "/sys")
    written = [path.removeprefix(str(upper)) for path in files_below(upper) - before]
    ours = [path for path in written if not path.startswith(others)]
    assert "/var/lib/dps-provisiond/state.json" in ours
    table = tuple(documented("**Written, and to be kept"))
    assert len(table) == 4 and not [path for path in ours if not path.startswith(table)]


def test_every_installed_path_is_documented(image):
    listed = (image / "var/lib/dpkg/info/dps-provisiond.list").read_text().split()
    files = [path for path in listed if not (image / path.lstrip("/")).is_dir() or "dps-provisiond/" in path]
    table = tuple(documented("Read only, in the image") + documented("Configuration, read by"))
    assert len(files) > 30 and not [path for path in files if not path.startswith(table)]


def test_same_image_on_two_machines_gives_two_identities(new_machine, network):
    machines = [new_machine(scope=FILES[0]) for _ in range(2)]
    for machine in machines:
        machine.start()
    seen = [machine.wait_for_state("handed-off") for machine in machines]
    assert seen[0]["RegistrationId"] != seen[1]["RegistrationId"]
    assert seen[0]["EndorsementKey"] != seen[1]["EndorsementKey"]
    for machine, properties in zip(machines, seen):
        assert properties["DeviceId"] == properties["RegistrationId"]
        machine.wait_for_edge_as(device=properties["DeviceId"])
        assert re.search(f'registration_id = "{properties["RegistrationId"]}"', machine.read("/etc/aziot/config.toml"))


def test_disk_moved_to_another_machine_becomes_another_device(new_machine, network, image):
    """A golden image taken after its first boot: the TPM decides who it is, not the disk."""
    first, second = new_machine(), new_machine()
    first.start()
    before = first.wait_for_state("handed-off")
    first.run("sync")
    first.power_off()
    first.exchange_tpm(second.tpm)
    first.start()
    after = first.wait_for_property("RegistrationId", second.tpm.registration_id)
    assert after["RegistrationId"] != before["RegistrationId"]
    first.wait_for_property("DeviceId", after["RegistrationId"])
    first.wait_for_state("handed-off")
    first.wait_for_edge_as(device=after["RegistrationId"])


def test_identity_service_without_the_edge_runtime(new_machine):
    machine = new_machine()
    for path in ("usr/bin/iotedge", *(str(p.relative_to(machine.root)) for p in machine.root.glob("lib/systemd/system/aziot-edged*")),
                 *(str(p.relative_to(machine.root)) for p in machine.root.glob("lib/systemd/system/docker*"))):
        (machine.root / path).unlink()
    shutil.rmtree(machine.root / "etc/aziot/edged")
    machine.start()
    machine.wait_for_state("handed-off")
    assert machine.show("aziot-identityd.service", "ActiveState") == "active"
    assert "aziotctl" in machine.output("systemctl", "show", "--property=ExecStart", "dps-iotedge-apply.service")
    result = machine.run("dps-provision", "check", check=False)
    assert " fail " not in result.stdout, result.stdout
