"""Attempts that end by an error which is neither the job's nor the engine's."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import cast

import pytest
from celery import Celery
from redis import Redis

from vqa.answer import Answer, Timings, Usage
from vqa.errors import JobGivenUp
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.images.store import ImageStore
from vqa.jobs.job import Job
from vqa.jobs.retry_policy import RetryPolicy
from vqa.ledger.closing import Closing
from vqa.ledger.commands import outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry
from vqa.ledger.records import Ending, Header, Lease
from vqa.results import Outcome, decode
from vqa.settings import QueueSettings
from workers.engine.base import Engine
from workers.jobs.answering import Answering
from workers.jobs.attempt import Attempts
from workers.jobs.endings import Delayed
from workers.jobs.foreign import ForeignJobs
from workers.jobs.image_source import ImageSource
from workers.jobs.leases import Leases
from workers.jobs.text_writer import TextWriter
from workers.media.pool import DecoderPool

ID = "a"


class Policy:
    """Answers every job, so that neither engine nor decoders are needed, and fails on the first `failures` answers."""

    def __init__(self, failures: float) -> None:
        self.failures = failures
        self.runs = 0

    def before(self, job: Job, lease: Lease) -> Answer | None:
        self.runs += 1
        if self.runs <= self.failures:
            raise LookupError("a bug")
        timings = Timings(queued_s=lease.queued_s, media_s=0, engine_s=0, total_s=lease.queued_s)
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        return Answer(
            id=lease.id,
            text="red",
            finish_reason="stop",
            usage=usage,
            timings=timings,
            model="m",
            worker="w",
            attempt=lease.header.attempt,
        )

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        return outcome


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    job = Job(id=ID, messages=[{"role": "user", "content": "?"}], retry=RetryPolicy(base_s=0))
    ledger = Ledger(redis)
    ledger.accept(ID, "bulk", job.to_json(), 60)
    return ledger


def make_attempts(redis: Redis, app: Celery, settings: QueueSettings, policy: Policy) -> Attempts:
    closing, store = Closing(app, Ledger(redis), 60), ImageStore(redis)
    leases = Leases(redis, "worker", 9, {})
    models = ModelRegistry(redis, settings.model_keep_s, settings.lease_s)
    images = ImageSource(store, Fetcher(FetchSettings(), 1), 1)
    answering = Answering("worker", images, cast(DecoderPool, None), cast(Engine, None), leases, TextWriter(redis))
    return Attempts(settings, closing, ForeignJobs(settings, closing, store, models), answering, leases, [policy])


def run_to_the_end(attempts: Attempts, redis: Redis) -> Outcome:
    """Let the job's delays pass at once, as often as it is retried."""
    for _ in range(50):
        redis.zadd("vqa:delayed:bulk", {ID: 1}, xx=True)
        attempts.closing.ledger.release_delayed("bulk", 1)
        with suppress(Delayed, JobGivenUp):
            attempts.answer(ID, None, "bulk")
        if (outcome := redis.get(outcome_key(ID))) is not None:
            return decode(attempts.closing.app.backend, outcome)
    pytest.fail("it is retried for ever")


def test_an_error_of_ours_gives_the_attempt_back_and_is_logged_whole(
    redis: Redis, app: Celery, ledger: Ledger, queue_settings: QueueSettings, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(failures=1)
    attempts = make_attempts(redis, app, queue_settings, policy)
    with caplog.at_level(logging.ERROR), pytest.raises(Delayed):
        attempts.answer(ID, None, "bulk")
    header = ledger.headers([ID])[ID]
    assert (header.attempt, header.lost, header.error) == (
        0,
        0,
        "EngineError: the worker failed on it with LookupError",
    )
    [record] = caplog.records
    assert record.exc_info
    assert f"job {ID} failed with an unexpected error" in record.getMessage()
    outcome = run_to_the_end(attempts, redis)
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.attempt) == ("red", 1)


def test_a_job_on_which_workers_always_fail_is_given_up(
    redis: Redis, app: Celery, ledger: Ledger, queue_settings: QueueSettings
) -> None:
    policy = Policy(failures=float("inf"))
    outcome = run_to_the_end(make_attempts(redis, app, queue_settings, policy), redis)
    assert isinstance(outcome, JobGivenUp)
    # each attempt that counts is repeated twice
    assert policy.runs == 3 * outcome.attempts == 3 * queue_settings.retry("bulk").attempts


def test_an_answer_is_kept_though_redis_clock_was_set_back_since_its_job_was_accepted(
    redis: Redis, app: Celery, ledger: Ledger, queue_settings: QueueSettings
) -> None:
    accepted = ledger.headers([ID])[ID].accepted
    entry = redis.get(f"vqa:job:{ID}") or b""
    redis.set(f"vqa:job:{ID}", entry.replace(f"{accepted}".encode(), f"{accepted + 30_000}".encode()))
    outcome = run_to_the_end(make_attempts(redis, app, queue_settings, Policy(failures=0)), redis)
    assert isinstance(outcome, Answer)
    assert (outcome.timings.queued_s, outcome.attempt) == (0, 1)


def test_a_lease_that_ends_before_it_began_lasts_no_time() -> None:
    header = Header(state="leased", lane="bulk", accepted=2000, deadline=500, attempt=1, lost=0)
    lease = Lease("a", "token", header, b"", taken=1000)
    assert (lease.queued_s, lease.remaining_s) == (0, 0)


class CloseElsewhere(Policy):
    """Lets somebody else close each job while it is answered, as a cancellation does."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(failures=0)
        self.ledger = ledger

    def before(self, job: Job, lease: Lease) -> Answer | None:
        self.ledger.close(Ending(lease.id, "", b"cancelled", 60))
        return super().before(job, lease)


@pytest.mark.parametrize("failures", [pytest.param(0, id="answered"), pytest.param(1, id="retried")])
def test_a_job_that_ends_right_before_a_renewal_is_not_lost(
    failures: int,
    redis: Redis,
    app: Celery,
    ledger: Ledger,
    queue_settings: QueueSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @contextmanager
    def renewed_at_the_end(lease: Lease) -> Iterator[None]:
        with suppress(Delayed):
            yield
        # the second one began after the job was closed
        enough, until = leases.renewals + 2, time.monotonic() + 60
        while leases.renewals < enough:
            assert time.monotonic() < until
            time.sleep(0.01)

    leases, lost = Leases(redis, "worker", 0.3, {}), list[str]()
    leases.start(on_lost=lost.append)
    made = make_attempts(redis, app, queue_settings, Policy(failures))
    attempts = replace(made, leases=leases, around=[renewed_at_the_end])
    try:
        with caplog.at_level(logging.INFO, "workers.jobs.leases"):
            attempts.answer(ID, None, "bulk")
    finally:
        leases.stop()
    assert (leases.lost, lost, len(leases)) == (0, [], 0)
    assert "no longer this worker's" not in caplog.text


def test_a_job_that_is_closed_elsewhere_before_its_answer_is_written_is_lost(
    redis: Redis, app: Celery, ledger: Ledger, queue_settings: QueueSettings
) -> None:
    attempts = make_attempts(redis, app, queue_settings, CloseElsewhere(ledger))
    attempts.answer(ID, None, "bulk")
    assert (attempts.leases.lost, len(attempts.leases)) == (1, 0)
