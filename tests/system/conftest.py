"""The image has our Debian packages and the fakes of IoT Edge; machines see it through an overlay."""
import ctypes
import os
import pathlib

import pytest
from machine import SCOPE, SOURCE, Machine, Network

DEBS = SOURCE / "build-deb"


def packages():
    return [next(DEBS.glob(f"{name}_*.deb")) for name in ("dps-provisiond", "dps-emulator")]


def can_watch_files():
    """Without it a container hangs somewhere or other. One takes six of root's inotify instances, of which the kernel
    has 128 by default; there are three at most."""
    libc = ctypes.CDLL(None)
    made = [libc.inotify_init1(os.O_CLOEXEC) for _ in range(24)]
    for fd in made:
        if fd >= 0:
            os.close(fd)
    return min(made) >= 0


@pytest.fixture(scope="session")
def image():
    assert os.geteuid() == 0, "The container suite has to run as root"
    assert can_watch_files(), ("Root's other programs have used up fs.inotify.max_user_instances; "
                               "raise it: sysctl fs.inotify.max_user_instances=1024")
    return pathlib.Path(os.environ["SYSTEM_IMAGE"])


@pytest.fixture(scope="module")
def network(image):
    """One service for all machines of a module."""
    made = Network(image)
    yield made
    made.close()


def make_factory(image, network):
    machines = []

    def make(enrolled=True, scope="/etc/dps-provisiond/provisiond.conf.d/10-scope.conf", **options):
        machine = Machine(image, network, **options)
        machines.append(machine)
        if enrolled:
            network.enroll(*network.enrollments, machine.tpm.enrollment(image))
        if scope:
            machine.write(scope, f"[Provisioning]\nIdScope={SCOPE}\n")
        return machine

    return machines, make


@pytest.fixture
def new_machine(image, network):
    """Makes gateways that end with the test; they are enrolled and know their scope unless told otherwise."""
    machines, make = make_factory(image, network)
    yield make
    for machine in machines:
        machine.close()


@pytest.fixture(scope="module")
def gateway(image, network):
    """One that booted to handed-off, for all tests of a module that leave it so."""
    machines, make = make_factory(image, network)
    machine = make()
    machine.start()
    machine.wait_for_state("handed-off")
    yield machine
    machine.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what its gateways logged."""
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" or not report.failed:
        return
    machines = [item.funcargs.get("gateway")]
    if "new_machine" in item.funcargs:
        cells = [cell.cell_contents for cell in item.funcargs["new_machine"].__closure__]
        machines += next(cell for cell in cells if isinstance(cell, list))
    for machine in machines:
        if machine and machine.leader:
            report.sections.append(("journal", machine.journal_text()))
