"""The text of an attempt on its way from the engine to Redis. No I/O."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from vqa.ledger.records import Lease
from vqa.ledger.text_stream import Portion

log = logging.getLogger(__name__)

#: takes the next piece of a text, and returns what may be shown of the text so far and was not returned yet
OnShow = Callable[[str], str]

#: characters of one job that may wait for Redis; with more, no more of its text is streamed
MOST_UNWRITTEN = 32_768


class Buffer:
    """The text of one attempt that is not written yet. The engine's thread appends, and the writer's thread takes."""

    def __init__(self, lease: Lease, on_show: OnShow | None = None) -> None:
        """`on_show` is called by the writer's thread; without it, all text is shown."""
        self.id, self.reply = lease.id, lease.header.reply
        self._attempt, self._taken = lease.header.attempt, lease.taken
        self._pieces: deque[str] = deque()
        self._on_show = on_show
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
        pieces = []
        while self._pieces:
            pieces.append(self._pieces.popleft())
        self._unwritten += self._shown("".join(pieces))
        if self.closed or not self._unwritten:
            return None
        return Portion(self._attempt, self._taken, self._written, self._unwritten)

    def _shown(self, text: str) -> str:
        if self._on_show is None:
            return text
        try:
            return self._on_show(text)
        except Exception as error:
            # never text that was not looked at; the client gets all of it with the outcome
            log.error("job %s: the rest of its text is not streamed: %s", self.id, type(error).__name__)
            self.closed = True
            return ""

    def written(self) -> None:
        """Drop the text that was taken last."""
        self._written, self._unwritten = self._written + len(self._unwritten), ""
