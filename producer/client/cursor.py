"""How far a caller has read the text of a job that it streams. No I/O."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

from vqa.ledger.text_stream import Portion
from vqa.redis.error_replies import describe

log = logging.getLogger(__name__)

#: id and fields
Entry = tuple[bytes, Mapping[bytes, bytes]]


class Cursor:
    """A position in a job's stream, and the portions of text that were read and not taken yet."""

    def __init__(self, id: str) -> None:
        self.id = id
        #: id of the newest entry that was read
        self.last = b"0-0"
        self.portions: deque[Portion] = deque()
        self._failed = False

    def receive(self, reply: Sequence[Entry] | Exception) -> bool:
        """Add the entries that Redis replied with; return whether any is new."""
        if isinstance(reply, Exception):
            self._fail(reply)
            return False
        before = len(self.portions)
        for entry_id, fields in reply:
            # a concurrent lookup may have read it
            if _order(entry_id) > _order(self.last):
                self.last = entry_id
                if portion := Portion.parse(fields):
                    self.portions.append(portion)
        return len(self.portions) > before

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning("the text of job %s is not streamed: %s; its answer comes whole", self.id, describe(error))


def _order(entry_id: bytes) -> tuple[int, int]:
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number)
