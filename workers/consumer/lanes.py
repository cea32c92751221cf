"""The order in which a worker pops Celery's lists: kombu's `queue_order_strategy`, consulted before every pop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vqa.celery import DEFAULT_QUEUE
from vqa.routing import lane_of
from workers.engine.fair_share import FairShare, Reserve

#: priority of the lists, highest first. `celery` has what other apps send without naming a lane
ORDER = ("interactive", "bulk", DEFAULT_QUEUE)

#: seconds that a pop blocks if it skips lists, because a slot for their messages may become free meanwhile. Prompts
#: that wait in the engine keep the card busy for longer than this.
PARTIAL_POP_S = 0.02

#: most messages of one pop: a turn of the event loop for each message costs as much as handling it
_MOST = 8

#: a pop takes at most this part of what the worker has popped of a backlog: of a few jobs, others get theirs
_PART = 4


class UnackedMessages(Protocol):
    """The messages that this worker has taken and not acknowledged."""

    #: the limit; 0 for none
    prefetch_count: int

    @property
    def unacked(self) -> int: ...

    @property
    def unacked_bulk(self) -> int:
        """How many came from lists of another lane than interactive."""


def rank_of(queue: str) -> str:
    """Return which of `ORDER` a list counts as: the lists of all models' jobs of a lane are equal."""
    return queue if queue == DEFAULT_QUEUE else lane_of(queue)


class Lanes:
    """Interactive first, but one take in twenty is bulk's; bulk is skipped if it would take reserved places.

    Of a lane's lists, the one that was popped longest ago comes first, so that no model's jobs wait for another's. A
    worker that consumes no interactive list reserves nothing for them.
    """

    def __init__(self, messages: UnackedMessages, reserve: Reserve) -> None:
        self._messages = messages
        self._reserve = reserve
        #: ranks by list, the list that was popped longest ago first
        self._queues: dict[str, str] = {}
        self._ranks: frozenset[str] = frozenset()
        self._fair_share = FairShare(ORDER)
        self._order: Sequence[str] = ()
        #: messages of the last pops that found all they asked for, which means a backlog
        self._of_backlog = 0

    @property
    def skips_lists(self) -> bool:
        """Whether the next pop leaves out a list."""
        return not all(map(self._is_open, self._ranks))

    def update(self, queues: Sequence[str]) -> None:
        """Set the lists to consume from; called by kombu."""
        self._queues = {queue: rank_of(queue) for queue in queues}
        self._ranks = frozenset(self._queues.values())

    def consume(self, count: int) -> Sequence[str]:
        """Return the lists for the next pop, first the one to pop first; called by kombu."""
        ranks = self._fair_share.order(list(filter(self._is_open, self._ranks)))
        self._order = [queue for rank in ranks for queue, own in self._queues.items() if own == rank]
        return self._order

    @property
    def count(self) -> int:
        """How many messages the next pop may take from one list, so that none is taken out of turn or out of place."""
        limit, unacked = self._messages.prefetch_count, self._messages.unacked
        count = min(_MOST, self._of_backlog // _PART, self._fair_share.turns)
        if limit:
            count = min(count, limit - unacked)
            if "interactive" in self._ranks and any(self._queues[queue] != "interactive" for queue in self._order):
                count = min(count, self._reserve.share(limit) - unacked)
        return max(1, count)

    def found(self, asked: int, found: int) -> None:
        """Note how many messages a pop took of those that it asked for."""
        self._of_backlog = self._of_backlog + found if found == asked else 0

    def rotate(self, last_used: str) -> None:
        """Note that a message came from this list; called by kombu."""
        rank = rank_of(last_used)
        if rank == "interactive":
            self._reserve.saw("interactive")
        at = self._order.index(last_used) if last_used in self._order else 0
        # the lists before it in the order were empty
        others = self._queues.keys() - self._order[: at + 1]
        self._fair_share.served(rank, {self._queues[queue] for queue in others})
        if last_used in self._queues:
            self._queues[last_used] = self._queues.pop(last_used)

    def _is_open(self, rank: str) -> bool:
        limit = self._messages.prefetch_count
        if rank == "interactive" or "interactive" not in self._ranks or not limit:
            return True
        due = self._fair_share.is_due(rank)
        # counting bulk looks at every message, and the number matters only if the list is due
        bulk = self._messages.unacked_bulk if due else 0
        return self._reserve.admits_bulk(limit, self._messages.unacked, bulk, due)
