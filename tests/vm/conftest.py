import contextlib
import os
import pathlib
import shutil
import tempfile

import pytest
from machine import SCOPE, Disk, Machine, Service, Tpm

IMAGE = pathlib.Path(os.environ["VM_IMAGE"])


class Lab:
    """Makes what a test needs in a directory of its own; the first machine's disk and TPM serve by default."""

    def __init__(self, image):
        self.image = image
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="dps-vm-", dir=os.environ.get("TMPDIR")))
        self.machines = []
        self.tpms = []
        self.service = Service(self.dir / "service")

    def close(self):
        for machine in self.machines:
            machine.kill()
        for tpm in self.tpms:
            tpm.stop()
        self.service.close()
        shutil.rmtree(self.dir)

    def tpm(self):
        self.tpms.append(Tpm(self.dir / f"tpm{len(self.tpms)}"))
        return self.tpms[-1]

    def disk(self, *names, image=None):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="disk-", dir=self.dir))
        return Disk(image or self.image, directory, *(names or ("root",)))

    def enroll(self, *tpms, **changes):
        """Enrols these TPMs; returns the registration IDs."""
        enrollments = [tpm.enrollment(self.service.port, **changes) for tpm in tpms]
        self.service.enroll(*enrollments)
        return [e["registrationId"] for e in enrollments]

    def boot(self, disk, tpm, files=None, credentials=(("dps.id_scope", SCOPE),), **options):
        directory = self.dir / f"boot{len(self.machines)}"
        directory.mkdir()
        machine = Machine(self.image, directory, disk, tpm, {**self.service.files(), **(files or {})}, credentials,
                          **options)
        self.machines.append(machine)
        return machine

    def report(self):
        parts = [f"##### boot {number}\n{machine.report()}" for number, machine in enumerate(self.machines)]
        return "\n".join([*parts, "=== requests", *map(str, self.service.requests())])


@pytest.fixture
def lab():
    with contextlib.closing(Lab(IMAGE)) as made:
        yield made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "lab" in item.funcargs:
        report.sections.append(("machines", item.funcargs["lab"].report()))
