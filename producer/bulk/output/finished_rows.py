"""Which jobs have their line already: eight bytes a line, however many there are."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Literal

#: of a line that an earlier run wrote: the input has not been seen to ask it; it has; and its line is kept for good
_UNMET, _MET, _KEPT = 0, 1, 2

#: what becomes of a line
Fate = Literal["new", "keep", "stale", "drop"]


class Done:
    """The jobs of one batch, by the first 64 bits of their ids' hashes: of 1,000,000, two are alike once in 37 million.

    Filled, then sealed, then asked.
    """

    def __init__(self, batch: str) -> None:
        self._prefix = f"{batch}:"
        self._keys = array("Q")
        self._marks = bytearray()
        #: whether a job has more lines than one
        self.doubled = False

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, id: str) -> bool:
        """This job has a line; False where it is no job of this batch."""
        key = self._key(id)
        if key is None:
            return False
        self._keys.append(key)
        return True

    def seal(self) -> None:
        """All lines have been read."""
        keys = array("Q")
        for key in sorted(self._keys):
            if not keys or keys[-1] != key:
                keys.append(key)
        self.doubled = len(keys) < len(self._keys)
        self._keys = keys
        self._marks = bytearray(len(keys))

    def meet(self, id: str) -> bool:
        """Whether it has a line; and note that the input asks for it still."""
        place = self._place(self._key(id))
        if place is not None:
            self._marks[place] = _MET
        return place is not None

    @property
    def stale(self) -> bool:
        """Whether there are lines that the input, all of which was met, does not ask for any more."""
        return _UNMET in self._marks

    def asked(self, id: str) -> bool:
        """Whether the input asks for it, by what was met, or it is new."""
        key = self._key(id)
        place = self._place(key)
        return key is not None if place is None else self._marks[place] != _UNMET

    def fate(self, id: str) -> Fate:
        """Of a line when its file is written anew.

        `new` of this run; an earlier one that is asked for, or is not any more (`stale`), each once; or none of these.
        """
        key = self._key(id)
        place = self._place(key)
        if place is None:
            return "drop" if key is None else "new"
        mark, self._marks[place] = self._marks[place], _KEPT
        return "keep" if mark == _MET else "stale" if mark == _UNMET else "drop"

    def _key(self, id: str) -> int | None:
        if not id.startswith(self._prefix):
            return None
        try:
            return int(id[len(self._prefix) : len(self._prefix) + 16], 16)
        except ValueError:
            return None

    def _place(self, key: int | None) -> int | None:
        if key is None:
            return None
        place = bisect_left(self._keys, key)
        return place if place < len(self._keys) and self._keys[place] == key else None
