"""The sweep: closes overdue jobs, requeues lost ones and stopped canaries', releases delayed ones, promotes, and more.

The janitor sweeps every two seconds, `vqa doctor --repair` on demand. Concurrent sweeps are harmless: the ledger moves
only jobs that are due, and `take` refuses duplicate messages. A job that was queued but not published is found by a
later sweep as a lost message.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import cast

from celery import Celery
from redis import Redis
from redis.exceptions import ResponseError

from vqa.celery import wake
from vqa.errors import DeadlineExceeded, JobGivenUp, VQAError
from vqa.ledger.closing import Closing
from vqa.ledger.damage import Damage
from vqa.ledger.ledger import Ledger
from vqa.ledger.lost_messages import LOST_MESSAGE_S, oldest_message_time
from vqa.ledger.models import ModelRegistry, model_queues
from vqa.ledger.records import CloseIf
from vqa.ledger.stopped_canaries import StoppedCanaries
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

#: reason of a dead letter whose last worker vanished or was ended because of it
WORKER_LOST = "worker_lost"

#: error of an attempt whose worker vanished
_RAN_OUT = "WorkerLost: its lease ran out"

#: jobs moved by one call, so that Redis is not blocked
_PORTION = 500
#: calls of each verb in one sweep; the next sweep does the rest
_PORTIONS = 20

#: leases without a renewal after which a worker is removed from the list
_GONE_LEASES = 10

_LOCK = "vqa:janitor"
_LOCK_MS = 5000


@dataclass(slots=True)
class SweepResult:
    """Numbers of jobs that a sweep changed."""

    #: closed: their deadline had passed
    overdue: int = 0
    #: published again: their worker had vanished
    lost: int = 0
    #: closed as dead letters: their last worker had vanished
    given_up: int = 0
    #: published: their delay had ended
    delayed: int = 0
    #: published: it was their tenant's turn
    promoted: int = 0
    #: published again: their message was lost
    lost_messages: int = 0
    #: moved from a canary whose workers have stopped to the model that they name
    returned: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {getattr(self, each.name)}" for each in fields(self))


class Sweep:
    """Sweeps the ledger; a lock in Redis lets one process sweep at a time."""

    def __init__(self, redis: Redis, app: Celery, settings: QueueSettings) -> None:
        self._redis = redis
        self._ledger = Ledger(redis, settings.limits)
        self._damage = Damage(redis)
        self._models = ModelRegistry(redis, settings.model_keep_s, settings.lease_s)
        self._canaries = StoppedCanaries(redis, self._models, settings.limits)
        self._app = app
        self._closing = Closing(app, self._ledger, settings.result_ttl_s)
        self._settings = settings
        self._name = uuid.uuid4().hex

    def try_lock(self) -> bool:
        """Take or keep the lock, which is held for _LOCK_MS after each call; return whether it is held."""
        try:
            if self._redis.set(_LOCK, self._name, nx=True, px=_LOCK_MS):
                return True
            # unlike GET, without an error for a key of another type
            [holder] = cast(list[bytes | None], self._redis.mget(_LOCK))
        except ResponseError:
            # no memory: two concurrent sweeps are harmless, no sweep at all is not
            return True
        if holder is None:
            # another program's key, which the sweep sets aside; or it has just expired
            return True
        if holder != self._name.encode():
            if 0 < self._redis.pttl(_LOCK) <= _LOCK_MS:
                return False
            # Redis's clock was set back since a janitor that vanished took it, or another program wrote it
            self._redis.delete(_LOCK)
            return self.try_lock()
        self._redis.pexpire(_LOCK, _LOCK_MS)
        return True

    def run(self, lease_check_ms: int | None) -> SweepResult:
        """Do everything that is due. Raises one of connection.REDIS_ERRORS.

        `lease_check_ms` is what `LeaseCheck.time_ms` has just returned; with None, no lease is expired and no model
        counts as stopped.
        """
        self._damage.mend()
        result = SweepResult()
        queues = model_queues(self._redis)
        if lease_check_ms is not None:
            for queue in queues:
                self._expire(queue, lease_check_ms, result)
            # workers have had time to say which models they serve, too
            self._return_shared(queues, result)
        result.overdue = self._close_overdue()
        for queue in queues:
            result.delayed += self._release_delayed(queue)
            result.promoted += self._promote(queue)
            result.lost_messages += self._republish_lost(queue)
        for name in self._models.forget():
            log.info("model %s is forgotten: no worker has served it for VQA_MODEL_KEEP_S", name)
        for name in self._ledger.vanished_workers(max(60.0, _GONE_LEASES * self._settings.lease_s)):
            self._ledger.forget_worker(name)
        return result

    def _close_overdue(self) -> int:
        error = DeadlineExceeded("the job's timeout ran out before it was answered")
        return sum(self._close(ids, error, "overdue") for ids in _portions(lambda: self._ledger.overdue(_PORTION)))

    def _expire(self, queue: str, lease_check_ms: int, result: SweepResult) -> None:
        for _ in range(_PORTIONS):
            queued, last = self._ledger.expire(queue, _PORTION, _RAN_OUT, lease_check_ms, self._settings.lease_s)
            self._publish(queued, queue, "their worker vanished")
            error = JobGivenUp(f"{WORKER_LOST}: its workers vanished, the last one while it ran no other job")
            result.given_up += self._close(last, error, "last", WORKER_LOST)
            result.lost += len(queued)
            if len(queued) + len(last) < _PORTION:
                break

    def _return_shared(self, queues: list[str], result: SweepResult) -> None:
        for returned in self._canaries.return_jobs(queues):
            result.returned += returned.moved
            for queue, ids in returned.queued.items():
                self._publish(ids, queue, "no worker of its canary is up")

    def _release_delayed(self, queue: str) -> int:
        count = 0
        for ids in _portions(lambda: self._ledger.release_delayed(queue, _PORTION)):
            self._publish(ids, queue, "their delay has ended")
            count += len(ids)
        return count

    def _promote(self, queue: str) -> int:
        ids = self._ledger.promote(queue)
        self._publish(ids, queue, "promoted")
        return len(ids)

    def _republish_lost(self, queue: str) -> int:
        before, count = oldest_message_time(self._redis, queue), 0
        for ids in _portions(lambda: self._ledger.requeue(queue, LOST_MESSAGE_S, before, _PORTION)):
            self._publish(ids, queue, "their message was lost")
            count += len(ids)
        return count

    def _publish(self, ids: list[str], queue: str, why: str) -> None:
        if not ids:
            return
        try:
            wake(self._app, [(id, queue) for id in ids])
            log.info("%s: %d jobs published (%s): %s", queue, len(ids), why, _some(ids))
        except REDIS_ERRORS as error:
            log.warning("%s: cannot publish %d jobs (%s); a later sweep will", queue, len(ids), describe(error))

    def _close(self, ids: list[str], error: VQAError, close_if: CloseIf, reason: str = "") -> int:
        closed = self._closing.close_all(ids, error, reason, close_if)
        for id in closed:
            log.log(logging.ERROR if reason else logging.INFO, "job %s is closed: %s", id, type(error).__name__)
        return len(closed)


def _portions(call: Callable[[], list[str]]) -> Iterator[list[str]]:
    """Call a verb until it returns less than _PORTION ids, at most _PORTIONS times."""
    for _ in range(_PORTIONS):
        yield (ids := call())
        if len(ids) < _PORTION:
            return


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
