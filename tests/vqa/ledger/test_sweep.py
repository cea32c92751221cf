"""What a sweep does with jobs that are due, and with messages that were lost."""

from collections.abc import Callable

import pytest
from celery import Celery
from redis import Redis

from vqa import DeadlineExceeded, JobGivenUp
from vqa.celery import wake
from vqa.ledger.commands import dead_key, outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.lost_messages import LOST_MESSAGE_S
from vqa.ledger.records import Lease
from vqa.ledger.sweep import Sweep, SweepResult
from vqa.results import decode
from vqa.settings import QueueSettings

RunSweep = Callable[[], SweepResult]


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def sweep(redis: Redis, app: Celery, queue_settings: QueueSettings) -> RunSweep:
    return lambda: Sweep(redis, app, queue_settings).run(lease_check_ms=redis.time()[0] * 1000)


def take(ledger: Ledger, id: str = "a", token: str = "token", lease_s: float = 0, alone: bool = False) -> Lease:
    lease = ledger.take(id, "worker", token, lease_s, alone)
    assert isinstance(lease, Lease)
    return lease


def queue(redis: Redis, ledger: Ledger, app: Celery, *ids: str, ago_s: float = 0, message: bool = True) -> None:
    """Jobs that were queued so long ago, each a millisecond after the one before."""
    now = redis.time()[0] * 1000
    for id in ids:
        assert ledger.accept(id, "bulk", b"{}", 3600) == "accepted"
    redis.zadd("vqa:queued:bulk", {id: now - ago_s * 1000 + number for number, id in enumerate(ids)})
    if message:
        wake(app, [(id, "bulk") for id in ids])


def test_a_job_whose_lease_ran_out_is_published_again(redis: Redis, ledger: Ledger, sweep: RunSweep) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    take(ledger)
    assert sweep().lost == 1
    header = ledger.headers(["a"]).get("a")
    assert header is not None
    seen = (header.state, header.lost, header.attempt, header.error)
    assert seen == ("queued", 1, 1, "WorkerLost: its lease ran out")
    assert redis.llen("bulk") == 1


def test_a_job_whose_delay_ended_is_published_again(redis: Redis, ledger: Ledger, sweep: RunSweep) -> None:
    ledger.accept("a", "interactive", b"{}", 60)
    take(ledger, lease_s=60)
    ledger.retry("a", "token", delay_s=0.3, error="EngineError: x")
    assert sweep().delayed == 0
    while not sweep().delayed:
        pass
    assert redis.llen("interactive") == 1


@pytest.mark.parametrize("state", ["queued", "leased", "delayed"])
def test_a_deadline_that_passed_closes_the_job_wherever_it_is(
    redis: Redis, app: Celery, ledger: Ledger, sweep: RunSweep, state: str
) -> None:
    ledger.accept("a", "bulk", b"{}", 0.2)
    if state != "queued":
        take(ledger, lease_s=60)
    if state == "delayed":
        ledger.retry("a", "token", delay_s=60, error="EngineError: x")
    while not sweep().overdue:
        pass
    outcome = decode(app.backend, redis.get(outcome_key("a")))
    assert isinstance(outcome, DeadlineExceeded)
    assert outcome.attempts == (0 if state == "queued" else 1)
    assert ledger.headers(["a"]).get("a") is None


def test_a_job_that_lost_its_last_worker_is_a_dead_letter(
    redis: Redis, app: Celery, ledger: Ledger, sweep: RunSweep
) -> None:
    ledger.accept("a", "bulk", b"{}", 60)
    for attempt in (1, 2, 3):
        assert take(ledger, alone=attempt == 3).header.attempt == attempt
        swept = sweep()
    assert (swept.lost, swept.given_up) == (0, 1)
    outcome = decode(app.backend, redis.get(outcome_key("a")))
    assert isinstance(outcome, JobGivenUp)
    assert str(outcome).startswith("worker_lost: ")
    assert outcome.attempts == 3
    assert redis.exists(dead_key("a"))


def test_a_job_whose_message_was_lost_is_published_again(
    redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep
) -> None:
    queue(redis, ledger, app, "lost", ago_s=60, message=False)
    queue(redis, ledger, app, *(f"waits-{number}" for number in range(50)), ago_s=50)
    assert sweep().lost_messages == 1
    assert redis.llen("bulk") == 51
    assert sweep().lost_messages == 0


def test_jobs_without_any_message_are_published_again_but_not_at_once(
    redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep
) -> None:
    queue(redis, ledger, app, "old", ago_s=LOST_MESSAGE_S + 1, message=False)
    queue(redis, ledger, app, "new", ago_s=LOST_MESSAGE_S - 2, message=False)
    assert sweep().lost_messages == 1
    assert b'"old"' in redis.lindex("bulk", 0)
    assert redis.llen("bulk") == 1


def test_a_long_queue_whose_messages_are_there_is_left_alone(
    redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep
) -> None:
    queue(redis, ledger, app, *map(str, range(3000)), ago_s=600)
    assert sweep().lost_messages == 0
    assert redis.llen("bulk") == 3000


def test_messages_that_nobody_needs_are_read_past(redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep) -> None:
    redis.lpush("bulk", b"not JSON", b"[]", b'{"headers": {"id": 5}}')
    wake(app, [(f"closed-{number}", "bulk") for number in range(2500)])
    queue(redis, ledger, app, "lost", ago_s=60, message=False)
    queue(redis, ledger, app, "waits", ago_s=50)
    assert sweep().lost_messages == 1
    assert b'"lost"' in redis.lindex("bulk", 0)


def test_a_message_that_was_put_back_behind_others_costs_one_too_many(
    redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep
) -> None:
    queue(redis, ledger, app, "old", ago_s=600, message=False)
    queue(redis, ledger, app, *map(str, range(1500)), ago_s=500)
    wake(app, [("old", "bulk")])
    assert sweep().lost_messages == 1
    assert sweep().lost_messages == 0


def test_one_sweeps_at_a_time_and_another_takes_over(redis: Redis, app: Celery, queue_settings: QueueSettings) -> None:
    one, other = Sweep(redis, app, queue_settings), Sweep(redis, app, queue_settings)
    assert one.try_lock()
    assert one.try_lock()
    assert not other.try_lock()
    redis.delete("vqa:janitor")
    assert other.try_lock()


def test_workers_that_are_long_gone_are_struck_off(redis: Redis, ledger: Ledger, sweep: RunSweep) -> None:
    redis.hset("vqa:workers", "gone@host", '{"seen": 5}\n{}')
    ledger.renew("here@host", [], 9, {})
    sweep()
    assert [worker.name for worker in ledger.workers(float("inf"))] == ["here@host"]


def test_producers_that_overtake_each_other_cost_no_second_message(
    redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep
) -> None:
    chunks = [[f"{producer}-{number}" for number in range(500)] for producer in ("slow", "fast")]
    for ids in chunks:
        queue(redis, ledger, app, *ids, ago_s=60, message=False)
    # accepted first, published last
    for ids in reversed(chunks):
        wake(app, [(id, "bulk") for id in ids])
    assert sweep().lost_messages == 0


def test_a_queued_id_whose_entry_was_removed_is_not_published_for_ever(
    redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep
) -> None:
    queue(redis, ledger, app, "gone", ago_s=60, message=False)
    redis.delete("vqa:job:gone")
    assert sweep().lost_messages == 0
    assert redis.zcard("vqa:queued:bulk") == 0


def test_in_a_full_redis_what_is_late_is_closed(redis: Redis, ledger: Ledger, app: Celery, sweep: RunSweep) -> None:
    queue(redis, ledger, app, "lost", ago_s=60, message=False)
    ledger.accept("late", "bulk", b"{}", 0)
    redis.config_set("maxmemory", 1)
    try:
        assert sweep().overdue == 1
    finally:
        redis.config_set("maxmemory", 0)
