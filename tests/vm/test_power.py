"""The plug is pulled at random moments between the power-on and the hand-off, each time on a new gateway."""
import contextlib
import os
import random
import select
import subprocess
import time

import pytest
from conftest import IMAGE, Lab
from machine import BOOT
from test_boot import is_handed_off, runs_as, wait_until_verified

SEED = int(os.environ.get("VM_SEED", time.time()))
LINES = 70  # that the console, which has the journal, gets between the daemon's start and the hand-off
CONFIG = '# The operator\'s own.\nhostname = "gateway-7"\n\n[agent]\nname = "edgeAgent" # and this\ntype = "docker"\nconfig = { image = "a" }\n'

# What is at the plug's mercy is there before anything of ours or IoT Edge's could change it.
FOUND = {
    "systemd/system/found.service":
        "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nBefore=sysinit.target\n[Service]\nType=oneshot\n"
        "ExecStart=cp /etc/aziot/config.toml /run/found.toml\n",
    "systemd/system/sysinit.target.d/found.conf": "[Unit]\nRequires=found.service\n"}


def text(machine):
    return machine.console.read_text(errors="replace")


def is_over(machine):
    return "Handed off:" in text(machine)


def wait_until(machine, condition):
    end = time.monotonic() + BOOT
    while not condition():
        assert time.monotonic() < end and machine.running(), "the machine did not come that far"
        select.select([], [], [], 0.02)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """With a config.toml that has more in it than our part, so that half of it could be lost."""
    changed = tmp_path_factory.mktemp("image")
    subprocess.run(["cp", "--sparse=always", IMAGE / "root.img", changed], check=True)
    (changed / "config.toml").write_text(CONFIG)
    commands = f"cd /etc/aziot\nwrite {changed}/config.toml config.toml\nset_inode_field config.toml mode 0100600\n"
    subprocess.run(["debugfs", "-w", "-f", "-", changed / "root.img"], input=commands, text=True, check=True,
                   capture_output=True)
    return changed


@pytest.fixture(scope="module")
def usual(image):
    """The processor time from the power-on to the hand-off. Unlike the time, it is much the same on a busy machine."""
    with contextlib.closing(Lab(IMAGE)) as lab:
        tpm = lab.tpm()
        lab.enroll(tpm)
        machine = lab.boot(lab.disk(image=image), tpm)
        wait_until(machine, lambda: is_over(machine))
        return machine.processor_time()


def heals(lab, image, moment, delay, capsys):
    """Cut when moment(machine) has come, and a little later; then a clean boot."""
    disk, tpm = lab.disk(image=image), lab.tpm()
    registration_id, = lab.enroll(tpm)

    machine = lab.boot(disk, tpm)
    wait_until(machine, lambda: is_over(machine) or moment(machine))
    select.select([], [], [], delay)
    machine.kill()
    last = (text(machine).splitlines() or ["nothing"])[-1]
    with capsys.disabled():
        print(f"\nVM_SEED={SEED}: cut after: {last}")

    machine = lab.boot(disk, tpm, FOUND)
    machine.wait_for_state("handed-off")
    wait_until_verified(machine)
    is_handed_off(machine.properties(), lab, registration_id)
    runs_as(machine, lab, registration_id, CONFIG)
    assert machine.output("cat /run/found.toml") in (CONFIG.strip(), machine.output("cat /etc/aziot/config.toml"))
    left = machine.output("find /etc/aziot /var/lib/dps-provisiond /var/lib/dps-handoffd /var/lib/aziot -type f").splitlines()
    assert not [name for name in left if "/." in name], left
    assert len(lab.service.requests(kind="confirm", status=202)) <= 2  # before the cut, after it


@pytest.mark.parametrize("number", range(10))
def test_power_cut(lab, image, usual, number, capsys):
    """One in each tenth of the way, the boot of the kernel and of the rest of the system included."""
    chance = random.Random(f"{SEED} {number}")
    spent = (number + chance.random()) / 10 * usual
    heals(lab, image, lambda machine: machine.processor_time() >= spent, chance.random() / 2, capsys)


@pytest.mark.parametrize("number", range(5))
def test_power_cut_while_it_is_our_turn(lab, image, number, capsys):
    chance = random.Random(f"{SEED} turn {number}")
    lines = (number + chance.random()) / 5 * LINES

    def moment(machine):
        _, started, rest = text(machine).partition("Starting dps-provisiond.service")
        return started and rest.count("\n") >= lines
    heals(lab, image, moment, chance.random() / 2, capsys)
