"""Whose bulk job is next, against a real Redis; test_ledger_model.py has the same in any order."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from redis import Redis

from vqa.ledger.commands import entry_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease
from vqa.settings import Limits

LEASE_S = 60.0


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


def submit(ledger: Ledger, tenant: str | None, count: int, lane: str = "bulk", timeout_s: float = 60) -> list[str]:
    """Jobs as a producer submits them; what became of each."""
    ids = (f"{tenant}-{lane}-{number:05d}" for number in range(count))
    return [ledger.accept(id, lane, b"{}", timeout_s, tenant=tenant, may_wait=True) for id in ids]


def take(ledger: Ledger, id: str) -> Lease:
    lease = ledger.take(id, "worker", f"token-{id}", LEASE_S)
    assert isinstance(lease, Lease)
    return lease


def take_refused(ledger: Ledger, id: str) -> str:
    refusal = ledger.take(id, "worker", "token", LEASE_S)
    assert isinstance(refusal, str)
    return refusal


def queued(redis: Redis) -> list[str]:
    return [id.decode() for id in redis.zrange("vqa:queued:bulk", 0, -1)]


def answer_everything(ledger: Ledger, redis: Redis) -> list[str]:
    """One job after the other, as they are published; their ids in that order."""
    published, answered = queued(redis), []
    while published:
        id = published.pop(0)
        published += take(ledger, id).promoted
        published += ledger.close(Ending(id, f"token-{id}", b"outcome", 60)).promoted
        answered.append(id)
    return answered


def tenants(ids: Sequence[str]) -> list[str]:
    return [id.partition("-")[0] for id in ids]


def test_bulk_jobs_wait_once_enough_are_queued_and_interactive_ones_never_do(ledger: Ledger, redis: Redis) -> None:
    assert submit(ledger, "a", 70) == ["accepted"] * 64 + ["waiting"] * 6
    assert submit(ledger, "a", 70, "interactive") == ["accepted"] * 70
    assert submit(ledger, "a", 70) == ["open"] * 64 + ["waiting"] * 6
    counts = ledger.counts()
    assert counts["bulk"] == {"waiting": 6, "queued": 64, "leased": 0, "delayed": 0}
    assert counts["interactive"] == {"waiting": 0, "queued": 70, "leased": 0, "delayed": 0}


def test_more_are_queued_for_more_slots_and_those_of_vanished_workers_do_not_count(
    ledger: Ledger, redis: Redis
) -> None:
    redis.hset("vqa:workers", "gone", '{"seen": 5}\n{"slots": 1000}')
    ledger.renew("one", [], 9, {"slots": 30, "model": "m"})
    ledger.renew("other", [], 9, {"slots": 20})
    # counted at most once a second
    assert redis.get("vqa:capacity") == b"30"
    redis.pexpire("vqa:capacity", 10 * 9000 - 1000)
    ledger.renew("wordless", [], 9, {})
    assert redis.get("vqa:capacity") == b"50"
    assert 0 < redis.pttl("vqa:capacity") <= 90_000
    assert submit(ledger, "a", 120).count("waiting") == 20


def test_a_job_that_waits_is_held_back_from_whoever_has_a_message_for_it(ledger: Ledger) -> None:
    submit(ledger, "a", 65)
    assert ledger.take("a-bulk-00064", "worker", "t", LEASE_S) == "held"


def test_nobody_is_overtaken_by_somebody_who_comes_later(ledger: Ledger, redis: Redis) -> None:
    submit(ledger, "a", 65)
    for id in queued(redis)[:10]:
        take(ledger, id)
    assert submit(ledger, "b", 1) == ["waiting"]


def test_a_take_queues_what_it_is_the_turn_of_once_half_of_it_is_gone(ledger: Ledger, redis: Redis) -> None:
    submit(ledger, "a", 200)
    first = queued(redis)
    promoted = [len(take(ledger, id).promoted) for id in first[:33]]
    assert promoted == [0] * 32 + [33]
    assert len(queued(redis)) == 64


def test_few_jobs_of_one_do_not_wait_for_the_many_of_another(ledger: Ledger, redis: Redis) -> None:
    submit(ledger, "a", 1000)
    submit(ledger, "b", 10)
    answered = answer_everything(ledger, redis)
    assert len(answered) == len(set(answered)) == 1010
    # those that were queued before it came, and one of the other's for each of its own
    assert max(number for number, tenant in enumerate(tenants(answered)) if tenant == "b") < 64 + 33 + 20
    assert not redis.exists("vqa:flight:bulk", "vqa:turns:bulk", "vqa:queued:bulk", "vqa:deadlines")
    assert redis.keys("vqa:waiting:*") == []


def test_jobs_that_name_no_tenant_have_their_turn_as_those_of_one(ledger: Ledger, redis: Redis) -> None:
    submit(ledger, "a", 500)
    submit(ledger, None, 50)
    submit(ledger, "c", 50)
    order = tenants(answer_everything(ledger, redis))
    served = [tenant for tenant in order[64:] if order.count(tenant)]
    turns = "".join(tenant[0] for tenant in served[: 3 * 50])
    assert all(before != after for before, after in pairwise(turns))


def test_a_tenant_has_no_more_in_flight_than_it_may(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(tenant=5))
    assert submit(ledger, "a", 20) == ["accepted"] * 5 + ["waiting"] * 15
    assert submit(ledger, "b", 3) == ["accepted"] * 3
    assert take(ledger, "a-bulk-00000").promoted == ()
    assert redis.hgetall("vqa:flight:bulk") == {b"a": b"5", b"b": b"3"}
    # one that is put off is in flight as before
    assert ledger.retry("a-bulk-00000", "token-a-bulk-00000", delay_s=60)
    assert ledger.promote("bulk") == []
    take(ledger, "a-bulk-00001")
    closed = ledger.close(Ending("a-bulk-00001", "token-a-bulk-00001", b"outcome", 60))
    assert closed.promoted == ("a-bulk-00005",)
    assert redis.hgetall("vqa:flight:bulk") == {b"a": b"5", b"b": b"3"}


def test_a_job_whose_message_is_there_never_waits(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(tenant=1))
    submit(ledger, "a", 70)
    assert ledger.accept("foreign", "bulk", b"{}", 60, tenant="a") == "accepted"
    assert isinstance(ledger.take("foreign", "worker", "t", LEASE_S), Lease)


def test_a_job_that_waits_is_cancelled_and_late_as_any_other(ledger: Ledger, redis: Redis) -> None:
    submit(ledger, "a", 64)
    submit(ledger, "b", 1, timeout_s=0)
    submit(ledger, "c", 1)
    assert ledger.overdue(10) == ["b-bulk-00000"]
    assert ledger.close(Ending("b-bulk-00000", "", b"late", 60, close_if="overdue"))
    assert ledger.close(Ending("c-bulk-00000", "", b"cancelled", 60))
    assert redis.keys("vqa:waiting:*") == redis.keys("vqa:turns:*") == []
    assert redis.hgetall("vqa:flight:bulk") == {b"a": b"64"}


def test_waiting_jobs_are_among_those_that_a_lane_may_hold(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(open_jobs=66))
    assert submit(ledger, "a", 67) == ["accepted"] * 64 + ["waiting"] * 2 + ["full"]
    assert submit(ledger, "a", 1, "interactive") == ["accepted"]


def test_an_entry_of_an_earlier_release_is_answered_and_not_counted(ledger: Ledger, redis: Redis) -> None:
    header = '{"state":"queued","lane":"bulk","accepted":1,"deadline":99999999999999,"attempt":0,"lost":0,"reply":""}'
    redis.set(entry_key("old"), f"{header}\n{{}}")
    redis.zadd("vqa:queued:bulk", {"old": 1})
    redis.zadd("vqa:deadlines", {"old": 99999999999999})
    submit(ledger, "a", 64)
    assert take(ledger, "old").header.tenant is None
    assert ledger.retry("old", "token-old")
    take(ledger, "old")
    assert ledger.close(Ending("old", "token-old", b"outcome", 60, "worker_lost", "x"))
    assert redis.hgetall("vqa:flight:bulk") == {b"a": b"63"}
    assert ledger.reopen("old", 60) == "waiting"


def test_what_was_counted_and_removed_by_hand_holds_nobody_up_for_ever(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(tenant=1))
    submit(ledger, "a", 3)
    assert ledger.promote("bulk") == []
    redis.delete(entry_key("a-bulk-00000"))
    redis.zrem("vqa:queued:bulk", "a-bulk-00000")
    redis.delete(entry_key("a-bulk-00001"))
    assert ledger.promote("bulk") == ["a-bulk-00002"]


@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_tenant_gets_back_the_room_of_an_entry_that_is_gone(redis: Redis, how: str) -> None:
    ledger = Ledger(redis, Limits(tenant=2))
    submit(ledger, "a", 4)
    submit(ledger, "b", 1)
    lost = "a-bulk-00000"
    take(ledger, lost)
    if how == "damaged":
        redis.set(entry_key(lost), "cut")
        assert ledger.renew("worker", [(lost, f"token-{lost}")], LEASE_S, {}) == [lost]
    else:
        redis.delete(entry_key(lost))
        redis.zadd("vqa:leased:bulk", {lost: 1})
        assert ledger.expire("bulk", 10, "x", redis.time()[0] * 1000, LEASE_S) == ([], [])
    # the lane stays busy
    assert ledger.promote("bulk") == ["a-bulk-00002"]
    assert redis.hgetall("vqa:flight:bulk") == {b"a": b"2", b"b": b"1"}
    assert sorted(answer_everything(ledger, redis)) == ["a-bulk-00001", "a-bulk-00002", "a-bulk-00003", "b-bulk-00000"]
    assert redis.hgetall("vqa:flight:bulk") == {}


def test_no_count_is_left_once_no_job_is(ledger: Ledger, redis: Redis) -> None:
    submit(ledger, "a", 1)
    redis.set(entry_key("a-bulk-00000"), "cut")
    assert take_refused(ledger, "a-bulk-00000") == "closed"
    assert ledger.promote("bulk") == []
    assert not redis.exists("vqa:flight:bulk")


def test_counts_that_were_lost_are_made_again(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(tenant=2))
    submit(ledger, "a", 4)
    redis.delete("vqa:flight:bulk")
    assert ledger.promote("bulk") == []
    assert redis.hgetall("vqa:flight:bulk") == {b"a": b"2"}


def test_turns_are_given_in_a_full_redis(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(tenant=70))
    submit(ledger, "a", 80)
    submit(ledger, "b", 2)
    for id in queued(redis)[:20]:
        ledger.close(Ending(id, "", b"cancelled", 60))
    redis.config_set("maxmemory", 1)
    try:
        assert len(ledger.promote("bulk")) == 18
    finally:
        redis.config_set("maxmemory", 0)
