"""What a boot may lack: a writable root, a TPM, a network, a serial number, memory."""
from machine import DAEMON, SCOPE
from test_boot import STARTED, is_handed_off, runs_as, wait_until_verified


def test_read_only_root_and_a_scope_from_the_firmware(lab):
    """Only /var and /etc/aziot can be written; the scope is an SMBIOS string, the registration ID the serial number."""
    tpm, disk = lab.tpm(), lab.disk("root", "data")
    lab.enroll(tpm, registrationId="gw-0001")
    settings = {"credentials": (), "files": {"dps-provisiond/provisiond.conf.d/60-id.conf":
                                             "[Provisioning]\nRegistrationId=%s\n"},
                "options": ("-smbios", "type=1,serial=gw-0001",
                            "-smbios", f"type=11,value=io.systemd.credential:dps.id_scope={SCOPE}")}

    machine = lab.boot(disk, tpm, **settings)
    is_handed_off(machine.wait_for_state("handed-off"), lab, "gw-0001")
    assert machine.run("touch /etc/x /usr/x").status != 0
    runs_as(machine, lab, "gw-0001")
    machine.power_off()

    asked = lab.service.registrations()
    machine = lab.boot(disk, tpm, **settings)
    machine.wait_for_state("handed-off")
    wait_until_verified(machine)
    is_handed_off(machine.properties(), lab, "gw-0001")
    assert lab.service.registrations() == asked


def failed(machine):
    """Units of ours; IoT Edge's fail as long as it is not configured."""
    return machine.output("systemctl --failed --plain --no-legend list-units 'dps-*'")


def test_a_boot_without_a_tpm_and_a_late_one(lab):
    """The node is taken away before udev and the daemon start, and comes back when that has given up a few times."""
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    take = "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n[Service]\nType=oneshot\nExecStart=rm /dev/tpmrm0\n"
    machine = lab.boot(lab.disk(), tpm, {
        "systemd/system/take-tpm.service": take,
        "systemd/system/sysinit.target.d/take-tpm.conf": "[Unit]\nWants=take-tpm.service\n"})

    properties = machine.wait_for_failure("tpm-missing")
    assert "'/dev/tpmrm0' does not exist" in properties["LastError"][2]
    assert properties["State"] == "attesting"
    machine.wait_for_journal("_SYSTEMD_UNIT=init.scope", "UNIT=multi-user.target", f"MESSAGE_ID={STARTED}")
    # The helper that has seen no TPM, and whose unit was started without one, sees it now.
    machine.output("identity() { busctl call org.dps.Tpm1 /org/dps/Tpm1 org.dps.Tpm1 Identity; }\n"
                   "helper() { systemctl show -P MainPID dps-tpmd; }\n"
                   "! identity || exit 1\n"
                   "before=$(helper)\n"
                   "mknod -m 660 /dev/tpmrm0 c $(tr : ' ' </sys/class/tpmrm/tpmrm0/dev)\n"
                   "chown tss:tss /dev/tpmrm0\n"
                   "identity && [ $(helper) = $before ]")
    machine.run("dps-provision retry")
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
    assert failed(machine) == ""


def test_a_driver_that_is_bound_late(lab):
    """The device's unit of the real systemd ends the wait, which is long. The kernel may number the device differently."""
    tpm = lab.tpm()
    lab.enroll(tpm)
    unbind = ("[Unit]\nDefaultDependencies=no\nBefore=systemd-udevd.service\n[Service]\nType=oneshot\n"
              "ExecStart=sh -c 'readlink -f /sys/class/tpm/tpm0/device/driver >/run/driver; "
              "basename $(readlink -f /sys/class/tpm/tpm0/device) >/run/device; cat /run/device >$(cat /run/driver)/unbind'\n")
    machine = lab.boot(lab.disk(), tpm, {
        "dps-provisiond/provisiond.conf.d/60-late.conf":
            "[Retry]\nInitialSec=600\n[Tpm]\nTcti=device:/dev/tpm-late\n[HandOff]\nTarget=none\n",
        "udev/rules.d/99-late.rules": 'SUBSYSTEM=="tpmrm", SYMLINK+="tpm-late"\n',
        "systemd/system/unbind-tpm.service": unbind,
        "systemd/system/sysinit.target.d/unbind-tpm.conf": "[Unit]\nWants=unbind-tpm.service\n"})

    assert machine.wait_for_failure("tpm-missing")["Step"] == "wait"
    machine.output("cat /run/device >$(cat /run/driver)/bind")
    machine.wait_for_state("handed-off", deadline=250)
    assert "brought forward: the TPM has appeared" in machine.output("journalctl -o cat -u dps-provisiond")


def test_an_offline_boot_does_not_hang(lab):
    """The cable is plugged in later. Waiting for it is IoT Edge's wish and not ours; its two minutes are shortened."""
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    short = "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --timeout=5\n"
    machine = lab.boot(lab.disk(), tpm, {"systemd/system/systemd-networkd-wait-online.service.d/short.conf": short})
    machine.plug(False)

    properties = machine.wait_for_failure("connect")
    assert properties["State"] == "attesting" and properties["RegistrationId"] == registration_id
    machine.wait_for_journal("_SYSTEMD_UNIT=init.scope", "UNIT=multi-user.target", f"MESSAGE_ID={STARTED}")
    assert failed(machine) == ""
    assert lab.service.requests() == []

    machine.plug(True)
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)


def test_a_machine_without_a_serial_number_starts(lab):
    """LoadCredential= names a file that does not exist."""
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    hide = "[Service]\nLoadCredential=dps.serial:/sys/class/dmi/id/no_such_attribute\n"
    machine = lab.boot(lab.disk(), tpm, {f"systemd/system/{DAEMON}.service.d/serial.conf": hide})
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
    assert SCOPE in machine.output("dps-provision status")


def test_memory_limits_are_enforced(lab):
    """A process of the unit that grows ends the daemon, and it comes back; the gateway does not notice."""
    tpm = lab.tpm()
    registration_id, = lab.enroll(tpm)
    machine = lab.boot(lab.disk(), tpm)
    machine.wait_for_state("handed-off")
    before = machine.output(f"systemctl show -P MainPID {DAEMON}")
    asked = lab.service.registrations()
    grown = machine.run(f"(echo $BASHPID >/sys/fs/cgroup/system.slice/{DAEMON}.service/cgroup.procs\n"
                        "exec python3 -c 'bytearray(200 << 20)')")
    assert grown.status == 137, grown
    machine.wait_for_journal("_SYSTEMD_UNIT=init.scope", f"UNIT={DAEMON}.service", "UNIT_RESULT=oom-kill")
    machine.output(f"until [ $(systemctl show -P NRestarts {DAEMON}) = 1 ] && systemctl -q is-active {DAEMON}; do :; done")
    assert machine.output(f"systemctl show -P MainPID {DAEMON}") != before
    is_handed_off(machine.properties(), lab, registration_id)
    assert lab.service.registrations() == asked
