"""A question that was asked before, with a real worker: what enters a slot of the echo engine, and what does not."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from PIL import Image
from redis import Redis

from producer import Client
from tests.worker_process import StartWorker
from vqa import Answer, BadImage, Job
from vqa.celery import TASK
from vqa.images.data_url import to_data_url
from vqa.images.store import image_key, reference

WAIT_S = 60.0


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path.read_bytes()


def computed(journal: Path) -> list[str]:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [line["id"] for line in lines if line["event"] == "start"]


def ask(client: Client, image: bytes, question: str = "What is it?", **fields: Any) -> Answer:
    return client.answer(client.submit(Job.about(image, question, **{"reuse": True} | fields)), timeout_s=WAIT_S)


def test_the_second_of_two_equal_jobs_is_given_the_answer_of_the_first(
    client: Client, redis: Redis, start_worker: StartWorker, journal: Path, image: bytes
) -> None:
    start_worker(VQA_ECHO_JOURNAL=str(journal))
    first = ask(client, image, id="one")
    # it is not fetched again
    redis.delete(image_key(reference(image)))
    second = ask(client, image, id="two", lane="bulk", timeout_s=50, metadata={"echo_delay_s": "1"})

    assert computed(journal) == ["one"]
    assert (first.reused, second.reused) == (False, True)
    assert (second.id, second.text, second.usage) == ("two", first.text, first.usage)
    assert (second.worker, second.model, second.attempt) == (first.worker, first.model, 1)
    assert second.timings.engine_s == second.timings.media_s == 0


def test_what_is_asked_otherwise_is_computed(
    client: Client, start_worker: StartWorker, journal: Path, image: bytes, tmp_path: Path
) -> None:
    start_worker("a", VQA_ECHO_JOURNAL=str(journal))
    Image.new("RGB", (48, 64), "red").save(tmp_path / "other.png")
    ask(client, image, id="first")
    assert not ask(client, image, "Why?", id="words").reused
    assert not ask(client, (tmp_path / "other.png").read_bytes(), id="image").reused
    assert not ask(client, image, id="length", max_new_tokens=9).reused
    assert not ask(client, image, id="stop", stop=["."]).reused
    assert not ask(client, image, id="unasked", reuse=False).reused
    assert computed(journal) == ["first", "words", "image", "length", "stop", "unasked"]
    assert ask(client, image, "Why?").reused


def test_another_model_and_another_revision_answer_for_themselves(
    client: Client, start_worker: StartWorker, journal: Path, image: bytes
) -> None:
    for name, variables in (("a", {}), ("b", {"VQA_MODEL": "some/other"}), ("c", {"VQA_REVISION": "v2"}), ("d", {})):
        worker = start_worker(name, VQA_ECHO_JOURNAL=str(journal), **variables)
        assert ask(client, image, id=name).reused == (name == "d")
        assert worker.stop() == 0
    assert computed(journal) == ["a", "b", "c"]


def test_an_answer_is_not_kept_where_the_job_does_not_ask_for_it_or_fails(
    client: Client, redis: Redis, start_worker: StartWorker, image: bytes
) -> None:
    start_worker()
    ask(client, image, reuse=False)
    with pytest.raises(BadImage):
        ask(client, image, metadata={"echo_fail": "BadImage"})
    assert redis.keys("vqa:reuse:*") == []
    ask(client, image)
    assert len(list(redis.scan_iter("vqa:reuse:*"))) == 1


def test_an_answer_is_given_again_for_a_set_time(
    client: Client, redis: Redis, start_worker: StartWorker, journal: Path, image: bytes
) -> None:
    start_worker(VQA_ECHO_JOURNAL=str(journal), VQA_REUSE_TTL_S="2")
    ask(client, image, id="one")
    [key] = redis.keys("vqa:reuse:*")
    assert 0 < redis.pttl(key) <= 2000
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


def test_what_cannot_be_read_is_computed_again(
    client: Client, redis: Redis, start_worker: StartWorker, image: bytes
) -> None:
    worker = start_worker()
    ask(client, image)
    [key] = redis.keys("vqa:reuse:*")
    redis.set(key, b"{}")
    assert not ask(client, image).reused
    redis.delete(key)
    redis.lpush(key, b"")
    assert not ask(client, image).reused
    log = worker.log.read_text()
    assert "answer cache: a cached answer cannot be read" in log
    assert "answer cache: lookup failed, the job is computed: ResponseError" in log
    assert "Traceback" not in log


def test_another_apps_job_with_its_image_in_it_asks_the_same(
    client: Client, other_app: Celery, start_worker: StartWorker, journal: Path, image: bytes
) -> None:
    start_worker(VQA_ECHO_JOURNAL=str(journal))
    ask(client, image, id="ours")
    parts = [{"type": "image", "image": to_data_url(image)}, {"type": "text", "text": "What is it?"}]
    job = {"messages": [{"role": "user", "content": parts}], "reuse": True}
    other_app.send_task(TASK, args=[job], task_id="theirs").get(timeout=WAIT_S)
    assert client.answer("theirs", timeout_s=WAIT_S).reused
    assert computed(journal) == ["ours"]
