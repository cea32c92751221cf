"""From which of Celery's lists the next message is taken: kombu's `queue_order_strategy`, asked before every pop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vqa.celery import DEFAULT_QUEUE
from workers.engine.fair_share import BULK_TURN, Reserve

#: the first goes before the second, and so on; what other apps send without naming a lane comes last
ORDER = ("interactive", "bulk", DEFAULT_QUEUE)

#: A pop that leaves lists out blocks no longer than this: a place may come free for them meanwhile. Prompts that wait
#: in the engine keep the card busy for longer.
LEFT_OUT_S = 0.02


class Hand(Protocol):
    """The messages that this worker has taken and not acknowledged."""

    @property
    def most(self) -> int:
        """How many there may be; 0 is no limit."""

    @property
    def taken(self) -> int:
        """How many there are."""

    @property
    def bulk(self) -> int:
        """How many of them came from any list but interactive's."""


class Lanes:
    """Interactive first, one take in twenty bulk; bulk not at all where it would take what is reserved.

    A worker that is told to take no interactive jobs reserves nothing for them.
    """

    def __init__(self, hand: Hand, reserve: Reserve) -> None:
        self._hand = hand
        self._reserve = reserve
        self._queues: list[str] = []
        #: by list: takes from those before it since its own last turn
        self._passed: dict[str, int] = {}
        self._asked: Sequence[str] = ()

    @property
    def left_out(self) -> bool:
        """Whether the next pop leaves a list out."""
        return not all(map(self._is_open, self._queues))

    def update(self, queues: Sequence[str]) -> None:
        """The lists that are consumed from; kombu calls it."""
        self._queues = list(queues)

    def consume(self, count: int) -> Sequence[str]:
        """The lists to pop from now, the first of them first; kombu calls it."""
        queues = [queue for queue in self._queues if self._is_open(queue)]
        self._asked = sorted(queues, key=lambda queue: (not self._is_its_turn(queue), _place(queue)))
        return self._asked

    def rotate(self, last_used: str) -> None:
        """A message came from that list; kombu calls it."""
        if last_used == "interactive":
            self._reserve.saw("interactive")
        at = self._asked.index(last_used) if last_used in self._asked else 0
        for queue in self._queues:
            # those asked before it were empty
            if queue in self._asked[: at + 1]:
                self._passed[queue] = 0
            elif _place(queue) > _place(last_used):
                self._passed[queue] = self._passed.get(queue, 0) + 1

    def _is_its_turn(self, queue: str) -> bool:
        return self._passed.get(queue, 0) >= BULK_TURN - 1

    def _is_open(self, queue: str) -> bool:
        if queue == "interactive" or "interactive" not in self._queues or not self._hand.most:
            return True
        turn = self._is_its_turn(queue)
        # to count bulk is to look at each message, and is of use only then
        bulk = self._hand.bulk if turn else 0
        return self._reserve.admits_bulk(self._hand.most, self._hand.taken, bulk, turn)


def _place(queue: str) -> int:
    return ORDER.index(queue) if queue in ORDER else len(ORDER)
