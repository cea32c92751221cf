"""Images that are stored once and then named by their ids."""

import asyncio
import io
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis

from producer import AsyncClient, BadImage, Client, ImageMissing, ImagePart, Job, QueueFull
from producer.ids import is_owner
from producer.images.stored import record_key, resolve
from tests.producer.bulk.conftest import Submit, write
from tests.producer.conftest import PlayedWorker, Vqa
from tests.redis_server import RedisServer
from vqa.images.store import image_key, reference
from vqa.images.stored_id import is_stored_id
from vqa.settings import QueueSettings


@pytest.fixture(scope="module")
def large() -> bytes:
    """An image of about a megabyte."""
    return _bmp(600, 600)


def _bmp(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), os.urandom(3 * width * height)).save(buffer, "BMP")
    return buffer.getvalue()


def received(redis: Redis) -> int:
    """Bytes that Redis has received so far."""
    return int(redis.info("stats")["total_net_input_bytes"])


def test_a_stored_image_is_described_and_lives_as_long_as_told(client: Client, png: bytes, redis: Redis) -> None:
    stored = client.images.upload(png, ttl_s=100, tenant="acme")
    assert is_stored_id(stored.id)
    assert is_owner(stored.id, "img", "acme")
    assert not is_owner(stored.id, "img", None)
    assert (stored.bytes, stored.width, stored.height, stored.format) == (len(png), 64, 48, "PNG")
    assert stored.expires_at - stored.created_at == 100
    assert abs(stored.created_at - time.time()) < 10
    assert client.images.retrieve(stored.id) == stored
    assert 90 < redis.ttl(record_key(stored.id)) <= 100
    # the bytes live longer than the id, so that a job that names it in time finds them
    assert redis.ttl(image_key(reference(png))) > 100 + 3500
    assert redis.get(image_key(reference(png))) == png


def test_asking_again_about_a_stored_image_does_not_send_it_again(
    client: Client, large: bytes, redis: Redis, echoing: None
) -> None:
    stored = client.images.upload(large)
    before = received(redis)
    for number in range(10):
        assert client.ask(stored.id, f"Question {number}?").text == f"Question {number}?"
    sent = received(redis) - before
    before = received(redis)
    assert client.ask(large, "Question?").text == "Question?"
    assert received(redis) - before > len(large)
    assert sent < len(large) / 5, f"{sent:,} bytes for ten questions about an image of {len(large):,}"


def test_storing_the_same_bytes_again_does_not_send_them_to_redis(client: Client, large: bytes, redis: Redis) -> None:
    first = client.images.upload(large, ttl_s=100)
    before = received(redis)
    second = client.images.upload(large, ttl_s=9000)
    assert received(redis) - before < 10_000
    assert second.id != first.id
    assert second.reference == first.reference
    assert redis.ttl(image_key(first.reference)) > 9000 + 3500


def test_a_job_keeps_a_stored_image_until_its_deadline(client: Client, png: bytes, redis: Redis) -> None:
    stored = client.images.upload(png, ttl_s=60)
    client.submit(Job.about(stored.id, "What is it?", timeout_s=90_000))
    assert redis.ttl(image_key(stored.reference)) > 90_000


def test_jobs_on_the_queue_name_the_bytes_and_not_the_id(client: Client, png: bytes, worker: PlayedWorker) -> None:
    stored = client.images.upload(png)
    id = client.submit(Job.about(stored.id, "What is it?"))
    # the id is gone, and the job does not need it
    assert client.images.delete(stored.id)
    [part] = Job.from_json(worker.take(id).payload).images()
    assert part.image == reference(png)


def test_an_id_that_is_gone_is_refused_by_its_name(client: Client, png: bytes, redis: Redis) -> None:
    stored, other = client.images.upload(png), client.images.upload(png)
    assert client.images.delete(stored.id)
    assert not client.images.delete(stored.id)
    calls: list[Callable[[], object]] = [
        lambda: client.ask(stored.id, "What is it?"),
        lambda: client.submit_many([Job.about(other.id, "?"), Job.about(stored.id, "?")]),
        lambda: client.images.retrieve(stored.id),
        lambda: resolve(redis, [other.id, stored.id]),
    ]
    for call in calls:
        with pytest.raises(ImageMissing, match=f"image {stored.id} is unknown or has expired") as refused:
            call()
        assert reference(png)[7:20] not in str(refused.value)
    assert redis.keys("vqa:job:*") == []


def test_an_id_expires_on_its_own(client: Client, png: bytes) -> None:
    stored = client.images.upload(png, ttl_s=1)
    time.sleep(1.1)
    with pytest.raises(ImageMissing, match=stored.id):
        client.images.retrieve(stored.id)


def test_what_another_program_wrote_over_a_record_is_no_image(client: Client, png: bytes, redis: Redis) -> None:
    stored = client.images.upload(png)
    for damage in ("no JSON", "[]", '{"id": 1}', "[" * 5000):
        redis.set(record_key(stored.id), damage)
        with pytest.raises(ImageMissing, match=stored.id):
            client.images.retrieve(stored.id)


def test_what_is_no_image_or_too_large_is_not_stored(redis: Redis, queue_settings: QueueSettings, png: bytes) -> None:
    with Client(queue_settings, image_max_pixels=100) as client:
        for data, why in ((b"no image", "not an image"), (png, "pixels; the limit is 100")):
            with pytest.raises(BadImage, match=why):
                client.images.upload(data)
    assert redis.keys() == []


def test_a_full_redis_refuses_to_store(tmp_path: Path, large: bytes) -> None:
    with (
        RedisServer(tmp_path / "redis", "maxmemory 2mb") as server,
        Client(redis_url=server.url) as client,
        pytest.raises(QueueFull, match="maxmemory"),
    ):
        client.images.upload(_bmp(1000, 1000))


def test_a_file_with_the_name_of_an_id_is_a_file(
    client: Client, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = client.images.upload(png)
    monkeypatch.chdir(tmp_path)
    (tmp_path / stored.id).write_bytes(large := _bmp(8, 8))
    assert [part.image for part in Job.about(stored.id, "?").images()] == [large]
    (tmp_path / stored.id).unlink()
    assert [part.image for part in Job.about(stored.id, "?").images()] == [stored.id]


def test_messages_and_batches_may_name_stored_images(client: Client, png: bytes, echoing: None) -> None:
    stored = client.images.upload(png)
    message = {"role": "user", "content": [ImagePart(image=stored.id), {"type": "text", "text": "In a chat?"}]}
    assert client.answer(client.submit(Job(messages=[message])), 30).text == "In a chat?"
    batch = client.batches.create([{"id": "a", "image": stored.id, "question": "In a batch?"}])
    assert [row["text"] for row in batch.records(30)] == ["In a batch?"]


def test_the_asyncio_client_stores_images_too(queue_settings: QueueSettings, png: bytes, echoing: None) -> None:
    async def main() -> None:
        async with AsyncClient(queue_settings) as client, asyncio.timeout(60):
            stored = await client.images.upload(png)
            assert await client.images.retrieve(stored.id) == stored
            assert await client.images.references([stored.id]) == {stored.id: stored.reference}
            assert (await client.ask(stored.id, "What is it?")).text == "What is it?"
            assert await client.images.delete(stored.id)

    asyncio.run(main(), debug=True)


@pytest.fixture
def submitted(vqa: Vqa, tmp_path: Path) -> Submit:
    def run(rows: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
        write(tmp_path / "rows.jsonl", rows)
        return vqa("submit", "rows.jsonl", "-o", "out.jsonl", cwd=tmp_path)

    return run


def test_rows_of_a_submission_may_name_stored_images(
    client: Client,
    png: bytes,
    submitted: Submit,
    tmp_path: Path,
    echoing: None,
) -> None:
    stored, gone = client.images.upload(png), client.images.upload(png)
    client.images.delete(gone.id)
    done = submitted(
        [
            {"id": "short", "image": stored.id, "question": "What is it?"},
            {"id": "two", "images": [stored.id, "sha256:" + reference(png)[7:]], "question": "And these?"},
            {"id": "gone", "image": gone.id, "question": "What was it?"},
        ]
    )
    assert done.returncode == 3, done.stderr
    found = {line["id"]: line for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    assert found["short"]["answer"] == "What is it?"
    assert found["two"]["answer"] == "And these?"
    assert found["gone"]["error"]["code"] == "image_missing"
    assert gone.id in found["gone"]["error"]["message"]


def test_rows_of_openai_may_name_stored_images(
    client: Client,
    png: bytes,
    submitted: Submit,
    tmp_path: Path,
    echoing: None,
) -> None:
    stored = client.images.upload(png)
    content = [{"type": "image_url", "image_url": {"url": stored.id}}, {"type": "text", "text": "What is it?"}]
    body = {"messages": [{"role": "user", "content": content}]}
    done = submitted([{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}])
    assert done.returncode == 0, done.stderr
    [line] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "What is it?"
