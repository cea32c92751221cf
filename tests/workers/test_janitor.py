import time
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from redis import Redis

from vqa import DeadlineExceeded, JobGivenUp
from vqa.celery import make_app
from vqa.ledger import Lease, Ledger, outcome_key
from vqa.outcome import decode
from vqa.settings import QueueSettings
from workers.janitor import LOST_ATTEMPTS, Janitor

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


def rounds_until(janitor: Janitor, done: Callable[[], bool], timeout_s: float = 10) -> None:
    until = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < until
        janitor.round()


def take(ledger: Ledger, id: str = "a", lease_s: float = LEASE_S) -> Lease:
    lease = ledger.take(id, "worker", "token", lease_s)
    assert isinstance(lease, Lease)
    return lease


def test_a_job_whose_lease_ran_out_is_published_again(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    take(ledger)
    rounds_until(janitor, lambda: redis.llen("bulk") == 1)
    header = ledger.header("a")
    assert header is not None
    assert (header.state, header.lost, header.attempt, header.error) == (
        "queued",
        1,
        1,
        "WorkerLost: its lease ran out",
    )


def test_a_lease_that_is_renewed_is_left_alone(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    take(ledger)
    until = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < until:
        assert ledger.renew("worker", [("a", "token")], LEASE_S, {}) == []
        janitor.round()
    assert redis.llen("bulk") == 0


def test_leases_are_not_judged_before_workers_could_renew_them(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    take(ledger, lease_s=0)
    janitor.round()
    assert redis.llen("bulk") == 0


def test_a_job_whose_delay_ended_is_published_again(redis: Redis, ledger: Ledger, janitor: Janitor) -> None:
    ledger.accept("a", "interactive", b"{}", 60)
    take(ledger)
    ledger.retry("a", "token", delay_s=0.2, error="EngineError: x")
    janitor.round()
    assert redis.llen("interactive") == 0
    rounds_until(janitor, lambda: redis.llen("interactive") == 1)


@pytest.mark.parametrize("state", ["queued", "leased", "delayed"])
def test_a_deadline_that_passed_closes_the_job_wherever_it_is(
    redis: Redis, app: Celery, ledger: Ledger, janitor: Janitor, state: str
) -> None:
    ledger.accept("a", "bulk", b"{}", 0.2)
    if state != "queued":
        take(ledger, lease_s=60)
    if state == "delayed":
        ledger.retry("a", "token", delay_s=60, error="EngineError: x")
    rounds_until(janitor, lambda: redis.exists(outcome_key("a")) == 1)
    outcome = decode(app.backend, redis.get(outcome_key("a")))
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.attempts == (0 if state == "queued" else 1)
    assert ledger.header("a") is None


def test_a_job_that_lost_its_workers_is_given_up_after_so_many_attempts(
    redis: Redis, app: Celery, ledger: Ledger, janitor: Janitor
) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    for attempt in range(1, LOST_ATTEMPTS + 1):
        assert take(ledger).header.attempt == attempt
        rounds_until(janitor, lambda: (header := ledger.header("a")) is None or header.state == "queued")
    outcome = decode(app.backend, redis.get(outcome_key("a")))
    assert isinstance(outcome, JobGivenUp)
    assert outcome.attempts == LOST_ATTEMPTS


def test_one_janitor_works_at_a_time_and_another_takes_over(
    redis: Redis, app: Celery, ledger: Ledger, settings: QueueSettings, janitor: Janitor
) -> None:
    janitor.round()
    other = Janitor(redis, app, settings)
    ledger.accept("a", "bulk", b"{}", 0)
    other.round()
    assert ledger.header("a") is not None
    redis.delete("vqa:janitor")
    other.round()
    assert ledger.header("a") is None
