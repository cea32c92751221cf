"""The thread that writes the text of streamed answers, on a real Redis."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from tests.redis_server import RedisServer
from vqa.ledger.records import Header, Lease
from vqa.ledger.text_stream import STREAM_TTL_MS, Portion, stream_key
from vqa.redis.connection import connect
from vqa.settings import QueueSettings
from workers.jobs.text_buffer import MOST_UNWRITTEN
from workers.jobs.text_writer import ROUND_S, OnText, TextWriter

SOON_S = 20.0


def lease(id: str, reply: str = "", stream: bool = True) -> Lease:
    header = Header("leased", "interactive", 0, 60_000, attempt=2, lost=0, reply=reply, stream=stream)
    return Lease(id, "token", header, b"", taken=7)


def portions(redis: Redis, id: str) -> list[Portion]:
    entries = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrange(stream_key(id)))
    return [portion for _, fields in entries if (portion := Portion.parse(fields))]


def text(redis: Redis, id: str) -> str:
    return "".join(portion.text for portion in portions(redis, id))


def soon(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


@contextmanager
def running(redis: Redis) -> Iterator[TextWriter]:
    writer = TextWriter(redis)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()


@pytest.fixture
def writer(redis: Redis) -> Iterator[TextWriter]:
    with running(redis) as writer:
        yield writer


@contextmanager
def writing(writer: TextWriter, id: str, reply: str = "") -> Iterator[OnText]:
    with writer.writing(lease(id, reply)) as on_text:
        assert on_text is not None
        yield on_text


def test_pieces_are_written_with_their_attempt_and_place(writer: TextWriter, redis: Redis) -> None:
    with writing(writer, "a") as on_text:
        on_text("naïve ")
        soon(lambda: text(redis, "a") == "naïve ")
        on_text("cat")
        soon(lambda: text(redis, "a") == "naïve cat")
        assert portions(redis, "a") == [Portion(2, 7, 0, "naïve "), Portion(2, 7, 6, "cat")]
        assert 0 < redis.pttl(stream_key("a")) <= STREAM_TTL_MS


def test_many_pieces_are_gathered_and_the_first_is_not_held_back(writer: TextWriter, redis: Redis) -> None:
    began = time.monotonic()
    with writing(writer, "a") as on_text:
        for number in range(200):
            on_text(f"{number} ")
            time.sleep(0.001)
        took_s = time.monotonic() - began
        soon(lambda: text(redis, "a").endswith("199 "))
        written = portions(redis, "a")
        assert text(redis, "a") == "".join(f"{number} " for number in range(200))
        assert len(written[0].text.split()) < 20
        # one a round, the first piece, and one for what is written at the end
        assert len(written) <= took_s / ROUND_S + 3


def test_the_client_is_told_once_a_round_which_of_its_jobs_have_new_text(writer: TextWriter, redis: Redis) -> None:
    with writing(writer, "a", "vqa:reply:x") as a, writing(writer, "b", "vqa:reply:x") as b:
        a("one")
        b("two")
        soon(lambda: text(redis, "a") + text(redis, "b") == "onetwo")
        soon(lambda: redis.llen("vqa:reply:x") == 2)
        assert set(redis.lrange("vqa:reply:x", 0, -1)) == {b"a", b"b"}
        assert redis.pttl("vqa:reply:x") > 0


def test_for_a_job_that_nobody_streams_there_is_nothing_to_call(writer: TextWriter, redis: Redis) -> None:
    with writer.writing(lease("a", "vqa:reply:x", stream=False)) as on_text:
        assert on_text is None
    assert redis.keys() == []


def test_what_comes_after_the_end_is_not_written(writer: TextWriter, redis: Redis) -> None:
    with writing(writer, "a") as on_text:
        on_text("gre")
        soon(lambda: text(redis, "a") == "gre")
    on_text("en")
    with writing(writer, "b") as on_text:
        on_text("later")
        soon(lambda: text(redis, "b") == "later")
    assert text(redis, "a") == "gre"


def test_a_stream_that_another_program_has_overwritten_keeps_no_other_back(
    writer: TextWriter, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.set(stream_key("a"), "a secret")
    with writing(writer, "a") as a, writing(writer, "b") as b:
        a("lost")
        began = time.monotonic()
        for number in range(3):
            b(str(number))
            soon(lambda said=str(number): text(redis, "b").endswith(said))
        assert time.monotonic() - began < 0.4
    assert redis.get(stream_key("a")) == b"a secret"
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "WRONGTYPE" in record.getMessage()
    assert "lost" not in record.getMessage()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        yield server


def _connect(server: RedisServer) -> Redis:
    return connect(QueueSettings(redis_url=server.url, redis_timeout_s=0.5), retry_s=0)


def test_while_redis_is_silent_the_engine_does_not_wait_and_the_text_follows(server: RedisServer) -> None:
    with _connect(server) as redis, running(redis) as writer, writing(writer, "a") as on_text:
        on_text("before")
        soon(lambda: text(redis, "a") == "before")
        server.pause()
        began = time.monotonic()
        for _ in range(1000):
            on_text(".")
        assert time.monotonic() - began < 0.2
        time.sleep(0.7)
        server.resume()
        # a round whose reply came too late is written again, from the same place
        soon(lambda: max(portion.start + len(portion.text) for portion in portions(redis, "a")) == 1006)
        assert {portion.start for portion in portions(redis, "a")} <= {0, 6}


def test_a_restarted_redis_gets_the_text_from_where_it_was(server: RedisServer) -> None:
    with _connect(server) as redis, running(redis) as writer, writing(writer, "a") as on_text:
        on_text("before ")
        soon(lambda: text(redis, "a") == "before ")
        server.kill()
        on_text("while ")
        server.start()
        on_text("after")
        soon(lambda: text(redis, "a").endswith("after"))
        assert text(redis, "a") == "before while after"


def test_while_redis_is_away_only_so_much_text_waits(server: RedisServer) -> None:
    with (
        _connect(server) as redis,
        running(redis) as writer,
        writing(writer, "b") as other,
        writing(writer, "a") as on_text,
    ):
        server.kill()
        for _ in range(MOST_UNWRITTEN // 64 + 1):
            on_text("x" * 64)
        other("y")
        server.start()
        soon(lambda: text(redis, "b") == "y")
        on_text("with a gap before it")
        other("z")
        soon(lambda: text(redis, "b") == "yz")
        assert portions(redis, "a") == []


def test_a_full_redis_loses_text_and_the_writer_goes_on(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with _connect(server) as redis, running(redis) as writer:
        redis.config_set("maxmemory", "1")
        with writing(writer, "a") as on_text:
            on_text("lost")
            soon(lambda: any("OOM" in record.getMessage() for record in caplog.records))
        redis.config_set("maxmemory", "0")
        with writing(writer, "b") as on_text:
            on_text("written")
            soon(lambda: text(redis, "b") == "written")


def test_it_ends_when_it_is_stopped_even_while_redis_is_away(server: RedisServer) -> None:
    with _connect(server) as redis, running(redis) as writer, writing(writer, "a") as on_text:
        server.kill()
        on_text("x")
        began = time.monotonic()
        writer.stop()
        assert time.monotonic() - began < 2
        assert not writer._thread.is_alive()


def test_a_writer_that_was_never_started_can_be_stopped(redis: Redis) -> None:
    TextWriter(redis).stop()
