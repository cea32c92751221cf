"""Guides: which tokens an answer may have next, and where it may end. Independent of the model; needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher
    from numpy.typing import NDArray


class Guide(ABC):
    """Restricts and follows the tokens of one answer. Used by one thread at a time."""

    #: tokens before the answer, such as those of a thought
    num_extra: int = 0

    def __init__(self, num_tokens: int) -> None:
        """`num_tokens` are the vocabulary's."""
        self.num_tokens = num_tokens
        self.restart()

    @abstractmethod
    def restart(self) -> None:
        """Forget the tokens taken."""

    @abstractmethod
    def take(self, token: int) -> bool:
        """Advance by a token; return False if it is not allowed."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the answer may end here."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether only an end of text may follow."""

    @property
    def free(self) -> bool:
        """Whether any token may be next, so that no mask is needed."""
        return False

    @property
    def matcher(self) -> LLMatcher | None:
        """The grammar that tells what may be next; None if `fill` does."""
        return None

    def fill(self, mask: NDArray[numpy.int32]) -> None:
        """Set the bits of the tokens that may be next in `mask` (tokens / 32), which is all zeros."""
        raise AssertionError("the matcher fills the mask")

    def max_tokens(self, max_new_tokens: int) -> int:
        """Return the most tokens of the whole text, as far as is known by now; the answer has `max_new_tokens`."""
        return max_new_tokens


def max_tokens(max_new_tokens: int, guide: Guide | None) -> int:
    """Return the most tokens of a text with a thought, if it has one, and an answer of `max_new_tokens`."""
    return guide.max_tokens(max_new_tokens) if guide else max_new_tokens


def masks(guides: Sequence[Guide]) -> NDArray[numpy.int32]:
    """Return the tokens that each guide allows next as bits (guides, tokens / 32), the lowest bit first.

    All guides must share a vocabulary. End-of-text tokens are allowed where the text may end. If a matcher fails, for
    example because its grammar is too complex here, its guide's next `take` returns False.
    """
    made = numpy.zeros((len(guides), mask_words(guides[0].num_tokens)), numpy.int32)
    matchers: list[tuple[LLMatcher, int]] = []
    for row, guide in enumerate(guides):
        if (matcher := guide.matcher) is not None:
            matchers.append((matcher, row))
        else:
            guide.fill(made[row])
    if matchers:
        from llguidance.numpy import fill_next_token_bitmask_par

        fill_next_token_bitmask_par(_threads(), matchers, made)
    return made


def mask_words(num_tokens: int) -> int:
    """Return the 32-bit words of a mask of `num_tokens` tokens."""
    return -(-num_tokens // 32)


def allow(mask: NDArray[numpy.int32], token: int) -> None:
    """Set the bit of a token."""
    mask.view(numpy.uint32)[token // 32] |= numpy.uint32(1 << token % 32)


@cache
def _threads() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor()
