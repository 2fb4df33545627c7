"""Suite "check": whose identity IoT Edge has, wherever its services read it."""
import re

import pytest
from checking import check, line
from handoff import applied_path, info_path, info_text, ours
from harness import SCOPE, wait_for

IDENTITYD = "etc/aziot/identityd/"
TPMD = "etc/aziot/tpmd/"
DPS_TABLE = '[provisioning]\nsource = "dps"\n'
OTHERS = DPS_TABLE + 'global_endpoint = "https://x/"\nscope_id = "0neTHEIRS"\n[provisioning.attestation]\nmethod = "tpm"\n' \
    'registration_id = "gw-old"\n'
MANUAL = '[provisioning]\nsource = "manual"\niothub_hostname = "h"\n'

# files, and the code and a part of the message; None: nothing is wrong
CASES = [
    ({IDENTITYD + "config.d/00-super.toml": OTHERS}, "00-super.toml.*0neTHEIRS"),
    ({IDENTITYD + "config.toml": MANUAL}, "identityd/config.toml.*manual"),
    ({IDENTITYD + "config.d/10-a.toml": OTHERS, IDENTITYD + "config.d/20-b.toml": "x = 1\n"}, "10-a.toml"),
    ({IDENTITYD + "config.d/00-super.toml": "OURS", IDENTITYD + "config.d/50-site.toml": '[provisioning]\nscope_id = "0neX"\n'},
     "50-site.toml.*scope"),
    ({"etc/aziot/config.toml": "hostname = 'gw'\n", IDENTITYD + "config.d/00-super.toml": OTHERS}, "0neTHEIRS"),
    ({"etc/aziot/config.toml": "", IDENTITYD + "config.d/50-site.toml": 'provisioning.attestation.method = "x509"\n'}, "x509|method"),
    ({IDENTITYD + "config.d/50-site.toml": "= =\n"}, "50-site.toml:1: not TOML"),
    ({IDENTITYD + "config.d/50-site.toml": 'provisioning = "x"\n'}, "50-site.toml.*provisioning"),
    ({f"{IDENTITYD}config.d/{n}.toml": "x = 1\n" for n in range(10, 43)}, "42.toml.*more than 32"),
    ({IDENTITYD + "config.d/50-site.toml": "#" * 300000}, "50-site.toml.*256 KiB"),
    ({"etc/aziot/edged/config.d/50-site.toml": "= =\n"}, "edged/config.d/50-site.toml:1: not TOML"),
    ({"etc/aziot/certd/config.toml": "= =\n"}, "certd/config.toml:1: not TOML"),
    ({TPMD + "config.d/50-tpm.toml": "auth_key_index = 7\n"}, "auth_key_index = 7"),
    ({TPMD + "config.toml": "auth_key_index = 8\n"}, "auth_key_index = 8"),
    ({"etc/iotedge/config.yaml": "provisioning:\n"}, "never imported"),
    # harmless
    ({IDENTITYD + "config.d/00-super.toml": "OURS"}, None),
    ({IDENTITYD + "config.toml": MANUAL, IDENTITYD + "config.d/00-super.toml": "OURS"}, None),
    ({IDENTITYD + "config.d/50-site.toml": '[[principal]]\nname = "x"\nuid = 1\n'}, None),
    ({IDENTITYD + "config.d/50-site.toml.bak": OTHERS, IDENTITYD + "config.d/.toml": OTHERS}, None),
    ({TPMD + "config.toml": "auth_key_index = 8\n", "etc/aziot/config.toml": "[tpm]\nauth_key_index = 0x100\n"}, None),
]


def test_files_of_the_services(fresh):
    w = fresh(Provisioning={"RegistrationId": "gw-1"})
    ours_applied = ours(w, "gw-1").replace("id_scope", "scope_id")
    for files, message in CASES:
        for name, text in files.items():
            path = w.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ours_applied if text == "OURS" else text)
        bad, lines = check(w, "--no-network")
        assert (bad.get("iotedge-config") == ("fail", "config-conflict")) == bool(message), (files, lines)
        assert [x["id"] for x in lines if x["result"] == "fail"] == ["iotedge-config"] * bool(message), (files, lines)
        if message:
            assert re.search(message, line(lines, "iotedge-config")["message"]), (files, lines)
        for name in files:
            (w.root / name).unlink()


def run_as_other(new_world, **settings):
    """IoT Edge runs as gw-old, and then its config.toml is moved away."""
    w = new_world(**settings)
    w.enroll({**w.enrollment(capabilities={"iotEdge": True}), "registrationId": "gw-old"})
    w.config_toml.parent.mkdir(parents=True, exist_ok=True)
    w.config_toml.write_text(ours(w, "gw-old"))
    w.start_standins("--configured")
    wait_for("the identity of gw-old", info_path(w).exists)
    w.config_toml.rename(w.config_toml.with_suffix(".toml.bak"))
    w.enroll({**w.enrollment(capabilities={"iotEdge": True}), "registrationId": "gw-old"}, w.enrollment(capabilities={"iotEdge": True}))
    return w


@pytest.mark.parametrize("applied", [True, False])
def test_iotedge_runs_as_another_device(new_world, applied):
    w = run_as_other(new_world)
    if not applied:
        applied_path(w).unlink()
    found = line(check(w)[1], "iotedge-config")
    w.start_daemon()
    failure = w.wait_for_failure("config-conflict")["LastError"]
    assert (found["result"], found["kind"], found["message"], found["remedy"]) == ("fail", failure[0], failure[2], failure[3])
    assert "gw-old" in info_path(w).read_text() and not w.config_toml.exists()
    w.write_config(HandOff={"ReplaceProvisioning": "yes"})
    w.wait_for_state("handed-off")
    assert "gw-old" not in info_path(w).read_text()


def test_config_toml_of_ours_that_was_lost(new_world):
    """After a change of the scope: neither the copy nor the device is that of the new configuration."""
    w = new_world()
    w.start_gateway()
    w.stop_daemon()
    w.config_toml.unlink()
    w.write_config(Provisioning={"IdScope": "0ne00OTHER"})
    assert "iotedge-config" not in check(w, "--no-network")[0], check(w, "--no-network")[1]
    info_path(w).write_text(info_text("hub.other", "another"))
    applied_path(w).write_text(applied_path(w).read_text().replace(SCOPE, "0ne00THIRD"))
    assert check(w, "--no-network")[0]["iotedge-config"] == ("fail", "config-conflict")
