"""A question that was asked before, of workers with settings that say whether and how long answers are kept."""

import time
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis

from producer import Client
from tests.e2e.reuse import WAIT_S, ask, computed
from tests.worker_process import StartWorker


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path.read_bytes()


def test_another_model_and_another_revision_answer_for_themselves(
    client: Client, start_worker: StartWorker, journal: Path, image: bytes
) -> None:
    for name, variables in (("a", {}), ("b", {"VQA_MODEL": "some/other"}), ("c", {"VQA_REVISION": "v2"}), ("d", {})):
        worker = start_worker(name, VQA_ECHO_JOURNAL=str(journal), **variables)
        assert ask(client, image, id=name).reused == (name == "d")
        assert worker.stop() == 0
    assert computed(journal) == ["a", "b", "c"]


def test_an_answer_is_given_again_for_a_set_time(
    client: Client, redis: Redis, start_worker: StartWorker, journal: Path, image: bytes
) -> None:
    start_worker(VQA_ECHO_JOURNAL=str(journal), VQA_REUSE_TTL_S="60")
    ask(client, image, id="one")
    [key] = redis.keys("vqa:reuse:*")
    assert 0 < redis.pttl(key) <= 60_000
    # its time passes
    redis.pexpire(key, 1)
    until = time.monotonic() + WAIT_S
    while redis.exists(key):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not ask(client, image, id="two").reused
    assert computed(journal) == ["one", "two"]


def test_nothing_is_kept_for_no_time(client: Client, redis: Redis, start_worker: StartWorker, image: bytes) -> None:
    start_worker(VQA_REUSE_TTL_S="0")
    ask(client, image)
    assert not ask(client, image).reused
    assert redis.keys("vqa:reuse:*") == []
