"""Whom a machine is: its TPM decides, not its disk."""
from machine import SCOPE
from test_boot import is_handed_off, runs_as, wait_until_verified


def test_two_machines_from_one_image_have_two_identities(lab):
    """The scope is a drop-in in the one and a credential's file in the other."""
    tpms = [lab.tpm(), lab.tpm()]
    ids = lab.enroll(*tpms)
    assert len(set(ids)) == 2
    scopes = [{"dps-provisiond/provisiond.conf.d/10-scope.conf": f"[Provisioning]\nIdScope={SCOPE}\n"},
              {"credstore/dps.id_scope": SCOPE}]

    for tpm, registration_id, scope in zip(tpms, ids, scopes):
        machine = lab.boot(lab.disk(), tpm, scope, credentials=())
        is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
        runs_as(machine, lab, registration_id)
        machine.power_off()


def test_another_tpm_is_another_device(lab):
    disk, first, second = lab.disk(), lab.tpm(), lab.tpm()
    ids = lab.enroll(first, second)
    machine = lab.boot(disk, first)
    is_handed_off(machine.wait_for_state("handed-off"), lab, ids[0])
    machine.power_off()

    machine = lab.boot(disk, second)
    machine.wait_for_journal("SYSLOG_IDENTIFIER=dps-provisiond", "DPS_STATE=attesting")
    machine.wait_for_journal("SYSLOG_IDENTIFIER=dps-provisiond", "DPS_STATE=handed-off", f"DPS_DEVICE_ID={ids[1]}")
    wait_until_verified(machine)
    is_handed_off(machine.properties(), lab, ids[1])
    runs_as(machine, lab, ids[1])
    said = machine.output("journalctl -b -o cat SYSLOG_IDENTIFIER=dps-provisiond")
    assert ids[0] in said and ids[1] in said
