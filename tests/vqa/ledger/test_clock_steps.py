"""Times that Redis's clock makes impossible when it is set back, and what is done with them."""

import time
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from redis import Redis

from tests.faketime import CACHED_S, SteppedClock
from tests.redis_server import RedisServer
from vqa.ledger.lease_check import GAP_S, LeaseCheck
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease
from vqa.ledger.sweep import Sweep
from vqa.settings import QueueSettings

LEASE_S = 9.0
HOUR_MS = 3_600_000
LOST = "WorkerLost: its lease ran out"


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


def take(ledger: Ledger, id: str, lease_s: float = LEASE_S, alone: bool = False) -> Lease:
    assert ledger.accept(id, "bulk", b"{}", 86_400) == "accepted"
    return again(ledger, id, lease_s, alone)


def again(ledger: Ledger, id: str, lease_s: float = LEASE_S, alone: bool = False) -> Lease:
    lease = ledger.take(id, "worker", "token", lease_s, alone)
    assert isinstance(lease, Lease)
    return lease


def later(redis: Redis, state: str, id: str) -> None:
    """As if the clock had been set back by an hour since."""
    redis.zincrby(f"vqa:{state}:bulk", HOUR_MS, id)


def expire(redis: Redis, ledger: Ledger) -> tuple[list[str], list[str]]:
    return ledger.expire("bulk", 10, LOST, redis.time()[0] * 1000, LEASE_S)


def test_a_lease_that_ends_later_than_it_can_is_over(redis: Redis, ledger: Ledger) -> None:
    for id in ("held", "lost"):
        take(ledger, id)
    # of a worker with another VQA_LEASE_S
    take(ledger, "long", lease_s=600)
    later(redis, "leased", "lost")
    assert expire(redis, ledger) == (["lost"], [])
    assert ledger.headers(["lost"])["lost"].lost == 1


def test_a_last_attempt_whose_lease_ends_later_than_it_can_is_given_up(redis: Redis, ledger: Ledger) -> None:
    take(ledger, "a", lease_s=0)
    for last in (False, True):
        assert expire(redis, ledger) == (["a"], [])
        again(ledger, "a", lease_s=LEASE_S if last else 0, alone=True)
    assert not ledger.close(Ending("a", "", b"outcome", 60, "worker_lost", close_if="last"))
    later(redis, "leased", "a")
    assert expire(redis, ledger) == ([], ["a"])
    assert ledger.close(Ending("a", "", b"outcome", 60, "worker_lost", close_if="last"))


def test_leases_are_not_judged_if_the_clock_was_set_back_since_they_were_found_fit(
    redis: Redis, ledger: Ledger
) -> None:
    take(ledger, "a")
    later(redis, "leased", "a")
    before = redis.time()[0] * 1000 + HOUR_MS
    assert ledger.expire("bulk", 10, LOST, before, LEASE_S) == ([], [])


def test_a_delay_that_ends_later_than_it_can_is_over(redis: Redis, ledger: Ledger) -> None:
    for id, delay_s in (("short", 30), ("stepped", 30), ("long", 7200)):
        take(ledger, id)
        ledger.retry(id, "token", delay_s, "EngineError: x")
    later(redis, "delayed", "stepped")
    assert ledger.release_delayed("bulk", 10) == ["stepped"]


def test_a_job_queued_in_the_future_is_queued_now_and_its_lost_message_is_found(redis: Redis, ledger: Ledger) -> None:
    ledger.accept("a", "bulk", b"{}", 86_400)
    later(redis, "queued", "a")
    assert ledger.requeue("bulk", 1, None, 10) == []
    until = time.monotonic() + 10
    while ledger.requeue("bulk", 1, None, 10) != ["a"]:
        assert time.monotonic() < until


def test_a_worker_seen_in_the_future_does_not_live(redis: Redis, ledger: Ledger) -> None:
    seen = redis.time()[0] * 1000 + HOUR_MS
    redis.hset("vqa:workers", "gone", f'{{"seen": {seen}}}\n{{"slots": 1000}}')
    ledger.renew("here", [], LEASE_S, {"slots": 30})
    assert redis.get("vqa:capacity") == b"30"
    assert [worker.name for worker in ledger.workers(LEASE_S)] == ["here"]
    assert ledger.vanished_workers(60) == ["gone"]


def test_the_lock_of_a_janitor_that_vanished_before_the_clock_was_set_back_is_taken(
    redis: Redis, app: Celery, queue_settings: QueueSettings
) -> None:
    sweep = Sweep(redis, app, queue_settings)
    redis.set("vqa:janitor", "gone", px=4000)
    assert not sweep.try_lock()
    redis.set("vqa:janitor", "gone", px=HOUR_MS)
    assert sweep.try_lock()
    assert 0 < redis.pttl("vqa:janitor") <= 5000


def passes(check: LeaseCheck) -> None:
    """Ask until leases may be judged."""
    until = time.monotonic() + 10
    while check.time_ms() is None:
        check.answered()
        assert time.monotonic() < until
        time.sleep(0.05)
    check.answered()


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, SteppedClock]]:
    folder = tmp_path_factory.mktemp("stepped")
    clock = SteppedClock(folder / "clock")
    with RedisServer(folder / "redis", program=clock.server) as server:
        yield server, clock


@pytest.mark.parametrize(
    "interrupt",
    [
        lambda server, clock: clock.step_to(30),
        lambda server, clock: clock.step_to(-3600),
        lambda server, clock: (server.stop(), server.start()),
        lambda server, clock: time.sleep(GAP_S),
    ],
    ids=["forward", "back", "restart", "gap"],
)
def test_leases_are_not_judged_until_workers_had_time_to_renew_them(
    stepped: tuple[RedisServer, SteppedClock], interrupt: Callable[[RedisServer, SteppedClock], object]
) -> None:
    server, clock = stepped
    lease_s = 2.0
    with Redis(port=server.port) as redis:
        check = LeaseCheck(redis, lease_s)
        assert check.time_ms() is None
        passes(check)
        interrupt(server, clock)
        until = time.monotonic() + CACHED_S + 1
        while (at_ms := check.time_ms()) is not None:
            check.answered()
            assert time.monotonic() < until, at_ms
            time.sleep(0.05)
        noticed = time.monotonic()
        passes(check)
        assert time.monotonic() - noticed > lease_s - 0.5
