"""The order in which a worker pops Celery's lists: kombu's `queue_order_strategy`, consulted before every pop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vqa.celery import DEFAULT_QUEUE
from workers.engine.fair_share import FairShare, Reserve

#: priority of the lists, highest first. `celery` has what other apps send without naming a lane
ORDER = ("interactive", "bulk", DEFAULT_QUEUE)

#: seconds that a pop blocks if it skips lists, because a slot for their messages may become free meanwhile. Prompts
#: that wait in the engine keep the card busy for longer than this.
PARTIAL_POP_S = 0.02


class UnackedMessages(Protocol):
    """The messages that this worker has taken and not acknowledged."""

    #: the limit; 0 for none
    prefetch_count: int

    @property
    def unacked(self) -> int: ...

    @property
    def unacked_bulk(self) -> int:
        """How many came from another list than `interactive`."""


class Lanes:
    """Interactive first, but one take in twenty is bulk's; bulk is skipped if it would take reserved places.

    A worker that does not consume `interactive` reserves nothing for it.
    """

    def __init__(self, messages: UnackedMessages, reserve: Reserve) -> None:
        self._messages = messages
        self._reserve = reserve
        self._queues: list[str] = []
        self._fair_share = FairShare(ORDER)
        self._order: Sequence[str] = ()

    @property
    def skips_lists(self) -> bool:
        """Whether the next pop leaves out a list."""
        return not all(map(self._is_open, self._queues))

    def update(self, queues: Sequence[str]) -> None:
        """Set the lists to consume from; called by kombu."""
        self._queues = list(queues)

    def consume(self, count: int) -> Sequence[str]:
        """Return the lists for the next pop, first the one to pop first; called by kombu."""
        self._order = self._fair_share.order([queue for queue in self._queues if self._is_open(queue)])
        return self._order

    def rotate(self, last_used: str) -> None:
        """Note that a message came from this list; called by kombu."""
        if last_used == "interactive":
            self._reserve.saw("interactive")
        at = self._order.index(last_used) if last_used in self._order else 0
        # the lists before it in the order were empty
        self._fair_share.served(last_used, set(self._queues).difference(self._order[: at + 1]))

    def _is_open(self, queue: str) -> bool:
        limit = self._messages.prefetch_count
        if queue == "interactive" or "interactive" not in self._queues or not limit:
            return True
        due = self._fair_share.is_due(queue)
        # counting bulk looks at every message, and the number matters only if the list is due
        bulk = self._messages.unacked_bulk if due else 0
        return self._reserve.admits_bulk(limit, self._messages.unacked, bulk, due)
