import contextlib
import pathlib
import tempfile

import pytest
from enrollment_tool import Gateway


@pytest.fixture
def new_gateway():
    """Not below pytest's directory, which every run of it closes to other users again."""
    with contextlib.ExitStack() as stack:
        made = []

        def make(tpm="keys"):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dps-"))
            gateway = Gateway(pathlib.Path(directory), tpm, made.count(tpm))  # each has another TPM
            made.append(tpm)
            stack.callback(gateway.__exit__)
            return gateway.__enter__()

        yield make


@pytest.fixture
def gateway(new_gateway):
    return new_gateway()


@pytest.fixture
def blank(new_gateway):
    """One whose TPM holds no key yet."""
    return new_gateway("fresh")


@pytest.fixture
def made(new_gateway):
    """One as a manufacturer makes it, with a certificate; the CA's are in ca/."""
    return new_gateway("made")
