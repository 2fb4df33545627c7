import pytest
from harness import World


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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "new_world" in item.funcargs:
        for cell in item.funcargs["new_world"].__closure__:
            for world in cell.cell_contents if isinstance(cell.cell_contents, list) else ():
                report.sections.append(("world", world.report()))
