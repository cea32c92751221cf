"""Models that answer without a worker."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from redis import Redis

from producer.client.job_queue import JobQueue
from producer.client.submission import PreparedJob
from producer.gateway.chat.echo_models import answer_at_once
from tests.producer.gateway.chat_bodies import chat, image_url, open_ids
from tests.producer.gateway.conftest import Asgi
from vqa.answer import Answer
from vqa.errors import Cancelled, QueueFull
from vqa.jobs.job import Job
from vqa.jobs.lane import LANES
from vqa.ledger.batches import Batches
from vqa.ledger.commands import outcome_key
from vqa.results import decode
from vqa.settings import QueueSettings

PATH = "/v1/chat/completions"


def post(asgi: Asgi, body: dict[str, Any], path: str = PATH, **settings: Any) -> list[httpx2.Response]:
    """The reply, and the job that it names."""

    async def run() -> list[httpx2.Response]:
        async with asgi(**settings) as http:
            reply = await http.post(path, json=body)
            return [reply, await http.get(f"/v1/jobs/{reply.headers.get('x-vqa-job-id', '')}")]

    return asyncio.run(run())


@pytest.mark.parametrize("model", ["batch-test-model", "vqa-echo"])
def test_a_test_model_repeats_the_question_without_a_worker(asgi: Asgi, redis: Redis, model: str) -> None:
    reply, job = post(asgi, chat("What is it?", image_url(), model=model), test_models=True)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == "What is it?"
    assert reply.json()["model"] == model
    assert (job.json()["status"], job.json()["completion"]["id"]) == ("completed", reply.json()["id"])
    assert not open_ids(redis)
    assert not any(redis.llen(lane) for lane in LANES)


@pytest.mark.parametrize(("path", "body"), [(PATH, chat()), ("/v1/ask", {"image": image_url(), "question": "?"})])
def test_a_test_model_must_be_allowed_by_a_setting(asgi: Asgi, path: str, body: dict[str, Any]) -> None:
    reply, _ = post(asgi, body | {"model": "vqa-echo"}, path)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (403, "test_models_off", "model")
    assert "VQA_GATEWAY_TEST_MODELS" in error["message"]


def test_a_test_model_streams_in_pieces(asgi: Asgi) -> None:
    reply, job = post(asgi, chat("What is it?", model="vqa-echo", stream=True), test_models=True)
    chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert len(list(filter(None, texts))) == 2
    assert "".join(filter(None, texts)) == "What is it?"
    assert reply.text.endswith("data: [DONE]\n\n")
    assert job.json()["status"] == "completed"


def test_a_test_model_keeps_to_the_longest_answer(asgi: Asgi) -> None:
    reply, _ = post(asgi, chat("one two three", model="vqa-echo", max_tokens=2), test_models=True)
    [choice] = reply.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")


def test_a_test_model_gives_no_structured_answers(asgi: Asgi) -> None:
    body = chat(model="vqa-echo", response_format={"type": "json_object"})
    reply, _ = post(asgi, body, test_models=True)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "response_format")


def jobs(batch: str, *ids: str) -> list[PreparedJob]:
    return [
        PreparedJob(Job(id=id, lane="bulk", batch=batch, messages=[{"role": "user", "content": f"Say {id}"}]))
        for id in ids
    ]


def test_jobs_of_a_batch_are_answered_and_counted(queue_settings: QueueSettings, redis: Redis) -> None:
    queue, batches = JobQueue(queue_settings), Batches(redis)
    batches.create("b1", "bulk", detached=True)
    for _ in range(2):
        assert not answer_at_once(queue, jobs("b1", "a", "b"), "batch-test-model")
    batches.seal("b1", 2)
    state = batches.get("b1")
    assert state is not None
    assert (state.completed, state.open, state.status) == (2, 0, "completed")
    answer = decode(queue.backend, redis.get(outcome_key("a")) or b"")
    assert isinstance(answer, Answer)
    assert answer.text == "Say a"
    queue.close()


def test_jobs_of_a_cancelled_batch_are_cancelled(queue_settings: QueueSettings, redis: Redis) -> None:
    queue, batches = JobQueue(queue_settings), Batches(redis)
    batches.create("b1", "bulk", detached=True)
    batches.cancel("b1")
    assert not answer_at_once(queue, jobs("b1", "a"), "batch-test-model")
    assert isinstance(decode(queue.backend, redis.get(outcome_key("a")) or b""), Cancelled)
    queue.close()


def test_a_full_lane_refuses_test_models_too(queue_settings: QueueSettings, redis: Redis) -> None:
    queue = JobQueue(queue_settings.model_copy(update={"queue_most": 1}))
    queue.submit(Job(messages=[{"role": "user", "content": "?"}], lane="bulk"))
    refused = answer_at_once(queue, jobs("b1", "a"), "batch-test-model")
    assert isinstance(refused["a"], QueueFull)
    queue.close()
