"""Images that callers name by URL: fetched by a real gateway from a real server over https, or refused by name."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from redis import Redis

from producer.gateway.access.keys import Keys
from producer.gateway.app import create_app
from producer.images.stored import record_key
from tests.producer.conftest import wait_until
from tests.producer.gateway.batches.conftest import BatchClient, counts
from tests.producer.gateway.chat_bodies import chat
from tests.producer.gateway.gateway_process import GatewayProcess
from tests.producer.image_host import Identity, ImageHost, failing, image, image_host, slow
from tests.redis_server import RedisServer
from vqa.gateway_settings import GatewaySettings
from vqa.images.store import image_key, reference
from vqa.jobs.job import Job
from vqa.ledger.ledger import Lease, Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

PATH = "/v1/chat/completions"
LATER = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, png: bytes) -> Path:
    """The gateway's callers may name files in it."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "cat.png").write_bytes(png)
    (folder / "passwd").symlink_to("/etc/passwd")
    return folder


@pytest.fixture(scope="module")
def shared_host(identity: Identity, png: bytes) -> Iterator[ImageHost]:
    with image_host(identity, png) as host:
        yield host


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server, connect(QueueSettings(redis_url=server.url)) as redis:
        redis.url = server.url
        yield redis


@pytest.fixture(scope="module")
def fetching(
    shared_host: ImageHost, own_redis: Redis, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway that may fetch from `shared_host`; no worker takes its jobs."""
    variables = shared_host.variables | {"VQA_FETCH_ROOTS": str(folder), "VQA_GATEWAY_TEST_MODELS": "1"}
    gateway = GatewayProcess(own_redis.url, tmp_path_factory.mktemp("gateway"), **variables)
    yield gateway
    gateway.stop()


@pytest.fixture
def site(shared_host: ImageHost, png: bytes) -> ImageHost:
    """The server, as if new."""
    shared_host.replies(image(png))
    shared_host.site.requests.clear()
    shared_host.site.peak = 0
    return shared_host


@pytest.fixture
def http(fetching: GatewayProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=fetching.url, timeout=30) as client:
        yield client


def job_of(redis: Redis, reply: httpx2.Response) -> Job:
    """The job of a request that was accepted, as a worker gets it."""
    assert reply.status_code == 202, reply.text
    lease = Ledger(redis).take(reply.json()["id"], "played@here", "token", lease_s=60)
    assert isinstance(lease, Lease)
    return Job.from_json(lease.payload)


def error(reply: httpx2.Response) -> tuple[int, str]:
    assert "s3cr3t" not in reply.text
    return reply.status_code, reply.json()["error"]["code"]


def test_a_chat_has_the_images_at_its_urls(
    http: httpx2.Client, site: ImageHost, own_redis: Redis, png: bytes, fetching: GatewayProcess
) -> None:
    body = chat("Which?", site.url("a.png"), site.url("b.png"), site.url("a.png"), vqa={"lane": "bulk"})
    body["messages"][0]["content"][0]["image_url"]["detail"] = "low"
    reply = http.post(PATH, json=body, headers=LATER)
    job = job_of(own_redis, reply)
    assert [part.image for part in job.images()] == [reference(png)] * 3
    assert [part.detail for part in job.images()] == ["low", "auto", "auto"]
    assert sorted(site.paths()) == ["/a.png", "/b.png"]
    assert own_redis.get(image_key(reference(png))) == png
    fetching.wait_logged(reply.headers["x-request-id"])
    logged = json.dumps(fetching.access_log()) + fetching.log.read_text()
    assert "s3cr3t" not in logged
    assert "a.png" not in logged


def test_a_video_has_the_frames_at_its_urls(http: httpx2.Client, site: ImageHost, own_redis: Redis, png: bytes) -> None:
    video = {"type": "video", "frames": [site.url("1.png"), site.url("2.png")], "times_s": [0, 1.5]}
    file = {"type": "video_url", "video_url": {"url": site.url("clip.png"), "fps": 2}}
    messages = [{"role": "user", "content": [video, file, {"type": "text", "text": "What happens?"}]}]
    job = job_of(own_redis, http.post(PATH, json={"messages": messages, "vqa": {"lane": "bulk"}}, headers=LATER))
    assert [part.contents for part in job.videos()] == [(reference(png),) * 2, (reference(png),)]


def test_a_question_may_name_urls_and_files_in_allowed_folders(
    http: httpx2.Client, site: ImageHost, own_redis: Redis, png: bytes, folder: Path
) -> None:
    body = {"question": "?", "lane": "bulk", "detail": "high", "max_image_tokens": 64}
    job = job_of(own_redis, http.post("/v1/ask", json=body | {"image": site.url()}, headers=LATER))
    assert [(part.image, part.detail) for part in job.images()] == [(reference(png), "high")]
    assert job.max_image_tokens == 64
    form = {"question": "?", "lane": "bulk", "image": f"file://{folder}/cat.png"}
    job = job_of(own_redis, http.post("/v1/ask", data=form, headers=LATER))
    assert [part.image for part in job.images()] == [reference(png)]
    for path in (folder / "passwd", "/etc/passwd", folder / "none.png"):
        assert error(http.post("/v1/ask", json={"question": "?", "image": f"file://{path}"})) == (400, "bad_image")


def test_an_image_is_stored_from_its_url(http: httpx2.Client, site: ImageHost, own_redis: Redis, png: bytes) -> None:
    stored = http.post("/v1/images", json={"image": site.url()}).json()
    assert (stored["bytes"], stored["width"]) == (len(png), 64)
    assert own_redis.exists(record_key(stored["id"]))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (failing("404 Not Found"), (400, "bad_image")),
        (image(b"<html>an error page</html>"), (400, "bad_image")),
        (failing("503 Service Unavailable", Retry_After="3600"), (503, "image_unavailable")),
    ],
    ids=["not found", "a page", "unavailable"],
)
def test_what_cannot_be_fetched_is_told_and_no_job_is_made(
    http: httpx2.Client, site: ImageHost, own_redis: Redis, reply: Any, expected: tuple[int, str]
) -> None:
    before = own_redis.keys("vqa:job:*")
    for path, body in (
        (PATH, chat("?", site.url(), vqa={"lane": "bulk"})),
        ("/v1/ask", {"question": "?", "image": site.url(), "lane": "bulk"}),
        ("/v1/images", {"image": site.url()}),
    ):
        site.replies(reply)
        found = http.post(path, json=body, headers=LATER)
        assert error(found) == expected
        # OpenAI's clients send it again after that time
        assert ("retry-after" in found.headers) == (expected[0] == 503)
    assert own_redis.keys("vqa:job:*") == before


@pytest.mark.parametrize(
    ("url", "setting"),
    [
        ("https://elsewhere.example/cat.png", "VQA_FETCH_HOSTS"),
        ("http://127.0.0.1:1/cat.png", "VQA_FETCH_HOSTS"),
        ("s3://cats/cat.png", "VQA_FETCH_BUCKETS"),
    ],
    ids=["host", "plain http", "bucket"],
)
def test_an_address_that_is_not_allowed_is_refused_by_the_setting(http: httpx2.Client, url: str, setting: str) -> None:
    reply = http.post(PATH, json=chat("?", url))
    assert error(reply) == (400, "bad_image")
    assert setting in reply.json()["error"]["message"]
    assert "cat.png" not in reply.text


def test_a_request_that_is_sent_again_by_its_key_may_find_another_image(
    http: httpx2.Client, site: ImageHost, png: bytes, own_redis: Redis
) -> None:
    body = chat("What is it?", site.url(), vqa={"lane": "bulk"})
    headers = LATER | {"Idempotency-Key": "the-same"}
    first = http.post(PATH, json=body, headers=headers)
    # as after a change at the server
    site.replies(image(png + b"\n"))
    again = http.post(PATH, json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = http.post(PATH, json=chat("What is it?", site.url("other.png"), vqa={"lane": "bulk"}), headers=headers)
    assert other.status_code == 422


def test_images_take_no_longer_than_their_job_may(http: httpx2.Client, site: ImageHost, png: bytes) -> None:
    site.replies(slow(png, 20))
    found = http.post(PATH, json=chat("?", site.url(), vqa={"lane": "bulk", "timeout_s": 1}))
    assert error(found) == (503, "image_unavailable")


def test_the_images_of_a_request_are_as_large_together_as_a_body_may_be(
    allowed_host: ImageHost, queue_settings: QueueSettings, png: bytes
) -> None:
    settings = GatewaySettings(body_max_bytes=2048)
    assert len(png) < 2048 < 20 * len(png)
    with TestClient(create_app(queue_settings, settings), "http://localhost") as gateway:
        images = [allowed_host.url(f"{number}.png") for number in range(20)]
        body = {"question": "?", "lane": "bulk"}
        reply = gateway.post("/v1/ask", json=body | {"image": images})
        assert error(reply) == (400, "bad_image")
        assert "VQA_GATEWAY_BODY_MAX_BYTES" in reply.json()["error"]["message"]
        assert gateway.post("/v1/ask", json=body | {"image": images[0]}, headers=LATER).status_code == 202


def test_images_that_follow_the_one_too_many_are_not_fetched(
    allowed_host: ImageHost, queue_settings: QueueSettings, png: bytes
) -> None:
    allowed_host.replies(image(png + bytes(8000)))
    images = [allowed_host.url(f"{number}.png") for number in range(60)]
    with TestClient(create_app(queue_settings, GatewaySettings(body_max_bytes=20_000)), "http://localhost") as gateway:
        reply = gateway.post("/v1/ask", json={"question": "?", "lane": "bulk", "image": images})
    assert error(reply) == (400, "bad_image")
    assert "VQA_GATEWAY_BODY_MAX_BYTES" in reply.json()["error"]["message"]
    assert len(allowed_host.site.requests) < 20


def test_more_images_than_a_job_may_have_are_not_fetched(http: httpx2.Client, site: ImageHost) -> None:
    images = [site.url(f"{number}.png") for number in range(321)]
    reply = http.post(PATH, json=chat("?", *images, vqa={"lane": "bulk"}))
    assert error(reply) == (400, "bad_image")
    assert not site.paths()


def test_the_first_image_that_fails_ends_the_others(http: httpx2.Client, site: ImageHost, png: bytes) -> None:
    site.replies(failing("404 Not Found"), slow(png, 20))
    images = [site.url(f"{number}.png") for number in range(20)]
    assert error(http.post(PATH, json=chat("?", *images, vqa={"lane": "bulk"}), timeout=10)) == (400, "bad_image")


def test_urls_are_left_to_workers_that_fetch(host: ImageHost, queue_settings: QueueSettings, redis: Redis) -> None:
    settings = queue_settings.model_copy(update={"fetch": "worker"})
    with TestClient(create_app(settings, GatewaySettings()), "http://localhost") as gateway:
        reply = gateway.post(PATH, json=chat("?", host.url(), vqa={"lane": "bulk"}), headers=LATER)
        assert [part.image for part in job_of(redis, reply).images()] == [host.url()]
        stored = gateway.post("/v1/images", json={"image": host.url()})
        assert (stored.status_code, "VQA_FETCH=worker" in stored.text) == (400, True)
    assert host.site.connections == 0


def test_rows_of_a_batch_have_the_images_at_their_urls(
    fetching: GatewayProcess, site: ImageHost, own_redis: Redis, png: bytes
) -> None:
    def row(name: str, url: str) -> dict[str, Any]:
        body = chat(name, url, model="vqa-echo")
        return {"custom_id": name, "method": "POST", "url": PATH, "body": body}

    rows = [row(f"r{number}", site.url(f"{number // 2}.png")) for number in range(20)]
    rows += [row("refused", "https://elsewhere.example/a.png")]
    batches = BatchClient(fetching.url)
    batch = batches.ended(batches.create("".join(json.dumps(each) + "\n" for each in rows).encode()))
    assert counts(batch) == (21, 20, 1)
    [failed] = batches.lines(batch.error_file_id)
    assert (failed["custom_id"], "VQA_FETCH_HOSTS" in json.dumps(failed)) == ("refused", True)
    # rows that follow each other share an image
    assert sorted(site.paths()) == [f"/{number}.png" for number in range(10)]


def test_one_key_does_not_take_all_places(
    fetching: GatewayProcess, site: ImageHost, own_redis: Redis, png: bytes
) -> None:
    let_go = threading.Event()

    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        while b"/held" in head and not let_go.is_set():
            await asyncio.sleep(0.01)
        await image(png)(head, writer)

    site.replies(reply)
    keys = Keys(own_redis)
    (first, _), (second, _) = keys.create("first"), keys.create("second")

    def ask(key: str, *urls: str) -> int:
        headers = LATER | {"Authorization": f"Bearer {key}"}
        body = {"question": "?", "image": list(urls), "lane": "bulk"}
        return httpx2.post(f"{fetching.url}/v1/ask", json=body, headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(1) as thread:
        held = thread.submit(ask, first, *(site.url(f"held-{number}.png") for number in range(12)))
        try:
            wait_until(lambda: len(site.paths()) >= 4, "the first key fetches")
            # the server itself has six places
            assert ask(second, site.url("free.png")) == 202
            assert not held.done()
            assert len(site.paths()) == 5
        finally:
            let_go.set()
        assert held.result(timeout=30) == 202
    assert len(site.paths()) == 13
