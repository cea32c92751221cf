"""Images in a folder: real producers and workers that share it, and Redis without a pixel."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis

from producer import Client
from tests.e2e.conftest import WAIT_S, until
from tests.worker_process import ROOT, StartWorker
from vqa import Job, JobGivenUp, QueueUnavailable, RetryPolicy
from vqa.images.store import reference
from vqa.images.stores.blobs import blob_name
from vqa.settings import QueueSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def client(redis_url: str, folder: Path) -> Iterator[Client]:
    with Client(QueueSettings(redis_url=redis_url, images_url=folder.as_uri())) as client:
        yield client


def image(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "PNG")
    return file.getvalue()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_jobs_are_answered_and_redis_holds_no_image(
    client: Client, redis: Redis, folder: Path, start_worker: StartWorker
) -> None:
    start_worker(VQA_IMAGES_URL=folder.as_uri())
    colours = ("red", "green", "blue")
    ids = client.submit_many(Job.about(image(colour), f"Is it {colour}?") for colour in colours)
    texts = {answer.text for _, answer in client.answers(ids, WAIT_S)}
    stored = client.images.upload(image("red"))
    again = client.answer(client.submit(Job.about(stored.id, "Once more?")), WAIT_S)

    assert len(texts) == 3
    assert again.text.startswith("echo:")
    assert files(folder) == {blob_name(reference(image(colour))) for colour in colours}
    assert redis.keys("vqa:image:*") == []
    assert redis.zcard("vqa:images") == 3


def test_a_job_waits_for_a_folder_that_is_away(client: Client, folder: Path, start_worker: StartWorker) -> None:
    policy = RetryPolicy(attempts=100, base_s=0.1, cap_s=0.2)
    id = client.submit(Job.about(image("red"), "Still there?", retry=policy))
    folder.rename(folder.with_name("away"))
    with pytest.raises(QueueUnavailable, match="VQA_IMAGES_URL"):
        client.submit(Job.about(image("blue"), "And now?"))
    # it makes an empty folder, as on a machine where nothing is mounted
    worker = start_worker(VQA_IMAGES_URL=folder.as_uri())
    until(lambda: "the same VQA_IMAGES_URL" in worker.log.read_text(), worker.log.read_text)
    shutil.rmtree(folder)
    until(lambda: "(VQA_IMAGES_URL) failed" in worker.log.read_text(), worker.log.read_text)
    folder.with_name("away").rename(folder)
    answer = client.answer(id, WAIT_S)

    assert answer.last_error is not None
    assert answer.last_error.startswith("ImageUnavailable: ")


def test_a_dead_letter_keeps_its_image_and_is_retried_with_it(
    client: Client, redis: Redis, redis_url: str, folder: Path, start_worker: StartWorker
) -> None:
    start_worker(VQA_IMAGES_URL=folder.as_uri())
    metadata = {"echo_fail": "EngineError", "echo_fail_attempts": "1"}
    job = Job.about(image("red"), "Again?", id="q1", retry=RetryPolicy(attempts=1), metadata=metadata)
    with pytest.raises(JobGivenUp):
        client.answer(client.submit(job), WAIT_S)
    due_ms = redis.zscore("vqa:images", reference(image("red")))
    assert due_ms is not None
    assert due_ms / 1000 - redis.time()[0] > client.settings.dead_ttl_s - WAIT_S

    environment = os.environ | {"VQA_REDIS_URL": redis_url, "VQA_IMAGES_URL": folder.as_uri()}
    command = [sys.executable, "-W", "error", "-m", "producer.cli.main", "dlq", "show", "q1", "--json"]
    shown = json.loads(subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    assert shown["images"] == {reference(image("red")): len(image("red"))}
    assert client.dead_letters.retry(["q1"]) == {"q1": "reopened"}


def test_workers_delete_images_when_their_time_is_over(
    client: Client, redis: Redis, folder: Path, start_worker: StartWorker
) -> None:
    for colour in ("red", "green", "blue"):
        client.images.upload(image(colour))
    names = [reference(image(colour)) for colour in ("red", "green")]
    # their deadlines, and the time after them, are over
    redis.zadd("vqa:images", dict.fromkeys(names, time.time() * 1000 - 1))
    variables = {"VQA_IMAGES_URL": folder.as_uri()}
    start_worker("one", ready=False, **variables)
    start_worker("two", ready=False, **variables)
    until(lambda: files(folder) == {blob_name(reference(image("blue")))}, lambda: str(files(folder)))
    until(lambda: redis.zcard("vqa:images") == 1 and not redis.exists("vqa:images:going"))
