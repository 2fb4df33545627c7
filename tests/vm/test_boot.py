"""From power-on to handed-off with nobody logging in, and the next boot; the quick one, for every change."""
import json
import tomllib

from machine import DAEMON, HANDOFFD, SCOPE, TPMD

STARTING, STARTED = "7d4958e842da4a758f6c1cdc7b36dcc5", "39f53479d3a045ac8e11786248231fbf"  # systemd's MESSAGE_IDs


def is_handed_off(properties, lab, registration_id):
    assert properties["State"] == "handed-off"
    assert properties["RegistrationId"] == properties["DeviceId"] == registration_id
    assert properties["AssignedHub"] == f"hub.dps.test:{lab.service.port}"
    assert properties["LastError"] == ["", "", "", ""] and properties["Warnings"] == []


def runs_as(machine, lab, registration_id, config=""):
    """What the files say, and what IoT Edge does; what config.toml had in it before has stayed, byte for byte."""
    text = machine.output("cat /etc/aziot/config.toml")
    assert config.strip() in text
    assert tomllib.loads(text) == {**tomllib.loads(config), "provisioning": {
        "source": "dps", "global_endpoint": f"https://dps.test:{lab.service.port}/", "id_scope": SCOPE,
        "attestation": {"method": "tpm", "registration_id": registration_id}}}
    assert registration_id in machine.output("cat /var/lib/aziot/identityd/device_info")
    machine.output("systemctl is-active aziot-edged aziot-identityd aziot-tpmd")
    assert lab.service.requests(kind="hub", status=200, authorized=True, deviceId=registration_id)


def entries(machine):
    """When what happened: seconds since the kernel's start."""
    journal = [json.loads(line) for line in machine.output(
        "journalctl -b -o json --output-fields=MESSAGE_ID,UNIT,DPS_STATE,DPS_FAILURE").splitlines()]

    def at(**fields):
        return next((int(e["__MONOTONIC_TIMESTAMP"]) / 1e6 for e in journal
                     if all(e.get(k) == v for k, v in fields.items())), None)

    return at


def show_times(machine, capsys):
    """What the boot took, and how much of it is ours."""
    machine.run("systemctl is-system-running --wait")
    at = entries(machine)
    begin, ready = (at(UNIT=f"{DAEMON}.service", MESSAGE_ID=i) for i in (STARTING, STARTED))
    assigned, end = at(DPS_STATE="assigned"), at(DPS_STATE="handed-off")
    apply_begin, apply_end = (at(UNIT="dps-iotedge-apply.service", MESSAGE_ID=i) for i in (STARTING, STARTED))
    # a helper that had nothing to do for a minute has ended, and its numbers with it
    used = {unit: dict(line.split("=") for line in machine.output(
        f"systemctl show -p CPUUsageNSec -p MemoryCurrent {unit}").splitlines()) for unit in (DAEMON, TPMD, HANDOFFD)}
    used = {unit: {k: int(v) for k, v in values.items() if v.isdigit()} for unit, values in used.items()}
    with capsys.disabled():
        print(f"\n{machine.output('systemd-analyze time')}\n"
              f"boot to handed-off                         {end:6.1f} s\n"
              f"  until dps-provisiond is started          {begin:6.1f}\n"
              f"  its start, until it is ready             {ready - begin:6.1f}\n"
              f"  attesting, until the assignment          {assigned - ready:6.1f}\n"
              f"  assigned, until 'iotedge config apply'   {apply_begin - assigned:6.1f}\n"
              f"  'iotedge config apply' (not ours)        {apply_end - apply_begin:6.1f}\n"
              f"  restart of IoT Edge, the hub's answer    {end - apply_end:6.1f}\n"
              + "\n".join(f"{unit:<16}{values.get('CPUUsageNSec', 0) / 1e9:4.1f} s of the processor, "
                          f"{values.get('MemoryCurrent', 0) >> 10} KiB" for unit, values in used.items()))


def wait_until_verified(machine):
    """A start in handed-off is over: the TPM was read, and what IoT Edge has was looked at."""
    machine.output("exec 3< <(exec busctl monitor --match \"type='signal',sender='org.dps.Provisioning1'\" 2>/dev/null)\n"
                   "for _ in $(seq 600); do\n"
                   "  text=$(busctl call org.dps.Provisioning1 /org/dps/Provisioning1 org.freedesktop.DBus.Properties "
                   "GetAll s org.dps.Provisioning1 2>/dev/null)\n"
                   "  case $text in *'\"Step\" s \"idle\"'*'\"EndorsementKey\" s \"A'*) kill $!; exit 0;; esac\n"
                   "  read -r -t 1 -u 3\n"
                   "done\nkill $!; exit 1", 700)


def test_quick_boot_ends_handed_off_and_the_next_one_asks_nobody(lab, capsys):
    tpm, disk = lab.tpm(), lab.disk()
    registration_id, = lab.enroll(tpm)

    machine = lab.boot(disk, tpm)
    is_handed_off(machine.wait_for_state("handed-off"), lab, registration_id)
    runs_as(machine, lab, registration_id)
    assert [r["kind"] for r in lab.service.registrations()] == ["register", "confirm", "poll", "poll"]
    assert machine.output("systemctl --failed --plain --no-legend") == ""
    show_times(machine, capsys)
    machine.power_off()

    asked = lab.service.registrations()
    machine = lab.boot(disk, tpm)
    machine.wait_for_state("handed-off")
    wait_until_verified(machine)
    is_handed_off(machine.properties(), lab, registration_id)
    machine.wait_for_journal("_SYSTEMD_UNIT=init.scope", "UNIT=aziot-edged.service", f"MESSAGE_ID={STARTED}")
    assert lab.service.registrations() == asked
    assert machine.output("journalctl -b -o cat DPS_STATE=attesting") == ""
    assert machine.output("systemctl --failed --plain --no-legend") == ""
