"""Which lengths of sequences are common, so that planning for them pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

#: how often a length is seen before it is planned for: cuDNN takes 60 ms to plan (H200), and then saves about 2 ms for
#: an image of a megapixel
COMMON = 48

#: shorter ones gain nothing
_LEAST = 256

#: lengths that are planned for, and lengths whose numbers are remembered
_MOST_PLANNED, _MOST_COUNTED = 64, 4096

#: sequences of one length that are taken together: powers of 2 up to this, so that few plans are made
_MOST_TOGETHER = 8


class Lengths:
    """Counts sequences by length."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()
        self._planned: set[int] = set()

    def runs(self, lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Count these, and divide them into runs of one length; empty where one of them is not common yet."""
        for length in lengths:
            self._count(length)
        return tuple(_runs(lengths)) if self._planned.issuperset(lengths) else ()

    def _count(self, length: int) -> None:
        if length in self._planned or length < _LEAST or len(self._planned) == _MOST_PLANNED:
            return
        if len(self._seen) == _MOST_COUNTED:
            # what is rare is forgotten
            self._seen.clear()
        self._seen[length] += 1
        if self._seen[length] == COMMON:
            self._planned.add(length)


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    for length, alike in groupby(lengths):
        left = len(list(alike))
        together = _MOST_TOGETHER
        while left:
            while together > left:
                together //= 2
            yield together, length
            left -= together
