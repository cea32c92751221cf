"""Batches while processes die and others go on, while rows are answered, and of several tenants."""

import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from openai import NotFoundError, PermissionDeniedError, RateLimitError
from redis import Redis

from producer.gateway.access.caller import Allowance
from producer.gateway.access.keys import Keys
from tests.producer.gateway.batches.conftest import BatchClient, counts
from tests.producer.gateway.batches.inputs import row, rows_file
from tests.producer.gateway.gateway_process import StartGateway
from tests.producer.gateway.webhooks.receiver import SECRET, Receiver
from tests.worker_process import StartWorker


def _ids(lines: list[dict[str, Any]]) -> list[str]:
    return [line["custom_id"] for line in lines]


def _wait(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_each_row_is_answered_once_after_a_gateway_died_while_it_read_them(
    start_gateway: StartGateway, start_worker: StartWorker, redis: Redis
) -> None:
    # it cannot submit them all before it is killed
    first = start_gateway(VQA_QUEUE_MOST="800")
    client = BatchClient(first.url)
    rows = [row(n, f"question {n}") for n in range(1500)]
    rows[1300] = row(1300, "q", image="data:,")
    batch = client.create(rows_file(rows))
    listed = f"vqa:batch:{batch.id}:rows"
    _wait(lambda: redis.llen(listed) > 0)
    first.kill()
    read = redis.llen(listed)

    client = BatchClient(start_gateway().url)
    assert read < 1500
    start_worker("a")
    # without the wait for the lease of the dead process, which test_runner.py has
    redis.zadd("vqa:gateway:open_batches", {batch.id: 0}, xx=True)
    batch = client.ended(batch, 60)
    assert counts(batch) == (1500, 1499, 1)
    output = client.lines(batch.output_file_id)
    assert _ids(output) == [f"row-{n}" for n in range(1500) if n != 1300]
    assert _ids(client.lines(batch.error_file_id)) == ["row-1300"]
    assert len({line["response"]["body"]["choices"][0]["message"]["content"] for line in output}) == 1499


def test_a_gateway_that_stops_hands_its_batches_over_at_once_and_their_end_is_told(
    start_gateway: StartGateway, redis: Redis
) -> None:
    settings = {
        "VQA_GATEWAY_TEST_MODELS": "1",
        "VQA_GATEWAY_WEBHOOK_PRIVATE": "1",
        "VQA_GATEWAY_WEBHOOK_SECRET": SECRET,
    }
    first = start_gateway(**settings)
    second = BatchClient(start_gateway(**settings).url)
    data = rows_file(row(n, "q", model="vqa-echo") for n in range(1500))
    with Receiver() as receiver:
        webhook = {"vqa": {"webhook": {"url": receiver.url}}}
        batch = BatchClient(first.url).create(data, extra_body=webhook)
        _wait(lambda: redis.llen(f"vqa:batch:{batch.id}:rows") > 0)
        assert first.stop() == 0

        batch = second.ended(batch)
        assert counts(batch) == (1500, 1500, 0)
        assert _ids(second.lines(batch.output_file_id)) == [f"row-{n}" for n in range(1500)]
        event = receiver.wait(1)[0].verified()
        assert (event["type"], event["data"]) == ("batch.completed", {"id": batch.id})


def test_the_output_grows_while_rows_are_answered_and_stays_when_the_rest_is_cancelled(
    start_gateway: StartGateway, start_worker: StartWorker
) -> None:
    client = BatchClient(start_gateway().url)
    start_worker("a", VQA_ECHO_DELAY_S="0.2", VQA_SLOTS="8")
    batch = client.create(rows_file(row(n, "q") for n in range(600)))
    batch = client.until(batch, lambda batch: counts(batch)[1] > 10)

    assert batch.status == "in_progress"
    assert counts(batch)[0] == 600
    seen: list[str] = []
    for _ in range(3):
        now = _ids(client.lines(batch.output_file_id))
        assert len(now) == len(set(now))
        assert now == sorted(now, key=lambda id: int(id[4:]))
        assert set(seen) < set(now)
        seen = now
        done = counts(client.openai.batches.retrieve(batch.id))[1]
        client.until(batch, lambda batch, done=done: counts(batch)[1] > done + 8)
    assert client.openai.files.retrieve(batch.output_file_id or "").purpose == "batch_output"

    assert client.openai.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = client.ended(batch)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    output = _ids(client.lines(batch.output_file_id))
    assert set(seen) <= set(output)
    assert len(output) == counts(batch)[1]
    errors = client.lines(batch.error_file_id)
    assert {(line["response"], line["error"]["code"]) for line in errors} == {(None, "batch_cancelled")}
    assert not set(output) & set(_ids(errors))
    assert len(output) + len(errors) == 600


def _is_limited(client: BatchClient, data: bytes) -> bool:
    try:
        client.create(data)
    except RateLimitError as error:
        return "tokens a minute" in error.message
    return False


def test_a_key_sees_its_own_batches_alone_and_pays_for_their_tokens(start_gateway: StartGateway, redis: Redis) -> None:
    keys = Keys(redis)
    key, _ = keys.create("payer", tenant="payer", allowance=Allowance(tokens_per_minute=1000))
    other, _ = keys.create("other", tenant="other")
    quick, _ = keys.create("quick", tenant="payer", lanes=("interactive",))
    url = start_gateway(VQA_GATEWAY_TEST_MODELS="1").url
    client, stranger = BatchClient(url, key), BatchClient(url, other)
    data = rows_file(
        [row(n, " ".join("words" for _ in range(300)), model="vqa-echo", max_tokens=300) for n in range(2)]
    )
    batch = client.ended(client.create(data))

    assert batch.usage is not None
    assert batch.usage.total_tokens == 1200
    for look in (stranger.openai.batches.retrieve, stranger.openai.batches.cancel):
        with pytest.raises(NotFoundError, match="no batch"):
            look(batch.id)
    for id in (batch.input_file_id, batch.output_file_id):
        assert id is not None
        for read in (stranger.openai.files.retrieve, stranger.openai.files.content, stranger.openai.files.delete):
            with pytest.raises(NotFoundError, match="no file"):
                read(id)
    assert not stranger.openai.batches.list().data
    assert not stranger.openai.files.list().data
    with pytest.raises(NotFoundError, match="no file"):
        stranger.openai.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    with pytest.raises(PermissionDeniedError, match="lane bulk"):
        BatchClient(url, quick).create(data)
    # 1200 tokens are over the 1000 of a minute; they are charged a moment after the end
    _wait(lambda: _is_limited(client, data))
    assert httpx2.get(f"{url}/v1/batches").status_code == 401
