"""The endorsement key's certificate, made by swtpm_setup or by openssl with a private CA."""
import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from enrollment_tool import DEADLINE

INDEX = "0x1c00002"
ATTRIBUTES = "ownerread|ownerwrite|authread|authwrite|no_da"
TCG = "\n[tcg]\na.2.23.133.2.1=id:00001014\nb.2.23.133.2.2=model\nc.2.23.133.2.3=id:20191023\n"
EK = "extendedKeyUsage=2.23.133.8.1\nsubjectAltName=critical,dirName:tcg\nkeyUsage=critical,keyEncipherment\n"
CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"


def openssl(*arguments):
    result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE,
                            check=False)
    assert result.returncode == 0, result
    return result.stdout


def verdict(gateway, *options):
    rows = list(csv.DictReader(io.StringIO(gateway.run("--format=csv", *options))))
    return rows[0]["ek_certificate"]


def line(gateway, *options):
    return re.search(r"^  Certificate: +(.*)$", gateway.run(*options), re.MULTILINE)[1]


# --- as a manufacturer makes it ---

@pytest.mark.smoke
def test_a_manufacturers_certificate(made):
    assert verdict(made) == "matches"
    assert verdict(made, f"--ca-dir={made.dir}/ca") == "trusted" and made.stderr == ""
    assert "issued by 'CN=swtpm-localca'" in line(made)
    assert "vouched for by" in line(made, f"--ca-dir={made.dir}/ca")


def test_pem_is_what_openssl_reads(made):
    pem = made.dir / "ek.pem"
    pem.write_text(made.run("--format=pem"))
    ca = made.dir / "ca"
    made.tpm2("readpublic", "-c", "0x81010001", "-f", "pem", "-o", "ek.pub.pem")
    assert openssl("x509", "-in", pem, "-noout", "-pubkey") == (made.dir / "ek.pub.pem").read_text()
    openssl("verify", "-ignore_critical", "-CAfile", ca / "swtpm-localca-rootca-cert.pem", "-untrusted",
            ca / "issuer.pem", pem)
    # the one of the elliptic-curve key follows
    assert pem.read_text().count("BEGIN CERTIFICATE") == 2
    made.tpm2("nvread", INDEX, "-o", "ek.der")
    openssl("x509", "-in", pem, "-outform", "der", "-out", made.dir / "first.der")
    assert (made.dir / "first.der").read_bytes() == (made.dir / "ek.der").read_bytes()
    made.run("--format=pem", f"--output={made.dir}/other.pem")
    assert (made.dir / "other.pem").read_text() == pem.read_text()


def test_another_ca_does_not_vouch_for_it(made, tmp_path):
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "ca.pem",
            "-subj", "/CN=swtpm-localca")
    assert verdict(made, f"--ca-dir={tmp_path}") == "untrusted"
    assert "Warning" in made.stderr and str(tmp_path) in made.stderr
    assert "not vouched for" in line(made, f"--ca-dir={tmp_path}")
    assert json.loads(made.run("--format=json", f"--ca-dir={tmp_path}"))  # advice, no more
    assert "Warning" in made.stderr


def test_another_key(made):
    made.tpm2("changeeps")
    assert verdict(made) == "other-key"
    assert "for another key" in line(made)
    assert made.run("--format=pem").count("BEGIN") == 2


def test_a_missing_certificate(gateway):
    assert verdict(gateway, "--ca-dir=/etc") == "missing"
    assert "Warning" in gateway.stderr
    assert "The TPM holds none" in line(gateway)
    assert gateway.run("--format=pem", status=1) == ""
    assert "holds no certificate" in gateway.stderr and "manufacturer" in gateway.stderr


def test_a_directory_that_is_not_there(made, gateway):
    """Also where there is nothing to verify: it would not be noticed before a TPM that has a certificate."""
    for machine in (made, gateway):
        assert machine.run("--ca-dir=/no/such", status=1) == ""
        assert "'/no/such' can't be read" in machine.stderr


def test_station_notes_the_verdict(made):
    made.run(f"--station={made.dir}/line.csv", f"--ca-dir={made.dir}/ca")
    assert list(csv.DictReader((made.dir / "line.csv").open()))[0]["ek_certificate"] == "trusted"


# --- with openssl, for what swtpm_setup does not make ---

class Maker:
    """Root, issuer and the endorsement key's certificate; each can be given other extensions."""

    def __init__(self, gateway):
        self.gateway, self.dir = gateway, gateway.dir / "maker"
        self.dir.mkdir()
        gateway.tpm2("readpublic", "-c", "0x81010001", "-o", "ek.pub.pem", "-f", "pem")
        self.certificate("root", CA)
        self.certificate("issuer", CA, signer="root")
        self.certificate("ek", EK, signer="issuer", public_key=gateway.dir / "ek.pub.pem")
        self.trust("root")

    def certificate(self, name, extensions, signer=None, public_key=None, days=3650, options=()):
        d = self.dir
        (d / f"{name}.ext").write_text(extensions + TCG)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", d / f"{name}.key",
                "-out", d / f"{name}.csr", "-subj", f"/O=Maker/CN={name}")
        sign = ["-signkey", d / f"{name}.key"] if not signer else \
            ["-CA", d / f"{signer}.pem", "-CAkey", d / f"{signer}.key", "-CAcreateserial"]
        openssl("x509", "-req", "-in", d / f"{name}.csr", "-out", d / f"{name}.pem", "-extfile", d / f"{name}.ext",
                "-days", days, *sign, *(["-force_pubkey", public_key] if public_key else []), *options)

    def der(self, name):
        openssl("x509", "-in", self.dir / f"{name}.pem", "-outform", "der", "-out", self.dir / f"{name}.der")
        return (self.dir / f"{name}.der").read_bytes()

    def trust(self, *names, der=False):
        shutil.rmtree(self.gateway.dir / "ca", ignore_errors=True)
        (self.gateway.dir / "ca").mkdir()
        for name in names:
            target = self.gateway.dir / "ca" / name
            target.write_bytes(self.der(name) if der else (self.dir / f"{name}.pem").read_bytes())

    def store(self, data, index=INDEX, size=None, attributes=ATTRIBUTES, options=()):
        (self.dir / "nv").write_bytes(data)
        self.gateway.tpm2("nvdefine", index, "-C", "o", "-s", size or len(data), "-a", attributes, *options)
        self.gateway.tpm2("nvwrite", index, "-C", "o", "-i", self.dir / "nv")

    def verdict(self):
        return verdict(self.gateway, f"--ca-dir={self.gateway.dir}/ca")

    def line(self):
        return line(self.gateway, f"--ca-dir={self.gateway.dir}/ca")


@pytest.fixture
def maker(gateway):
    return Maker(gateway)


@pytest.mark.parametrize("padding", [b"\0" * 300, b"\xff" * 300, b"\0\xff0\x82"], ids=["00", "ff", "mixed"])
def test_padding_is_tolerated(maker, padding):
    maker.store(maker.der("ek") + padding)
    maker.trust("root", "issuer")
    assert maker.verdict() == "trusted"
    (maker.dir / "out.pem").write_text(maker.gateway.run("--format=pem"))
    assert openssl("x509", "-in", maker.dir / "out.pem") == openssl("x509", "-in", maker.dir / "ek.pem")


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_chain_that_the_tpm_holds_is_used(maker, parts):
    """In one NV index after the other, cut anywhere, padded at the end."""
    maker.store(maker.der("ek"))
    maker.certificate("unrelated", CA)
    assert maker.verdict() == "untrusted"
    chain = maker.der("unrelated") + b"\0\0" + maker.der("issuer") + b"\0" * 40
    step = -(-len(chain) // parts)
    for i in range(parts):
        maker.store(chain[i * step:(i + 1) * step], index=hex(0x1c00100 + i))
    assert maker.verdict() == "trusted"
    assert maker.gateway.run("--format=pem").count("BEGIN") == 3


@pytest.mark.parametrize("der", [False, True])
def test_certificates_of_issuers_as_vendors_ship_them(maker, der):
    maker.store(maker.der("ek"))
    maker.trust("issuer", der=der)
    (maker.gateway.dir / "ca/README").write_text("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
    (maker.gateway.dir / "ca/crl").mkdir()
    assert maker.verdict() == "trusted"
    maker.trust()
    (maker.gateway.dir / "ca/bundle").write_text(
        "Root:\n" + "".join((maker.dir / f"{n}.pem").read_text().replace("\n", "\r\n") for n in ("root", "issuer")))
    assert maker.verdict() == "trusted"


@pytest.mark.parametrize("issuer, ek, options, expected, text", [
    (CA + "certificatePolicies=critical,1.3.6.1.4.1.1.1\n", EK, [], "trusted", "vouched for"),
    (CA, EK + "certificatePolicies=critical,1.3.6.1.4.1.1.1\n2.23.133.2.16=critical,ASN1:NULL\n", [], "trusted", ""),
    (CA + "nameConstraints=critical,permitted;DNS:x\n", EK, [], "untrusted", "no certificate there leads to its issuer"),
    ("basicConstraints=critical,CA:FALSE\n", EK, [], "untrusted", "no certificate there leads to its issuer"),
    (CA, EK.replace("2.23.133.8.1", "serverAuth"), [], "untrusted", "is not made for that"),
    (CA, EK, ["-sha1"], "untrusted", "too weak"),
    (CA, EK + "1.2.3.4=critical,ASN1:NULL\n", [], "unreadable", "can't be read as X.509"),
], ids=["policies", "tcg", "name-constraints", "no-ca", "purpose", "sha1", "unknown-critical"])
def test_what_a_chain_has_to_be(maker, issuer, ek, options, expected, text):
    maker.certificate("issuer", issuer, signer="root")
    maker.certificate("ek", ek, signer="issuer", public_key=maker.gateway.dir / "ek.pub.pem", options=options)
    maker.store(maker.der("ek"))
    maker.store(maker.der("issuer"), index="0x1c00100")
    assert maker.verdict() == expected and text in maker.line()


def value(tag, *content):
    """One DER value."""
    data = b"".join(content)
    length = bytes([len(data)]) if len(data) < 128 else bytes([0x82]) + len(data).to_bytes(2, "big")
    return bytes([tag]) + length + data


def parts(data):
    """The values that a DER value consists of."""
    found, at = [], 4 if data[1] == 0x82 else 3 if data[1] == 0x81 else 2
    while at < len(data):
        size, head = data[at + 1], 2
        if size & 0x80:
            head += size & 0x7f
            size = int.from_bytes(data[at + 2:at + head], "big")
        found.append(data[at:at + head + size])
        at += head + size
    return found


SHA256, PKCS1 = bytes.fromhex("608648016503040201"), bytes.fromhex("2a864886f70d0101")
HASH = value(0xa0, value(0x30, value(6, SHA256), value(5)))
MASK = value(0xa1, value(0x30, value(6, PKCS1 + b"\x08"), value(0x30, value(6, SHA256), value(5))))
LABEL = value(0xa2, value(0x30, value(6, PKCS1 + b"\x09"), value(4, b"TCPA")))
ALGORITHMS = {
    "oaep": (PKCS1 + b"\x07", []),
    "oaep-null": (PKCS1 + b"\x07", [value(5)]),
    "oaep-empty": (PKCS1 + b"\x07", [value(0x30)]),
    "oaep-label": (PKCS1 + b"\x07", [value(0x30, LABEL)]),
    "oaep-all": (PKCS1 + b"\x07", [value(0x30, HASH, MASK, LABEL)]),
    "pss": (PKCS1 + b"\x0a", []),
    "pss-all": (PKCS1 + b"\x0a", [value(0x30, HASH, MASK, value(0xa2, value(2, b"\x20")))]),
}


def with_algorithm(maker, name, signer, oid, parameters):
    """The certificate again, with this algorithm of its key."""
    tbs, algorithm, _ = parts(maker.der(name))
    fields = parts(tbs)
    fields[6] = value(0x30, value(0x30, value(6, oid), *parameters), parts(fields[6])[1])
    tbs = value(0x30, *fields)
    (maker.dir / "tbs").write_bytes(tbs)
    openssl("dgst", "-sha256", "-sign", maker.dir / f"{signer}.key", "-out", maker.dir / "signature", maker.dir / "tbs")
    return value(0x30, tbs, algorithm, value(3, b"\0", (maker.dir / "signature").read_bytes()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_keys_algorithm_names_its_use(maker, algorithm):
    """As some manufacturers have it. What is signed are the bytes as they are, so a changed one is noticed."""
    data = with_algorithm(maker, "ek", "issuer", *ALGORITHMS[algorithm])
    maker.store(data)
    maker.trust("root", "issuer")
    assert verdict(maker.gateway) == "matches"
    assert maker.verdict() == "trusted"
    (maker.dir / "out.pem").write_text(maker.gateway.run("--format=pem"))
    openssl("x509", "-in", maker.dir / "out.pem", "-outform", "der", "-out", maker.dir / "out.der")
    assert (maker.dir / "out.der").read_bytes() == data
    maker.gateway.tpm2("nvundefine", INDEX)
    maker.store(data.replace(b"issuer", b"Issuer", 1))
    assert maker.verdict() == "untrusted"


@pytest.mark.parametrize("stored", [True, False], ids=["tpm", "directory"])
def test_an_issuers_key_is_for_pss_only(maker, stored):
    d = maker.dir
    openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", "-out", d / "issuer.key")
    openssl("pkey", "-in", d / "issuer.key", "-pubout", "-out", d / "issuer.pub")
    (d / "issuer.ext").write_text(CA)
    maker.certificate("other", CA)
    openssl("x509", "-req", "-in", d / "other.csr", "-subj", "/O=Maker/CN=issuer", "-out", d / "issuer.pem", "-extfile",
            d / "issuer.ext", "-days", 100, "-CA", d / "root.pem", "-CAkey", d / "root.key", "-CAcreateserial",
            "-force_pubkey", d / "issuer.pub")
    maker.certificate("ek", EK, signer="issuer", public_key=maker.gateway.dir / "ek.pub.pem",
                      options=["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"])
    maker.store(maker.der("ek"))
    if stored:
        maker.store(maker.der("issuer"), index="0x1c00100")
    else:
        maker.trust("issuer")
    assert maker.verdict() == "trusted"


def test_a_wrong_clock_is_named_and_no_more(maker):
    maker.certificate("ek", EK, signer="issuer", public_key=maker.gateway.dir / "ek.pub.pem", days=-1)
    maker.store(maker.der("ek"))
    maker.trust("issuer")
    assert maker.verdict() == "trusted" and "expired by this machine's clock" in maker.line()


@pytest.mark.parametrize("data", [b"\0", b"\xff" * 1024, b"0\x82\xff\xff", b"hello", b"0\0"],
                         ids=["nul", "erased", "too-long", "text", "empty"])
def test_garbage_is_told(gateway, data):
    maker = Maker(gateway)
    maker.store(data)
    assert maker.verdict() == "unreadable"
    assert "NV index 0x01c00002 can't be read as X.509" in maker.line()


def test_an_index_that_was_never_written(gateway):
    gateway.tpm2("nvdefine", INDEX, "-C", "o", "-s", "100", "-a", ATTRIBUTES)
    assert verdict(gateway) == "missing"


@pytest.mark.parametrize("attributes", ["ownerwrite|authread|authwrite", "ownerwrite|policyread|authwrite"])
def test_an_index_that_may_not_be_read_costs_no_lockout(gateway, attributes):
    """An empty authorization value that is wrong would count as an attack."""
    maker = Maker(gateway)
    maker.store(maker.der("ek"), attributes=attributes, options=["-p", "secret"])
    assert verdict(gateway) == "unreadable"
    assert "NV index 0x01c00002 can't be read" in line(gateway)
    assert gateway.run("--format=pem", status=1) == "" and "can't be read" in gateway.stderr
    assert re.search(r"LOCKOUT_COUNTER: +0x0\n", gateway.tpm2("getcap", "properties-variable"))


def test_with_an_owner_authorization_the_text_still_comes(gateway):
    maker = Maker(gateway)
    maker.store(maker.der("ek"), attributes="ownerread|ownerwrite|authwrite")
    assert verdict(gateway) == "matches"
    gateway.tpm2("changeauth", "-c", "owner", "secret")
    assert "can't be read" in line(gateway)
