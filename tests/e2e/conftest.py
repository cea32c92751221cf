import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from celery import Celery

from producer import Client
from vqa.settings import QueueSettings

#: seconds; for what takes a few on an idle machine
WAIT_S = 60.0


def until(condition: Callable[[], object], what: Callable[[], str] = str) -> None:
    """Poll; fails the test after WAIT_S, saying `what` was seen."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


@pytest.fixture
def client(queue_settings: QueueSettings) -> Iterator[Client]:
    with Client(queue_settings) as client:
        yield client


@contextmanager
def another_app(redis_url: str) -> Iterator[Celery]:
    """Another service's app: it knows the broker and the task's name, and has none of our code's settings."""
    app = Celery("other", broker=redis_url, backend=redis_url, set_as_current=False)
    yield app
    # results that are still referenced in cycles unsubscribe as they are collected, for which they need the connection
    gc.collect()
    # what Celery would leave to the garbage collector, as a warning in whichever test comes next
    app.backend.result_consumer.stop()
    # a result that something still refers to is collected later, when the server may be gone: nothing to unsubscribe
    app.backend.result_consumer.subscribed_to.clear()
    app.backend.client.connection_pool.disconnect()
    app.close()
    gc.collect()


@pytest.fixture
def other_app(redis_url: str) -> Iterator[Celery]:
    with another_app(redis_url) as app:
        yield app
