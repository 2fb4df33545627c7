import contextlib
import pathlib
import tempfile

import pytest
from enrollment_tool import Gateway


@pytest.fixture
def new_gateway():
    """Not below pytest's directory, which every run of it closes to other users again."""
    with contextlib.ExitStack() as stack:
        def make(**options):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dps-"))
            gateway = Gateway(pathlib.Path(directory), **options)
            stack.callback(gateway.__exit__)
            return gateway.__enter__()

        yield make


@pytest.fixture
def gateway(new_gateway):
    return new_gateway()
