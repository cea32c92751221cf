"""Webhooks as clients ask for them over HTTP."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from redis import Redis

from producer.gateway.access.keys import Keys
from tests.producer.gateway.batches.conftest import BatchClient
from tests.producer.gateway.batches.inputs import row, rows_file
from tests.producer.gateway.chat_bodies import chat
from tests.producer.gateway.conftest import Asgi
from tests.producer.gateway.gateway_process import GatewayProcess, StartGateway
from tests.producer.gateway.webhooks.receiver import SECRET, Receiver


@pytest.fixture
def gateway(start_gateway: StartGateway) -> GatewayProcess:
    """A gateway of this test, which answers test models without a worker."""
    allowed = {"VQA_GATEWAY_WEBHOOK_PRIVATE": "1", "VQA_GATEWAY_WEBHOOK_SECRET": SECRET}
    return start_gateway(VQA_GATEWAY_TEST_MODELS="1", **allowed)


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=gateway.url, timeout=30) as client:
        yield client


def later(http: httpx2.Client, url: object, **options: Any) -> httpx2.Response:
    """Ask for an answer later, and to be told when it is there."""
    body = chat("What secret is it?", model="vqa-echo", vqa={"webhook": {"url": url}})
    headers = {"Prefer": "respond-async"} | options
    return http.post("/v1/chat/completions", json=body, headers=headers)


def test_jobs_and_batches_are_told_and_can_be_fetched(
    gateway: GatewayProcess, http: httpx2.Client, receiver: Receiver, redis: Redis
) -> None:
    job = later(http, receiver.url)
    assert job.status_code == 202, job.text
    [told] = receiver.wait(1)
    assert told.verified()["type"] == "vqa.job.answered"
    assert told.verified()["data"] == {"id": job.json()["id"]}
    assert http.get(job.headers["location"]).json()["status"] == "completed"

    client = BatchClient(gateway.url)
    good = client.create(
        rows_file([row(1, "?", model="batch-test-model")]), extra_body={"vqa": {"webhook": {"url": receiver.url}}}
    )
    bad = client.create(b"no JSON\n", extra_body={"vqa": {"webhook": {"url": receiver.url}}})
    reader = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    events = [reader.webhooks.unwrap(each.body, dict(each.headers)) for each in receiver.wait(3)[1:]]
    assert {event.data.id: event.type for event in events} == {good.id: "batch.completed", bad.id: "batch.failed"}
    # a key signs with its own secret, also what began before the gateway knew it
    key, record = Keys(redis).create("shop")
    keyed = later(http, receiver.url, Authorization=f"Bearer {key}")
    assert keyed.status_code == 202, keyed.text
    told = receiver.wait(4)[3]
    assert told.verified(record.webhook_secret)["data"] == {"id": keyed.json()["id"]}
    assert "secret" not in gateway.log.read_text().replace("VQA_GATEWAY_WEBHOOK_SECRET", "")


@pytest.mark.parametrize(
    "url", ["ftp://hooks.example/", "https://a:b@hooks.example/", "no url", "https://x." + "a" * 3000]
)
def test_a_url_that_cannot_be_told_is_refused_before_anything_is_done(asgi: Asgi, redis: Redis, url: str) -> None:
    async def main() -> None:
        async with asgi(test_models=True, webhook_secret=SECRET) as http:
            body = chat(model="vqa-echo", vqa={"webhook": {"url": url}})
            reply = await http.post("/v1/chat/completions", json=body, headers={"Prefer": "respond-async"})
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == "vqa.webhook.url"

    asyncio.run(main())
    assert redis.keys("vqa:webhook*") == redis.keys("vqa:job:*") == []
