"""W3C's traceparent: which trace a job belongs to. See https://www.w3.org/TR/trace-context/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

#: version, trace id, parent id, flags; a later version may have more fields, of a bounded length here
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{1,128})?"
)

#: the flags that are known: sampled, and a random trace id
_SAMPLED, _KNOWN_FLAGS = 1, 3


@dataclass(frozen=True, slots=True)
class Traceparent:
    """A span that others are children of."""

    #: 32 and 16 hexadecimal digits, not all zero
    trace_id: str
    span_id: str
    flags: int = 0

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(self.flags & _SAMPLED)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Return None for what is no valid traceparent; unknown flags, and fields of later versions, are dropped."""
        found = _TRACEPARENT.fullmatch(text or "")
        if found is None or (found[1] == "00" and found[5]):
            return None
        return cls(found[2], found[3], int(found[4], 16) & _KNOWN_FLAGS)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"
