"""Canaries whose workers have all stopped: what a share has sent there returns to the model that the jobs name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from redis import Redis

from vqa.ledger.models import ModelRegistry
from vqa.ledger.records import texts
from vqa.ledger.script import Script
from vqa.routing import model_of
from vqa.settings import Limits

#: ids that one call looks at, so that Redis is not blocked
_PORTION = 200
#: calls for one queue in one sweep, if each finds such jobs; the next sweep does the rest
_PORTIONS = 20


@dataclass(slots=True)
class Returned:
    """What became of a portion of jobs."""

    moved: int
    #: of these, by queue, the ids for the caller to publish
    queued: dict[str, list[str]] = field(default_factory=dict)


class StoppedCanaries:
    """Finds such jobs beside those that name the canary itself, which wait for its workers."""

    def __init__(self, redis: Redis, models: ModelRegistry, limits: Limits) -> None:
        self._models = models
        self._tenant_most = limits.tenant or 0
        self._run = Script(redis)
        #: by queue: how many ids the next sweep skips, as looking at all at once would take too long
        self._next: dict[str, int] = {}

    def return_jobs(self, queues: Sequence[str]) -> Iterator[Returned]:
        """Move jobs from those of the queues whose model no worker serves now. Raises redis.exceptions.RedisError.

        A job stays where it is while nobody serves the model that it names either.
        """
        models = self._models.read()
        up = [name for name in models.served if models.is_up(name)]
        for queue in queues:
            model = model_of(queue)
            if up and model is not None and model not in up:
                yield from self._return(queue, up)

    def _return(self, queue: str, up: Sequence[str]) -> Iterator[Returned]:
        skip = self._next.pop(queue, 0)
        for _ in range(_PORTIONS):
            seen, moved, published = self._run([], "return_shared", queue, skip, _PORTION, self._tenant_most, *up)
            returned = Returned(moved)
            words = texts(published)
            for id, target in zip(words[::2], words[1::2], strict=True):
                returned.queued.setdefault(target, []).append(id)
            yield returned
            if seen < _PORTION:
                return
            skip += seen - moved
            if not moved:
                break
        self._next[queue] = skip
