"""The plug is pulled at random moments between the boot and the hand-off, each time on a new gateway."""
import os
import random
import select
import time

import pytest
from machine import BOOT
from test_boot import is_handed_off, runs_as, wait_until_verified

SEED = int(os.environ.get("VM_SEED", time.time()))
LINES = 70  # that the console, which has the journal, gets between the daemon's start and the hand-off


def cut(machine, lines, delay):
    """After so many lines since the daemon's start, whatever the machine's speed is today; returns the last one."""
    end = time.monotonic() + BOOT
    while True:
        _, started, text = machine.console.read_text(errors="replace").partition("Starting dps-provisiond.service")
        if started and (text.count("\n") >= lines or "Handed off:" in text):
            break
        assert time.monotonic() < end and machine.running(), "the daemon was not started"
        select.select([], [], [], 0.02)
    select.select([], [], [], delay)
    machine.kill()
    return machine.console.read_text(errors="replace").splitlines()[-1]


@pytest.mark.parametrize("number", range(10))
def test_power_cut(lab, number, capsys):
    disk, tpm = lab.disk(), lab.tpm()
    registration_id, = lab.enroll(tpm)
    chance = random.Random(SEED + number)

    last = cut(lab.boot(disk, tpm), chance.randrange(LINES), chance.random() / 2)
    with capsys.disabled():
        print(f"\nVM_SEED={SEED} number {number}: cut after: {last}")

    machine = lab.boot(disk, tpm)
    machine.wait_for_state("handed-off")
    wait_until_verified(machine)
    is_handed_off(machine.properties(), lab, registration_id)
    runs_as(machine, lab, registration_id)
    left = machine.output("find /etc/aziot /var/lib/dps-provisiond /var/lib/dps-handoffd /var/lib/aziot -type f").splitlines()
    assert not [name for name in left if "/." in name], left
    assert len(lab.service.requests(kind="confirm", status=202)) <= 2  # before the cut, after it
