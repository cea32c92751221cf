"""Whatever an entry holds, the script ends: the job is taken as it is, or set aside whole with the reason."""

import json
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError

from vqa.errors import InvalidJob
from vqa.ledger.batches import Batches
from vqa.ledger.closing import Closing
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.damage import Damage
from vqa.ledger.ledger import DEAD, DEADLINES, Ledger
from vqa.ledger.records import Ending, Header, Lease, Unreadable, WorkerInfo
from vqa.settings import Limits
from workers.jobs.log_context import logging_about_job

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["queued", "bulk"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(Header.__dataclass_fields__)), inner)
    ),
    max_leaves=5,
)
FIELDS = {"state": "queued", "lane": "bulk", "accepted": 1, "deadline": 2**45, "attempt": 0, "lost": 0, "reply": ""}


@st.composite
def headers(draw: Any) -> bytes:
    """A good header of which some fields are replaced."""
    changed = draw(st.dictionaries(st.sampled_from(list(Header.__dataclass_fields__)), JSON, max_size=3))
    return json.dumps(FIELDS | changed).encode()


ENTRIES = st.binary(max_size=40) | st.builds(
    lambda head: head + b"\n{}", headers() | JSON.map(json.dumps).map(str.encode)
)


@given(entry=ENTRIES)
@example(entry=json.dumps(FIELDS | {"trace": float("nan"), "history": [{"n": float("nan")}]}).encode() + b"\n{}")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_entry_makes_a_verb_fail_and_none_is_lost(entry: bytes, redis: Redis) -> None:
    redis.flushall()
    ledger, key = Ledger(redis), entry_key("job")
    redis.set(key, entry)
    for name in (DEADLINES, "vqa:queued:bulk", "vqa:leased:bulk", "vqa:delayed:bulk"):
        redis.zadd(name, {"job": 1})
    flaw = Damage(redis).entry_flaws(["job"]).get("job")
    ledger.headers(["job"])
    if flaw is None:
        # what the script can read, its callers can
        assert isinstance(ledger.headers(["job"])["job"], Header)
    ledger.renew("worker", [("job", "token")], 9, {})
    taken = ledger.take("job", "worker", "token", 9)
    ledger.retry("job", "token")
    ledger.requeue("bulk", 0, None, 10)
    ledger.release_delayed("bulk", 10)
    ledger.overdue(10)
    ledger.promote("bulk")
    if flaw is None:
        assert isinstance(taken, Lease) or taken in ("held", "overdue", "alone")
        assert not redis.exists(dead_key("job"))
        ledger.close(Ending("job", "", b"outcome", 60))
    else:
        assert taken == "closed"
        head, _, payload = redis.get(dead_key("job")).partition(b"\n")
        assert Header.parse(head).reason == f"damaged: {flaw}"
        assert payload == entry
        assert redis.zscore(DEAD, "job") is not None
        assert json.loads(redis.get(outcome_key("job")))["result"]["exc_type"] == "JobGivenUp"
        assert redis.zscore(DEADLINES, "job") is None


@given(raw=st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_a_parser_raise_anything_else(raw: bytes) -> None:
    for parse in (
        lambda data: Header.parse(data).times(),
        lambda data: WorkerInfo.parse(b"w", data),
        lambda data: WorkerInfo.parse(data, b'{"seen": 1}\n{}'),
    ):
        try:
            parse(raw)
        except Unreadable:
            continue


INFINITE = float("inf")
#: what is told of a job, as no program of ours writes it
TOLD = (
    *({"taken": taken} for taken in ("x", [1], INFINITE)),
    *({"trace": trace} for trace in ([1], 5, {"a": 1})),
    {"worker": [1]},
    {"history": [{"attempt": INFINITE, "worker": "w", "taken": 1, "ended": INFINITE, "error": "e", "token": 5}]},
)


@pytest.mark.parametrize("damage", TOLD, ids=str)
def test_damaged_times_and_traces_keep_no_job_from_being_closed(
    damage: dict[str, Any], redis: Redis, app: Celery
) -> None:
    ledger = Ledger(redis)
    redis.set(entry_key("damaged"), json.dumps(FIELDS | damage).encode() + b"\n{}")
    assert ledger.accept("neighbour", "bulk", b"{}", 60) == "accepted"
    with logging_about_job(Lease("damaged", "token", ledger.headers(["damaged"])["damaged"], b"", 1)):
        assert Closing(app, ledger, 60).close_all(["damaged", "neighbour"], InvalidJob("as an example"))[-1:] == [
            "neighbour"
        ]


def test_a_damaged_job_of_a_batch_counts_as_failed(redis: Redis) -> None:
    batches, ledger, batch = Batches(redis), Ledger(redis), f"batch_{'0' * 24}"
    batches.create(batch, "bulk")
    assert ledger.accept(f"{batch}:1", "bulk", b"{}", 60, batch=batch) == "accepted"
    batches.seal(batch, 1)
    redis.set(entry_key(f"{batch}:1"), "garbage")
    assert ledger.take(f"{batch}:1", "worker", "token", 9) == "closed"
    state = batches.get(batch)
    assert state is not None
    assert (state.status, state.failed, dict(state.codes)) == ("completed", 1, {"job_given_up": 1})


@pytest.mark.parametrize("entry", [b"", b"garbage"])
def test_an_entry_is_set_aside_in_a_full_redis(entry: bytes, redis: Redis) -> None:
    ledger = Ledger(redis)
    redis.set(entry_key("job"), entry)
    redis.config_set("maxmemory", 1)
    try:
        assert ledger.take("job", "worker", "token", 9) == "closed"
    finally:
        redis.config_set("maxmemory", 0)
    assert redis.get(dead_key("job")).endswith(b"\n" + entry)


def test_a_job_that_a_damaged_set_keeps_out_is_not_taken_for_an_open_one(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(tenant=1))
    assert ledger.accept("first", "bulk", b"{}", 60, tenant="a", may_wait=True) == "accepted"
    redis.set("vqa:waiting:bulk:a", "another program's")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        ledger.accept("second", "bulk", b"{}", 60, tenant="a", may_wait=True)
    redis.delete("vqa:waiting:bulk:a")
    assert ledger.accept("second", "bulk", b"{}", 60, tenant="a", may_wait=True) == "waiting"
    assert redis.zscore("vqa:deadlines", "second")
    assert redis.zrange("vqa:waiting:bulk:a", 0, -1) == [b"second"]
