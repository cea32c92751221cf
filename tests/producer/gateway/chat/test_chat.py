"""Chat completions that are answered whole."""

import asyncio
import json
import os
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from PIL import Image
from pydantic import BaseModel
from redis import Redis

from producer.gateway.chat.completion_schema import ChatCompletion
from producer.ids import new_id
from tests.producer.conftest import wait_until
from tests.producer.gateway.chat_bodies import chat, image_bytes, image_url, new_open_id, open_ids, slow
from tests.producer.gateway.conftest import Asgi
from tests.producer.gateway.gateway_process import GatewayProcess, StartGateway
from vqa.redis.connection import connect
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


def code(reply: httpx2.Response) -> str:
    return str(reply.json()["error"]["code"])


def test_a_question_about_images_is_answered_through_the_queue(http: httpx2.Client) -> None:
    reply = http.post(PATH, json=chat("Which is greener?", image_url("teal"), image_url("green")))
    assert reply.status_code == 200, reply.text
    completion = ChatCompletion.model_validate_json(reply.content, extra="forbid")
    assert completion.choices[0].message.content.startswith("echo:")
    assert completion.model == "echo"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 1
    assert len(completion.vqa.images) == 2
    assert reply.headers["x-vqa-job-id"] == completion.id
    assert reply.headers["x-request-id"]


def test_the_same_chat_gets_the_same_answer_however_it_is_written(http: httpx2.Client) -> None:
    plain = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}
    parts = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "Why?"}], "name": "ann"},
        ],
        "stream": False,
        "n": 1,
    }
    answers = [http.post(PATH, json=body).json()["choices"][0]["message"]["content"] for body in (plain, parts)]
    assert answers[0] == answers[1]


def test_log_probabilities_have_a_place_in_a_whole_answer_and_none_in_a_stream(client: OpenAI) -> None:
    body: Any = {"model": "vqa", **chat("Colour?", image_url("red")), "logprobs": True, "top_logprobs": 2}
    # the echo engine has no model, and so no probabilities
    logprobs = client.chat.completions.create(**body, extra_body={"top_k": 20, "min_p": 0.1}).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content == []
    with pytest.raises(openai.BadRequestError, match="logprobs: a stream carries the text alone"):
        client.chat.completions.create(**body, stream=True)


def test_a_stored_image_is_named_by_its_id(http: httpx2.Client) -> None:
    stored = http.post("/v1/images", content=image_bytes("red"), headers={"content-type": "image/png"}).json()["id"]
    by_id, inline = (http.post(PATH, json=chat("Colour?", url)).json() for url in (stored, image_url("red")))
    assert by_id["choices"] == inline["choices"]


def test_an_image_of_somebody_else_is_as_unknown_as_none(http: httpx2.Client) -> None:
    others, unknown = new_id("img", "other"), new_id("img", None)
    replies = [http.post(PATH, json=chat("?", id)) for id in (others, unknown)]
    assert [reply.status_code for reply in replies] == [400, 400]
    said = [reply.json()["error"]["message"] for reply in replies]
    assert said[0].replace(others, "ID") == said[1].replace(unknown, "ID")


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("file:/etc/hostname", "bad_image"),
        ("sha256:" + "0" * 64, "invalid_job"),
        ("https://example.org/a.png", "bad_image"),
        ("cat.png", "invalid_job"),
    ],
)
def test_addresses_that_reach_beyond_the_request_are_refused(http: httpx2.Client, url: str, refused: str) -> None:
    reply = http.post(PATH, json=chat("?", url))
    assert (reply.status_code, code(reply)) == (400, refused)
    assert url not in reply.text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"vqa": {"lane": "fast"}}, "vqa.lane"),
        ({"vqa": {"timeout_s": -1}}, "vqa.timeout_s"),
        ({"vqa": {"tenant": "other"}}, "vqa.tenant"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"messages": [{"role": "tool", "content": "?"}]}, "messages.0.role"),
        ({"A secret": 1}, None),
    ],
)
def test_a_wrong_field_is_named_as_the_request_does(client: OpenAI, fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.post(PATH.removeprefix("/v1"), body=chat(**fields), cast_to=object)
    assert error.value.param == param
    assert error.value.code == "invalid_job"
    assert error.value.type == "invalid_request_error"
    assert "secret" not in error.value.message


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "application/json; charset=utf-8", 400),
        (b"{}", "text/plain", 415),
        (b"{}", None, 415),
    ],
)
def test_a_body_that_is_no_json_is_refused(http: httpx2.Client, body: bytes, kind: str | None, status: int) -> None:
    reply = http.post(PATH, content=body, headers={"content-type": kind} if kind else {})
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_what_is_no_image_is_refused_before_it_is_queued(http: httpx2.Client) -> None:
    for url in ("data:image/png;base64,AAAA", "data:image/png;base64,??", "data:text/plain,hello"):
        reply = http.post(PATH, json=chat("?", url))
        assert (reply.status_code, code(reply)) == (400, "bad_image")


def test_a_pydantic_class_is_parsed_from_the_answer(client: OpenAI) -> None:
    class Animal(BaseModel):
        name: str
        legs: int | None

    messages = [{"role": "user", "content": "Which animal?"}]
    reply = client.chat.completions.parse(model="any", messages=messages, response_format=Animal)
    assert isinstance(reply.choices[0].message.parsed, Animal)


def test_an_error_of_the_job_has_the_status_of_its_kind(client: OpenAI) -> None:
    fails = chat("?", metadata={"echo_fail": "PromptTooLong"})
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**fails)
    assert error.value.code == "prompt_too_long"
    assert error.value.response.headers["x-vqa-job-id"].startswith("chatcmpl_")


async def _ask_while_redis_loses_its_data(asgi: Asgi, redis: Redis, stream: bool) -> httpx2.Response:
    async with asgi() as http:
        asking = asyncio.create_task(http.post(PATH, json=chat("?", stream=stream, vqa={"lane": "bulk"})))
        await asyncio.to_thread(wait_until, lambda: open_ids(redis), "the job is open")
        redis.flushdb()
        async with asyncio.timeout(10):
            return await asking


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_job_redis_has_lost_may_be_sent_again(asgi: Asgi, redis: Redis, stream: bool) -> None:
    reply = asyncio.run(_ask_while_redis_loses_its_data(asgi, redis, stream))
    # OpenAI's clients send again what ended with a status from 500 on
    assert (reply.status_code, code(reply)) == (500, "unknown_job")
    assert reply.json()["error"]["type"] == "server_error"


def test_a_request_ends_at_its_deadline(http: httpx2.Client) -> None:
    started = time.monotonic()
    reply = http.post(PATH, json=slow(20, vqa={"timeout_s": 1}))
    assert (reply.status_code, code(reply)) == (504, "deadline_exceeded")
    assert reply.json()["error"]["type"] == "server_error"
    assert time.monotonic() - started < 3


def test_a_client_that_vanishes_frees_its_slot(gateway: GatewayProcess, shared_redis: Redis) -> None:
    before, body = open_ids(shared_redis), json.dumps(slow(30)).encode()
    url = httpx2.URL(gateway.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        id = new_open_id(shared_redis, before)
    left = time.monotonic()
    wait_until(lambda: id not in open_ids(shared_redis), "the job is closed")
    assert time.monotonic() - left < 2
    assert httpx2.get(f"{gateway.url}/v1/jobs/{id}").json()["status"] == "cancelled"


def test_a_client_that_vanishes_while_it_sends_is_forgotten(gateway: GatewayProcess, http: httpx2.Client) -> None:
    url = httpx2.URL(gateway.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
        connection.sendall(head.encode() + b'X-Request-ID: half\r\n\r\n{"messages": ')
    assert gateway.wait_logged("half")["status"] == 499
    assert "unexpected error" not in gateway.log.read_text()


def test_many_wait_at_once(gateway: GatewayProcess) -> None:
    async def ask_all() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(base_url=gateway.url, timeout=60) as http:
            return await asyncio.gather(*(http.post(PATH, json=chat(f"Number {number}?")) for number in range(200)))

    replies = asyncio.run(ask_all())
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["id"] for reply in replies}) == 200


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_request_that_waits_does_not_hold_its_image(gateway: GatewayProcess, shared_redis: Redis) -> None:
    buffer = BytesIO()
    Image.frombytes("RGB", (1000, 1000), os.urandom(3_000_000)).save(buffer, "PNG", compress_level=0)
    url, image = httpx2.URL(gateway.url), f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": image}}]
    body = json.dumps(slow(30, messages=[{"role": "user", "content": content}])).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with ExitStack() as clients:

        def ask() -> None:
            before = open_ids(shared_redis)
            client = clients.enter_context(socket.create_connection((url.host, url.port)))
            client.sendall(head.encode() + b"\r\n\r\n" + body)
            wait_until(lambda: open_ids(shared_redis) - before, "the job is open")

        # what one request takes at once is taken again by the next
        for _ in range(3):
            ask()
        resident = resident_mb(gateway.process.pid)
        for _ in range(12):
            ask()
        # 12 bodies and images have 84 MB
        assert resident_mb(gateway.process.pid) - resident < 40


def post(asgi: Asgi, body: dict[str, Any], **settings: Any) -> httpx2.Response:
    async def post() -> httpx2.Response:
        async with asgi(**settings) as http:
            return await http.post(PATH, json=body)

    return asyncio.run(post())


def test_without_a_worker_a_request_is_refused_before_it_is_queued(asgi: Asgi, redis: Redis) -> None:
    reply = post(asgi, chat())
    assert (reply.status_code, code(reply)) == (503, "no_worker")
    assert 1 <= int(reply.headers["retry-after"]) <= 66
    assert not open_ids(redis)


def test_a_deadline_passes_also_without_a_worker(asgi: Asgi) -> None:
    reply = post(asgi, chat(vqa={"lane": "bulk", "timeout_s": 1}))
    assert (reply.status_code, code(reply)) == (504, "deadline_exceeded")
    assert reply.headers["x-vqa-job-id"]


def test_a_full_queue_refuses_with_the_time_to_come_again(start_gateway: StartGateway) -> None:
    gateway = start_gateway(VQA_QUEUE_MOST="1")
    with httpx2.Client(base_url=gateway.url, headers={"prefer": "respond-async"}) as http:
        assert http.post(PATH, json=chat()).status_code == 202
        reply = http.post(PATH, json=chat())
    assert (reply.status_code, code(reply)) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
