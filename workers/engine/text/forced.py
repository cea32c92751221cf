"""An answer that is given beforehand, token by token: to score a text by the probabilities that the model gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workers.engine.text.guide import Guide, allow

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


class ForcedTokens(Guide):
    """Allows exactly the given tokens, one after another; then the answer is over."""

    def __init__(self, ids: Sequence[int], num_tokens: int) -> None:
        """`ids` are not empty, and the last one ends the text."""
        self._ids = tuple(ids)
        super().__init__(num_tokens)

    def restart(self) -> None:
        self._taken = 0

    def take(self, token: int) -> bool:
        allowed = not self.over and token == self._ids[self._taken]
        self._taken += allowed
        return allowed

    @property
    def complete(self) -> bool:
        return self._taken == len(self._ids)

    @property
    def over(self) -> bool:
        return self._taken == len(self._ids)

    def max_tokens(self, max_new_tokens: int) -> int:
        # the one that ends the text is no part of the answer
        return min(max_new_tokens + 1, len(self._ids))

    def fill(self, mask: NDArray[numpy.int32]) -> None:
        # whatever follows is not taken
        allow(mask, self._ids[min(self._taken, len(self._ids) - 1)])
