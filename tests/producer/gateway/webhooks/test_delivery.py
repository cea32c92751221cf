"""Attempts to deliver: what ends them, what is tried again and when, and what a receiver cannot do."""

import asyncio
import logging
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler

import pytest
from redis import Redis

from producer.gateway.webhooks import delivery
from producer.gateway.webhooks.records import DUE
from producer.gateway.webhooks.schedule import DELAYS_S, delay_s
from tests.producer.gateway.webhooks.conftest import Process, Rounds, due_now, opened
from tests.producer.gateway.webhooks.receiver import Answer, Receiver, status
from vqa.settings import QueueSettings


async def make_due(process: Process, url: str, id: str = "job-1", key_id: str = "") -> None:
    """A webhook whose job has ended."""
    await process.records.watch(id, url, "", key_id)
    await process.records.ended(id, "vqa.job.answered", '{"type":"vqa.job.answered"}')


def now_s(redis: Redis) -> float:
    seconds, micros = redis.time()
    return float(seconds + micros / 1e6)


def wait_s(redis: Redis, id: str = "job-1", since_s: float | None = None) -> float:
    """Seconds until the next attempt, from now or from an earlier time."""
    score = redis.zscore(DUE, id)
    assert score is not None
    return float(score) / 1000 - (now_s(redis) if since_s is None else since_s)


def state(redis: Redis, id: str = "job-1") -> bytes | None:
    found: bytes | None = redis.hget(f"vqa:webhook:{id}", "state")
    return found


@pytest.mark.parametrize("code", [200, 201, 204, 299])
def test_a_success_ends_it(rounds: Rounds, receiver: Receiver, redis: Redis, code: int) -> None:
    async def body(process: Process) -> None:
        receiver.always = status(code)
        await make_due(process, receiver.url)
        await process.deliver()
        assert (len(receiver.received), state(redis), redis.zcard(DUE)) == (1, b"delivered", 0)

    rounds(body)


def test_it_is_tried_again_with_the_same_id_and_a_fresh_time(
    rounds: Rounds, receiver: Receiver, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(process: Process) -> None:
        caplog.set_level(logging.INFO, delivery.__name__)
        receiver.answers = [status(500), status(404), status(302, Location=f"{receiver.url}/elsewhere")]
        await make_due(process, f"{receiver.url}?token=secret-of-the-receiver")
        for attempt in range(4):
            began = now_s(redis)
            await process.deliver()
            if attempt < 3:
                assert DELAYS_S[attempt] * 0.99 <= wait_s(redis, since_s=began)
                assert wait_s(redis) <= DELAYS_S[attempt] * 1.21
                # not before it is due
                await process.deliver()
                assert len(receiver.received) == attempt + 1
                if attempt == 0:
                    await asyncio.sleep(1)
            due_now(redis)
        assert state(redis) == b"delivered"
        # a redirect is not followed
        assert {request.path for request in receiver.received} == {"/hook?token=secret-of-the-receiver"}
        assert len({request.id for request in receiver.received}) == 1
        first, *_, last = [request.headers["webhook-timestamp"] for request in receiver.received]
        assert int(last) > int(first)
        for request in receiver.received:
            assert request.verified() == {"type": "vqa.job.answered"}
        lines = [record.getMessage() for record in caplog.records if record.name == delivery.__name__]
        assert len(lines) == 4
        assert "attempt 1: HTTP 500; again in" in lines[0]
        assert "secret" not in "".join(lines)

    rounds(body)


def test_it_is_given_up_after_a_good_day(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    async def body(process: Process) -> None:
        receiver.always = status(503)
        await make_due(process, receiver.url)
        waited_s = 0.0
        for _ in range(20):
            await process.deliver()
            if redis.zcard(DUE):
                waited_s += wait_s(redis)
            due_now(redis)
        assert len(receiver.received) == len(DELAYS_S) + 1
        assert 24 * 3600 < waited_s < 36 * 3600
        assert state(redis) == b"given_up"

    rounds(body)


def test_a_receiver_may_ask_for_time(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)

    async def body(process: Process) -> None:
        asked: list[tuple[Answer, float, float]] = [
            (status(429, Retry_After="1000"), 990, 1010),
            (status(503, Retry_After=in_an_hour), 3580, 3610),
            # less than our own pause has no effect, nor has nonsense; a day is the most
            (status(503, Retry_After="1"), 1790, 2170),
            (status(503, Retry_After="soon"), 7190, 8650),
            (status(503, Retry_After="Mon, 01 Jan 99999999999999999999 00:00:00 GMT"), 17_990, 21_610),
            (status(503, Retry_After="99999999999"), 86_000, 86_410),
        ]
        await make_due(process, receiver.url)
        for answer, shortest_s, longest_s in asked:
            receiver.answers = [answer]
            await process.deliver()
            assert shortest_s < wait_s(redis) < longest_s
            due_now(redis)

    rounds(body)


def test_pauses_differ() -> None:
    assert len({delay_s(1) for _ in range(20)}) > 10
    assert delay_s(len(DELAYS_S) + 1, 60) is None


def test_410_disables_the_url_for_what_its_key_asked_for_before(
    rounds: Rounds, receiver: Receiver, redis: Redis
) -> None:
    async def body(process: Process) -> None:
        receiver.answers = [status(410)]
        await make_due(process, receiver.url, "first", "key_1")
        await process.records.watch("second", receiver.url, "", "key_1")
        await process.deliver()
        await process.records.ended("second", "vqa.job.answered", "{}")
        await process.deliver()
        assert (state(redis, "first"), state(redis, "second")) == (b"gone", b"gone")
        assert len(receiver.received) == 1
        # another key, and another URL
        await make_due(process, receiver.url, "third", "key_2")
        await make_due(process, f"{receiver.url}/other", "fourth", "key_1")
        time.sleep(0.002)
        # named again since
        await make_due(process, receiver.url, "fifth", "key_1")
        await process.deliver()
        assert len(receiver.received) == 4
        assert {state(redis, id) for id in ("third", "fourth", "fifth")} == {b"delivered"}

    rounds(body)


def after(seconds: float) -> Answer:
    """Answer late."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        status(204)(handler)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        handler.wfile.write(b"x" * 65536)
        time.sleep(0.02)


def endless_header(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(100):
        handler.wfile.write(b"x" * 65536)


def endless_interim(handler: BaseHTTPRequestHandler) -> None:
    with suppress(OSError):
        for _ in range(10_000):
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 smtp.example ESMTP\r\n")
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def test_a_response_is_not_read_beyond_its_headers(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    async def body(process: Process) -> None:
        receiver.answers = [drip]
        await make_due(process, receiver.url)
        # the rest would take 20 s, longer than an attempt may
        await process.deliver()
        assert state(redis) == b"delivered"

    rounds(body)


@pytest.mark.parametrize("answer", [endless_header, endless_interim, no_http, hang_up])
def test_what_is_no_response_is_a_failure(rounds: Rounds, receiver: Receiver, redis: Redis, answer: Answer) -> None:
    async def body(process: Process) -> None:
        receiver.answers = [answer]
        await make_due(process, receiver.url)
        began, at = time.process_time(), now_s(redis)
        await process.deliver()
        # of this event loop, which others wait for
        assert time.process_time() - began < 2
        assert wait_s(redis, since_s=at) > 4
        assert wait_s(redis) < 7

    rounds(body)


def test_an_unexpected_error_counts_as_a_failure(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    async def body(process: Process) -> None:
        await process.records.watch("job-1", receiver.url, "whsec_a", "")
        await process.records.ended("job-1", "vqa.job.answered", "{}")
        at = now_s(redis)
        await process.deliver()
        assert wait_s(redis, since_s=at) > 4
        assert wait_s(redis) < 7

    rounds(body)


def test_a_receiver_that_does_not_answer_is_left_after_a_while(
    rounds: Rounds, receiver: Receiver, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.gateway.webhooks.sender.TIMEOUT_S", 0.3)
    left = threading.Event()

    def held(handler: BaseHTTPRequestHandler) -> None:
        left.wait(15)
        status(204)(handler)

    async def body(process: Process) -> None:
        receiver.answers = [held]
        await make_due(process, receiver.url)
        began, at = time.monotonic(), now_s(redis)
        try:
            await process.deliver()
            # it has not answered yet
            assert receiver.now == 1
        finally:
            left.set()
        assert time.monotonic() - began > 0.2
        assert wait_s(redis, since_s=at) > 4
        assert wait_s(redis) < 7

    rounds(body)


def test_nobody_listens_or_the_host_is_unknown(rounds: Rounds, redis: Redis) -> None:
    async def body(process: Process) -> None:
        await make_due(process, "http://127.0.0.1:1/", "closed")
        await make_due(process, "http://no-such-host.invalid/", "unknown")
        await process.deliver()
        for id in ("closed", "unknown"):
            assert 0 < wait_s(redis, id) < 7

    rounds(body)


def test_nothing_is_sent_to_a_private_address(
    queue_settings: QueueSettings, receiver: Receiver, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, delivery.__name__)

    async def main() -> None:
        async with opened(queue_settings, private=False) as process:
            for number, host in enumerate(("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0", "127.1")):
                await make_due(process, f"http://{host}:{receiver.port}/", f"job-{number}")
            await process.deliver()
            assert receiver.received == []
            # tried again, as a name may get another address
            assert redis.zcard(DUE) == 5

    asyncio.run(main())
    assert caplog.text.count("not every address of the host is public") >= 4
    assert caplog.text.count("again in") == 5


def test_two_processes_send_nothing_twice(
    rounds: Rounds, queue_settings: QueueSettings, receiver: Receiver, redis: Redis
) -> None:
    async def body(one: Process) -> None:
        async with opened(queue_settings) as two:
            for number in range(40):
                await make_due(one, receiver.url, f"job-{number}")
            while redis.zcard(DUE):
                await asyncio.gather(one.deliver(), two.deliver())
        assert len(receiver.received) == len({request.id for request in receiver.received}) == 40

    rounds(body)


def test_an_attempt_whose_process_died_is_made_again_when_its_lease_has_run_out(
    rounds: Rounds, queue_settings: QueueSettings, receiver: Receiver, redis: Redis
) -> None:
    async def body(one: Process) -> None:
        receiver.answers = [after(0.5)]
        await make_due(one, receiver.url)
        async with opened(queue_settings) as dies:
            await dies.deliveries.start()
            await asyncio.to_thread(receiver.wait, 1)
            await dies.deliveries.finish(0)
        assert 15 < wait_s(redis) <= 20
        await one.deliver()
        assert len(receiver.received) == 1
        due_now(redis)
        await one.deliver()
        first, second = receiver.received
        assert first.id == second.id
        assert state(redis) == b"delivered"

    rounds(body)


def test_slow_receivers_do_not_hold_up_others(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    all_came = threading.Event()

    def held(handler: BaseHTTPRequestHandler) -> None:
        assert all_came.wait(14)
        status(204)(handler)

    async def body(process: Process) -> None:
        receiver.answers = [held] * 20
        for number in range(30):
            await make_due(process, receiver.url, f"job-{number:02}")
        assert not await process.deliveries.start()
        await asyncio.to_thread(receiver.wait, 30, 12)
        assert receiver.now >= 20
        all_came.set()
        await process.deliveries.finish(10)
        assert {state(redis, f"job-{number:02}") for number in range(30)} == {b"delivered"}

    rounds(body)


def test_a_receiver_without_tls_gets_nothing_of_an_https_url(rounds: Rounds, receiver: Receiver, redis: Redis) -> None:
    async def body(process: Process) -> None:
        await make_due(process, receiver.url.replace("http:", "https:"))
        at = now_s(redis)
        await process.deliver()
        assert receiver.received == []
        assert wait_s(redis, since_s=at) > 4
        assert wait_s(redis) < 7

    rounds(body)
