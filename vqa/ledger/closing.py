"""Closes jobs without holding their lease: cancelled, overdue or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from vqa import results
from vqa.celery import publish_promoted
from vqa.errors import VQAError
from vqa.ledger.attempt_spans import Clock, record_closed
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import CloseIf, Ending, Header
from vqa.tracing.active import active

#: jobs per round trip: their whole entries are read, which may be megabytes for long prompts
_CHUNK = 50


@dataclass(frozen=True)
class Closing:
    """Closes jobs with an error, which is kept for `ttl_s`. Methods raise one of connection.REDIS_ERRORS."""

    app: Celery
    ledger: Ledger
    ttl_s: float

    def close(self, id: str, error: VQAError, reason: str = "", close_if: CloseIf = "") -> bool:
        """Close an open job; return False if it is not open. With a reason, it becomes a dead letter."""
        return bool(self.close_all([id], error, reason, close_if))

    def close_all(self, ids: Sequence[str], error: VQAError, reason: str = "", close_if: CloseIf = "") -> list[str]:
        """Close those of `ids` that are open; return them. Publishes the jobs that are promoted."""
        done: list[str] = []
        for start in range(0, len(ids), _CHUNK):
            headers = self.ledger.headers(ids[start : start + _CHUNK])
            endings = [self._ending(id, header, error, reason, close_if) for id, header in headers.items()]
            closed = self.ledger.close_many(endings)
            for each in closed:
                publish_promoted(self.app, each.promoted, each.queue)
            now_closed = [ending.id for ending, each in zip(endings, closed, strict=True) if each]
            self._record(now_closed, headers, error)
            done += now_closed
        return done

    def _record(self, ids: Sequence[str], headers: Mapping[str, Header], error: VQAError) -> None:
        tracing = active()
        if tracing is None or not any(headers[id].trace for id in ids):
            return
        clock = Clock.from_redis(self.ledger.now_ms())
        for id in ids:
            record_closed(tracing, id, headers[id], clock, error)

    def _ending(self, id: str, header: Header, error: VQAError, reason: str, close_if: CloseIf) -> Ending:
        told: dict[str, Any] = {"trace": header.trace, "times": header.times()}
        encoded = results.encode(self.app.backend, id, error, header.attempt, header.error, **told)
        last_error = header.error or str(error)
        return Ending(id, "", encoded, self.ttl_s, reason, last_error, close_if, results.tally(error))
