"""Suite "check": what config.toml says beside the provisioning that does not work as meant."""
import re

from checking import check
from handoff import backups

TABLES = """[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net"
id_scope = "0neMINE"
[provisioning.attestation]
method = "tpm"
registration_id = "gw-1"
"""

CASES = [
    # a key of another table
    (TABLES + 'trust_bundle_cert = "file:///ca.pem"\n[edge_ca]\ncert = "file:///c"\npk = "file:///p"\n', "trust_bundle_cert"),
    (TABLES.replace("[provisioning.att", 'hostname = "gw"\ncloud_retries = 1\n[provisioning.att'), "'hostname', 'cloud_retries'"),
    (TABLES + "[provisioning.agent]\nname = 'x'\n", "'name'|'agent'"),
    (TABLES + 'payload = { uri = "file:///x" }\n', "'payload'|'uri'"),
    (TABLES + 'identity_cert = "file:///x"\n[provisioning.payload]\nuri = "file:///x"\n', None),
    # the host name
    ('hostname = "raspberrypi"\n', "raspberrypi"),
    ('hostname = "LocalHost"\n', "localhost"),
    ('hostname = "gw-master"\n', "gw-master.*gw-17"),
    ('hostname = "GW-17.site.example"\n', None),
    ('hostname = "192.0.2.7"\n', None),
    ('hostname = "gw-170"\n', "gw-170"),
    # the TPM
    ('hostname = "gw-17"\n[tpm]\ntcti = "device:/dev/tpmrm0"\n', "tpmrm0"),
    ('[tpm]\ntcti = "tabrmd:"\n', "tabrmd"),
]


def test_settings(fresh):
    w = fresh(HandOff={"ReplaceProvisioning": "yes"})
    (w.root / "etc/hostname").write_text("gw-17\n")
    for text, message in CASES:
        w.config_toml.write_text(text)
        bad, lines = check(w, "--no-network")
        found = [x for x in lines if x["id"] == "iotedge-config" and x["kind"] == "edge-config"]
        assert [x["result"] for x in found] == ["warn"] * bool(message), (text, lines)
        assert not message or re.search(message, found[0]["message"]), (text, found)
        assert "fail" not in [x[0] for x in bad.values()], lines


def test_the_daemon_warns_with_the_same_words(fresh):
    """The lines that go are named before and after, and stay in the copy of the operator's file."""
    w = fresh(HandOff={"ReplaceProvisioning": "yes"})
    w.config_toml.write_text(CASES[0][0].rpartition("[edge_ca]")[0])
    found = [x for x in check(w)[1] if x["kind"] == "edge-config"]
    w.start_daemon()
    warnings = [x for x in w.wait_for_state("handed-off")["Warnings"] if x[0] == "edge-config"]
    assert [tuple(x[1:]) for x in warnings] == [(x["message"], x["remedy"]) for x in found]
    assert ["trust_bundle_cert" in path.read_text() for path in backups(w)] == [True]


def credentials(world, **values):
    directory = world.dir / "creds"
    directory.mkdir(exist_ok=True)
    for name, value in values.items():
        (directory / name.replace("__", ".")).write_text(value)
    world.environment["CREDENTIALS_DIRECTORY"] = str(directory)
    world.helpers_environment(CREDENTIALS_DIRECTORY=directory)


def test_authorization_values_that_iotedge_lacks(fresh):
    w = fresh()
    w.tpm2("changeauth", "-c", "endorsement", "hello")
    w.tpm2("changeauth", "-c", "owner", "world")
    credentials(w, dps__tpm_owner_auth="world", dps__tpm_endorsement_auth="hello")
    known = '[tpm.hierarchy_authorization]\nowner = "world"\nendorsement = "hello"\n'
    tpmd = w.root / "etc/aziot/tpmd/config.toml"
    for identity, result in (("adopt", "warn"), ("register", "fail")):
        w.write_config(HandOff={"Identity": identity})
        for text, own, expected in (('', "", result), (known.rpartition("end")[0], "", result), (known, "", None),
                                    ('', known.replace("tpm.", ""), None)):
            w.config_toml.write_text(text)
            tpmd.write_text(own)
            lines = check(w, "--no-network")[1]
            found = [x for x in lines if x["id"] == "iotedge-config" and x["result"] != "ok"]
            assert [x["result"] for x in found] == [expected] * bool(expected), lines
            assert not expected or "hierarchy_authorization" in found[0]["message"] + found[0]["remedy"]
