"""How an attempt ends in the ledger: closed with its outcome, retried, given back, or given up as a dead letter."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vqa import results
from vqa.celery import publish_promoted, wake
from vqa.errors import JobGivenUp, UnsupportedVersion, VQAError
from vqa.jobs.retry_policy import RetryPolicy
from vqa.ledger.closing import Closing
from vqa.ledger.records import Charge, Ending, Lease
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from vqa.results import Outcome
from workers.jobs.foreign import UNSUPPORTED
from workers.jobs.leases import Leases

log = logging.getLogger(__name__)

#: between two tries to write an outcome to Redis
_PAUSE_S = 1.0

#: reason of a dead letter; vqa.ledger.sweep and workers.jobs.foreign have others
ATTEMPTS_USED_UP = "attempts_used_up"


class Delayed(Exception):
    """The attempt failed with a transient error; the ledger holds the job until its delay is over."""

    def __init__(self, error: VQAError, delay_s: float) -> None:
        super().__init__(f"{type(error).__name__}, again in {delay_s:.1f} s")
        self.error = error
        self.delay_s = delay_s


@dataclass(frozen=True, slots=True)
class Endings:
    """Ends attempts of one process. Methods raise one of REDIS_ERRORS."""

    closing: Closing
    leases: Leases
    #: set when the process is about to end
    shutting_down: threading.Event

    def give_back(self, lease: Lease) -> None:
        self.leases.end(lease)
        if self.closing.ledger.retry(lease.id, lease.token, charge="0"):
            wake(self.closing.app, [(lease.id, lease.header.queue)])
        else:
            self.leases.lose(lease)

    def write(self, lease: Lease, write: Callable[[], None]) -> None:
        """Call `write` until Redis accepts it, the job's deadline passes or the process shuts down."""
        self.leases.end(lease)
        until = time.monotonic() + lease.remaining_s
        while True:
            try:
                return write()
            except REDIS_ERRORS as error:
                if self.shutting_down.is_set() or time.monotonic() > until:
                    raise
                log.warning("outcome of job %s is not written yet: %s; trying again", lease.id, describe(error))
            self.shutting_down.wait(_PAUSE_S)

    def retry(self, lease: Lease, error: VQAError, policy: RetryPolicy, charge: Charge = "1") -> None:
        header = lease.header
        # a job that has lost a worker gets its attempts whatever its policy says
        if charge == "1" and (header.alone if header.lost else header.attempt >= policy.attempts):
            # metrics count the cause
            raise self.give_up(lease, ATTEMPTS_USED_UP, error) from error
        delay_s = random.uniform(0, policy.longest_delay_s(header.attempt))
        if self.closing.ledger.retry(lease.id, lease.token, delay_s, f"{type(error).__name__}: {error}", charge):
            if round(delay_s * 1000) == 0:
                wake(self.closing.app, [(lease.id, header.queue)])
            raise Delayed(error, delay_s)
        self.leases.lose(lease)

    def give_up(self, lease: Lease, reason: str, error: VQAError) -> JobGivenUp:
        last = f"{type(error).__name__}: {error}"
        outcome = JobGivenUp(f"{reason}: given up after {lease.header.attempt} attempts; the last one: {last}")
        self.close(lease, outcome, reason, last)
        return outcome

    def close(self, lease: Lease, outcome: Outcome, reason: str = "", error: str = "") -> None:
        if isinstance(outcome, UnsupportedVersion):
            reason, error = UNSUPPORTED, str(outcome)
        app, header, ttl_s = self.closing.app, lease.header, self.closing.ttl_s
        told: dict[str, Any] = {"trace": header.trace, "times": header.times()}
        encoded = results.encode(app.backend, lease.id, outcome, header.attempt, error or header.error, **told)
        ending = Ending(lease.id, lease.token, encoded, ttl_s, reason, error, tally=results.tally(outcome))
        closed = self.closing.ledger.close(ending)
        publish_promoted(app, closed.promoted, closed.queue)
        if not closed:
            self.leases.lose(lease)
            log.info("job %s was closed or taken elsewhere; this attempt's outcome is dropped", lease.id)
        elif reason:
            log.error("job %s is given up and kept as a dead letter: %s", lease.id, reason)
