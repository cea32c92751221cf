"""Counts sequence lengths, to find those common enough to be worth an attention plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

#: Sequences of one length before it is planned for. cuDNN takes 60 ms for a plan (H200), which then saves about 2 ms
#: for an image of a megapixel.
COMMON = 48

#: shorter sequences gain nothing
_MIN_LENGTH = 256

#: lengths that are planned for, and lengths that are counted
_MAX_PLANNED, _MAX_COUNTED = 64, 4096

#: sequences of one length in a run: powers of 2 up to this, to keep the number of plans small
_MAX_RUN = 8


class Lengths:
    """Counts sequences by length."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()
        self._planned: set[int] = set()

    def runs(self, lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Count the lengths; return runs of equal ones as (sequences, length), or () if a length is not common yet."""
        for length in lengths:
            self._count(length)
        return tuple(_runs(lengths)) if self._planned.issuperset(lengths) else ()

    def _count(self, length: int) -> None:
        if length in self._planned or length < _MIN_LENGTH or len(self._planned) == _MAX_PLANNED:
            return
        if len(self._seen) == _MAX_COUNTED:
            # common lengths are soon counted again
            self._seen.clear()
        self._seen[length] += 1
        if self._seen[length] == COMMON:
            self._planned.add(length)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    for length, equal in groupby(lengths):
        left = len(list(equal))
        count = _MAX_RUN
        while left:
            while count > left:
                count //= 2
            yield count, length
            left -= count
