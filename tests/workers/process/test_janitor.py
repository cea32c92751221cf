import time
from collections.abc import Iterator

import pytest
from celery import Celery
from redis import Redis

from vqa.celery import make_app
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Lease
from vqa.settings import QueueSettings
from workers.process.janitor import Janitor

LEASE_S = 0.3


@pytest.fixture
def settings(redis_url: str) -> QueueSettings:
    return QueueSettings(redis_url=redis_url, lease_s=LEASE_S)


@pytest.fixture
def app(settings: QueueSettings) -> Iterator[Celery]:
    with make_app(settings) as app:
        yield app


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def janitor(redis: Redis, app: Celery, settings: QueueSettings) -> Janitor:
    return Janitor(redis, app, settings)


def test_a_lease_that_ran_out_is_judged_after_some_rounds(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    assert isinstance(ledger.take("a", "worker", "token", 0), Lease)
    # workers may not have been able to renew before
    janitor.round()
    assert redis.llen("bulk") == 0
    until = time.monotonic() + 10
    while redis.llen("bulk") == 0:
        assert time.monotonic() < until
        janitor.round()


def test_a_lease_that_is_renewed_is_left_alone(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    ledger.take("a", "worker", "token", LEASE_S)
    until = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < until:
        assert ledger.renew("worker", [("a", "token")], LEASE_S, {}) == []
        janitor.round()
    assert redis.llen("bulk") == 0


def test_one_that_may_not_judge_leases_yet_does_not_keep_those_from_it_that_may(
    redis: Redis, ledger: Ledger, janitor: Janitor
) -> None:
    ledger.accept("a", "bulk", b"{}", 0)
    janitor.round()
    # what needs no judgement is done
    assert ledger.headers(["a"]).get("a") is None
    assert not redis.exists("vqa:janitor")
    until = time.monotonic() + 10
    while not redis.exists("vqa:janitor"):
        assert time.monotonic() < until
        janitor.round()


def test_a_redis_that_was_held_up_is_a_gap_too(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    until = time.monotonic() + 10
    while not redis.exists("vqa:janitor"):
        assert time.monotonic() < until
        janitor.round()
    ledger.accept("a", "bulk", b"{}", 60)
    ledger.take("a", "worker", "token", LEASE_S)
    # longer than the lease, and than the gap that is forgiven
    redis.client_pause(4000)
    janitor.round()
    header = ledger.headers(["a"]).get("a")
    assert header is not None
    assert (header.state, header.lost) == ("leased", 0)
