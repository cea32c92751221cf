import gc
from collections.abc import Iterator

import pytest
from celery import Celery

from producer import Client
from vqa.settings import QueueSettings


@pytest.fixture
def client(queue_settings: QueueSettings) -> Iterator[Client]:
    with Client(queue_settings) as client:
        yield client


@pytest.fixture
def other_app(redis_url: str) -> Iterator[Celery]:
    """Another service's app: it knows the broker and the task's name, and has none of our code's settings."""
    app = Celery("other", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    # what Celery would leave to the garbage collector, as a warning in whichever test comes next
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()
    app.close()
    gc.collect()
