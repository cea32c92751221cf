"""The state of the queue over HTTP."""

import asyncio

import httpx2
from redis import Redis

from producer import Client, Job
from tests.producer.gateway.conftest import Asgi
from tests.worker_process import WorkerProcess
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings


def test_it_tells_depth_workers_and_what_they_answered_lately(http: httpx2.Client, echo_worker: WorkerProcess) -> None:
    status = http.get("/v1/status").json()
    assert status["object"] == "vqa.status"
    assert {*status["lanes"]} == {"interactive", "bulk"}
    assert {*status["lanes"]["bulk"]} == {"waiting", "queued", "leased", "delayed"}
    [worker] = status["workers"]
    assert worker["name"].startswith("echo@")
    assert (worker["model"], worker["engine"]) == ("echo", "echo")
    assert worker["slots"] >= 1
    assert worker["answered_1m"] >= 0


def test_it_counts_what_waits_and_bears_with_workers_of_earlier_releases(
    asgi: Asgi, redis: Redis, queue_settings: QueueSettings
) -> None:
    with Client(queue_settings) as client:
        client.submit_many([Job(messages=[{"role": "user", "content": "?"}], lane="bulk") for _ in range(3)])
    Ledger(redis).renew("card0@here", [], 9, {"slots": 4, "model": ["no", "text"]})

    async def read() -> dict[str, object]:
        async with asgi(body_max_bytes=2**20) as http:
            return (await http.get("/v1/status")).json()

    status = asyncio.run(read())
    assert status["lanes"]["bulk"]["queued"] == 3
    expected = {"name": "card0@here", "model": None, "engine": None, "slots": 4, "answered_1m": None}
    assert status["workers"] == [expected]
    # with its form it fits into a body
    assert status["limits"] == {"image_bytes": 2**20 - 64 * 1024, "image_pixels": 50_000_000}
