import pytest

from tests.hosts.network import what_is_missing
from tests.missing import skip_or_fail


@pytest.fixture(scope="session", autouse=True)
def _hosts_can_be_made() -> None:
    if missing := what_is_missing():
        skip_or_fail(f"hosts are network namespaces, which cannot be made here: {missing}")
