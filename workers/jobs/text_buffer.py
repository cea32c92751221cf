"""The text of an attempt on its way from the engine to Redis. No I/O."""

from __future__ import annotations

from collections import deque

from vqa.ledger.records import Lease
from vqa.ledger.text_stream import Portion

#: characters of one job that may wait for Redis; with more, no more of its text is streamed
MOST_UNWRITTEN = 32_768


class Buffer:
    """The text of one attempt that is not written yet. The engine's thread appends, and the writer's thread takes."""

    def __init__(self, lease: Lease) -> None:
        self.id, self.reply = lease.id, lease.header.reply
        self._attempt, self._taken = lease.header.attempt, lease.taken
        self._pieces: deque[str] = deque()
        #: characters appended
        self.appended = 0
        self._written = 0
        self._unwritten = ""
        #: whether the writer knows that there is something to take
        self.marked = False
        #: whether the writer has taken something
        self.begun = False
        #: whether no more is written
        self.closed = False

    def append(self, piece: str) -> None:
        self.appended += len(piece)
        if self.appended - self._written > MOST_UNWRITTEN:
            self.closed = True
        else:
            self._pieces.append(piece)

    def take(self) -> Portion | None:
        """Return all text that is not written yet."""
        self.marked, self.begun = False, True
        while self._pieces:
            self._unwritten += self._pieces.popleft()
        if self.closed or not self._unwritten:
            return None
        return Portion(self._attempt, self._taken, self._written, self._unwritten)

    def written(self) -> None:
        """Drop the text that was taken last."""
        self._written, self._unwritten = self._written + len(self._unwritten), ""
