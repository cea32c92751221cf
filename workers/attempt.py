"""One attempt at a job: take -> media -> engine -> close. Knows the ledger and the engine, not Celery's tasks."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from celery import Celery

from vqa import outcome
from vqa.answer import Answer, Timings, Usage
from vqa.celery import wake
from vqa.connection import UNREACHED
from vqa.errors import DeadlineExceeded, EngineError, JobGivenUp, VQAError
from vqa.job import ImagePart, Job, Lane
from vqa.ledger import Lease, Ledger, Refusal
from vqa.outcome import Outcome, close_with
from vqa.settings import QueueSettings
from vqa.store import ImageStore
from workers.engine.base import Completion, Engine, Prompt, Turn
from workers.janitor import LOST_ATTEMPTS
from workers.lease import Leases
from workers.media import Media

log = logging.getLogger(__name__)


class Delayed(Exception):
    """The attempt failed with a transient error, and the ledger holds the job until its delay is over."""

    def __init__(self, error: VQAError, delay_s: float) -> None:
        super().__init__(f"{type(error).__name__}, again in {delay_s:.1f} s")
        self.error = error
        self.delay_s = delay_s


@dataclass(frozen=True)
class Foreign:
    """What another Celery app put into its message: a job, it may be."""

    body: object


@dataclass(frozen=True)
class Attempts:
    """What a worker needs to answer jobs; one instance a process, used by all of its threads."""

    worker: str
    settings: QueueSettings
    app: Celery
    ledger: Ledger
    store: ImageStore
    media: Media
    engine: Engine
    leases: Leases
    #: set when the engine is of no use any more
    crashed: threading.Event

    def take(self, id: str, foreign: Foreign | None, lane: Lane) -> Lease | Refusal:
        """The job of that id; one that the ledger does not know is adopted where another app sent it.

        Raises the error with which the job was closed here: past its deadline, or no job at all.
        """
        token = uuid.uuid4().hex
        lease = self.ledger.take(id, self.worker, token, self.settings.lease_s)
        if lease == "unknown" and foreign is not None:
            self._adopt(id, foreign.body, lane)
            lease = self.ledger.take(id, self.worker, token, self.settings.lease_s)
        if lease == "late":
            error = DeadlineExceeded("the job's timeout ran out while it was queued")
            close_with(self.ledger, self.app.backend, id, error, self.settings.result_ttl_s)
            raise error
        return lease

    def run(self, lease: Lease) -> None:
        """Answer it. Returns when it is closed; raises its error when it ended with one, Delayed when it goes on."""
        with self.leases.holding(lease):
            result: Outcome | None
            try:
                result = self._answer(lease)
            except VQAError as error:
                result = error
            except UNREACHED as error:
                result = EngineError(f"its pictures could not be fetched from Redis ({type(error).__name__})")
            except Exception as error:
                log.exception("job %s met a bug of ours", lease.id)
                result = EngineError(f"the worker failed on it with {type(error).__name__}")
            if isinstance(result, EngineError) and self.crashed.is_set():
                result = self._pass_on(lease, result)
            elif isinstance(result, VQAError) and result.retry:
                result = self._retry(lease, result)
            if result is not None:
                self._close(lease, result)
        if isinstance(result, VQAError):
            raise result

    def give_back(self, lease: Lease) -> None:
        """Back to the queue at once, as if it had not been taken."""
        if self.ledger.retry(lease.id, lease.token, counted=False):
            wake(self.app, [(lease.id, lease.header.lane)])

    def _answer(self, lease: Lease) -> Answer:
        started = time.monotonic()
        deadline = started + lease.remaining_s
        job = Job.from_json(lease.payload)
        prompt = Prompt(
            id=lease.id,
            turns=self._turns(job, deadline),
            max_new_tokens=job.max_new_tokens,
            temperature=job.temperature,
            stop=job.stop,
            lane=lease.header.lane,
            deadline=deadline,
            attempt=lease.header.attempt,
            metadata=job.metadata,
        )
        media_s = time.monotonic() - started
        completion = self._complete(lease, prompt)
        elapsed_s = time.monotonic() - started
        return Answer(
            id=lease.id,
            text=completion.text,
            finish_reason=completion.finish_reason,
            usage=Usage(prompt_tokens=completion.prompt_tokens, completion_tokens=completion.completion_tokens),
            timings=Timings(
                queued_s=lease.queued_s,
                media_s=round(media_s, 4),
                engine_s=round(elapsed_s - media_s, 4),
                total_s=round(lease.queued_s + elapsed_s, 4),
            ),
            model=self.engine.model,
            worker=self.worker,
            attempt=lease.header.attempt,
            last_error=lease.header.error,
        )

    def _turns(self, job: Job, deadline: float) -> tuple[Turn, ...]:
        # a picture that is shown several times is fetched and decoded once
        names = list(dict.fromkeys(part.image for part in job.images()))
        references = [name for name in names if isinstance(name, str)]
        stored = dict(zip(references, self.store.get_many(references), strict=True))
        decoded = self.media.decode([stored[name] if isinstance(name, str) else name for name in names], deadline)
        pictures = dict(zip(names, decoded, strict=True))
        return tuple(
            Turn(
                message.role,
                tuple(pictures[part.image] if isinstance(part, ImagePart) else part.text for part in message.content),
            )
            for message in job.messages
        )

    def _complete(self, lease: Lease, prompt: Prompt) -> Completion:
        future = self.engine.submit(prompt)
        # one that was closed before is not known to the engine when it is told
        if not self.leases.holds(lease):
            self.engine.cancel(prompt.id)
        try:
            return future.result(timeout=max(0.0, prompt.deadline - time.monotonic()))
        except FutureTimeout:
            # the engine's own alarm comes first, unless its threads are starved or hang
            self.engine.cancel(prompt.id)
            raise DeadlineExceeded("the job's timeout ran out while it was being answered") from None

    def _retry(self, lease: Lease, error: VQAError) -> VQAError | None:
        policy = Job.from_json(lease.payload).retry or self.settings.retry(lease.header.lane)
        if lease.header.attempt >= policy.attempts:
            return error
        delay_s = random.uniform(0, policy.longest_delay_s(lease.header.attempt))
        if self.ledger.retry(lease.id, lease.token, delay_s, f"{type(error).__name__}: {error}"):
            if round(delay_s * 1000) == 0:
                wake(self.app, [(lease.id, lease.header.lane)])
            raise Delayed(error, delay_s)
        return None

    def _pass_on(self, lease: Lease, error: VQAError) -> VQAError | None:
        """To another worker: this one's engine is gone, which is nothing that the job's own retry policy is about."""
        if lease.header.attempt >= LOST_ATTEMPTS:
            return JobGivenUp(f"given up after {lease.header.attempt} attempts: {type(error).__name__}: {error}")
        if self.ledger.retry(lease.id, lease.token, 0, f"{type(error).__name__}: {error}"):
            wake(self.app, [(lease.id, lease.header.lane)])
            raise Delayed(error, 0)
        return None

    def _adopt(self, id: str, body: object, lane: Lane) -> None:
        try:
            fields: Any = {**body, "id": id, "lane": lane} if isinstance(body, Mapping) else body
            job = self.settings.resolved(Job.from_json(fields))
            contents = [part.image for part in job.images() if isinstance(part.image, bytes)]
            timeout_s = job.timeout_s or self.settings.timeout_s(lane)
            job = job.with_images(self.store.put_many(contents, timeout_s))
        except VQAError as error:
            if self.ledger.accept(id, lane, b"", self.settings.timeout_s(lane)) == "accepted":
                close_with(self.ledger, self.app.backend, id, error, self.settings.result_ttl_s)
            raise
        self.ledger.accept(id, lane, job.to_json(), timeout_s)

    def _close(self, lease: Lease, result: Outcome) -> None:
        encoded = outcome.encode(self.app.backend, lease.id, result, lease.header.attempt, lease.header.error)
        if not self.ledger.close(lease.id, lease.token, encoded, self.settings.result_ttl_s):
            log.info("job %s was closed or taken elsewhere; this attempt's outcome is dropped", lease.id)
