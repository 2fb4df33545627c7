"""The Debian package on a running gateway: upgraded, removed, purged, installed again."""
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import DEBS, packages
from machine import NAME, SCOPE, wait_for

UNITS = ("dps-provisiond.service", "dps-handoffd.service", "dps-tpmd.service")
TPMDS_DROPIN = "/etc/systemd/system/aziot-tpmd.service.d/50-dps-provisiond.conf"
OURS = ("/etc/dps-provisiond", "/var/lib/dps-provisiond", "/var/lib/dps-handoffd")


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    """The package, and the same with a higher version."""
    directory = tmp_path_factory.mktemp("debs")
    deb = packages()[0]
    shutil.copy(deb, directory / "current.deb")
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text("".join("Version: 99.0\n" if line.startswith("Version:") else line
                               for line in control.read_text().splitlines(keepends=True)))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, directory / "newer.deb"], check=True,
                   stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return directory


@pytest.fixture
def machine(new_machine, debs):
    made = new_machine()
    made.start(f"--bind-ro={debs}:/mnt/debs")
    made.wait_for_state("handed-off")
    return made


def dpkg(machine, *arguments):
    return machine.output("dpkg", *arguments)


def exists(machine, path):
    return machine.run("test", "-e", path, check=False).returncode == 0


def untouched(machine, before):
    """IoT Edge runs on as the same device, and nobody has registered."""
    assert machine.read("/etc/aziot/config.toml") == before["config"]
    assert len(machine.network.requests(kind="register")) == before["registers"]
    assert len(machine.standin_events("edged-start")) == before["starts"]
    assert machine.show("aziot-edged.service", "ActiveState") == "active"


def snapshot(machine):
    return {"config": machine.read("/etc/aziot/config.toml"), "registers": len(machine.network.requests(kind="register")),
            "starts": len(machine.standin_events("edged-start"))}


def aziot_tpmds_groups(machine):
    return machine.show("aziot-tpmd.service", "SupplementaryGroups").split()


def test_upgrade_keeps_state_and_configuration(machine):
    machine.run("sh", "-c", "echo '# mine' >>/etc/dps-provisiond/provisiond.conf")
    before, pid = snapshot(machine), machine.show(UNITS[0], "MainPID")
    dpkg(machine, "--force-confold", "-i", "/mnt/debs/newer.deb")
    wait_for("the new daemon", lambda: machine.show(UNITS[0], "MainPID") not in ("0", pid))
    machine.wait_for_state("handed-off")
    untouched(machine, before)
    assert "# mine" in machine.read("/etc/dps-provisiond/provisiond.conf")
    assert machine.output("dpkg-query", "-W", "-f", "${Version}", "dps-provisiond") == "99.0"
    assert machine.show(UNITS[0], "NeedDaemonReload") == "no"


def test_remove_stops_everything_and_keeps_what_it_knows(machine):
    before = snapshot(machine)
    dpkg(machine, "-r", "dps-provisiond")
    assert machine.run("busctl", "status", NAME, check=False).returncode != 0
    for unit in UNITS:
        assert machine.show(unit, "LoadState") == "not-found" and machine.show(unit, "ActiveState") == "inactive"
    assert "/dps-" not in machine.output("sh", "-c", "ls -l /proc/*/exe", check=False)
    for path in OURS:
        assert exists(machine, path)
    untouched(machine, before)

    # and IoT Edge boots without us: its access to the TPM stays until the purge
    devices = len(machine.standin_events("edged-device"))
    machine.reboot()
    wait_for("IoT Edge with its identity", lambda: len(machine.standin_events("edged-device")) > devices)
    assert machine.show("aziot-edged.service", "ActiveState") == "active" and aziot_tpmds_groups(machine) == ["tss"]
    before["starts"] += 1
    untouched(machine, before)

    dpkg(machine, "-i", "/mnt/debs/current.deb")
    machine.wait_for_state("handed-off")
    untouched(machine, before)
    assert not exists(machine, TPMDS_DROPIN) and aziot_tpmds_groups(machine) == ["tss"]


def test_purge_leaves_nothing_but_iot_edges_identity(machine):
    machine.run("dps-provision", "set-scope", SCOPE)
    before = snapshot(machine)
    said = dpkg(machine, "-P", "dps-provisiond")
    for path in (*OURS, TPMDS_DROPIN, "/run/dps-provisiond", "/etc/systemd/system/multi-user.target.wants/dps-provisiond.service",
                 "/var/lib/systemd/deb-systemd-helper-enabled/dps-provisiond.service.dsh-also"):
        assert not exists(machine, path), path
    listed = machine.output("sh", "-c", "find / -xdev -ignore_readdir_race -name '*dps-provision*' -not -path '/proc/*' "
                            "-not -path '/etc/aziot/*' -not -path '/usr/lib/dps-provisiond*' "
                            "-not -path '/var/log/*' -not -path '/var/lib/private/*'")
    assert listed == "", listed
    catalog = machine.output("journalctl", "-x", "--no-pager", "-u", UNITS[0], check=False)
    assert "Defined-By: dps-provisiond" not in catalog, "the catalog is compiled again"
    untouched(machine, before)

    # IoT Edge's access to the TPM was ours; what to do about it is said, and helps
    assert aziot_tpmds_groups(machine) == []
    for command in re.findall("^    (.+)$", said, re.MULTILINE):
        machine.run("sh", "-ec", command)
    assert aziot_tpmds_groups(machine) == ["tss"]

    dpkg(machine, "-i", "/mnt/debs/current.deb")  # and a gateway that was provisioned without us is recognised
    machine.wait_for_state("unprovisioned")
    machine.run("dps-provision", "set-scope", SCOPE)
    machine.wait_for_state("handed-off")
    untouched(machine, before)


def test_purge_keeps_a_payload_that_iot_edge_names(machine):
    payload = "/etc/dps-provisiond/site/pay load.json"
    machine.write(payload, "{}")
    config = machine.read("/etc/aziot/config.toml")
    machine.write("/etc/aziot/config.toml", config.replace("[provisioning]\n", '[provisioning]\npayload = { uri = '
                                                           '"file:///etc/dps-provisiond/site/pay%20load.json" }\n'))
    machine.write("/etc/dps-provisiond/provisiond.conf.d/60-site.conf", "[Retry]\nMaxSec=7\n")
    said = dpkg(machine, "-P", "dps-provisiond")
    assert exists(machine, payload) and "/etc/dps-provisiond is kept" in said
    assert not exists(machine, "/etc/dps-provisiond/provisiond.conf.d")


def test_fresh_install_on_a_running_system(new_machine, debs):
    """The image never had our users, nor the bus our policy. The first start succeeds."""
    machine = new_machine()
    subprocess.run(["dpkg", f"--root={machine.root}", "-P", "dps-provisiond"], check=True, capture_output=True)
    for name in ("passwd", "shadow", "group", "gshadow"):
        text = (machine.root / "etc" / name).read_text()
        (machine.root / "etc" / name).write_text(re.sub("^dps-.*\n", "", text, flags=re.MULTILINE))
    machine.write("/etc/dps-provisiond/provisiond.conf.d/10-scope.conf", f"[Provisioning]\nIdScope={SCOPE}\n")
    machine.start(f"--bind-ro={debs}:/mnt/debs")
    assert machine.run("id", "dps-provision", check=False).returncode != 0
    dpkg(machine, "-i", "/mnt/debs/current.deb")
    machine.wait_for_state("handed-off")
    assert machine.show(UNITS[0], "NRestarts") == "0" and machine.show(UNITS[0], "Result") == "success"
    # and the daemon is stopped before the bus
    for unit in UNITS:
        assert "dbus.service" in machine.show(unit, "After").split()


def test_packages_contents(image):
    """What people look for where they look for it."""
    for path in ("usr/bin/dps-provision", "usr/bin/dps-provisiond", "usr/libexec/dps-provisiond/dps-tpmd",
                 "usr/libexec/dps-provisiond/dps-handoffd", "usr/bin/dps-emulator",
                 "lib/systemd/system/dps-iotedge-apply.service", "usr/lib/systemd/catalog/dps-provisiond.catalog",
                 "usr/share/polkit-1/actions/org.dps.provisioning.policy",
                 "usr/share/dbus-1/interfaces/org.dps.Provisioning1.xml", "usr/lib/sysusers.d/dps-provisiond.conf",
                 "lib/systemd/system/aziot-tpmd.service.d/50-dps-provisiond.conf"):
        assert (image / path).exists(), path
    listed = subprocess.run(["dpkg-deb", "-c", packages()[0]], capture_output=True, text=True, check=True).stdout
    pages = {pathlib.Path(line.split()[-1]).name for line in listed.splitlines() if "/man/man" in line}
    assert {"dps-provision.1.gz", "dps-provisiond.8.gz", "dps-handoffd.8.gz", "dps-tpmd.8.gz", "provisiond.conf.5.gz",
            "org.dps.Provisioning1.5.gz"} <= pages


def test_lintian_has_nothing_to_say():
    """What it is not to say has its reason in debian/*.lintian-overrides."""
    changes = next(DEBS.glob("dps-provisiond_*.changes"))
    result = subprocess.run(["lintian", "--allow-root", "--display-info", "--fail-on=error,warning,info", changes],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0 and not result.stdout, result.stdout + result.stderr
