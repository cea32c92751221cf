"""The text of an answer while it is generated: a Redis stream for each job that somebody streams. No I/O.

Its entries are portions of the text. The ledger's `close` deletes the stream, since the outcome has all of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from redis.typing import EncodableT, FieldT

#: ms after the last portion at which a stream expires that `close` did not delete
STREAM_TTL_MS = 60_000


def stream_key(id: str) -> str:
    return f"vqa:stream:{id}"


@dataclass(frozen=True, slots=True)
class Portion:
    """A part of the text that one attempt at a job generates. A client may miss some, or read some twice."""

    attempt: int
    #: when its lease began, in ms on Redis's clock: the number of an attempt that does not count is used again
    taken: int
    #: how many characters (code points) of the attempt's text come before it
    start: int
    text: str

    def fields(self) -> dict[FieldT, EncodableT]:
        """Return the fields of its entry."""
        return {"attempt": self.attempt, "taken": self.taken, "start": self.start, "text": self.text}

    @classmethod
    def parse(cls, fields: Mapping[bytes, bytes]) -> Self | None:
        """Read an entry, ignoring fields of later releases; None if it is damaged."""
        try:
            attempt, taken, start = (int(fields[name]) for name in (b"attempt", b"taken", b"start"))
            return cls(attempt, taken, start, fields[b"text"].decode())
        except (KeyError, ValueError):
            return None
