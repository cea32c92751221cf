"""Jobs by their ids, and requests that are sent again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from redis import Redis

from producer.gateway.chat.job_object import JobObject
from producer.ids import new_id
from tests.producer.gateway.chat_bodies import chat, open_ids, slow
from tests.producer.gateway.conftest import Asgi

PATH = "/v1/chat/completions"
LATER = {"prefer": "respond-async"}


def submit(http: httpx2.Client, body: dict[str, Any]) -> str:
    reply = http.post(PATH, json=body, headers=LATER)
    assert reply.status_code == 202, reply.text
    return str(reply.headers["location"])


def test_a_request_may_get_its_answer_later(http: httpx2.Client) -> None:
    reply = http.post(PATH, json=chat("Later?"), headers={"prefer": "wait=5, Respond-Async"})
    assert reply.status_code == 202
    assert reply.headers["preference-applied"] == "respond-async"
    job = JobObject.model_validate_json(reply.content, extra="forbid")
    assert reply.headers["location"] == f"/v1/jobs/{job.id}"
    assert reply.headers["x-vqa-job-id"] == job.id
    done = JobObject.model_validate_json(http.get(reply.headers["location"], params={"wait": 30}).content)
    assert done.status == "completed"
    assert done.completion is not None
    now = http.post(PATH, json=chat("Later?")).json()
    assert done.completion.choices[0].message.content == now["choices"][0]["message"]["content"]


async def _submit_unread(asgi: Asgi, redis: Redis) -> httpx2.Response:
    async with asgi() as http:
        # of all commands, only the look at the accepted job fails
        redis.execute_command("ACL", "SETUSER", "default", "-mget")
        try:
            return await http.post(PATH, json=chat("Later?", vqa={"lane": "bulk"}), headers=LATER)
        finally:
            redis.execute_command("ACL", "SETUSER", "default", "+mget")


def test_an_accepted_job_is_told_as_accepted_though_redis_fails_then(asgi: Asgi, redis: Redis) -> None:
    reply = asyncio.run(_submit_unread(asgi, redis))
    assert reply.status_code == 202, reply.text
    job = JobObject.model_validate_json(reply.content)
    assert reply.headers["location"] == f"/v1/jobs/{job.id}"
    assert (job.status, job.lane) == ("queued", "bulk")
    assert open_ids(redis) == {job.id}


def test_a_look_at_a_running_job_tells_how_long_it_has(http: httpx2.Client) -> None:
    address = submit(http, slow(20, vqa={"timeout_s": 40}))
    started = time.monotonic()
    job = http.get(address).json()
    assert time.monotonic() - started < 1
    assert job["status"] in ("queued", "running")
    assert 35 < job["remaining_s"] <= 40
    assert job["deadline"] == pytest.approx(time.time() + job["remaining_s"], abs=2)
    assert job["lane"] == "interactive"
    assert job["completion"] is None
    http.delete(address)


def test_a_look_may_wait_for_the_end(http: httpx2.Client) -> None:
    address = submit(http, slow(3))
    assert http.get(address, params={"wait": 0.1}).json()["status"] != "completed"
    assert http.get(address, params={"wait": 20}).json()["status"] == "completed"


def test_a_job_is_cancelled_once(http: httpx2.Client) -> None:
    address = submit(http, slow(20))
    reply = http.delete(address)
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert reply.json()["error"]["code"] == "cancelled"
    again = http.delete(address)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "job_over")
    assert http.get(address).json()["status"] == "cancelled"


def test_a_failed_job_tells_why(http: httpx2.Client) -> None:
    address = submit(http, chat("?", metadata={"echo_fail": "PromptTooLong"}))
    job = http.get(address, params={"wait": 20}).json()
    assert (job["status"], job["error"]["code"]) == ("failed", "prompt_too_long")


@pytest.mark.parametrize(
    "id",
    [new_id("chatcmpl", None), new_id("chatcmpl", "other"), new_id("batch", None), "chatcmpl_", "%00", "é" * 40],
    # the same in all processes of a run
    ids=["none", "of another tenant", "of a batch", "cut off", "a null byte", "not ASCII"],
)
def test_a_job_of_somebody_else_is_as_unknown_as_none(http: httpx2.Client, id: str) -> None:
    for method in ("GET", "DELETE"):
        reply = http.request(method, f"/v1/jobs/{id}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "x"])
def test_a_wait_has_bounds(http: httpx2.Client, wait: str) -> None:
    reply = http.get(f"/v1/jobs/{new_id('chatcmpl', None)}", params={"wait": wait})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "wait")


def test_a_request_that_is_sent_again_does_not_run_twice(http: httpx2.Client) -> None:
    headers = {"idempotency-key": new_id("key", None)}
    body = chat("Once?", temperature=1, seed=None)
    replies = [http.post(PATH, json=body, headers=headers) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 200]
    first, second = (reply.json() for reply in replies)
    # timings differ from run to run
    assert (first["id"], first["vqa"]) == (second["id"], second["vqa"])
    streamed = http.post(PATH, json=body | {"stream": True}, headers=headers)
    assert streamed.headers["x-vqa-job-id"] == first["id"]
    assert first["choices"][0]["message"]["content"] in streamed.text
    later = http.post(PATH, json=body, headers=headers | LATER)
    assert (later.status_code, later.json()["status"]) == (202, "completed")


def test_a_key_belongs_to_one_body(http: httpx2.Client) -> None:
    headers = {"idempotency-key": new_id("key", None)}
    assert http.post(PATH, json=chat("This?"), headers=headers).status_code == 200
    reply = http.post(PATH, json=chat("That?"), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "key_reused")


def test_a_request_with_a_key_goes_on_when_its_client_leaves(http: httpx2.Client) -> None:
    headers = {"idempotency-key": new_id("key", None)}
    with pytest.raises(httpx2.ReadTimeout):
        http.post(PATH, json=slow(1.0), headers=headers, timeout=0.4)
    reply = http.post(PATH, json=slow(1.0), headers=headers)
    assert reply.status_code == 200, reply.text
    with http.stream("POST", PATH, json=slow(1.2) | {"stream": True}, headers={"idempotency-key": "left"}) as stream:
        assert stream.status_code == 200
    assert http.post(PATH, json=slow(1.2), headers={"idempotency-key": "left"}).status_code == 200


def test_a_key_has_bounds(http: httpx2.Client) -> None:
    assert http.post(PATH, json=chat(), headers={"idempotency-key": "k" * 257}).status_code == 400


def in_process(asgi: Asgi, work: Callable[[httpx2.AsyncClient], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with asgi(**settings) as http:
            await work(http)

    asyncio.run(run())


def test_a_job_waits_for_a_worker_until_its_deadline(asgi: Asgi) -> None:
    async def work(http: httpx2.AsyncClient) -> None:
        reply = await http.post(PATH, json=chat(vqa={"timeout_s": 3}), headers=LATER)
        assert reply.status_code == 202
        address = reply.headers["location"]
        assert (await http.get(address)).json()["status"] == "queued"
        job = (await http.get(address, params={"wait": 10})).json()
        assert (job["status"], job["error"]["code"]) == ("failed", "deadline_exceeded")

    in_process(asgi, work)


def test_a_refused_request_may_be_sent_again_with_its_key(asgi: Asgi) -> None:
    async def work(http: httpx2.AsyncClient) -> None:
        headers = {"idempotency-key": "again"}
        assert (await http.post(PATH, json=chat(), headers=headers)).status_code == 503
        assert (await http.post(PATH, json=chat(), headers=headers | LATER)).status_code == 202
        reply = await http.post(PATH, json=chat(), headers=headers | LATER)
        assert (reply.status_code, reply.json()["status"]) == (202, "queued")

    in_process(asgi, work)
