"""What each directive of the units denies, tried for real: by a program in the place of ours, in the unit's own sandbox.

A probe that is denied proves something only if it is allowed without the sandbox, and a directive only if it denies by
itself. So each is tried three times: as root without any directive, as root with one directive alone, and in the four
units. docs/sandbox.md has the table.
"""
import json
import re
import struct
import subprocess

import pytest
from machine import SOURCE

APPLY = "dps-iotedge-apply"
UNITS = ("dps-provisiond", "dps-tpmd", "dps-handoffd", APPLY)
FILTER = "SystemCallFilter=@system-service ~@privileged ~@resources"

# What is tried: the directives of which each denies it alone, and the units that may do it all the same.
TRIED = {
    "write_etc": (["ProtectSystem=strict"], ()),
    "write_usr": (["ProtectSystem=strict"], ()),
    "write_others_state": (["ProtectSystem=strict"], ()),
    "write_iot_edges_files": (["ProtectSystem=strict"], ("dps-handoffd", APPLY)),
    "look_into_home": (["ProtectHome=yes"], (APPLY,)),
    "see_others_temporary_files": (["PrivateTmp=yes"], ()),
    "make_set_user_id_program": (["RestrictSUIDSGID=yes"], ()),
    "become_root_by_set_user_id": (["NoNewPrivileges=yes"], ("dps-handoffd", APPLY)),
    "leave_file_readable_for_all": (["UMask=0077"], (APPLY,)),
    "see_who_owns_a_file": (["PrivateUsers=yes"], ("dps-tpmd", "dps-handoffd", APPLY)),
    "open_another_device": (["DevicePolicy=closed", "PrivateDevices=yes"], ()),
    "load_a_module": (["ProtectKernelModules=yes", FILTER], ()),
    "set_the_clock": (["ProtectClock=yes", "CapabilityBoundingSet=", FILTER], ()),
    "read_the_kernels_log": (["ProtectKernelLogs=yes", FILTER], ()),
    "change_a_kernel_tunable": (["ProtectKernelTunables=yes", "ProcSubset=pid"], ()),
    "set_the_host_name": (["ProtectHostname=yes", "CapabilityBoundingSet="], ()),
    "make_a_control_group": (["ProtectControlGroups=yes"], ()),
    "mount_a_file_system": (["CapabilityBoundingSet=", FILTER], ()),
    "make_a_namespace": (["RestrictNamespaces=yes", "CapabilityBoundingSet="], ()),
    "reboot": (["CapabilityBoundingSet=", FILTER], ()),
    "trace_a_process": (["CapabilityBoundingSet=", FILTER], ()),
    "see_other_processes": (["ProtectProc=invisible CapabilityBoundingSet="], ()),
    "become_another_user": (["CapabilityBoundingSet=", FILTER], ()),
    "write_and_execute_memory": (["MemoryDenyWriteExecute=yes"], ()),
    "change_its_personality": (["LockPersonality=yes"], ()),
    "run_32_bit_code": (["SystemCallArchitectures=native"], ()),
    "take_realtime_priority": (["RestrictRealtime=yes", FILTER], ()),
    "change_its_priority": ([FILTER], ()),
    "connect_to_the_network": (["PrivateNetwork=yes", "IPAddressDeny=any", "RestrictAddressFamilies=AF_UNIX"],
                               ("dps-provisiond", APPLY)),
    "open_a_raw_socket": (["RestrictAddressFamilies=AF_UNIX", "CapabilityBoundingSet="], ()),
    "listen_for_kernel_events": (["RestrictAddressFamilies=AF_UNIX"], ("dps-provisiond",)),
}
# What must go on working: allowed in these units.
NEEDED = {"open_the_random_device": UNITS, "write_own_state": ("dps-provisiond", "dps-handoffd")}
# These deny nothing to a program that is alone in its unit, or nothing that can be seen from a container.
NOT_TRIED = {"PrivateMounts", "RemoveIPC", "KeyringMode", "LimitCORE", "MemoryMax", "TasksMax", "SystemCallErrorNumber",
             "ReadWritePaths", "DeviceAllow", "SupplementaryGroups"}
OTHER = {"Type", "BusName", "ExecStart", "ExecReload", "User", "StateDirectory", "StateDirectoryMode", "ConfigurationDirectory",
         "Restart", "RestartSec", "RestartPreventExitStatus", "WatchdogSec", "TimeoutStopSec", "LoadCredential",
         "SetCredential", "Environment", "TimeoutStartSec"}


def elf32(code):
    """The smallest program for the 32-bit system calls: a header and what the processor is to do."""
    base, start = 0x08048000, 0x54
    header = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 3, 1, base + start, 0x34, 0, 0, 0x34, 0x20, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, base, base, start + len(code), start + len(code), 5, 0x1000)
    return header + segment + code


@pytest.fixture(scope="module")
def prepared(gateway, network):
    """A gateway with the probe, and a device, files and programs for it to find."""
    (gateway.root / "usr/lib/dps-probe.py").write_text((SOURCE / "tests/system/probe.py").read_text())
    (gateway.root / "usr/lib/dps-probe-32").write_bytes(elf32(b"\x31\xdb\xb8\1\0\0\0\xcd\x80"))  # exit(0)
    gateway.run("sh", "-ec", """
        chmod 755 /usr/lib/dps-probe-32
        cp /usr/bin/id /usr/lib/dps-probe-id
        chmod 4755 /usr/lib/dps-probe-id
        touch /tmp/dps-probe-marker /root/dps-probe-marker /usr/lib/dps-probe-owned
        chown games /usr/lib/dps-probe-owned
        mknod -m 666 /dev/dps-probe c 1 11
        mount -o remount,bind,rw /proc/sys # which is for the sandbox to deny; the probe writes nothing
    """)
    return gateway


def run_probe(machine, port, names, directives, user="root"):
    """In a transient service with nothing but these directives."""
    properties = []
    for directive in directives:
        key, _, value = directive.partition("=")
        if key == "SystemCallFilter":
            properties += [f"--property=SystemCallFilter={part}" for part in value.split()]
            properties.append("--property=SystemCallErrorNumber=EPERM")
        else:
            properties.append(f"--property={directive}")
    result = machine.run("systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--uid={user}",
                         f"--setenv=PROBE_PORT={port}", *properties, "/usr/bin/python3", "/usr/lib/dps-probe.py", *names)
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def without_sandbox(prepared, network):
    names = [name for name in TRIED if name != "become_root_by_set_user_id"]
    return {**run_probe(prepared, network.port, names, ()),
            **run_probe(prepared, network.port, ["become_root_by_set_user_id"], (), user="games")}


@pytest.fixture(scope="module")
def in_units(prepared, network):
    """The probe in the place of our programs, everything else as in the unit that the package installs."""
    outcomes = {}
    for unit in UNITS:
        prepared.run("sh", "-ec", f"""
            grep -v ^BusName= /lib/systemd/system/{unit}.service >/run/systemd/system/probe-{unit}.service
            mkdir -p /run/systemd/system/probe-{unit}.service.d
            cat >/run/systemd/system/probe-{unit}.service.d/50-probe.conf
            systemctl daemon-reload
            systemctl start probe-{unit}.service
        """, text=f"""[Service]
Type=oneshot
WatchdogSec=0
Restart=no
ExecStart=
ExecStart=/usr/bin/python3 /usr/lib/dps-probe.py
Environment=PROBE_PORT={network.port}
StandardOutput=truncate:/run/probe-{unit}.json
""")
        outcomes[unit] = json.loads(prepared.output("cat", f"/run/probe-{unit}.json"))
    return outcomes


@pytest.mark.parametrize("name", TRIED)
def test_allowed_without_sandbox(without_sandbox, name):
    assert without_sandbox[name] == "allowed"


@pytest.mark.parametrize("name, directive", [(name, d) for name, (directives, _) in TRIED.items() for d in directives])
def test_directive_alone_denies(prepared, network, name, directive):
    directives = [directive] if directive.startswith("SystemCallFilter") else re.split(r" (?=[A-Z]\w+=)", directive)
    user = "games" if name == "become_root_by_set_user_id" else "root"
    result = run_probe(prepared, network.port, [name], directives, user)[name]
    assert result != "allowed" and not result.startswith("broken"), result


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", TRIED)
def test_unit_denies(in_units, name, unit):
    result = in_units[unit][name]
    assert not result.startswith("broken"), result
    assert (result == "allowed") == (unit in TRIED[name][1]), result


@pytest.mark.parametrize("name, unit", [(name, unit) for name, units in NEEDED.items() for unit in units])
def test_unit_allows_what_is_needed(in_units, name, unit):
    assert in_units[unit][name] == "allowed"


@pytest.mark.parametrize("unit", UNITS)
def test_every_directive_is_tried_and_documented(image, unit):
    text = (image / f"lib/systemd/system/{unit}.service").read_text()
    service = text[text.index("[Service]"):].partition("[Install]")[0]
    directives = set(re.findall(r"^([A-Z]\w+)=", service, re.MULTILINE)) - OTHER
    tried = {key for directives, _ in TRIED.values() for d in directives for key in re.findall(r"\b([A-Z]\w+)=", d)}
    assert directives <= tried | NOT_TRIED, "a directive that nothing tries"
    table = (SOURCE / "docs/sandbox.md").read_text()
    missing = {d for d in directives if f"`{d}" not in table}
    assert not missing, "not in docs/sandbox.md"


@pytest.mark.parametrize("unit", UNITS)
def test_every_directive_that_is_not_used_has_its_reason(image, unit):
    """Said in the unit: of all that systemd counts as exposure."""
    result = subprocess.run(["systemd-analyze", "security", f"--root={image}", "--offline=true", "--json=short",
                             f"{unit}.service"], capture_output=True, text=True, check=True)
    exposed = [row["name"] for row in json.loads(result.stdout) if row["set"] is False and row["exposure"]]
    text = (image / f"lib/systemd/system/{unit}.service").read_text()
    # "RestrictAddressFamilies=~AF_UNIX", "User=/DynamicUser="
    missing = [name for name in exposed if not any(f"{key}=" in text for key in re.findall(r"([A-Z]\w+)=", name))]
    assert len(exposed) > 3 and not missing


def test_the_documented_table_is_the_one_that_was_tried():
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in (SOURCE / "docs/sandbox.md").read_text().splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(TRIED)
    for (what, directives, *units), (name, (expected, allowed)) in zip(rows, TRIED.items()):
        short = [re.sub(r"SystemCallFilter=.*", "SystemCallFilter=", d) for d in expected]
        assert re.findall(r"`(.+?)`", directives) == " ".join(short).split(), (what, name)
        assert units == ["may" if unit in allowed else "denied" for unit in UNITS], (what, name)
