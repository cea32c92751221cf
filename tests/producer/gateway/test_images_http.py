"""Stored images in questions over HTTP: sent once, asked about many times."""

import io
import os
from collections.abc import Iterator

import httpx2
import pytest
from PIL import Image
from redis import Redis

from producer.images.stored import record_key
from tests.producer.gateway.batches.conftest import BatchClient, batches, counts
from tests.producer.gateway.batches.inputs import row, rows_file
from tests.producer.gateway.chat_bodies import chat
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

__all__ = ["batches"]


@pytest.fixture(scope="module")
def redis_of_gateway(shared_redis_url: str) -> Iterator[Redis]:
    with connect(QueueSettings(redis_url=shared_redis_url)) as connection:
        yield connection


@pytest.fixture(scope="module")
def large() -> bytes:
    """An image of about a megabyte that no other test sends."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (600, 600), os.urandom(3 * 600 * 600)).save(buffer, "BMP")
    return buffer.getvalue()


def received(redis: Redis) -> int:
    return int(redis.info("stats")["total_net_input_bytes"])


def test_asking_again_sends_the_image_neither_to_the_gateway_nor_to_redis(
    http: httpx2.Client, redis_of_gateway: Redis, large: bytes
) -> None:
    sent: list[int] = []

    def count(request: httpx2.Request) -> None:
        sent.append(int(request.headers["content-length"]))

    http.event_hooks = {"request": [count]}
    try:
        before = received(redis_of_gateway)
        image = http.post("/v1/images", content=large, headers={"Content-Type": "image/bmp"}).json()["id"]
        once = received(redis_of_gateway) - before
        before = received(redis_of_gateway)
        for number in range(10):
            reply = http.post("/v1/chat/completions", json=chat(f"Question {number}?", image))
            assert reply.status_code == 200, reply.text
            assert len(reply.json()["vqa"]["images"]) == 1
        again = received(redis_of_gateway) - before
    finally:
        http.event_hooks = {}
    assert (sent[0], len(sent)) == (len(large), 11)
    assert sum(sent[1:]) < 5000
    # what workers and gateway say besides is in it
    assert len(large) < once < 1.2 * len(large)
    assert again < len(large) / 4, f"{again:,} bytes for ten questions"


def test_an_id_that_has_expired_is_told_by_name(http: httpx2.Client, redis_of_gateway: Redis, large: bytes) -> None:
    image = http.post("/v1/images", files={"file": large}).json()["id"]
    redis_of_gateway.delete(record_key(image))
    for reply in (
        http.post("/v1/chat/completions", json=chat("What was it?", image)),
        http.post("/v1/chat/completions", json=chat("What was it?", image), headers={"Prefer": "respond-async"}),
        http.post("/v1/ask", data={"image": image, "question": "What was it?"}),
        http.post("/v1/ask", json={"image": image, "question": "What was it?"}),
    ):
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["code"], error["type"]) == ("image_missing", "invalid_request_error")
        assert error["message"] == f"image {image} is unknown or has expired; store it again"


def test_forms_and_bodies_of_ask_name_stored_images(http: httpx2.Client, large: bytes) -> None:
    image = http.post("/v1/images", files={"file": large}).json()["id"]
    for reply in (
        http.post("/v1/ask", data={"image": image, "question": "What is it?"}),
        http.post("/v1/ask", files={"image": (None, image), "question": (None, "What is it?")}),
        http.post("/v1/ask", json={"image": image, "question": "What is it?"}),
    ):
        assert reply.status_code == 200, reply.text


def test_rows_of_a_batch_name_stored_images_and_only_their_own(
    http: httpx2.Client, redis_of_gateway: Redis, batches: BatchClient, large: bytes
) -> None:
    mine, gone = (http.post("/v1/images", files={"file": large}).json()["id"] for _ in range(2))
    redis_of_gateway.delete(record_key(gone))
    # the form of an id of another tenant
    others = mine.replace(mine.split("_")[1], "0" * 12)
    images = [mine, mine, gone, others, mine]
    batch = batches.ended(batches.create(rows_file(row(number, "?", image) for number, image in enumerate(images))))
    assert (batch.status, counts(batch)) == ("completed", (5, 3, 2))
    assert {line["custom_id"] for line in batches.lines(batch.output_file_id)} == {"row-0", "row-1", "row-4"}
    lines = batches.lines(batch.error_file_id)
    assert {line["response"]["status_code"] for line in lines} == {400}
    failed = {line["custom_id"]: line["response"]["body"]["error"] for line in lines}
    assert {id: error["code"] for id, error in failed.items()} == {"row-2": "image_missing", "row-3": "image_missing"}
    assert gone in failed["row-2"]["message"]
    assert others in failed["row-3"]["message"]
