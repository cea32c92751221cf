"""Which pages of the cache are free. Counts; holds no memory."""

from __future__ import annotations

from collections.abc import Sequence


class Pages:
    """A stock of numbered pages, each of `tokens` tokens."""

    def __init__(self, count: int, tokens: int) -> None:
        self.count = count
        self.tokens = tokens
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """Pages that nobody has."""
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-tokens // self.tokens)

    def take(self, count: int) -> tuple[int, ...]:
        """So many pages, which have to be free."""
        if count > len(self._free):
            raise ValueError(f"{count} pages are wanted and {len(self._free)} are free")
        return tuple(self._free.pop() for _ in range(count))

    def give_back(self, pages: Sequence[int]) -> None:
        """They are free again."""
        self._free.extend(reversed(pages))
