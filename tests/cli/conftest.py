import pytest
from gateway import Gateway


@pytest.fixture
def new_gateway(tmp_path_factory):
    gateways = []

    def make(**options):
        gateway = Gateway(tmp_path_factory.mktemp("gateway"), **options)
        gateways.append(gateway)
        return gateway.__enter__()

    yield make
    for gateway in gateways:
        gateway.__exit__()


@pytest.fixture
def gateway(new_gateway):
    return new_gateway()
