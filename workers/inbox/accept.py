"""Turns entries of the inbox into jobs in the ledger, or into refusals. Doing so twice is harmless."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis import Redis

from vqa.celery import wake
from vqa.errors import Cancelled, InvalidJob, VQAError
from vqa.ledger.commands import REPLY_TTL_MS, Command, accept_command
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import REDIS_ERRORS
from vqa.routing import queue_name
from workers.inbox.entry import Entry, Refused, Request, parse
from workers.inbox.stream import Refusal
from workers.jobs.foreign import ForeignJobs, ReadJob

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A valid job, to be accepted."""

    entry: str
    request: Request
    read: ReadJob

    @property
    def queue(self) -> str:
        return queue_name(self.read.job.lane, self.read.model)


@dataclass(slots=True)
class Accepted:
    """What became of some entries; one that is in neither list has to be tried again, because its lane is full."""

    #: ids of entries whose jobs are in the ledger, or have ended
    done: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


class Acceptance:
    """Accepts jobs under the queue's limits."""

    def __init__(self, redis: Redis, foreign_jobs: ForeignJobs, max_bytes: int) -> None:
        """Refuse entries with more than `max_bytes` bytes."""
        self._redis = redis
        self._foreign = foreign_jobs
        self._limits = foreign_jobs.settings.limits
        self._ledger = Ledger(redis, self._limits)
        self._max_bytes = max_bytes

    def accept(self, entries: Sequence[Entry]) -> Accepted:
        """Accept the jobs of these entries, and publish them. Raises one of connection.REDIS_ERRORS."""
        accepted = Accepted()
        ready = [each for entry in entries if (each := self._read(entry, accepted)) is not None]
        verdicts = self._ledger.accept_many(map(self._command, ready))
        results = list(zip(ready, verdicts, strict=True))
        # an open job may have lost its message; the ledger ignores a superfluous one
        if woken := [(each.request.id, each.queue) for each, verdict in results if verdict in ("accepted", "open")]:
            wake(self._foreign.closing.app, woken)
        for each, verdict in results:
            self._conclude(each, verdict, accepted)
        return accepted

    def _read(self, entry: Entry, accepted: Accepted) -> _Ready | None:
        """Return the entry's job; if there is none, end the request and say so in `accepted`."""
        request: Request | None = None
        try:
            request = parse(entry, self._max_bytes)
            return _Ready(entry.id, request, self._foreign.read(request.fields))
        except Refused as refused:
            self._refuse(entry.id, refused.request, refused.error, accepted)
        except VQAError as error:
            self._refuse(entry.id, request, error, accepted)
        except REDIS_ERRORS:
            raise
        except Exception as error:
            # never raised again and again by the same entry; without the traceback, which may quote it
            log.error("reading inbox entry %s failed unexpectedly: %s", entry.id, type(error).__name__)
            self._refuse(entry.id, request, InvalidJob(f"it cannot be read ({type(error).__name__})"), accepted)
        return None

    def _refuse(self, entry: str, request: Request | None, error: VQAError, accepted: Accepted) -> None:
        if request is not None:
            self._foreign.refuse(request.id, request.fields, request.lane, error, request.reply)
        accepted.refused.append(Refusal(entry, request.id if request else "", error))

    def _command(self, ready: _Ready) -> Command:
        job, request = ready.read.job, ready.request
        owner = (job.tenant, job.batch)
        return accept_command(
            *(job.id, job.lane, job.to_json(), ready.read.timeout_s, request.reply, self._limits, *owner),
            stream=request.stream,
            trace=request.trace,
            model=ready.read.model,
            named=job.model,
        )

    def _conclude(self, ready: _Ready, verdict: str, accepted: Accepted) -> None:
        if verdict == "over":
            error = Cancelled("its batch was cancelled before the job was accepted")
            self._refuse(ready.entry, ready.request, error, accepted)
        elif verdict != "full":
            if verdict == "closed" and ready.request.reply:
                self._notify(ready.request)
            accepted.done.append(ready.entry)

    def _notify(self, request: Request) -> None:
        """Push the id of a job that had ended before: nobody else will."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(request.reply, request.id)
            pipe.pexpire(request.reply, REPLY_TTL_MS)
            # another program may have put something else there: then the producer finds the outcome by polling
            pipe.execute(raise_on_error=False)
