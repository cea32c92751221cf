"""A question that was asked before: what enters a slot of the echo engine, and what does not."""

from pathlib import Path

import pytest
from celery import Celery
from PIL import Image
from redis import Redis

from producer import Client
from tests.e2e.conftest import until
from tests.e2e.reuse import WAIT_S, ask, computed
from tests.worker_process import WorkerProcess
from vqa import BadImage
from vqa.celery import TASK
from vqa.images.data_url import to_data_url
from vqa.images.store import image_key, reference


@pytest.fixture(autouse=True)
def _nothing_was_asked_before(redis: Redis, journal: Path) -> None:
    if kept := redis.keys("vqa:reuse:*"):
        redis.delete(*kept)
    journal.write_bytes(b"")


def test_the_second_of_two_equal_jobs_is_given_the_answer_of_the_first(
    client: Client, redis: Redis, journal: Path, image: bytes
) -> None:
    first = ask(client, image, id="one")
    # it is not fetched again
    redis.delete(image_key(reference(image)))
    second = ask(client, image, id="two", lane="bulk", timeout_s=50, metadata={"echo_delay_s": "1"})

    assert computed(journal) == ["one"]
    assert (first.reused, second.reused) == (False, True)
    assert (second.id, second.text, second.usage) == ("two", first.text, first.usage)
    assert (second.worker, second.model, second.attempt) == (first.worker, first.model, 1)
    assert second.timings.engine_s == second.timings.media_s == 0


def test_what_is_asked_otherwise_is_computed(client: Client, journal: Path, image: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (48, 64), "red").save(tmp_path / "other.png")
    ask(client, image, id="first")
    assert not ask(client, image, "Why?", id="words").reused
    assert not ask(client, (tmp_path / "other.png").read_bytes(), id="image").reused
    assert not ask(client, image, id="length", max_new_tokens=9).reused
    assert not ask(client, image, id="stop", stop=["."]).reused
    assert not ask(client, image, id="unasked", reuse=False).reused
    assert computed(journal) == ["first", "words", "image", "length", "stop", "unasked"]
    assert ask(client, image, "Why?").reused


def test_an_answer_is_not_kept_where_the_job_does_not_ask_for_it_or_fails(
    client: Client, redis: Redis, image: bytes
) -> None:
    ask(client, image, reuse=False)
    with pytest.raises(BadImage):
        ask(client, image, metadata={"echo_fail": "BadImage"})
    assert redis.keys("vqa:reuse:*") == []
    ask(client, image)
    assert len(list(redis.scan_iter("vqa:reuse:*"))) == 1


def test_what_cannot_be_read_is_computed_again(
    client: Client, redis: Redis, worker: WorkerProcess, image: bytes
) -> None:
    ask(client, image)
    [key] = redis.keys("vqa:reuse:*")
    redis.set(key, b"{}")
    assert not ask(client, image).reused
    redis.delete(key)
    redis.lpush(key, b"")
    assert not ask(client, image).reused
    # a thread of its own writes what a worker says
    until(lambda: "answer cache: a cached answer cannot be read" in worker.log.read_text())
    until(lambda: "answer cache: lookup failed, the job is computed: ResponseError" in worker.log.read_text())
    assert "Traceback" not in worker.log.read_text()


def test_another_apps_job_with_its_image_in_it_asks_the_same(
    client: Client, other_app: Celery, journal: Path, image: bytes
) -> None:
    ask(client, image, id="ours")
    parts = [{"type": "image", "image": to_data_url(image)}, {"type": "text", "text": "What is it?"}]
    job = {"messages": [{"role": "user", "content": parts}], "reuse": True}
    other_app.send_task(TASK, args=[job], task_id="theirs").get(timeout=WAIT_S)
    assert client.answer("theirs", timeout_s=WAIT_S).reused
    assert computed(journal) == ["ours"]
