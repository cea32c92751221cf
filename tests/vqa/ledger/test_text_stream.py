"""What the ledger keeps and deletes for jobs whose text is streamed."""

import json
from typing import Any, cast

import pytest
from redis import Redis

from vqa.jobs.job import Job
from vqa.ledger.commands import Command, accept_command, entry_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Header, Lease
from vqa.ledger.text_stream import Portion, stream_key
from vqa.settings import Limits

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PAYLOAD = Job(messages=[{"role": "user", "content": "?"}]).to_json()


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


def _accept(ledger: Ledger, **fields: Any) -> None:
    command = accept_command("a", "interactive", PAYLOAD, 60, "vqa:reply:x", Limits(), **fields)
    assert ledger.accept_many([command]) == ["accepted"]


def _take(ledger: Ledger) -> Lease:
    lease = ledger.take("a", "worker", "token", 9)
    assert isinstance(lease, Lease)
    return lease


def test_whoever_takes_a_job_sees_whether_it_is_streamed_and_its_trace(ledger: Ledger) -> None:
    _accept(ledger, stream=True, trace=TRACE)
    header = _take(ledger).header
    assert (header.stream, header.trace, header.reply) == (True, TRACE, "vqa:reply:x")


def test_other_jobs_have_no_field_for_it(ledger: Ledger, redis: Redis) -> None:
    _accept(ledger)
    stored = redis.get(entry_key("a"))
    assert isinstance(stored, bytes)
    assert not {"stream", "trace"} & json.loads(stored.partition(b"\n")[0]).keys()
    header = _take(ledger).header
    assert (header.stream, header.trace) == (False, None)


def test_a_producer_of_an_earlier_release_gives_two_arguments_less(ledger: Ledger) -> None:
    keys, arguments = accept_command("a", "interactive", PAYLOAD, 60, "", Limits())
    earlier: Command = (keys, arguments[:-2])
    assert ledger.accept_many([earlier]) == ["accepted"]
    header = _take(ledger).header
    assert (header.stream, header.trace) == (False, None)


def test_a_worker_keeps_the_fields_of_later_releases_and_does_not_read_them(ledger: Ledger, redis: Redis) -> None:
    _accept(ledger, stream=True)
    entry = redis.get(entry_key("a"))
    assert isinstance(entry, bytes)
    redis.set(entry_key("a"), entry.replace(b"{", b'{"later":[1],', 1))
    lease = _take(ledger)
    assert lease.header.stream
    stored = redis.get(entry_key("a"))
    assert isinstance(stored, bytes)
    assert json.loads(stored.partition(b"\n")[0])["later"] == [1]
    assert Header.parse(stored.partition(b"\n")[0]) == lease.header


@pytest.mark.parametrize("token", ["token", ""], ids=["answered", "cancelled"])
def test_the_end_of_a_job_deletes_its_stream(ledger: Ledger, redis: Redis, token: str) -> None:
    _accept(ledger, stream=True)
    _take(ledger)
    redis.xadd(stream_key("a"), {"text": "gre"})
    assert ledger.close(Ending("a", token, b"outcome", 60))
    assert not redis.exists(stream_key("a"))


def test_a_dead_letter_is_retried_with_its_trace_and_streamed_to_nobody(ledger: Ledger) -> None:
    _accept(ledger, stream=True, trace=TRACE)
    _take(ledger)
    assert ledger.close(Ending("a", "token", b"outcome", 60, reason="attempts_used_up"))
    assert ledger.reopen("a", 60) == "interactive"
    header = _take(ledger).header
    assert (header.stream, header.trace) == (False, TRACE)


def test_a_portion_is_read_as_it_was_written(redis: Redis) -> None:
    portion = Portion(2, 1_700_000_000_000, 5, "naïve \n\0 猫")
    redis.xadd("x", portion.fields())
    [(_, fields)] = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrange("x"))
    assert Portion.parse(fields | {b"later": b"1"}) == portion


@pytest.mark.parametrize(
    "damage", [{b"text": b"\xff"}, {b"attempt": b"one"}, {b"start": b""}, {b"taken": None}, {b"text": None}], ids=str
)
def test_a_damaged_portion_is_none(damage: dict[bytes, bytes | None]) -> None:
    fields = {b"attempt": b"1", b"taken": b"1", b"start": b"0", b"text": b"a"} | damage
    assert Portion.parse({name: value for name, value in fields.items() if value is not None}) is None
