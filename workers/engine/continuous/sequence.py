"""A prompt's stay in the engine, from its arrival to its last token, as the scheduler sees it: numbers, no tensors."""

from __future__ import annotations

from dataclasses import dataclass

from vqa.job import Lane


@dataclass(slots=True, eq=False)
class Stay:
    """Changed by the scheduler alone."""

    #: tokens of the prompt, and the most of its answer
    tokens: int
    most: int
    lane: Lane = "interactive"
    alone: bool = False
    #: None while it waits, and after it has left
    slot: int | None = None
    pages: tuple[int, ...] = ()
    #: tokens of the prompt that are in the cache, or will be when what was decided is computed
    prefilled: int = 0
    #: tokens of the answer that were made, or will be
    asked: int = 0
    gone: bool = False

    @property
    def all_tokens(self) -> int:
        """What its pages have to hold; the answer's last token is never read again."""
        return self.tokens + self.most - 1

    @property
    def prefills(self) -> bool:
        """Whether it has a slot and its prompt is not all in the cache."""
        return self.slot is not None and self.prefilled < self.tokens

    @property
    def decodes(self) -> bool:
        """Whether steps make its next tokens."""
        return self.slot is not None and self.prefilled == self.tokens and self.asked < self.most
