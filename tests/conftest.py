import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile

import pytest
from emulator_service import Service
from harness import World
from run import SCRIPTS, last_cases
from script_client import Tpm


def pytest_runtest_setup(item):
    if os.geteuid() != 0 and any(item.iter_markers("root")):
        pytest.skip("only root can do this")
    if any(item.iter_markers("namespaces")) and subprocess.run(["unshare", "-mn", "true"], capture_output=True,
                                                               check=False).returncode != 0:
        pytest.skip("this machine does not let us make namespaces")


@pytest.fixture
def new_world():
    """Makes worlds that end with the test; a failed test prints what their processes said."""
    worlds = []

    def make(**settings):
        world = World(**settings)
        worlds.append(world)
        return world.__enter__()

    yield make
    for world in worlds:
        world.__exit__(None, None, None)


@pytest.fixture
def fresh(new_world):
    """IoT Edge is installed, the device is enrolled, nothing was ever provisioned."""
    def make(**settings):
        w = new_world(**settings)
        w.start_standins()
        w.enroll(w.enrollment(capabilities={"iotEdge": True}))
        return w
    return make


@pytest.fixture
def plain(new_world):
    """The same without IoT Edge, and Target=none."""
    def make(**settings):
        w = new_world(**{**settings, "HandOff": {"Target": "none", **settings.get("HandOff", {})}})
        w.enroll(w.enrollment())
        return w
    return make


@pytest.fixture
def hub_ports():
    """Somebody who listens on the hub's two other ports; several tests may at once."""
    listeners = []
    for port in (5671, 8883):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)  # nobody takes the connections, and those of other tests come here, too
        listeners.append(listener)
    yield
    for listener in listeners:
        listener.close()


@pytest.fixture(scope="module")
def tpm():
    """A TPM for foreign clients."""
    with tempfile.TemporaryDirectory(prefix="dps-") as directory:
        tpm = Tpm(pathlib.Path(directory))
        yield tpm
        tpm.close()


@pytest.fixture
def new_service(tpm):
    """Makes emulators that end with the test, and must end well."""
    with contextlib.ExitStack() as stack:
        yield lambda *options, **settings: stack.enter_context(Service(tpm, *options, **settings))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "new_world" in item.funcargs:
        for cell in item.funcargs["new_world"].__closure__:
            for world in cell.cell_contents if isinstance(cell.cell_contents, list) else ():
                report.sections.append(("world", world.report()))


def pytest_collection_modifyitems(items):
    """The cases that took long in the last run come first, so that none of them is left for the end. Those of containers
    and machines stay in order: what they share has its limits, as systemd's of starts."""
    seconds = {case.name: case.seconds for cases in last_cases().values() for case in cases}

    def order(item):
        taken = seconds.get(f"{item.nodeid.partition('::')[0].removesuffix('.py').replace('/', '.')}::{item.name}", 0)
        return -taken if taken > 2 and item.path.parent.name in SCRIPTS else 0
    items.sort(key=order)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As xdist's own, but with one case in reserve for each worker instead of a share of all."""
    from xdist.scheduler import LoadScheduling

    class InOrder(LoadScheduling):
        def _send_tests(self, node, num):
            super()._send_tests(node, min(num, 2 - len(self.node2pending[node])))

    return InOrder(config, log) if config.getvalue("dist") == "load" else None


def pytest_terminal_summary(terminalreporter):
    """What tests have counted, over all of them."""
    totals = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            totals[name] = totals.get(name, 0) + value
    for name, value in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {value}")
