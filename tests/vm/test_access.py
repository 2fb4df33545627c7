"""Who may open the TPM, under the udev rules that there are in the field."""
import json

from machine import DAEMON, TPMD
from test_boot import is_handed_off, runs_as

# What IoT Edge's documentation has people write into /etc/udev/rules.d/tpmaccess.rules
VENDOR_RULE = ('KERNEL=="tpm0", SUBSYSTEM=="tpm", OWNER="aziottpm", MODE="0660"\n'
               'KERNEL=="tpmrm0", SUBSYSTEM=="tpmrm", OWNER="aziottpm", MODE="0660"\n')
GROUP_RULE = 'KERNEL=="tpmrm0", SUBSYSTEM=="tpmrm", OWNER="aziottpm", GROUP="aziottpm", MODE="0660"\n'


def node(machine):
    return machine.output("stat -c %U:%G:%a /dev/tpmrm0")


def opens(machine, path, prefix="", unit=None):
    """May a process open it for reading and writing? One of a unit falls under the unit's device policy."""
    enter = f"echo $$ >/sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs\n" if unit else ""
    return machine.run(f"cat >/tmp/open <<'EOT'\n{enter}exec {prefix} bash -c ': <>{path}'\nEOT\nbash /tmp/open").status == 0


def test_only_the_helper_has_the_tpm(lab):
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    machine = lab.boot(lab.disk(), tpm)
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
    assert node(machine) == "tss:tss:660"

    # the device policy: whatever user it has
    machine.output("busctl call org.dps.Tpm1 /org/dps/Tpm1 org.dps.Tpm1 Identity")  # starts it
    assert {path: opens(machine, path, unit=TPMD) for path in ("/dev/tpmrm0", "/dev/null", "/dev/tpm0", "/dev/vda",
                                                               "/dev/kmsg", "/dev/hwrng", "/dev/ttyS1")} == \
        {"/dev/tpmrm0": True, "/dev/null": True, "/dev/tpm0": False, "/dev/vda": False, "/dev/kmsg": False,
         "/dev/hwrng": False, "/dev/ttyS1": False}
    assert opens(machine, "/dev/tpm0") and opens(machine, "/dev/vda")  # without the policy root may
    assert not opens(machine, "/dev/tpmrm0", unit=DAEMON)

    # the group: whatever unit it is in
    setpriv = "setpriv --reuid=dps-tpm --regid=dps-tpm"
    assert opens(machine, "/dev/tpmrm0", f"{setpriv} --groups=tss")
    assert not opens(machine, "/dev/tpmrm0", f"{setpriv} --clear-groups")
    assert not opens(machine, "/dev/tpmrm0", "setpriv --reuid=dps-provision --regid=dps-provision --init-groups")
    tss = machine.output("getent group tss | cut -d: -f3")
    for unit in (TPMD, "aziot-tpmd"):  # which has it from our drop-in
        groups = machine.output(f"grep ^Groups: /proc/$(systemctl show -P MainPID {unit})/status").split()
        assert tss in groups, unit
    runs_as(machine, lab, registration_id)


def test_the_udev_rule_of_iot_edges_documentation_does_no_harm(lab):
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    machine = lab.boot(lab.disk(), tpm, {"udev/rules.d/tpmaccess.rules": VENDOR_RULE})
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
    assert node(machine) == "aziottpm:tss:660"
    runs_as(machine, lab, registration_id)


def test_a_rule_that_changes_the_group_says_what_to_do(lab):
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    machine = lab.boot(lab.disk(), tpm, {"udev/rules.d/tpmaccess.rules": GROUP_RULE})
    kind, code, sentence, remedy = machine.wait_for_failure("tpm-missing")["LastError"]
    assert (kind, code) == ("tpm-missing", "EACCES")
    assert "'/dev/tpmrm0' (aziottpm:aziottpm, mode 0660) can't be opened by the user 'dps-tpm'" in sentence
    assert "GROUP=" in remedy and "SupplementaryGroups= in a drop-in of dps-tpmd.service" in remedy
    assert remedy in machine.run("dps-provision status").output
    assert "Defined-By: dps-provisiond" in machine.output("journalctl -b -x -u dps-provisiond DPS_FAILURE=tpm-missing")
    checked = machine.run("dps-provision check")
    assert checked.status == 1
    assert "'/dev/tpmrm0' belongs to aziottpm:aziottpm with the mode 0660" in checked.output, checked

    # which is what is done; the helper that may not open it has ended, and the next one has the group
    machine.output("identity() { busctl call org.dps.Tpm1 /org/dps/Tpm1 org.dps.Tpm1 Identity; }\n"
                   "! identity || exit 1\n"
                   "mkdir -p /etc/systemd/system/dps-tpmd.service.d\n"
                   "printf '[Service]\\nSupplementaryGroups=aziottpm\\n' >/etc/systemd/system/dps-tpmd.service.d/tpm.conf\n"
                   "systemctl daemon-reload\n"
                   "identity || identity\n"  # an attempt of the daemon may have been under way
                   "dps-provision retry || true")
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
    runs_as(machine, lab, registration_id)
    assert "belongs to" not in machine.run("dps-provision check").output


def test_a_helper_that_the_device_policy_keeps_out_makes_room_for_another(lab):
    """As when the TPM's driver is loaded after the helper was started: systemd has looked it up by then."""
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    machine = lab.boot(lab.disk(), tpm, {f"systemd/system/{TPMD}.service.d/late.conf": "[Service]\nDeviceAllow=\n"})
    _, code, sentence, _ = machine.wait_for_failure("tpm-missing")["LastError"]
    assert code == "EPERM" and "device policy" in sentence
    identity = "busctl call org.dps.Tpm1 /org/dps/Tpm1 org.dps.Tpm1 Identity"
    machine.output(f"! {identity} && ! {identity}")
    entries = map(json.loads, machine.output(f"journalctl -b -o json _SYSTEMD_UNIT={TPMD}.service").splitlines())
    answered = [e["_PID"] for e in entries if e["MESSAGE"].startswith("Identity failed")]
    assert len(answered) > 2 and len(set(answered)) == len(answered), answered
    machine.output(f"rm -r /run/systemd/system/{TPMD}.service.d\nsystemctl daemon-reload\ndps-provision retry || true")
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
