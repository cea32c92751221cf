"""Who waits for which jobs. Whoever reads Redis reads for all that wait. No I/O, and not locked: callers take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from producer.core import Found
from vqa.errors import QueueUnavailable

#: open jobs are looked at so often, whatever the reply list says: it may be lost, and it may be another client's
POLL_S = 0.5
#: Redis takes a shorter block for an endless one
SHORTEST_BLOCK_S = 0.01
#: ids in one look; of more, each poll takes the next ones in turn
LOOK = 2000


class Wait:
    """One caller's wait for some jobs; `wake` is called when there is something for it."""

    def __init__(self, ids: Iterable[str], wake: Callable[[], None]) -> None:
        self.pending = dict.fromkeys(ids)
        self.arrived: deque[tuple[str, Found]] = deque()
        self.failure: QueueUnavailable | None = None
        self.wake = wake

    @property
    def stirred(self) -> bool:
        """Whether there is something that its caller has not seen."""
        return bool(self.arrived or self.failure)


class Waits:
    """All waits of a client."""

    def __init__(self) -> None:
        #: by id, polled longest ago first
        self._of: dict[str, list[Wait]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, wait: Wait) -> None:
        """From now on `wait` hears of its jobs; what ended before, its caller looks up once."""
        for id in wait.pending:
            self._of.setdefault(id, []).append(wait)

    def remove(self, wait: Wait) -> None:
        """The caller has gone."""
        for id in wait.pending:
            others = [other for other in self._of.pop(id, []) if other is not wait]
            if others:
                self._of[id] = others

    def wanted(self, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that somebody waits for; the rest is read from Redis when somebody asks."""
        return [id for id in dict.fromkeys(ids) if id in self._of]

    def next_polled(self) -> list[str]:
        """The ids whose turn it is to be looked at."""
        turn = [id for id, _ in zip(self._of, range(LOOK), strict=False)]
        for id in turn:
            self._of[id] = self._of.pop(id)
        return turn

    def deliver(self, found: Mapping[str, Found]) -> None:
        """Hand out how jobs ended."""
        for id, end in found.items():
            for wait in self._of.pop(id, ()):
                del wait.pending[id]
                wait.arrived.append((id, end))
                wait.wake()

    def fail(self, error: QueueUnavailable) -> None:
        """Tell everybody that reading failed."""
        for wait in {wait for waits in self._of.values() for wait in waits}:
            wait.failure = error
            wait.wake()
