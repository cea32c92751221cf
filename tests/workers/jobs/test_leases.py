import queue
import time
from collections.abc import Iterator

import pytest
from redis import Redis

from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease
from workers.jobs.leases import Leases

LEASE_S = 0.6
WAIT_S = 10.0


def expire(redis: Redis) -> tuple[list[str], list[str]]:
    """What a janitor's sweep does with leases that ran out."""
    seconds, _ = redis.time()
    return Ledger(redis).expire("bulk", 1, "WorkerLost", seconds * 1000, LEASE_S)


@pytest.fixture
def lost() -> "queue.Queue[str]":
    return queue.Queue()


@pytest.fixture
def leases(redis: Redis, lost: "queue.Queue[str]") -> Iterator[Leases]:
    leases = Leases(redis, "worker", LEASE_S, {"slots": 1})
    leases.start(on_lost=lost.put)
    yield leases
    leases.stop()


@pytest.fixture
def lease(redis: Redis) -> Lease:
    ledger = Ledger(redis)
    ledger.accept("a", "bulk", b"{}", 60)
    lease = ledger.take("a", "worker", "token", LEASE_S)
    assert isinstance(lease, Lease)
    return lease


def test_what_is_held_is_renewed_before_its_lease_runs_out(redis: Redis, leases: Leases, lease: Lease) -> None:
    until = float(redis.zscore("vqa:leased:bulk", "a") or 0)
    with leases.holding(lease):
        while float(redis.zscore("vqa:leased:bulk", "a") or 0) < until + 2 * LEASE_S * 1000:
            assert expire(redis) == ([], [])
        assert leases.holds(lease)


def test_a_job_closed_elsewhere_is_dropped_at_once(
    redis: Redis, leases: Leases, lease: Lease, lost: "queue.Queue[str]"
) -> None:
    with leases.holding(lease):
        Ledger(redis).close(Ending("a", "", b"cancelled", 60))
        assert lost.get(timeout=WAIT_S) == "a"
        assert not leases.holds(lease)


def test_a_job_that_another_worker_took_is_dropped_at_the_next_renewal(
    redis: Redis, lease: Lease, lost: "queue.Queue[str]"
) -> None:
    while not expire(redis)[0]:
        pass
    Ledger(redis).take("a", "other", "other token", 60)
    leases = Leases(redis, "worker", LEASE_S, {})
    with leases.holding(lease):
        leases.start(on_lost=lost.put)
        assert lost.get(timeout=WAIT_S) == "a"
    leases.stop()


def test_a_worker_that_stops_is_no_longer_listed(redis: Redis) -> None:
    leases = Leases(redis, "worker", LEASE_S, {"slots": 1})
    leases.start(on_lost=lambda id: None)
    while not Ledger(redis).workers(within_s=5):
        pass
    leases.stop()
    assert Ledger(redis).workers(within_s=5) == []


def test_what_an_engine_that_hangs_holds_is_not_renewed(redis: Redis, lease: Lease) -> None:
    leases = Leases(redis, "worker", LEASE_S, {})
    with leases.holding(lease):
        leases.start(on_lost=lambda id: None, engine_alive=lambda: False)
        until = time.monotonic() + WAIT_S
        while expire(redis) != (["a"], []):
            assert time.monotonic() < until
    leases.stop()


def test_a_worker_whose_engine_has_hung_for_a_while_is_listed_soon_after_it_recovers(redis: Redis) -> None:
    looks = iter([False])
    leases = Leases(redis, "worker", 600, {})
    leases.start(on_lost=lambda id: None, engine_alive=lambda: next(looks, True))
    until = time.monotonic() + WAIT_S
    while not Ledger(redis).workers(within_s=5):
        assert time.monotonic() < until
    leases.stop()
