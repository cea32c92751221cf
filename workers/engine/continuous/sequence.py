"""A prompt as the scheduler sees it: numbers of tokens, a slot and blocks; and the chunks in which it is prefilled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vqa.jobs.lane import Lane

if TYPE_CHECKING:
    # imports torch, which the scheduler does without
    from workers.engine.continuous.requests import ImageSpan, Request


@dataclass(slots=True, eq=False)
class Sequence:
    """Scheduler state of one prompt and its answer. Only the scheduler changes it; `request` is the loop's."""

    num_prompt_tokens: int
    #: of the answer
    max_tokens: int
    lane: Lane = "interactive"
    alone: bool = False
    #: with the pixels of its images; None once the whole prompt is in the cache
    request: Request | None = None
    #: of each full block of the prompt (see `prefix.block_hashes`)
    block_hashes: tuple[bytes, ...] = ()
    #: prompt tokens that were in the cache when its first chunk was scheduled
    num_cached: int = 0
    #: its chunks run in passes without other chunks, because a pass with one of them failed
    isolated: bool = False
    #: None while the sequence waits and after it has finished
    slot: int | None = None
    blocks: tuple[int, ...] = ()
    #: prompt tokens in the cache, those of scheduled chunks included
    num_prefilled: int = 0
    #: answer tokens, those of scheduled batches included
    num_generated: int = 0
    finished: bool = False

    @property
    def max_len(self) -> int:
        """Tokens that its blocks must hold; the last token of the answer is never written to the cache."""
        return self.num_prompt_tokens + self.max_tokens - 1

    @property
    def is_prefilling(self) -> bool:
        """Whether it has a slot and part of its prompt is not yet in the cache."""
        return self.slot is not None and self.num_prefilled < self.num_prompt_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether the next pass computes a token of its answer."""
        is_prefilled = self.slot is not None and self.num_prefilled == self.num_prompt_tokens
        return is_prefilled and self.num_generated < self.max_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` up to `stop` of a prompt with a slot, computed in one forward pass."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    @property
    def is_first(self) -> bool:
        """Whether what is before this chunk, if anything, was found in the cache."""
        return self.start == self.sequence.num_cached

    @property
    def is_last(self) -> bool:
        """Whether the whole prompt is in the cache after this chunk."""
        return self.stop == self.sequence.num_prompt_tokens

    @property
    def slot(self) -> int:
        assert self.sequence.slot is not None
        return self.sequence.slot

    @property
    def request(self) -> Request:
        assert self.sequence.request is not None
        return self.sequence.request

    @property
    def images(self) -> list[ImageSpan]:
        """The images that have tokens in this chunk."""
        return [image for image in self.request.images if image.start < self.stop and image.stop > self.start]
