from collections.abc import Iterator

import pytest

from producer import Client
from vqa.settings import QueueSettings


@pytest.fixture
def client(queue_settings: QueueSettings) -> Iterator[Client]:
    with Client(queue_settings) as client:
        yield client
