"""The ledger's script: flushed, refused in the middle, and confirmed by replicas or not."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from tests.proxy import Proxy
from tests.redis_server import RedisServer, flushing_scripts
from vqa.ledger.commands import SCRIPT
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending
from vqa.ledger.script import Script, Unconfirmed
from vqa.redis.connection import connect
from vqa.redis.error_replies import describe, is_temporary
from vqa.settings import Limits, QueueSettings

#: counts its runs, so that one that is sent twice is seen
COUNT = "return {ARGV[1], redis.call('INCR', KEYS[1])}"


def test_no_part_of_the_script_hides_a_name_of_another() -> None:
    named = Counter(re.findall(r"^local (?:function )?(\w+)", SCRIPT, re.MULTILINE))
    assert {name for name, count in named.items() if count > 1} == set()


def test_each_command_runs_once_while_the_scripts_are_flushed(redis: Redis, redis_url: str) -> None:
    script = Script(redis, COUNT)
    with flushing_scripts(redis_url):
        for number in range(200):
            assert script([f"single{number}"], "a") == [b"a", 1]
        for number in range(20):
            keys = [f"piped{number}-{each}" for each in range(200)]
            assert script.run([([key], [key]) for key in keys]) == [[key.encode(), 1] for key in keys]


def test_a_script_that_redis_does_not_know_is_loaded_in_the_call(redis: Redis) -> None:
    script = Script(redis, COUNT)
    for expected in (1, 2):
        redis.script_flush()
        assert script.run([(["one"], ["a"]), (["two"], ["b"])]) == [[b"a", expected], [b"b", expected]]


def test_only_what_was_refused_is_sent_again(redis: Redis, redis_url: str) -> None:
    # the second command is refused until somebody mends it
    text = "if redis.call('EXISTS', 'refuse' .. ARGV[1]) == 1 then return {err='MISCONF disk'} end " + COUNT
    redis.set("refuseb", 1)
    threading.Timer(0.5, redis.delete, ["refuseb"]).start()
    with connect(QueueSettings(redis_url=redis_url), retry_s=10) as patient:
        replies = Script(patient, text).run([([key], [key]) for key in "abc"])
    assert replies == [[key.encode(), 1] for key in "abc"]
    assert [redis.get(key) for key in "abc"] == [b"1"] * 3


def test_a_refusal_lasts_for_as_long_as_the_connection_retries_and_one_that_does_not_pass_comes_first(
    redis: Redis, redis_url: str
) -> None:
    text = "return {err=ARGV[1]}"
    with connect(QueueSettings(redis_url=redis_url), retry_s=1) as connection:
        script, begun = Script(connection, text), time.monotonic()
        with pytest.raises(ResponseError, match="MISCONF") as raised:
            script.run([([], ["MISCONF disk"])] * 2)
        assert 0.9 < time.monotonic() - begun < 3
        assert is_temporary(raised.value)
        begun = time.monotonic()
        with pytest.raises(ResponseError, match="NOPROTO"):
            script.run([([], ["MISCONF disk"]), ([], ["NOPROTO key"])])
        assert time.monotonic() - begun < 0.9


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, Proxy]]:
    """A master, and the way of its replica to it."""
    with ExitStack() as running:
        master = running.enter_context(RedisServer(tmp_path_factory.mktemp("master"), "repl-diskless-sync-delay 0"))
        link = running.enter_context(Proxy(master.port))
        replica = RedisServer(tmp_path_factory.mktemp("replica"), f"replicaof 127.0.0.1 {link.port}")
        running.enter_context(replica)
        with Redis(port=replica.port) as redis:
            until = time.monotonic() + 20
            while redis.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < until
                time.sleep(0.05)
        yield master, link


@pytest.fixture
def ledger(replicated: tuple[RedisServer, Proxy]) -> Iterator[Ledger]:
    master, link = replicated
    with connect(QueueSettings(redis_url=master.url), retry_s=0.5) as redis:
        redis.flushall()
        yield Ledger(redis, Limits(replicas=1))
    link.restore()


def test_what_a_replica_confirms_is_accepted_and_closed(ledger: Ledger) -> None:
    assert ledger.accept("a", "bulk", b"{}", 60) == "accepted"
    assert ledger.close(Ending("a", "", b"outcome", 60))


def test_a_job_that_no_replica_confirms_is_not_accepted_and_named(
    ledger: Ledger, replicated: tuple[RedisServer, Proxy]
) -> None:
    replicated[1].silence()
    for _ in range(2):
        # nothing is written by the second one, and yet it must not count as confirmed
        with pytest.raises(Unconfirmed) as raised:
            ledger.accept("a", "bulk", b"{}", 60)
        assert "UNCONFIRMED" in describe(raised.value)
        assert "job a;" in describe(raised.value)
    replicated[1].restore()
    assert ledger.accept("a", "bulk", b"{}", 60) == "open"


def test_a_replica_that_comes_back_within_the_retries_was_not_away(
    ledger: Ledger, replicated: tuple[RedisServer, Proxy]
) -> None:
    master, link = replicated
    link.silence()
    threading.Timer(1.3, link.restore).start()
    with connect(QueueSettings(redis_url=master.url), retry_s=10) as redis:
        # the first reply counts, not the one to its repetition
        assert Ledger(redis, Limits(replicas=1)).accept("b", "bulk", b"{}", 60) == "accepted"


def test_a_close_that_no_replica_confirms_is_done_and_logged(
    ledger: Ledger, replicated: tuple[RedisServer, Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"c{number}" for number in range(5)]
    for id in ids:
        ledger.accept(id, "bulk", b"{}", 60)
    replicated[1].silence()
    begun = time.monotonic()
    assert all(ledger.close_many([Ending(id, "", b"outcome", 60) for id in ids]))
    assert time.monotonic() - begun < 3
    assert caplog.text.count("fewer than 1 replicas did within 1 s; if Redis fails now, they run again") == 1
