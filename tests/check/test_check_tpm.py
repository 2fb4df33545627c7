"""Suite "check", the TPM: machines that are broken for real; see test_check.py."""
import re
import subprocess

import pytest
from checking import NOBODY, NO_TARGET, check, expect, line
from harness import BUILD, own_etc


def test_no_tpm(fresh):
    w = fresh()
    w.write_config(Tpm={"Tcti": "device:/dev/dps-test/tpmrm0"})
    expect(w, "tpm-device", "fail", "tpm-missing", "does not exist", "firmware", others={"enrollment": ("skip", None)})


def test_a_tpm_that_goes_while_it_is_spoken_to(plain):
    w = plain()
    w.tpm_faults(absent=True)
    bad, lines = check(w)
    assert "fail" in {result for name, (result, _) in bad.items() if name.startswith("tpm-")}, lines
    result = subprocess.run([BUILD / "cli/dps-provision", "enrollment", f"--config={w.config_path}"], env=w.environment,
                            text=True, capture_output=True, timeout=60, check=False)
    assert result.returncode == 1 and "TPM" in result.stderr, result


@pytest.mark.root
def test_a_tpm_that_is_gone(plain):
    """Whoever may read it is not told to become somebody else."""
    w = plain()
    w.write_config(Tpm={"Tcti": f"swtpm:path={w.dir}/nowhere"})
    lines = expect(w, "tpm-answers", "fail", "tpm-missing", "nowhere", "Tcti=", base=NO_TARGET,
                   others={"ek": ("skip", None), "enrollment": ("skip", None)})
    assert "above" in line(lines, "ek")["remedy"]


def node(world, mode, group="root"):
    """A device node that is not a TPM: to look at, not to talk to."""
    path = world.dir / "tpmrm0"
    subprocess.run(["mknod", path, "c", "1", "3"], check=True)
    subprocess.run(["chown", f"root:{group}", path], check=True)
    path.chmod(mode)
    world.dir.chmod(0o755)
    world.write_config(Tpm={"Tcti": f"device:{path}"})
    for directory in (world.dir / "conf", world.dir / "emulator", world.root):
        directory.chmod(0o755)
    (world.dir / "emulator/ca.pem").chmod(0o644)
    return path


SKIP_TPM = {"tpm-answers": ("skip", None), "ek": ("skip", None), "enrollment": ("skip", None)}


@pytest.mark.root
def test_no_permission(plain):
    w = plain()
    node(w, 0o600)
    lines = expect(w, "tpm-access", "fail", "tpm-missing", "root:root .*0600.*dps-tpmd", "group is tss", base=NO_TARGET,
                   others=SKIP_TPM, prefix=NOBODY)
    assert "tss" in line(lines, "tpm-answers")["remedy"]


@pytest.mark.root
def test_no_permission_for_this_user_only(plain):
    w = plain()
    node(w, 0o660, group="tss")
    bad, lines = check(w, prefix=NOBODY)
    assert bad == {**NO_TARGET, **SKIP_TPM}, lines


@pytest.mark.root
def test_another_group_by_a_drop_in(fresh):
    w = fresh()
    node(w, 0o660, group="daemon")
    bad, lines = check(w, "--no-network", prefix=NOBODY)
    assert bad["tpm-access"] == ("fail", "tpm-missing") and "root:daemon" in line(lines, "tpm-access")["message"], lines
    assert "SupplementaryGroups=" in line(lines, "tpm-access")["remedy"]
    w.standin_faults(groups=["tss", "daemon"])
    bad, lines = check(w, "--no-network", prefix=NOBODY)
    assert "tpm-access" not in bad, lines


def test_no_resource_manager(plain):
    w = plain()
    path = node(w, 0o660, group="tss")
    path.rename(w.dir / "tpm0")
    w.write_config(Tpm={"Tcti": f"device:{w.dir}/tpm0"})
    expect(w, "tpm-device", "warn", None, "no resource manager", "/dev/tpmrm0", base=NO_TARGET, others=SKIP_TPM,
           prefix=NOBODY)


def test_lockout(plain):
    w = plain()
    w.tpm2("dictionarylockout", "-s", "-n", "2", "-t", "3600", "-l", "7200")
    w.tpm2("createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "p.ctx", "-p", "right")
    w.tpm2("flushcontext", "-t")
    w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "p.ctx", "0x81000123")
    w.tpm2("flushcontext", "-t")
    (w.dir / "secret").write_text("x")
    for _ in range(2):
        w.tpm2("create", "-C", "0x81000123", "-P", "wrong", "-i", "secret", "-u", "x.pub", "-r", "x.priv", check=False)
        w.tpm2("flushcontext", "-t", check=False)
    lines = expect(w, "tpm-lockout", "fail", "tpm-lockout", "after 2 wrong.*3600 s", "dictionarylockout", base=NO_TARGET)
    assert line(lines, "ek")["result"] == "ok"


def test_near_lockout(plain):
    w = plain()
    w.tpm2("dictionarylockout", "-s", "-n", "5", "-t", "3600", "-l", "7200")
    w.tpm2("createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "p.ctx", "-p", "right")
    (w.dir / "secret").write_text("x")
    w.tpm2("create", "-C", "p.ctx", "-P", "wrong", "-i", "secret", "-u", "x.pub", "-r", "x.priv", check=False)
    w.tpm2("flushcontext", "-t")
    expect(w, "tpm-lockout", "warn", None, "1 of 5", "Find the program", base=NO_TARGET)


def test_owner_authorization_for_iotedge(fresh):
    w = fresh(tpm="fresh")
    w.tpm2("changeauth", "-c", "owner", "secret")
    expect(w, "tpm-owner-auth", "warn", "tpm-auth", "register by itself", "dps.tpm_owner_auth")


def test_owner_authorization_without_iotedge(plain):
    w = plain(tpm="fresh")
    w.tpm2("changeauth", "-c", "owner", "secret")
    expect(w, "tpm-owner-auth", "fail", "tpm-auth", "no credential", "dps.tpm_owner_auth", base=NO_TARGET)
    (w.dir / "credentials").mkdir()
    (w.dir / "credentials/dps.tpm_owner_auth").write_text("secret")
    bad, lines = check(w, environment={"CREDENTIALS_DIRECTORY": str(w.dir / "credentials")})
    assert bad == NO_TARGET, lines


def test_a_tpm_below_what_is_no_directory(plain):
    w = plain()
    w.write_config(Tpm={"Tcti": "device:/etc/passwd/tpm"})
    bad, lines = check(w)
    assert bad["tpm-device"] == ("fail", "tpm-missing"), lines


def test_endorsement_authorization(plain):
    w = plain(tpm="fresh")
    w.tpm2("changeauth", "-c", "endorsement", "secret")
    expect(w, "tpm-endorsement-auth", "fail", "tpm-auth", "no challenge", "dps.tpm_endorsement_auth", base=NO_TARGET,
           others={"ek": ("skip", None), "enrollment": ("skip", None)})


@pytest.mark.parametrize("hierarchy", ["owner", "endorsement"])
@pytest.mark.parametrize("value, right, words", [
    (b"secret\n", b"secret", None), (b"secret\r\n\n", b"secret", None), (b"se\0cret", b"se\0cret", None),
    (b"secret ", b"secret ", None), (b"secret \n", b"secret", "ends in a blank"), (b"se\0cret", b"se", "NUL byte"),
    (b"wrong", b"secret", "rejects"), (b"x" * 65, b"secret", "64 bytes"),
], ids=["newline", "crlf", "nul", "blank", "blank-too-many", "nul-too-many", "wrong", "long"])
def test_authorization_values(plain, hierarchy, value, right, words):
    w = plain()
    w.tpm2("changeauth", "-c", hierarchy, f"hex:{right.hex()}")
    (w.dir / "credentials").mkdir()
    path = w.dir / f"credentials/dps.tpm_{hierarchy}_auth"
    path.write_bytes(value)
    bad, lines = check(w, environment={"CREDENTIALS_DIRECTORY": str(path.parent)})
    failing = [x for x in lines if x["result"] == "fail"]
    if not words:
        assert bad == NO_TARGET, lines
        return
    assert [x["kind"] for x in failing] == ["tpm-auth"], lines
    assert f"'{path}'" in failing[0]["message"] and words in failing[0]["message"]
    assert "secret" not in failing[0]["message"] and "line ends" in failing[0]["remedy"].lower()


@pytest.mark.namespaces
def test_credentials_in_the_store(plain):
    """Where the units' LoadCredential= looks; enrollment does, too. Who may not look there is told so, and nothing is wrong."""
    w = plain(tpm="fresh")
    for hierarchy in ("owner", "endorsement"):
        w.tpm2("changeauth", "-c", hierarchy, "secret")
    prefix = own_etc(w)
    store = w.dir / "etc/credstore"
    store.mkdir(exist_ok=True)
    for hierarchy in ("owner", "endorsement"):
        (store / f"dps.tpm_{hierarchy}_auth").write_text("secret\n")
    bad, lines = check(w, prefix=prefix)
    assert bad == NO_TARGET, lines
    assert "'/etc/credstore'" in line(lines, "tpm-owner-auth")["message"]
    enrollment = subprocess.run([*prefix, BUILD / "cli/dps-provision", "enrollment", f"--config={w.config_path}"],
                                env=w.environment, text=True, capture_output=True, timeout=60, check=False)
    assert enrollment.returncode == 0 and "created for this call" in enrollment.stdout, enrollment
    store.chmod(0o700)
    for path in (w.dir, w.root, w.dir / "conf", w.dir / "emulator", BUILD):
        path.chmod(0o755)
    (w.dir / "emulator/ca.pem").chmod(0o644)
    for name in ("tpm", "tpm.ctrl"):
        (w.dir / name).chmod(0o666)
    bad, lines = check(w, prefix=(*prefix, *NOBODY))
    assert bad == {**NO_TARGET, **dict.fromkeys(("tpm-owner-auth", "tpm-endorsement-auth", "ek", "enrollment"),
                                                ("skip", None))}, lines
    assert "root" in line(lines, "tpm-owner-auth")["remedy"]


def persist(world, handle, *template):
    world.tpm2("createprimary", "-Q", "-c", "o.ctx", *template)
    world.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "o.ctx", handle)
    world.tpm2("flushcontext", "-t")


STORAGE_KEY = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt"


@pytest.mark.parametrize("template, words", [
    (("-G", "ecc"), "an ECC storage key"),
    (("-G", "rsa2048", "-a", STORAGE_KEY), "an RSA-2048 storage key without noDA"),
    (("-G", "rsa2048", "-a", f"{STORAGE_KEY}|noda", "-p", "secret"), "an RSA-2048 storage key with an authorization value"),
])
def test_unsuitable_srk_in_the_way(fresh, template, words):
    w = fresh(tpm="fresh")
    persist(w, "0x81000001", "-C", "o", *template)
    expect(w, "srk", "warn", "srk-unsuitable", f"0x81000001 holds {words}", "tpm2_evictcontrol -C o -c 0x81000001")


@pytest.mark.parametrize("template", [("-C", "e", "-G", "ecc"), ("-C", "o", "-G", "rsa")], ids=["ecc", "rsa"])
def test_wrong_ek_at_the_handle(plain, template):
    """The hint, followed literally, mends it."""
    w = plain(tpm="fresh")
    persist(w, "0x81010001", *template)
    lines = expect(w, "ek", "fail", "tpm-handle-taken", "0x81010001 is not an RSA-2048 endorsement key", "tpm2_readpublic",
                   base=NO_TARGET, others={"enrollment": ("skip", None)})
    hint = line(lines, "ek")["remedy"]
    assert "HubKeyHandle=" not in hint and "ReplaceProvisioning=" not in hint
    w.tpm2(*re.search(r"'tpm2_(evictcontrol [^']*)'", hint)[1].split())
    bad, lines = check(w)
    assert bad == NO_TARGET, lines


@pytest.mark.parametrize("hierarchies", ["e", "o", "oe"])
def test_disabled_hierarchies(plain, hierarchies):
    """One line fails, although several keys are closed; a reboot enables them again."""
    w = plain()
    persist(w, "0x81000100", "-C", "o", "-G", "ecc")
    for h in hierarchies:
        w.tpm2("hierarchycontrol", "-C", h, {"e": "ehEnable", "o": "shEnable"}[h], "clear")
    bad, lines = check(w)
    failing = [x for x in lines if x["result"] == "fail" and x["id"] != "hub-key" or x["kind"] == "tpm-hierarchy"]
    assert [(x["id"], x["kind"]) for x in failing] == [("ek", "tpm-hierarchy")], lines
    assert "firmware" in failing[0]["remedy"] and "power-cycle" not in failing[0]["remedy"]
    if "o" in hierarchies:
        assert bad["srk"][0] == bad["hub-key"][0] == "skip", lines


def test_the_platforms_indices_are_disabled(plain):
    w = plain()
    (w.dir / "nv").write_bytes(b"x" * 16)
    w.tpm2("nvdefine", "-Q", "0x1c00002", "-C", "p", "-s", "16", "-a",
           "ppread|ppwrite|ownerread|authread|no_da|platformcreate")
    w.tpm2("nvwrite", "-Q", "0x1c00002", "-C", "p", "-i", "nv")
    w.tpm2("hierarchycontrol", "-C", "p", "phEnableNV", "clear")
    w.tpm2("hierarchycontrol", "-C", "p", "phEnable", "clear")
    expect(w, "ek-certificate", "warn", "ek-certificate", "platform", "DPS", base=NO_TARGET)


@pytest.mark.smoke
def test_foreign_object_at_the_hub_keys_handle(plain):
    w = plain()
    persist(w, "0x81000100", "-C", "o", "-G", "ecc")
    expect(w, "hub-key", "fail", "tpm-handle-taken", "0x81000100 holds an ECC", "HubKeyHandle=", base=NO_TARGET)


def test_a_certificate_of_another_key(plain):
    w = plain()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "x.key", "-outform", "DER",
                    "-out", "x.der", "-days", "3650", "-subj", "/CN=another"], cwd=w.dir, check=True, capture_output=True)
    size = (w.dir / "x.der").stat().st_size
    w.tpm2("nvdefine", "-Q", "0x01c00002", "-C", "o", "-s", str(size), "-a", "ownerread|ownerwrite|authread|authwrite|no_da")
    w.tpm2("nvwrite", "-Q", "0x01c00002", "-C", "o", "-i", "x.der")
    expect(w, "ek-certificate", "warn", "ek-certificate", "key", "Nothing has to be done for DPS", base=NO_TARGET)
