"""Suite "handoff": the step PREPARE finds what `iotedge config apply` refuses although it is TOML: no unit is stopped."""
import json
import sys
import tomllib
import types

import pytest
from handoff import EDGED, OPERATORS, Caller, Gateway, edged_state_path, members, prepared, queued, snapshot
from harness import SOURCE

sys.path.append(str(SOURCE / "tests/standins"))
from gateway import ApplyFailed, World, check_config  # noqa: E402

# config.toml, the installed release (None: not installed by dpkg), and the key that is refused
CASES = [
    ('[tpm]\nauth_key_index = "0x100"\n', None, "auth_key_index"),
    ("[tpm]\nauth_key_index = 0x100\n", "1.5.21-1", None),
    ("cloud_timeout_sec = 10\n", "1.5.21-1", "cloud_timeout_sec"),
    ("cloud_timeout_sec = 69\n", "1.4.7-1", "cloud_timeout_sec"),
    ("cloud_timeout_sec = 7_0\n", "1.5.21-1", None),
    ("cloud_timeout_sec = 10\n", "1.4.0-1", None),
    ("cloud_timeout_sec = 10\n", None, None),
    ('cloud_timeout_sec = "70"\n', None, "cloud_timeout_sec"),
    ("cloud_retries = -1\n", None, "cloud_retries"),
    ("hostname = 17\n", None, "hostname"),
    ('auto_reprovisioning_mode = "dynamic"\n', None, "auto_reprovisioning_mode"),
    ('auto_reprovisioning_mode = "OnErrorOnly"\n', None, None),
    ('allow_elevated_docker_permissions = "no"\n', None, "allow_elevated_docker_permissions"),
    ("[moby_runtime]\nuri = 1\n", None, "uri"),
    ('[agent.env]\nx = "y"\n', None, "agent"),
    (OPERATORS, None, None),
    ('[moby_runtime]\nuri = "unix:///var/run/docker.sock"\n', None, "moby_runtime"),
    ('[connect]\nworkload_uri = "x"\nmanagement_uri = "unix:///b"\n', None, "workload_uri"),
    ("[edge_ca]\n", None, "edge_ca"),
    ('[watchdog]\nmax_retries = "5"\n', None, "max_retries"),
    ('imported_master_encryption_key = "/etc/none"\n', None, "imported_master_encryption_key"),
    ('additional_info = "file:///etc/none.toml"\n', "1.5.21-1", "additional_info"),
    ('trust_bundle_cert = "/etc/x.pem"\n', None, "trust_bundle_cert"),
    ('[agent]\nname = "a"\ntype = "docker"\nconfig.image = "i"\n[agent.env]\nx = 1\n', None, "x"),
    ("[aziot_keys]\nk = true\n", None, "k"),
    ("iotedge_max_requests = { management = 5 }\n", "1.5.21-1", "iotedge_max_requests"),
    ("iotedge_max_requests = { management = 5 }\n", "1.3.0-1", None),
]


def refused(world, caller, kind, code):
    """Check and Apply fail alike, and change nothing."""
    before, jobs = snapshot(world), len(queued(world))
    for method, arguments in (("Check", ("us", 4, "gw-1")), ("Apply", ("a{sv}b", members(), False))):
        found, sentence = caller.refused(method, *arguments)
        assert found == kind and sentence.endswith(f"[{code}]"), (found, sentence)
    assert snapshot(world) == before and len(queued(world)) == jobs


def fake_refuses(world, text, release):
    faults = world.dir / "release.json"
    faults.write_text(json.dumps({"release": release and release.partition("-")[0] if release else "1.4.0"}))
    fake = World(types.SimpleNamespace(root=world.root, log=world.dir / "log", faults=faults, tcti=None, hub_ca=None,
                                       token_sec=30, passed=None, uptime=None))
    try:
        check_config(fake, tomllib.loads(text))
        return False
    except ApplyFailed:
        return True


def install_by_dpkg(world, release):
    status = world.root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text("Package: aziot-identity-service\nStatus: install ok installed\nVersion: 1.3.0-1\n\n"
                      f"Package: aziot-edge\nStatus: install ok installed\nArchitecture: amd64\nVersion: {release}\n\n")


@pytest.mark.parametrize("text, release, key", CASES)
def test_values(new_world, text, release, key):
    w = prepared(new_world, text)
    if release:
        install_by_dpkg(w, release)
    assert fake_refuses(w, text, release) == bool(key)
    with Caller(w) as caller:
        caller.verify()
        if key:
            refused(w, caller, "config-conflict", key)
        else:
            assert caller.ask("Check", "us", 4, "gw-1")["result"] == "ready"


def test_missing_user(new_world):
    w = prepared(new_world, OPERATORS)
    passwd = w.root / "etc/passwd"
    users = ("aziotks", "aziotcs", "aziotid", "aziottpm", "iotedge")
    with Caller(w) as caller:
        caller.verify()
        for missing in users:
            passwd.write_text("".join(f"{name}:x:{900 + i}:900::/:/bin/false\n" for i, name in enumerate(users) if name != missing))
            refused(w, caller, "runtime-missing", missing)
        passwd.write_text("".join(f"{name}:x:{900 + i}:900::/:/bin/false\n" for i, name in enumerate(users)))
        assert caller.ask("Check", "us", 4, "gw-1")["result"] == "ready"


def test_host_name_that_changed(new_world):
    """Modules exist where aziot-edged runs and had its identity. Then `iotedge config apply` refuses the change."""
    gateway = Gateway(new_world())
    w = gateway.world
    w.config_toml.write_text('hostname = "another"\n' + w.config_toml.read_text())
    edged_state_path(w).parent.mkdir(parents=True, exist_ok=True)
    edged_state_path(w).write_text("")
    with Caller(w) as caller:
        refused(w, caller, "config-conflict", "hostname")
        assert caller.ask("Check", "us", 4, gateway.id)["result"] == "ready"  # nothing has to be applied
        edged_state_path(w).unlink()
        assert caller.ask("Check", "us", 4, "gw-1")["result"] == "ready"


@pytest.mark.parametrize("half", ["hostname = ", "[provisioning\n"])
def test_applied_copy_that_is_no_toml(new_world, half):
    """`iotedge config apply` treats the copy as missing, and does not need the container engine."""
    w = prepared(new_world, OPERATORS)
    (w.root / "etc/aziot/identityd/config.d/00-super.toml").write_text(half)
    (w.root / "var/run/docker.sock").unlink()
    with Caller(w) as caller:
        assert caller.ask("Check", "us", 4, "gw-1")["result"] == "ready"
        w.standin_faults(units={EDGED: {"start": "fail"}})  # there is no key here for a hub to accept
        assert caller.apply_refused()[0] == "restart-failed"
        assert w.standin_events("applied")
