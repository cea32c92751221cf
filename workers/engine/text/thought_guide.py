"""Lets a model think before it answers: anything until `</think>`, which is forced at a bound, then the answer."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy

from workers.engine.text.guide import Guide, allow, mask_words
from workers.engine.text.thoughts import ThoughtMarks

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray


class ThoughtGuide(Guide):
    """Follows a thought and the answer after it, which another guide may restrict.

    At the bound the thought is ended as Qwen3's thinking budget does (Qwen3 Technical Report, 2025, section 4.3): the
    tokens of `</think>`, on a line of its own, are forced, and the model answers by what it thought so far. Where the
    answer is restricted, the text may not end in the thought, and the empty line that chat templates write after
    `</think>` is forced: the model expects it, and the restriction would refuse it.
    """

    def __init__(
        self,
        marks: ThoughtMarks,
        max_thought: int,
        num_tokens: int,
        eos_ids: Collection[int],
        inner: Guide | None = None,
        *,
        opened: bool = True,
    ) -> None:
        """`max_thought` in tokens; `inner` restricts the answer. Unless it is `opened`, the first token may do it."""
        self._marks = marks
        self.max_thought = max_thought
        self._inner = inner
        self._eos_ids = tuple(sorted(eos_ids))
        self._opened = opened
        super().__init__(num_tokens)

    def restart(self) -> None:
        self.num_extra = 0
        #: the thought's tokens with the model's own `</think>`, without forced ones
        self._thought: list[int] = []
        #: tokens to come that are not the model's choice
        self._forced: tuple[int, ...] = ()
        self._undecided = not self._opened
        self._thinking = self._opened
        if self._thinking:
            self._end_at_bound()
        if self._inner:
            self._inner.restart()

    def take(self, token: int) -> bool:
        if self._forced:
            self.num_extra += 1
            allowed, self._forced = token == self._forced[0], self._forced[1:]
            return allowed
        if self._undecided:
            self._undecided = False
            self._thinking = token == self._marks.open_id
            if self._thinking:
                self.num_extra += 1
                self._end_at_bound()
                return True
        if not self._thinking:
            return self._inner.take(token) if self._inner else True
        self._think(token)
        return True

    def shorten(self, tokens: int) -> int:
        """Lower the thought's bound by at most so many tokens and begin again; return by how many."""
        lowered = min(tokens, self.max_thought)
        self.max_thought -= lowered
        self.restart()
        return lowered

    def split(self, tokenizer: Any, hidden: Collection[int]) -> tuple[str | None, str]:
        """Return the text of the thought, None if there is none, and what its last token adds to the answer.

        Tokens that are `hidden` are left out. A restricted answer begins anew: to it, nothing is added.
        """
        text, rest = self._marks.split([token for token in self._thought if token not in hidden], tokenizer)
        return text, rest if self._inner is None else ""

    @property
    def complete(self) -> bool:
        return self._inner is None or (self._answers and self._inner.complete)

    @property
    def over(self) -> bool:
        return self._inner is not None and self._answers and self._inner.over

    @property
    def free(self) -> bool:
        return not self._forced and (self._inner is None or (self._answers and self._inner.free))

    @property
    def matcher(self) -> LLMatcher | None:
        return self._inner.matcher if self._inner and self._answers else None

    def fill(self, mask: NDArray[numpy.int32]) -> None:
        if self._forced:
            allow(mask, self._forced[0])
        elif self._inner and self._answers:
            self._inner.fill(mask)
        else:
            mask[:] = _all_but(self._eos_ids if self._inner else (), self.num_tokens)

    def max_tokens(self, max_new_tokens: int) -> int:
        answer = self._inner.max_tokens(max_new_tokens) if self._inner else max_new_tokens
        if self._thinking or self._undecided:
            return self._undecided + self.max_thought + len(self._marks.ending) + answer
        return self.num_extra + len(self._forced) + answer

    @property
    def _answers(self) -> bool:
        return not (self._thinking or self._undecided or self._forced)

    def _think(self, token: int) -> None:
        self.num_extra += 1
        self._thought.append(token)
        if self._marks.end(self._thought):
            self._thinking = False
            self._forced = self._marks.newlines if self._inner else ()
        else:
            self._end_at_bound()

    def _end_at_bound(self) -> None:
        if len(self._thought) >= self.max_thought:
            self._thinking = False
            self._forced = self._marks.ending


@lru_cache(maxsize=4)
def _all_but(tokens: tuple[int, ...], num_tokens: int) -> NDArray[numpy.int32]:
    """Return the mask of all tokens but some."""
    allowed = numpy.zeros(mask_words(num_tokens) * 32, numpy.uint8)
    allowed[:num_tokens] = 1
    allowed[[token for token in tokens if token < num_tokens] or slice(0)] = 0
    mask = numpy.packbits(allowed, bitorder="little").view(numpy.int32)
    mask.setflags(write=False)
    return mask
