"""Suite "daemon": the TPM has another endorsement key than when the gateway was provisioned: another mainboard, a disk that was
moved, TPM2_ChangeEPS. The daemon, `check` and `enrollment` name both registration IDs."""
import json
import subprocess

import pytest
from checking import check, line
from harness import BUILD
from power import kinds

NO_EDGE = {"HandOff": {"Target": "none"}}
EK = "0x81010001"
EK_POLICY = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
EK_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"


def provisioned(new_world, **settings):
    w = new_world(**NO_EDGE, **settings)
    w.enroll(w.enrollment())
    w.start_daemon()
    return w, w.wait_for_state("handed-off")["RegistrationId"]


def enrollment(world, *arguments):
    result = subprocess.run([BUILD / "cli/dps-provision", "enrollment", f"--config={world.config_path}", *arguments],
                            env=world.environment, text=True, capture_output=True, timeout=60, check=True)
    return result.stdout, result.stderr


def enroll_again(world):
    world.enroll(json.loads(world.run_enrollment()))


def former(world):
    return json.loads((world.dir / "state/state.json").read_text()).get("formerRegistrationId")


def test_another_seed(new_world):
    w, old = provisioned(new_world)
    assert enrollment(w)[1] == ""
    w.tpm2("changeeps", "-p", "")
    new = json.loads(enrollment(w, "--format=json")[0])["registrationId"]
    assert new != old

    # the daemon has not looked yet
    failing = [x for x in check(w)[1] if x["result"] == "fail"]
    assert [(x["id"], x["kind"]) for x in failing] == [("ek", "ek-changed")]
    assert f"'{old}'" in failing[0]["message"] and f"'{new}'" in failing[0]["message"]
    hint = failing[0]["remedy"]
    assert f"'{old}'" in enrollment(w)[1] and hint in enrollment(w)[1]

    for _ in range(2):  # a restart keeps it
        w.restart_daemon()
        p = w.wait_for_failure("enrollment-missing")
        assert f"'{old}'" in p["LastError"][2] and f"'{new}'" in p["LastError"][2] and p["LastError"][3] == hint
        warning = next(x for x in p["Warnings"] if x[0] == "ek-changed")
        assert f"'{old}'" in warning[1] and f"'{new}'" in warning[1] and warning[2] == hint
    lines = check(w)[1]
    assert line(lines, "ek")["result"] == "ok" and {x["remedy"] for x in lines if x["id"] == "daemon-error"} == {hint}
    assert f"'{old}'" in enrollment(w)[1] and hint in enrollment(w)[1]

    enroll_again(w)
    w.retry()
    p = w.wait_for_state("handed-off")
    assert p["RegistrationId"] == new and "ek-changed" not in kinds(p) and former(w) is None
    assert enrollment(w)[1] == ""


def test_the_registration_id_is_configured(new_world):
    """It stays, and the enrollment has the former key."""
    w = new_world(Provisioning={"RegistrationId": "gw-1"}, **NO_EDGE)
    w.enroll({**w.enrollment(), "registrationId": "gw-1"})
    w.start_daemon()
    w.wait_for_state("handed-off")
    w.tpm2("changeeps", "-p", "")
    assert line(check(w)[1], "ek")["kind"] == "ek-changed"
    w.restart_daemon()
    p = w.wait_for_failure("identity-mismatch")
    assert "another endorsement key" in p["LastError"][2] and "enrollment" in p["LastError"][3]
    enroll_again(w)
    w.retry()
    assert "ek-changed" not in kinds(w.wait_for_state("handed-off"))


@pytest.mark.parametrize("enrolled", [False, True])
def test_another_key_at_the_handle(new_world, enrolled):
    """Made from another template, and removed again."""
    w, old = provisioned(new_world)
    (w.dir / "policy").write_bytes(bytes.fromhex(EK_POLICY))
    (w.dir / "unique").write_bytes(b"\1" * 256)
    w.tpm2("createprimary", "-Q", "-C", "e", "-g", "sha256", "-G", "rsa2048:aes128cfb", "-a", EK_ATTRIBUTES, "-L", "policy",
           "-u", "unique", "-c", "other.ctx")
    w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", EK)
    w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", "other.ctx", EK)
    w.tpm2("flushcontext", "-t")
    w.restart_daemon()
    w.wait_for_failure("enrollment-missing")
    assert former(w) == old
    if enrolled:
        enroll_again(w)
    else:
        w.tpm2("evictcontrol", "-Q", "-C", "o", "-c", EK)
    w.retry()
    p = w.wait_for_state("handed-off")
    assert (p["RegistrationId"] == old) != enrolled
    assert "ek-changed" not in kinds(p) and former(w) is None


def test_iotedge_runs_as_the_former_device(new_world):
    """It runs on until the new enrollment is there, and then as the new device."""
    w = new_world()
    old = w.start_gateway()["RegistrationId"]
    w.tpm2("changeeps", "-p", "")
    w.restart_daemon()
    assert f"'{old}'" in w.wait_for_failure("enrollment-missing")["LastError"][2]
    jobs = w.jobs()
    w.enroll({**json.loads(w.run_enrollment()), "capabilities": {"iotEdge": True}})
    assert w.jobs() == jobs
    w.retry()
    p = w.wait_for_state("handed-off")
    assert p["RegistrationId"] != old and p["DeviceId"] != old and former(w) is None
    assert p["DeviceId"] in (w.root / "var/lib/aziot/identityd/device_info").read_text()
