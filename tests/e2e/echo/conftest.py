"""One ready worker that echoes, for all files of this folder that a process runs, on a Redis that nothing empties.

So a test leaves no open job behind, and looks at jobs of its own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis

from tests.e2e.site import Site, open_site
from tests.worker_process import WorkerProcess
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


@pytest.fixture(scope="session")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker's engine ran."""
    return tmp_path_factory.mktemp("echo") / "journal"


@pytest.fixture(scope="session")
def site(journal: Path) -> Iterator[Site]:
    with open_site(journal.parent, VQA_ECHO_JOURNAL=str(journal)) as site:
        yield site


@pytest.fixture
def worker(site: Site) -> WorkerProcess:
    return site.worker


@pytest.fixture
def redis_url(site: Site) -> str:
    return site.redis_url


@pytest.fixture
def redis(queue_settings: QueueSettings) -> Iterator[Redis]:
    with connect(queue_settings) as connection:
        yield connection


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path.read_bytes()
