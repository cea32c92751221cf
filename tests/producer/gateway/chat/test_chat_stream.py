"""Chat completions that are streamed."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from celery import Celery
from openai import OpenAI
from redis import Redis

from producer.client.streams import TextPiece
from producer.gateway.chat.event_stream import SentText, StreamRestarted
from tests.producer.conftest import PlayedWorker, answer, wait_until
from tests.producer.gateway.chat_bodies import chat, image_url, new_open_id, open_ids, slow
from tests.producer.gateway.gateway_process import GatewayProcess, StartGateway
from vqa.ledger.ledger import Lease
from vqa.ledger.records import Ending
from vqa.ledger.text_stream import Portion, stream_key
from vqa.redis.connection import connect
from vqa.results import encode
from vqa.settings import QueueSettings

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def shared_redis(shared_redis_url: str) -> Iterator[Redis]:
    with connect(QueueSettings(redis_url=shared_redis_url)) as connection:
        yield connection


def events(lines: Iterator[str]) -> Iterator[Any]:
    """The data of each event; comments are left out."""
    for line in lines:
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk.get("choices"))


def test_the_events_are_openais(http: httpx2.Client) -> None:
    body = chat("What is it?", image_url(), stream=True, stream_options={"include_usage": True})
    with http.stream("POST", PATH, json=body) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-accel-buffering"] == "no"
        role, *pieces, finish, usage, done = list(events(reply.iter_lines()))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(pieces).startswith("echo:")
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 1)
    assert done == "[DONE]"
    assert {chunk["id"] for chunk in (role, *pieces, finish, usage)} == {reply.headers["x-vqa-job-id"]}
    whole = http.post(PATH, json=chat("What is it?", image_url())).json()
    assert text_of(pieces) == whole["choices"][0]["message"]["content"]


def test_text_comes_while_it_is_generated(client: OpenAI) -> None:
    started = time.monotonic()
    times = [
        time.monotonic() - started
        for chunk in client.chat.completions.create(**slow(1.0, stream=True))
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(times) >= 2
    # the engine spreads the words over the second that it takes
    assert times[-1] - times[0] >= 0.3
    assert times[-1] >= 1.0


def test_a_client_that_vanishes_mid_stream_frees_its_slot(gateway: GatewayProcess, shared_redis: Redis) -> None:
    with httpx2.stream("POST", gateway.url + PATH, json=slow(30, stream=True), timeout=30) as reply:
        id = reply.headers["x-vqa-job-id"]
        # held: the response is closed with its iterator
        arriving = events(reply.iter_lines())
        next(arriving)
        assert id in open_ids(shared_redis)
    left = time.monotonic()
    wait_until(lambda: id not in open_ids(shared_redis), "the job is closed")
    assert time.monotonic() - left < 2
    assert httpx2.get(f"{gateway.url}/v1/jobs/{id}").json()["status"] == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_vanishes_after_it_has_sent_another_request_is_noticed(
    gateway: GatewayProcess, shared_redis: Redis, stream: bool
) -> None:
    before = open_ids(shared_redis)
    body = json.dumps(slow(30, stream=stream)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2]))) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        id = new_open_id(shared_redis, before)
    left = time.monotonic()
    wait_until(lambda: id not in open_ids(shared_redis), "the job is closed")
    assert time.monotonic() - left < 2


def test_an_error_before_the_first_piece_is_a_status(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**chat("?", metadata={"echo_fail": "PromptTooLong"}, stream=True))
    assert error.value.code == "prompt_too_long"


def test_an_error_after_it_is_an_event(client: OpenAI, http: httpx2.Client) -> None:
    body = slow(20, stream=True, vqa={"timeout_s": 1})
    with http.stream("POST", PATH, json=body) as reply:
        assert reply.status_code == 200
        *_, last = list(events(reply.iter_lines()))
    assert last["error"]["code"] == "deadline_exceeded"
    with pytest.raises(openai.APIError) as error:
        list(client.chat.completions.create(**slow(20, stream=True), extra_body={"vqa": {"timeout_s": 1}}))
    assert error.value.code == "deadline_exceeded"


def test_a_stream_cannot_be_answered_later_and_so_is_answered_now(http: httpx2.Client) -> None:
    reply = http.post(PATH, json=chat(stream=True), headers={"prefer": "respond-async"})
    assert reply.status_code == 200
    assert "preference-applied" not in reply.headers


def pieces(*texts: str, restarted_at: int = -1) -> list[TextPiece]:
    return [TextPiece(text, 1, index == restarted_at) for index, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (pieces("ab", "cd"), "abcd"),
        (pieces("ab", "cd", "abc", "def", restarted_at=2), "abcdef"),
        (pieces("ab", "a", "b", "c", restarted_at=1), "abc"),
        (pieces("ab", "", "abc", restarted_at=1), "abc"),
    ],
)
def test_a_restarted_answer_is_not_sent_twice(given: list[TextPiece], sent: str) -> None:
    text = SentText()
    assert "".join(map(text.add, given)) == sent
    text.finish()


@pytest.mark.parametrize("given", [pieces("ab", "ax", restarted_at=1), pieces("ab", "cd", "abx", restarted_at=2)])
def test_a_restarted_answer_that_differs_ends_the_stream(given: list[TextPiece]) -> None:
    text = SentText()
    with pytest.raises(StreamRestarted):
        list(map(text.add, given))


def test_a_restarted_answer_that_is_shorter_ends_the_stream() -> None:
    text = SentText()
    for piece in pieces("abc", "ab", restarted_at=1):
        text.add(piece)
    with pytest.raises(StreamRestarted):
        text.finish()


class Restarting:
    """Plays a worker that is lost in the middle of an answer, and one that runs the job again."""

    def __init__(self, redis: Redis, worker: PlayedWorker, app: Celery) -> None:
        self._redis = redis
        self._backend = app.backend
        self._worker = worker

    def first_attempt(self, text: str) -> str:
        wait_until(lambda: open_ids(self._redis), "a job")
        [id] = open_ids(self._redis)
        self._lease = self._worker.take(id)
        self._write(self._lease, text)
        return id

    def second_attempt(self, id: str, text: str, whole: str) -> None:
        assert self._worker.ledger.retry(id, self._lease.token, error="lost", charge="lost")
        lease = self._worker.ledger.take(id, "played@here", "second", lease_s=9)
        assert isinstance(lease, Lease)
        self._write(lease, text)
        encoded = encode(self._backend, id, answer(id, whole).model_copy(update={"attempt": 2}))
        assert self._worker.ledger.close(Ending(id, lease.token, encoded, ttl_s=60))

    def _write(self, lease: Lease, text: str) -> None:
        portion = Portion(lease.header.attempt, lease.header.taken or 0, 0, text)
        self._redis.xadd(stream_key(lease.id), portion.fields())
        self._redis.rpush(lease.header.reply, lease.id)


@pytest.mark.parametrize(("second", "whole", "ends"), [("A gr", "A green cat", None), ("A r", "A red", "restarted")])
def test_a_stream_goes_on_with_the_job_after_its_worker_was_lost(
    start_gateway: StartGateway,
    redis: Redis,
    worker: PlayedWorker,
    app: Celery,
    second: str,
    whole: str,
    ends: str | None,
) -> None:
    gateway, restarting = start_gateway(), Restarting(redis, worker, app)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(restarting.first_attempt, "A green")
        with httpx2.stream("POST", gateway.url + PATH, json=chat(stream=True, vqa={"lane": "bulk"})) as reply:
            arriving = events(reply.iter_lines())
            chunks = [next(arriving), next(arriving)]
            assert text_of(chunks) == "A green"
            restarting.second_attempt(first.result(), second, whole)
            chunks += list(arriving)
    assert {"restarted": {"attempt": 2}} in [chunk.get("vqa") for chunk in chunks if chunk != "[DONE]"]
    if ends is None:
        assert text_of(chunks[:-1]) == whole
        assert chunks[-1] == "[DONE]"
    else:
        assert chunks[-1]["error"]["code"] == "stream_restarted"
        assert text_of(chunks[:-1]) == "A green"
