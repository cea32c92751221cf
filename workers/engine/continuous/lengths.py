"""Counts sequence lengths, to find those common enough to be worth an attention plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: Sequences of one length before it is planned for. cuDNN takes 60 ms for a plan (H200), which then saves about 2 ms
#: for an image of a megapixel.
COMMON = 48

#: shorter sequences gain nothing
_MIN_LENGTH = 256

#: lengths that are planned for, and lengths that are counted
_MAX_PLANNED, _MAX_COUNTED = 64, 4096


class Lengths:
    """Counts sequences by length."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()
        self._planned: set[int] = set()

    def are_common(self, lengths: Sequence[int]) -> bool:
        """Count the lengths; return whether all of them are common.

        Of lengths that become common together only one does in this call: a pass should wait for one plan at most.
        """
        for length in lengths:
            if self._count(length):
                break
        return self._planned.issuperset(lengths)

    def _count(self, length: int) -> bool:
        """Return whether the length has become common."""
        if length in self._planned or length < _MIN_LENGTH or len(self._planned) == _MAX_PLANNED:
            return False
        if len(self._seen) == _MAX_COUNTED:
            # common lengths are soon counted again
            self._seen.clear()
        self._seen[length] += 1
        if self._seen[length] < COMMON:
            return False
        self._planned.add(length)
        return True
